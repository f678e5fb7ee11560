"""A sweep: one grid over feature sets, classes, shots, seeds, recipes and privacy levels."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
import traceback
from collections.abc import Hashable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import pandas as pd
import rich.console

import jaxmia
from jaxmia._atomic import is_disk_full
from jaxmia._buckets import bucket
from jaxmia._hashes import content_key
from jaxmia._progress import SweepProgress, grid_progress, sweep_progress
from jaxmia._validate import InputError, check_choice
from jaxmia.data.feature_set import DEMO_NAME, FeatureSet, load_features
from jaxmia.data.normalization import FeatureStatistics
from jaxmia.data.pool import check_candidates
from jaxmia.laws.fit import LawOf, PowerLawFit
from jaxmia.studies.assess import check_attacks, check_resolvable
from jaxmia.studies.executors import EXECUTORS, Executor, LocalExecutor, LostError, RayExecutor
from jaxmia.studies.folder.cell import Cell
from jaxmia.studies.folder.run import RunFolder
from jaxmia.studies.folder.sweep import SweepFolder, study_folder
from jaxmia.studies.folder.tables import load_results
from jaxmia.studies.laws import laws_to_json, load_laws
from jaxmia.studies.recipe import recipe_for
from jaxmia.studies.run import GridRun, check_plans, given_statistics, training_identity
from jaxmia.studies.settings.experiment import ExperimentConfig
from jaxmia.studies.settings.sweep import DatasetSettings, RecipeSettings, SweepConfig
from jaxmia.studies.settings.toml import load_sweep, parse_sweep

Names = tuple[str, str]  # of a feature set and a recipe
Source = tuple[str, str]  # a feature set's name, and which of its inputs
_MOST_SHAPES = 16
_shapes: set[Hashable] = set()  # whose programs this process holds


class SweepStoppedError(RuntimeError):
    """A sweep that could not go on, through no fault of a cell: nothing is lost, and --resume continues it."""


class LeftOut(NamedTuple):
    """Cells that a feature set cannot have.

    Attributes:
        dataset: its name.
        classes: C.
        shots: S.
        reason: why not.
    """

    dataset: str
    classes: int
    shots: int
    reason: str


class Failure(NamedTuple):
    """A cell that could not be computed.

    Attributes:
        dataset: name of its feature set.
        recipe: its recipe's name.
        cell: its name.
        error: what went wrong.
    """

    dataset: str
    recipe: str
    cell: str
    error: str


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """What a sweep leaves.

    Attributes:
        path: the sweep's folder.
        laws: the power law of each attack, evaluation, privacy level and recipe, over all feature sets.
        cells_computed: cells that this call computed; the others were there.
        heads_trained: heads that this call trained.
        left_out: cells that a feature set cannot have.
        skipped: optional feature sets whose file is absent.
        failures: cells that could not be computed; the sweep started again tries them again.
    """

    path: pathlib.Path
    laws: Mapping[LawOf, PowerLawFit]
    cells_computed: int
    heads_trained: int
    left_out: tuple[LeftOut, ...]
    skipped: tuple[str, ...]
    failures: tuple[Failure, ...]

    def results(self) -> pd.DataFrame:
        """One row per cell, attack, evaluation and FPR, as load_results reads them."""
        return load_results(self.path)


@dataclasses.dataclass(frozen=True)
class Study:
    """One feature set under one recipe.

    Attributes:
        names: of both.
        config: settings.
        identity: what every trained head depends on, by content.
        statistics: to standardise by, if they are given.
    """

    names: Names
    config: ExperimentConfig
    identity: Mapping[str, Any]
    statistics: FeatureStatistics | None

    @property
    def source(self) -> Source:
        """What it trains on."""
        return self.names[0], self.config.train.inputs


@dataclasses.dataclass(frozen=True)
class CellTask:
    """A cell to be computed.

    Attributes:
        names: of its study.
        source: what it trains on.
        cell: its place in the grid.
        out: the sweep's folder.
        memory: as in run_sweep.
        code: hash of the driver's jaxmia.
    """

    names: Names
    source: Source
    cell: Cell
    out: pathlib.Path
    memory: int | None
    code: str

    @property
    def needs(self) -> tuple[str, str]:
        """Names of the values that tasks share: the feature set and the study."""
        return f"data {self.source}", f"study {self.names}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a worker says of a task; what it computed is in the sweep's folder.

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


def run_sweep(
    config: SweepConfig | Mapping[str, Any] | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    memory: int | None = None,
    executor: Executor | str = "local",
    console: rich.console.Console | None = None,
) -> SweepResult:
    """Run a sweep into a folder; what the folder already holds is kept and not computed again.

    Cells of one compiled shape run one after another. A cell that fails is recorded with its reason and the sweep goes
    on; the next call tries it again. After each 16 shapes all compiled programs of this process are dropped, the
    caller's too, which then compile again. A finished sweep given more feature sets, recipes, shots, seeds, classes,
    models, attacks or FPRs computes only what is missing; studies that it no longer names are kept as they are.

    Args:
        config: settings, as an object, nested dictionaries, or a TOML file of a sweep or an experiment.
        out: the sweep's folder; with Ray, on storage that all nodes see at the same place.
        resume: continue an unfinished sweep.
        memory: bytes that training may hold on each device, as in train_ensemble; more or less of it changes rounding.
        executor: where cells are computed: "local", "ray", or one of jaxmia.studies.executors with settings of its own.
        console: where progress is shown, if anywhere.

    Raises:
        InputError: for whatever is wrong with settings, features or folder; before any training.
        SweepStoppedError: if no cell could be computed any more, as with a full disk.
    """
    if isinstance(config, (str, os.PathLike)):
        config = load_sweep(config)
    elif isinstance(config, Mapping):
        config = parse_sweep(dict(config))
    runner = _executor(executor)
    data, skipped = _load_datasets(config)
    studies = {
        (dataset.name, recipe.name): _study(config, dataset, recipe, data[dataset.name, recipe.inputs])
        for dataset in config.datasets
        if dataset.name not in skipped
        for recipe in config.recipes_of(dataset)
    }
    cells, left_out = _plan(studies, data)
    studies = {names: study for names, study in studies.items() if cells[names]}
    runner.start()
    try:
        _check_before_training(studies, data, cells, memory)
        with SweepFolder.open(
            out,
            settings=config.record(),
            studies={names: (study.identity, cells[names]) for names, study in studies.items()},
            models=config.shadows.models,
            resume=resume,
        ) as folder:
            return _Sweep(folder, data, studies, memory, runner, left_out, skipped).complete(console)
    except Exception as error:
        if is_disk_full(error):
            raise SweepStoppedError(_disk_full(pathlib.Path(out))) from error
        raise
    finally:
        runner.stop()


@dataclasses.dataclass
class _Sweep:
    """A sweep over an open folder."""

    folder: SweepFolder
    data: Mapping[Source, FeatureSet]
    studies: Mapping[Names, Study]
    memory: int | None
    executor: Executor
    left_out: tuple[LeftOut, ...]
    skipped: tuple[str, ...]
    heads_trained: int = 0

    def complete(self, console: rich.console.Console | None) -> SweepResult:
        """Compute the cells that are missing, then the laws over all cells of the folder."""
        tasks, notes = self.missing()
        skipped = [f"skipped: the optional feature set {name!r} is absent" for name in self.skipped]
        left_out = [
            f"left out: {each.dataset}, C={each.classes} S={each.shots}: {each.reason}"
            for each in self.left_out
        ]
        work = {task: self.work(task) for task in tasks}
        done = {"/".join(names): len(self.folder.study(*names).cells) for names in self.studies}
        todo = collections.Counter("/".join(task.names) for task in tasks)
        failures: list[Failure] = []
        with sweep_progress(
            console, {name: (done[name] - todo[name], done[name]) for name in done}, sum(work.values())
        ) as progress:
            for note in (*skipped, *left_out, *notes):
                progress.note(note)
            if tasks or not self.folder.is_finished:
                self.folder.start()
                failures = self.compute(work, progress)
        laws = self.finish(changed=bool(tasks))
        return SweepResult(
            self.folder.path,
            laws,
            len(tasks) - len(failures),
            self.heads_trained,
            self.left_out,
            self.skipped,
            tuple(failures),
        )

    def missing(self) -> tuple[list[CellTask], list[str]]:
        """The cells to be computed, by compiled shape, and what a user should know of them."""
        tasks, notes, code = [], [], source_hash()
        for names, study in self.studies.items():
            part = self.folder.study(*names)
            run = _grid_run(study, self.data[study.source], part, self.memory)
            for cell in part.cells:
                state = part.state(cell, run.cell_key(cell))
                if state == "done":
                    continue
                if state == "damaged":
                    notes.append(f"{'/'.join(names)}/{cell}: its rows were damaged and are computed again")
                elif state == "failed":
                    notes.append(f"{'/'.join(names)}/{cell}: failed before and is tried again")
                if state in ("damaged", "outdated"):
                    part.discard_rows(cell)
                tasks.append(
                    CellTask(names, study.source, cell, self.folder.path.resolve(), self.memory, code)
                )
        return sorted(tasks, key=self.order), notes

    def order(self, task: CellTask) -> tuple[Any, ...]:
        """Where a task stands: beside those of its compiled shape, smaller shapes first."""
        dim = self.data[task.source].features.shape[1]
        return (*compiled_shape(self.studies[task.names].config, task.cell, dim), task.names, task.cell)

    def work(self, task: CellTask) -> float:
        """Arithmetic of a task, if none of its heads is there, in an arbitrary unit."""
        config, cell = self.studies[task.names].config.before_tuning(), task.cell
        dim = self.data[task.source].features.shape[1]
        return float(config.shadows.models * config.train.steps * cell.classes**2 * cell.shots * dim)

    def compute(self, tasks: Mapping[CellTask, float], progress: SweepProgress) -> list[Failure]:
        """Have all tasks run, given with their work; what is kept of each is its failure, if it failed."""
        failures = []
        shared: dict[str, Any] = {f"data {source}": data for source, data in self.data.items()}
        shared |= {f"study {names}": study for names, study in self.studies.items()}
        for task, answer in self.executor.run(compute_cell, list(tasks), shared):
            outcome = Outcome("failed", str(answer)) if isinstance(answer, LostError) else answer
            name = f"{'/'.join(task.names)}/{task.cell}"
            if outcome.status == "stop":
                raise SweepStoppedError(f"{name}: {outcome.error}")
            for line in outcome.notes:
                progress.note(f"{name}: {line}")
            self.heads_trained += outcome.heads_trained
            if outcome.status == "failed":
                study = self.folder.study(*task.names)
                study.fail_cell(task.cell, outcome.error, outcome.trace)
                failures.append(Failure(*task.names, str(task.cell), outcome.error))
                if outcome.trace:
                    progress.note(f"{name}: the traceback is in {study.trace_path(task.cell)}")
            seconds = outcome.seconds_training + outcome.seconds_attacking
            said = f"{seconds:.2f} s" if outcome.status == "done" else f"failed: {outcome.error}"
            progress.cell(
                "/".join(task.names),
                str(task.cell),
                said,
                failed=outcome.status == "failed",
                heads=outcome.heads_trained,
                work=tasks[task],
            )
        return failures

    def finish(self, *, changed: bool) -> dict[LawOf, PowerLawFit]:
        """Fit the laws to what is there and, if anything changed, write them and the manifest."""
        anything = any(self.folder.path.glob("results/*.parquet"))
        laws = load_laws(self.folder.path) if anything else {}  # unless every cell failed
        if changed or not self.folder.is_finished:
            self.folder.write_json("power_law.json", laws_to_json(laws))
            self.folder.finish(self.studies, left_out=[each._asdict() for each in self.left_out])
        return laws


def compute_cell(data: FeatureSet, study: Study, task: CellTask) -> Outcome:
    """Compute one cell into the sweep's folder: what a worker does. Whatever goes wrong is in the outcome."""
    if task.code != source_hash():
        return Outcome("stop", f"the worker's jaxmia ({jaxmia.__file__}) must be the same as the driver's")
    run = _grid_run(study, data, study_folder(task.out, *task.names), task.memory)
    run.deal(task.cell)
    _make_room_for(compiled_shape(study.config, task.cell, data.features.shape[1]))
    try:
        with grid_progress(None, 0.0) as bar:
            record = run.compute(task.cell, bar)
    except Exception as error:  # the sweep goes on, whatever the reason
        if is_disk_full(error):
            return Outcome("stop", _disk_full(task.out))
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
    candidates = cell.classes * cell.shots * config.shadows.pool_multiplier
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


