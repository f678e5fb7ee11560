"""Overhead of a sweep beyond training and attacking its cells: seconds per cell, and memory against number of cells.

Cells are tiny (17 heads of 10 steps over 24 candidates), so that nothing hides the overhead.

    python benchmarks/sweep_overhead.py --cells 500
    python benchmarks/sweep_overhead.py --cells 120 --shapes 40
    python benchmarks/sweep_overhead.py --cells 500 --executor ray
"""

from __future__ import annotations

import pathlib
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import _common
import numpy as np

from jaxmia.data.feature_set import save_features
from jaxmia.studies.executors import Executor, LocalExecutor, RayExecutor
from jaxmia.studies.sweep import run_sweep


def main(words: Sequence[str] | None = None) -> None:
    options = _common.parser(__doc__)
    options.add_argument("--cells", type=int, default=500)
    options.add_argument(
        "--shapes", type=int, default=1, help="number of different S, hence of compiled programs"
    )
    options.add_argument("--models", type=int, default=17)
    options.add_argument("--executor", choices=("local", "ray"), default="local")
    arguments = options.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        row, facts = measure(arguments, pathlib.Path(folder))
    _common.report(
        f"Overhead of a sweep: {arguments.cells} cells, {arguments.shapes} compiled shapes, {arguments.executor}",
        [row],
        dtype="float32",
        facts=facts,
        arguments=arguments,
    )


def measure(arguments: Any, folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    shots = list(range(4, 4 + arguments.shapes))
    per_class = 2 * max(shots) + 20
    save_features(
        _common.synthetic_pool(arguments.seed, examples=3 * per_class, classes=3, dim=384),
        folder / "features.npz",
    )
    settings = {
        "attack": ["lira", "threshold"],
        "fpr": [0.1],
        "data": {"features": str(folder / "features.npz")},
        "train": {"steps": 10},
        "shadows": {"models": arguments.models},
        "grid": {
            "classes": [3],
            "shots": shots,
            "seeds": list(range(-(-arguments.cells // arguments.shapes))),
        },
    }
    watch = Watch(LocalExecutor() if arguments.executor == "local" else RayExecutor())
    start, processor = time.perf_counter(), time.process_time()
    result = run_sweep(settings, folder / "sweep", executor=watch)
    wall, processor = time.perf_counter() - start, time.process_time() - processor
    assert not result.failures
    ends, working, memory = (np.array(column) for column in zip(*watch.cells, strict=True))
    between = (
        np.diff(ends) - working[1:]
    )  # from the end of one cell to the end of the next, without training and attacking
    warm = len(memory) // 5
    slope = (
        np.polyfit(np.arange(warm, len(memory)), memory[warm:], 1)[0] if len(memory) - warm > 1 else np.nan
    )
    row = {
        "cells": len(memory),
        "training and attacking, s per cell": float(np.median(working)),
        "overhead, s per cell": float(np.median(between)),
        "90% of cells below, s": float(np.quantile(between, 0.9)),
        "first and last, s": wall - (ends[-1] - ends[0]) - working[0],
        "memory at a fifth, MiB": float(memory[warm]),
        "memory at the end, MiB": float(memory[-1]),
        "growth, MiB per 100 cells": float(100 * slope),
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if arguments.executor == "ray":  # cells overlap, so the time between two ends is not overhead
        row["overhead, s per cell"] = row["90% of cells below, s"] = None
    return row, {
        "whole sweep, s": wall,
        "processor seconds of this process per second": processor / wall,
        "peak memory of this process, MiB": peak,
    }


class Watch:
    """An executor that records after every cell the time, seconds of training and attacking, and memory."""

    def __init__(self, executor: Executor):
        self._executor = executor
        self.name = executor.name
        self.cells: list[tuple[float, float, float]] = []

    def start(self) -> None:
        """Acquire the resources of the executor."""
        self._executor.start()

    def stop(self) -> None:
        """Release the resources of the executor."""
        self._executor.stop()

    def run(self, function: Any, tasks: Any, shared: Any) -> Iterator[Any]:
        """Run the tasks and record after each."""
        for task, answer in self._executor.run(function, tasks, shared):
            working = answer.seconds_training + answer.seconds_attacking
            self.cells.append((time.perf_counter(), working, resident_memory()))
            yield task, answer


def resident_memory() -> float:
    """Return the resident memory of this process in MiB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
