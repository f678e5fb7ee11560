"""One cell of a sweep as a task for a worker: what it is given, and what it answers."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import pathlib
import traceback
from collections.abc import Hashable
from typing import Literal

import jax

import jaxmia
from jaxmia._atomic import is_disk_full
from jaxmia._buckets import bucket
from jaxmia._progress import grid_progress
from jaxmia.data.feature_set import FeatureSet
from jaxmia.studies.cell import Cell, num_candidates
from jaxmia.studies.folder.sweep import study_folder
from jaxmia.studies.grid import GridRun
from jaxmia.studies.recipe import recipe_for
from jaxmia.studies.settings.experiment import ExperimentConfig
from jaxmia.studies.study import Study
from jaxmia.studies.sweep_plan import Inputs, Names

_MOST_SHAPES = 16
_shapes: set[Hashable] = set()  # whose programs this process holds


@dataclasses.dataclass(frozen=True)
class CellTask:
    """A cell to be computed.

    Attributes:
        names: of its study.
        inputs: what it trains on.
        cell: its place in the grid.
        out: the sweep's folder.
        memory: as in run_sweep.
        code: hash of the driver's jaxmia.
    """

    names: Names
    inputs: Inputs
    cell: Cell
    out: pathlib.Path
    memory: int | None
    code: str

    @property
    def needs(self) -> tuple[str, str]:
        """Names of the values that tasks share: the feature set and the study."""
        return f"data {self.inputs}", f"study {self.names}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a worker answers; what it computed is in the sweep's folder.

    Attributes:
        status: "done"; "failed", and the others can go on; or "stop": the others would fail as well.
        error: why, in one line.
        trace: Python's traceback of that.
        heads_trained: in this call.
        seconds_training: of the cell.
        seconds_attacking: of the cell.
        notes: damaged checkpoints that were made anew, and what may mislead in the cell's rows.
    """

    status: Literal["done", "failed", "stop"]
    error: str = ""
    trace: str = ""
    heads_trained: int = 0
    seconds_training: float = 0.0
    seconds_attacking: float = 0.0
    notes: tuple[str, ...] = ()


def compute_cell(data: FeatureSet, study: Study, task: CellTask) -> Outcome:
    """Compute one cell into the sweep's folder: what a worker does. Whatever goes wrong is in the outcome."""
    if task.code != source_hash():
        return Outcome("stop", f"the worker's jaxmia ({jaxmia.__file__}) must be the same as the driver's")
    run = GridRun(study, data, study_folder(task.out, *task.names), task.memory)
    run.deal(task.cell)
    _make_room_for(compiled_shape(study.config, task.cell, data.features.shape[1]))
    try:
        with grid_progress(None, 0.0) as bar:
            record = run.compute(task.cell, bar)
    except Exception as error:  # the sweep goes on, whatever the reason
        if is_disk_full(error):
            return Outcome("stop", disk_full(task.out))
        return Outcome(
            "failed", _one_line(error), "".join(traceback.format_exception(error)), run.heads_trained
        )
    return Outcome(
        "done",
        "",
        "",
        run.heads_trained,
        record["seconds_training"],
        record["seconds_attacking"],
        (*record["repaired"], *record["notes"]),
    )


def compiled_shape(config: ExperimentConfig, cell: Cell, dim: int) -> tuple[int, int, int, str]:
    """What cells of one compiled program share: candidates, classes, feature dimension, static settings.

    A cell that is tuned shares with none: its static settings are not known before.
    """
    candidates = num_candidates(config, cell)
    if config.tuning is not None:
        return bucket(candidates), cell.classes, dim, str(cell)
    recipe = recipe_for(config, classes=cell.classes, shots=cell.shots, epsilon=cell.epsilon)
    return bucket(candidates), cell.classes, dim, str(recipe.config)


def _make_room_for(shape: Hashable) -> None:
    """Drop all compiled programs once this process has met _MOST_SHAPES: each is 17 MiB or so, and JAX keeps them.

    Cells come by shape, so that hardly any program is needed again. All programs of the process, not jaxmia's jitted
    functions alone: operations outside of these compile too, some 4 MiB a shape, into caches that JAX clears only
    together. The caller's own functions compile again when they are next called, and give what they gave.
    """
    if shape not in _shapes and len(_shapes) >= _MOST_SHAPES:
        jax.clear_caches()
        _shapes.clear()
    _shapes.add(shape)


@functools.cache
def source_hash() -> str:
    """SHA-256 of the code of this jaxmia: workers with another would compute other results."""
    folder = pathlib.Path(jaxmia.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}".encode() + path.read_bytes())
    return digest.hexdigest()


def _one_line(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    message = " ".join(str(error).split())[:500]
    return f"{type(error).__name__}: {message} ({pathlib.Path(place.filename).name}:{place.lineno})"


def disk_full(out: pathlib.Path) -> str:
    """What there is to do when the disk of a sweep is full."""
    return f"no room is left on the disk of {out}; free some, then continue with --resume: finished cells are kept."