def _executor(executor: Executor | str) -> Executor:
    if not isinstance(executor, str):
        return executor
    check_choice("executor", executor, EXECUTORS)
    return LocalExecutor() if executor == "local" else RayExecutor()


def _grid_run(study: Study, data: FeatureSet, folder: RunFolder, memory: int | None) -> GridRun:
    names = dict(zip(("dataset", "recipe"), study.names, strict=True))
    return GridRun(study.config, data, folder, content_key(study.identity), memory, study.statistics, names)


def _load_datasets(config: SweepConfig) -> tuple[dict[Source, FeatureSet], tuple[str, ...]]:
    """The feature sets, each input of a file read once, and the names of the optional ones that are absent."""
    data: dict[Source, FeatureSet] = {}
    skipped = []
    read: dict[Source, FeatureSet] = {}
    for dataset in config.datasets:
        path = dataset.features
        if dataset.optional and path != DEMO_NAME and not pathlib.Path(path).exists():
            skipped.append(dataset.name)
            continue
        try:
            for inputs in dict.fromkeys(recipe.inputs for recipe in config.recipes_of(dataset)):
                place = path, inputs
                data[dataset.name, inputs] = read[place] = read.get(place) or load_features(
                    path, inputs=inputs
                )
        except InputError as error:
            raise InputError(f"dataset {dataset.name!r}: {error}") from None
    if not data:
        raise InputError(
            f"datasets={skipped} must name at least one that is there; all are optional and absent."
        )
    return data, tuple(skipped)


