"""Consoles for all output, and control of other packages' log messages."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

import rich.console


def console(*, stderr: bool = False) -> rich.console.Console:
    """Return a console without markup: it prints "[red]" and ":smile:" literally."""
    return rich.console.Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def progress_console(given: rich.console.Console | None, progress: bool) -> rich.console.Console | None:
    """Return the console for the progress of a library call, or None for no progress.

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
    # rich treats FORCE_COLOR as a terminal, and many CI logs set it.
    on_terminal = sys.stderr is not None and sys.stderr.isatty() and own.is_interactive
    return own if on_terminal else None


@contextlib.contextmanager
def quiet(*names: str, above: int = logging.WARNING) -> Iterator[None]:
    """Silence loggers of other packages up to a level; errors are raised anyway."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(above + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
