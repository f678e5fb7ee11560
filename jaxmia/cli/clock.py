"""The time that a command takes, and cProfile's account of it."""

from __future__ import annotations

import contextlib
import cProfile
import dataclasses
import pathlib
import time
from collections.abc import Iterator


@dataclasses.dataclass
class Clock:
    """Seconds of a block, once it is done."""

    seconds: float = 0.0


@contextlib.contextmanager
def profiled(folder: pathlib.Path | None) -> Iterator[Clock]:
    """Time a block; with a folder, profile it too and write profile.pstats there, even if the block fails."""
    clock, start = Clock(), time.perf_counter()
    profile = None if folder is None else cProfile.Profile()
    try:
        with profile or contextlib.nullcontext():
            yield clock
    finally:
        clock.seconds = time.perf_counter() - start
        if folder is not None and profile is not None and folder.is_dir():
            profile.dump_stats(folder / "profile.pstats")
