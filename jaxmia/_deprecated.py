"""Names that were replaced: they work for one minor version more, and say so once."""

from __future__ import annotations

import functools
import warnings


@functools.cache
def warn_renamed(old: str, new: str, *, gone: str) -> None:
    """Warn, once per process, the caller of a function under its former name.

    Args:
        old: the former name.
        new: the name that it has now.
        gone: the version that no longer has the former one.
    """
    message = f"{old} is called {new} now; the old name goes with version {gone}."
    warnings.warn(message, DeprecationWarning, stacklevel=3)
