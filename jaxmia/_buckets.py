"""What XLA compiles, and how seldom: sizes rounded up so that programs are shared, and programs kept on disk."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
import platformdirs

Given = ParamSpec("Given")
Returned = TypeVar("Returned")

_LARGEST = 1024
_SECONDS = 0.05  # JAX keeps what takes a second to compile; the programs of a small cell take less


def in_float32(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """The function with JAX's 64-bit types off while it runs, whatever the caller's process has (JAX_ENABLE_X64).

    Heads are float32 by design. With 64-bit types on, numbers without a type of their own would be float64: loops then
    change their types, and random draws their values, so that the same seed would give other heads.
    """

    @functools.wraps(function)
    def wrapped(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        with jax.enable_x64(False):
            return function(*args, **kwargs)

    return wrapped


def random_key(key: jax.Array | int) -> jax.Array:
    """The key, or that of a seed."""
    return jax.random.key(key) if isinstance(key, int) else key


def bucket(size: int) -> int:
    """Round up to a size that programs are compiled for: four to an octave, up to 1 024.

    Beyond, training outlasts compiling, and sizes stay as they are; so do those of a grid that doubles.
    """
    if size > _LARGEST or size < 4:
        return size
    step = 1 << (size.bit_length() - 3)
    return -(-size // step) * step


def smallest_in_bucket(size: int) -> int:
    """The smallest size of the same bucket."""
    if size > _LARGEST or size <= 4:
        return size
    top = bucket(size)
    return top - (1 << ((top - 1).bit_length() - 3)) + 1


def keep_programs() -> None:
    """Let this process keep its compiled programs on disk, and find those of earlier ones; for command lines.

    On an accelerator they lie in the user's cache folder. On a CPU only in JAX_COMPILATION_CACHE_DIR, if that is set:
    compiling takes little there, and some processors reject every program kept for them, loudly (jax-ml/jax#38445).
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        if jax.default_backend() == "cpu":
            return
        jax.config.update("jax_compilation_cache_dir", str(platformdirs.user_cache_path("jaxmia")))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _SECONDS)
