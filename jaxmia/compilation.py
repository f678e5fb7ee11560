"""What XLA compiles, and how seldom: sizes rounded up so that programs are shared, and a cache of them on disk."""

from __future__ import annotations

_LARGEST = 1024


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
