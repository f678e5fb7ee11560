"""The time before anything is computed: imports, the command line's help, and compilation in the demo grid.

Imports run in fresh processes, alternately, after one round that is not counted (it may write bytecode). Seconds are
medians over --repeats, of the whole process and of an interpreter that imports nothing. "over jax" is the ratio to
`import jax`, after subtracting that interpreter's seconds from both. jaxmia loads its names when they are first used.
So the rows below `import jaxmia` show the cost of use: first what an audit needs, then all names.

The grid is `jaxmia run --config` in a fresh process, into a temporary folder. It runs without a persistent compilation
cache, with an empty one (JAX_COMPILATION_CACHE_DIR, every program cached), and again with the cache of that run.
Seconds are of the whole process. JAX's own events say when it traced, lowered, compiled or loaded from the cache. Each
column is the union of the intervals of one kind, since tracing nests. "share" is the union of all three kinds over the
seconds. Anything that a run prints to stderr, other than progress, is shown below the table.

Goals: `import jaxmia` within 0.05 s beyond an interpreter that imports nothing, help within 0.5 s, a share below 0.15.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import _common
import numpy as np

MAX_IMPORT, MAX_HELP, MAX_SHARE = 0.05, 0.5, 0.15
NOTHING, JAX, JAXMIA, HELP = "nothing", "import jax", "import jaxmia", "jaxmia --help"
USE = "train_ensemble, score, attacks, operating_points"
COMMANDS: dict[str, list[str]] = {
    NOTHING: ["-c", ""],
    JAX: ["-c", "import jax"],
    JAXMIA: ["-c", "import jaxmia"],
    "what an audit uses": ["-c", f"from jaxmia import {USE}; attacks.lira"],
    "every public name": ["-c", "from jaxmia import *"],
    HELP: ["-m", "jaxmia", "--help"],
}
KINDS = {
    "tracing, s": "/jax/core/compile/jaxpr_trace_duration",
    "lowering, s": "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "compiling, s": "/jax/core/compile/backend_compile_duration",
}
CACHE_HIT = "/jax/compilation_cache/cache_hits"
CACHE = "JAX_COMPILATION_CACHE_DIR"
CACHE_ALL = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
PROGRESS = "heads/s"  # in every line of the progress bar
COLUMNS = ("seconds", "over jax", *KINDS, "share", "programs", "from cache", "goal")
# Runs the command line while recording JAX's events. Arguments: FILE, then those of jaxmia.
WATCHED = """
import json, pathlib, sys, time
import jax.monitoring

spans, events = [], []

def on_duration(event, seconds, **_):
    end = time.perf_counter()
    spans.append((event, end - seconds, end))

jax.monitoring.register_event_duration_secs_listener(on_duration)
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
file = sys.argv.pop(1)
from jaxmia.cli import main
try:
    main()
finally:
    pathlib.Path(file).write_text(json.dumps({"spans": spans, "events": events}))
"""
Span = tuple[float, float]


class GridRun(NamedTuple):
    """Figures of one run of the grid."""

    seconds: float
    spans: list[tuple[str, float, float]]  # event, start, end
    events: list[str]
    stderr: list[str]  # lines other than the progress bar


def main(argv: list[str] | None = None) -> None:
    options = _common.parser(__doc__)
    options.add_argument(
        "--config", default="demo", help="config of the grid: a TOML file or a built-in name"
    )
    options.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="overrides a setting; repeatable"
    )
    options.add_argument("--repeats", type=int, default=7, help="timed runs of imports and help")
    options.add_argument("--no-cache-runs", action="store_true", help="run the grid only without a cache")
    arguments = options.parse_args(argv)
    rows, facts = start_rows(measure_starts(arguments.repeats)), {}
    for name, run in grid_runs(arguments).items():
        rows.append(grid_row(name, run))
        facts[f"stderr of the {name}"] = " | ".join(run.stderr) or "nothing but progress"
    _common.report(
        f"Fresh processes: the median of {arguments.repeats} for imports and help, one run each of the grid"
        f" {arguments.config}",
        rows,
        dtype="float32",
        facts=facts,
        arguments=arguments,
    )


def measure_starts(repeats: int) -> dict[str, float]:
    """Return the median seconds of each command; runs alternate, and the first is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(repeats + 1):
        for name, command in COMMANDS.items():
            seconds[name].append(run_process(command, os.environ)[0])
    return {name: float(np.median(values[1:])) for name, values in seconds.items()}


