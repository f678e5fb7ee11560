"""What is shown: the one place that makes consoles, and what keeps other packages from talking."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

import rich.console


def console(*, stderr: bool = False) -> rich.console.Console:
    """A console on which what users and jaxmia write stands as it is: "[red]" and ":smile:" are these letters."""
    return rich.console.Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def progress_console(given: rich.console.Console | None, progress: bool) -> rich.console.Console | None:
    """The console on which a call of the library shows its progress, or None for no progress.

    Args:
        given: the caller's console, which is used as it is.
        progress: False for no progress at all. Without a given console, progress is shown in notebooks, and on standard
            error where that is a terminal: never in logs, pipes and files.
    """
    if not progress or given is not None:
        return given if progress else None
    own = console(stderr=True)
    if own.is_jupyter:
        return own
    # rich takes FORCE_COLOR for a terminal, which is set in many logs of CI.
    on_terminal = sys.stderr is not None and sys.stderr.isatty() and own.is_interactive
    return own if on_terminal else None


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
