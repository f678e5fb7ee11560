"""What went wrong, in one line on stderr."""

from __future__ import annotations

import os
import sys

from jaxmia import _terminal as terminal


def print_error(error: object) -> None:
    """One line on stderr."""
    terminal.console(stderr=True).print(f"error: {error}", style="red", soft_wrap=True)


def of_system(error: OSError) -> str:
    """What the operating system refused."""
    reason = error.strerror or str(error) or type(error).__name__
    place = "" if error.filename is None else f"{error.filename}: "
    return f"{place}{reason[0].lower()}{reason[1:]}."


def of_memory(error: Exception) -> str:
    """What was too large, if memory ran out: the host's (NumPy) or a device's; otherwise empty."""
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error):
        first = str(error).partition("\n")[0][:160].rstrip(".")
        what = first or "for an array"
        return f"not enough memory ({what}): --memory SIZE limits what is held, where a command has it."
    return ""


def of_device() -> str:
    """Why JAX has no device, if JAX_PLATFORMS asks for one that is not there; JAX itself says it in many ways."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    if not asked or "jax" not in sys.modules:
        return ""
    try:
        sys.modules["jax"].devices()
    except Exception as error:
        first = str(error).partition("\n")[0].rstrip(".") or "JAX finds no device"
        return f"{first}. JAX_PLATFORMS={asked!r} asks for it: JAX_PLATFORMS=cpu, or unset, does without."
    return ""