def run_process(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, str]:
    """Return seconds and stderr of a fresh interpreter; exit if it fails."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], env=dict(environment), capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)[-200:]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return seconds, done.stderr


def start_rows(seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return one row per command."""
    rows = []
    for name, each in seconds.items():
        cells: dict[str, Any] = {"seconds": each}
        if name == HELP:
            cells["goal"] = met(f"< {MAX_HELP:g} s", each < MAX_HELP)
        elif name != NOTHING:
            ratio = (each - seconds[NOTHING]) / (seconds[JAX] - seconds[NOTHING])
            cells["over jax"] = ratio
            if name == JAXMIA:
                own = each - seconds[NOTHING]
                cells["goal"] = met(f"< {MAX_IMPORT:g} s over nothing", own < MAX_IMPORT)
        rows.append(table_row(name, cells))
    return rows


def grid_runs(arguments: argparse.Namespace) -> dict[str, GridRun]:
    """Run the grid without a cache, with an empty cache, and with the cache of that run."""
    with tempfile.TemporaryDirectory() as folder:
        cached = {CACHE: str(pathlib.Path(folder, "cache")), **CACHE_ALL}
        caches = {"grid, no cache": {}}
        if not arguments.no_cache_runs:
            caches |= {"grid, empty cache": cached, "grid, warm cache": cached}
        return {
            name: run_grid(arguments, pathlib.Path(folder, f"run{number}"), cache)
            for number, (name, cache) in enumerate(caches.items())
        }


def run_grid(arguments: argparse.Namespace, out: pathlib.Path, cache: Mapping[str, str]) -> GridRun:
    """Run the grid in a fresh process and record its events."""
    file = out.with_suffix(".json")
    command = ["-c", WATCHED, str(file), "run", arguments.config, "--out", str(out)]
    command += [part for override in arguments.set for part in ("--set", override)]
    environment = {name: value for name, value in os.environ.items() if name != CACHE}
    seconds, stderr = run_process(command, environment | cache)
    content = json.loads(file.read_text())
    lines = dict.fromkeys(line.strip() for line in stderr.splitlines())
    beyond = [line for line in lines if line and PROGRESS not in line]
    return GridRun(seconds, [tuple(span) for span in content["spans"]], content["events"], beyond)


def grid_row(name: str, run: GridRun) -> dict[str, Any]:
    """Return seconds by kind, the share of their union, and numbers of programs compiled or loaded."""
    of_kind = {
        kind: [(start, end) for what, start, end in run.spans if what == event]
        for kind, event in KINDS.items()
    }
    share = union_seconds(span for spans in of_kind.values() for span in spans) / run.seconds
    cells = {kind: union_seconds(spans) for kind, spans in of_kind.items()}
    cells |= {"seconds": run.seconds, "share": share, "programs": len(of_kind["compiling, s"])}
    cells |= {"from cache": run.events.count(CACHE_HIT)}
    return table_row(name, cells | {"goal": met(f"share < {MAX_SHARE:g}", share < MAX_SHARE)})


def union_seconds(spans: Iterable[Span]) -> float:
    """Return the length of the union of intervals."""
    total, reached = 0.0, -np.inf
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def met(goal: str, is_met: bool) -> str:
    """Return the goal and whether it is met."""
    return f"{goal}: {'met' if is_met else 'missed'}"


def table_row(name: str, cells: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with all columns."""
    return {"what": name} | {column: cells.get(column) for column in COLUMNS}


if __name__ == "__main__":
    main()
