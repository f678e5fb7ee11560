"""Deprecated names, which work for one more minor version and warn once."""

from __future__ import annotations

import functools
import warnings


@functools.cache
def warn_renamed(old: str, new: str, *, gone: str) -> None:
    """Warn the caller of a function under its former name, once per process.

    Args:
        old: the former name.
        new: the current name.
        gone: the version that removes the former name.
    """
    message = f"{old} is called {new} now; the old name goes with version {gone}."
    warnings.warn(message, DeprecationWarning, stacklevel=3)
