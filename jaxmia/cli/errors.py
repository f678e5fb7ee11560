"""Error messages, in one line on stderr."""

from __future__ import annotations

import os
import sys

from jaxmia import _terminal as terminal


def print_error(error: object) -> None:
    """Print an error as one line on stderr."""
    terminal.console(stderr=True).print(f"error: {error}", style="red", soft_wrap=True)


def of_system(error: OSError) -> str:
    """Return the message for an error of the operating system."""
    reason = error.strerror or str(error) or type(error).__name__
    place = "" if error.filename is None else f"{error.filename}: "
    return f"{place}{reason[0].lower()}{reason[1:]}."


def of_memory(error: Exception) -> str:
    """Return the message if memory ran out, on the host (NumPy) or on a device; otherwise an empty string."""
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error):
        first = str(error).partition("\n")[0][:160].rstrip(".")
        what = first or "for an array"
        return f"not enough memory ({what}): commands with --memory SIZE can limit what they hold."
    return ""


def of_device() -> str:
    """Return the message if JAX_PLATFORMS names a missing device, for which JAX has many different errors."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    if not asked or "jax" not in sys.modules:
        return ""
    try:
        sys.modules["jax"].devices()
    except Exception as error:
        first = str(error).partition("\n")[0].rstrip(".") or "JAX finds no device"
        return f"{first}. JAX_PLATFORMS={asked!r} asks for it: set JAX_PLATFORMS=cpu, or unset it."
    return ""
