"""Fewer compilations: sizes rounded up so that programs are shared, and programs cached on disk."""

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
# JAX's default caches programs that compile for a second or more; those of small cells take less.
_SECONDS = 0.05


def in_float32(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Return the function with JAX's 64-bit types off while it runs, whatever JAX_ENABLE_X64 is in the process.

    Heads are float32 by design. With 64-bit types on, numbers without explicit dtype would be float64. Loops would then
    change their dtypes and random draws their values, so the same seed would give other heads.
    """

    @functools.wraps(function)
    def wrapped(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        with jax.enable_x64(False):
            return function(*args, **kwargs)

    return wrapped


def random_key(key: jax.Array | int) -> jax.Array:
    """Return the key, or the key of a seed."""
    return jax.random.key(key) if isinstance(key, int) else key


def bucket(size: int) -> int:
    """Return the size rounded up to one of four sizes per octave, up to 1 024.

    Larger sizes are not rounded, since training takes longer than compiling. Sizes of a doubling grid are not changed.
    """
    if size > _LARGEST or size < 4:
        return size
    step = 1 << (size.bit_length() - 3)
    return -(-size // step) * step


def smallest_in_bucket(size: int) -> int:
    """Return the smallest size of the same bucket."""
    if size > _LARGEST or size <= 4:
        return size
    top = bucket(size)
    return top - (1 << ((top - 1).bit_length() - 3)) + 1


def keep_programs() -> None:
    """Cache this process's compiled programs on disk, and reuse those of earlier processes; for command lines.

    On an accelerator the cache is in the user's cache folder. On a CPU it is used only if JAX_COMPILATION_CACHE_DIR is
    set: compiling is fast there, and on some processors every cached program is rejected with a warning
    (jax-ml/jax#38445).
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        if jax.default_backend() == "cpu":
            return
        jax.config.update("jax_compilation_cache_dir", str(platformdirs.user_cache_path("jaxmia")))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _SECONDS)
