"""What is shown: the one place that makes consoles, and what keeps other packages from talking."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import rich.console


def console(*, stderr: bool = False) -> rich.console.Console:
    """A console on which what users and jaxmia write stands as it is: "[red]" and ":smile:" are these letters."""
    return rich.console.Console(stderr=stderr, markup=False, emoji=False, highlight=False)


@contextlib.contextmanager
def quiet(*names: str, above: int = logging.WARNING) -> Iterator[None]:
    """Let loggers of other packages say only what is above a level: what goes wrong is raised as well."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(above + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
