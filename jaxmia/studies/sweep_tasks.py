"""One cell of a sweep as a task for a worker: its input and its outcome."""

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
_shapes: set[Hashable] = set()  # shapes whose programs this process holds


@dataclasses.dataclass(frozen=True)
class CellTask:
    """A cell to compute.

    Attributes:
        names: names of its study.
        inputs: the inputs that it trains on.
        cell: the cell of the grid.
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
    """The outcome of a task; its results are in the sweep's folder.

    Attributes:
        status: "done"; "failed", and other cells can continue; or "stop", since the others would fail too.
        error: the error in one line.
        trace: Python's traceback of the error.
        heads_trained: number of heads trained in this call.
        seconds_training: seconds spent on training the cell.
        seconds_attacking: seconds spent on attacking the cell.
        notes: notes on damaged checkpoints that were replaced, and caveats for readers of the rows.
    """

    status: Literal["done", "failed", "stop"]
    error: str = ""
    trace: str = ""
    heads_trained: int = 0
    seconds_training: float = 0.0
    seconds_attacking: float = 0.0
    notes: tuple[str, ...] = ()


def compute_cell(data: FeatureSet, study: Study, task: CellTask) -> Outcome:
    """Compute one cell and save it in the sweep's folder, as a worker; all errors are returned in the outcome."""
    if task.code != source_hash():
        return Outcome("stop", f"the worker's jaxmia ({jaxmia.__file__}) must be the same as the driver's")
    run = GridRun(study, data, study_folder(task.out, *task.names), task.memory)
    run.deal(task.cell)
    _make_room_for(compiled_shape(study.config, task.cell, data.features.shape[1]))
    try:
        with grid_progress(None, 0.0) as bar:
            record = run.compute(task.cell, bar)
    except Exception as error:  # the sweep continues after any error
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
    """Return the values that cells of one compiled program share: candidates, classes, dimension, static settings.

    A tuned cell shares its program with no other, since its static settings are not known in advance.
    """
    candidates = num_candidates(config, cell)
    if config.tuning is not None:
        return bucket(candidates), cell.classes, dim, str(cell)
    recipe = recipe_for(config, classes=cell.classes, shots=cell.shots, epsilon=cell.epsilon)
    return bucket(candidates), cell.classes, dim, str(recipe.config)


def _make_room_for(shape: Hashable) -> None:
    """Drop all compiled programs after _MOST_SHAPES shapes: each takes about 17 MiB, and JAX keeps them.

    Cells are ordered by shape, so hardly any program is needed again. All programs of the process are dropped, not only
    jaxmia's jitted functions, because other operations compile too (about 4 MiB per shape) and JAX can only clear all
    of its caches at once. The caller's functions compile again at their next call, with the same results.
    """
    if shape not in _shapes and len(_shapes) >= _MOST_SHAPES:
        jax.clear_caches()
        _shapes.clear()
    _shapes.add(shape)


@functools.cache
def source_hash() -> str:
    """Return the SHA-256 of this jaxmia's code: workers with other code could compute other results."""
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
    """Return the message for a full disk."""
    return (
        f"the disk of {out} is full; free some space, then continue with --resume: finished cells are kept."
    )