def _study(config: SweepConfig, dataset: DatasetSettings, recipe: RecipeSettings, data: FeatureSet) -> Study:
    settings = config.experiment(dataset, recipe)
    try:
        statistics = given_statistics(settings, data)
    except InputError as error:
        raise InputError(f"recipe {recipe.name!r}, dataset {dataset.name!r}: {error}") from None
    identity = training_identity(settings, data, statistics)
    return Study((dataset.name, recipe.name), settings, identity, statistics)


def _plan(
    studies: Mapping[Names, Study], data: Mapping[Source, FeatureSet]
) -> tuple[dict[Names, list[Cell]], tuple[LeftOut, ...]]:
    """The cells of each study that its feature set can have, and those that it cannot."""
    cells: dict[Names, list[Cell]] = {names: [] for names in studies}
    left_out: dict[LeftOut, None] = {}
    for names, study in studies.items():
        config = study.config
        for classes, shots in itertools.product(config.grid.classes, config.grid.shots):
            try:
                multiplier = config.shadows.pool_multiplier
                check_candidates(data[study.source], classes=classes, shots=shots, multiplier=multiplier)
            except InputError as error:
                left_out[LeftOut(names[0], classes, shots, str(error))] = None
                continue
            cells[names] += [
                Cell(classes, shots, seed, epsilon)
                for seed in config.grid.seeds
                for epsilon in config.privacy.epsilon
            ]
    if not any(cells.values()):
        first = next(iter(left_out))
        raise InputError(
            f"grid: no feature set has enough examples for any cell; {first.dataset}: {first.reason}"
        )
    return cells, tuple(left_out)


def _check_before_training(
    studies: Mapping[Names, Study],
    data: Mapping[Source, FeatureSet],
    cells: Mapping[Names, list[Cell]],
    memory: int | None,
) -> None:
    """Fail on what would fail in every cell or be known to fail in one, while nothing is lost."""
    for names, study in studies.items():
        try:
            check_plans(study.config, data[study.source], cells[names], memory)
        except InputError as error:
            raise InputError(f"dataset {names[0]!r}, recipe {names[1]!r}: {error}") from None
    config = next(iter(studies.values())).config
    check_attacks(config.attack)
    largest = max(cell.shots * cell.classes for each in cells.values() for cell in each)
    expected = largest * (config.shadows.pool_multiplier - 1) * config.shadows.models
    check_resolvable(config.fpr, expected, "the largest cell")


def _one_line(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    message = " ".join(str(error).split())[:500]
    return f"{type(error).__name__}: {message} ({pathlib.Path(place.filename).name}:{place.lineno})"


def _disk_full(out: pathlib.Path) -> str:
    return f"no room is left on the disk of {out}; free some, then continue with --resume: finished cells are kept."
