"""A sweep: one grid over feature sets, classes, shots, seeds, recipes and privacy levels."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd
import rich.console

from jaxmia._atomic import is_disk_full
from jaxmia._progress import SweepProgress, sweep_progress
from jaxmia._terminal import progress_console
from jaxmia._validate import check_choice
from jaxmia.data.feature_set import FeatureSet
from jaxmia.laws.law import LawKey, PowerLawFit
from jaxmia.studies.executors import EXECUTORS, Executor, LocalExecutor, LostError, RayExecutor
from jaxmia.studies.folder.sweep import SweepFolder
from jaxmia.studies.folder.tables import load_results
from jaxmia.studies.laws import laws_to_json, load_laws
from jaxmia.studies.settings.sweep import SweepConfig
from jaxmia.studies.settings.toml import parse_sweep, read_settings
from jaxmia.studies.shown import StudyShown
from jaxmia.studies.sweep_plan import LeftOut, SweepPlan, check_sweep, inputs_of, plan_sweep
from jaxmia.studies.sweep_tasks import (
    CellTask,
    Outcome,
    compiled_shape,
    compute_cell,
    disk_full,
    source_hash,
)


class SweepStoppedError(RuntimeError):
    """A sweep stopped for a reason outside its cells. Nothing is lost, and --resume continues it."""


class Failure(NamedTuple):
    """A cell that could not be computed.

    Attributes:
        dataset: name of its feature set.
        recipe: name of its recipe.
        cell: name of the cell.
        error: the error message.
    """

    dataset: str
    recipe: str
    cell: str
    error: str


@dataclasses.dataclass(frozen=True, repr=False)
class SweepResult(StudyShown):
    """The result of a sweep.

    Attributes:
        path: the sweep's folder.
        laws: the power law of each attack, evaluation, privacy level and recipe, over all feature sets.
        cells_computed: number of cells that this call computed; the folder already had the others.
        heads_trained: number of heads that this call trained.
        left_out: cells that a feature set is too small for.
        skipped: optional feature sets whose file is absent.
        failures: cells that could not be computed; the next call tries them again.
    """

    path: pathlib.Path
    laws: Mapping[LawKey, PowerLawFit]
    cells_computed: int
    heads_trained: int
    left_out: tuple[LeftOut, ...]
    skipped: tuple[str, ...]
    failures: tuple[Failure, ...]

    def headline(self) -> str:
        """Return one line with the numbers of cells computed, failed and left out."""
        return (
            f"{self.cells_computed} cells computed in {self.path}, {len(self.failures)} failed,"
            f" {len(self.left_out)} left out"
        )

    def to_frame(self) -> pd.DataFrame:
        """Return the results."""
        return self.results()

    def results(self) -> pd.DataFrame:
        """Return one row per cell, attack, evaluation and FPR, as load_results does."""
        return load_results(self.path)


def run_sweep(
    config: SweepConfig | Mapping[str, Any] | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    memory: int | None = None,
    executor: Executor | str = "local",
    console: rich.console.Console | None = None,
    progress: bool = True,
    features: Mapping[str, FeatureSet] | None = None,
) -> SweepResult:
    """Run a sweep and save it in a folder; results that the folder already holds are kept, not recomputed.

    Cells of one compiled shape run one after another. If a cell fails, the reason is recorded and the sweep continues;
    the next call tries the cell again. After every 16 shapes all compiled programs of this process are dropped,
    including the caller's, which then compile again. To extend a finished sweep, call again with more feature sets,
    recipes, shots, seeds, classes, models, attacks or FPRs: only missing results are computed, and studies that the
    settings no longer name are kept.

    Args:
        config: settings, as an object, nested dictionaries, or a TOML file of a sweep or an experiment.
        out: the sweep's folder; with Ray, on storage that all nodes mount at the same path.
        resume: continue an unfinished sweep.
        memory: largest number of bytes to hold on each device, as in train_ensemble; its value affects rounding.
        executor: "local", "ray", or an executor of jaxmia.studies.executors with its own settings.
        console: console for progress; by default the notebook, or standard error if it is a terminal.
        progress: False to show no progress.
        features: feature sets that are in memory, by name, in the place of files: those of settings that have no
            [[datasets]], or of entries of these names, whose features are then not read.

    Raises:
        InputError: for bad settings, features or folder, before any training.
        SweepStoppedError: if no further cell can be computed, for example because the disk is full.
    """
    if isinstance(config, (str, os.PathLike)):
        config = read_settings(config)
    elif isinstance(config, SweepConfig) and features:
        config = config.model_dump(exclude={"data", "train"})
    if isinstance(config, Mapping):
        config = parse_sweep(dict(config), features or ())
    runner = _executor(executor)
    plan = plan_sweep(config, features)
    runner.start()
    try:
        check_sweep(plan, memory)
        with SweepFolder.open(
            out,
            settings=config.record(),
            studies={names: (study.identity, plan.cells[names]) for names, study in plan.studies.items()},
            models=config.shadows.models,
            resume=resume,
        ) as folder:
            return _Sweep(folder, plan, memory, runner).complete(progress_console(console, progress))
    except Exception as error:
        if is_disk_full(error):
            raise SweepStoppedError(disk_full(pathlib.Path(out))) from error
        raise
    finally:
        runner.stop()


@dataclasses.dataclass
class _Sweep:
    """A sweep with an open folder."""

    folder: SweepFolder
    plan: SweepPlan
    memory: int | None
    executor: Executor
    heads_trained: int = 0

    def complete(self, console: rich.console.Console | None) -> SweepResult:
        """Compute missing cells, then the laws over all cells of the folder."""
        tasks, notes = self.missing()
        skipped = [f"skipped: the optional feature set {name!r} is absent" for name in self.plan.skipped]
        left_out = [
            f"left out: {each.dataset}, C={each.classes} S={each.shots}: {each.reason}"
            for each in self.plan.left_out
        ]
        work = {task: self.work(task) for task in tasks}
        done = {"/".join(names): len(self.folder.study(*names).cells) for names in self.plan.studies}
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
            self.plan.left_out,
            self.plan.skipped,
            tuple(failures),
        )

    def missing(self) -> tuple[list[CellTask], list[str]]:
        """Return the cells to compute, ordered by compiled shape, and notes on them for the user."""
        tasks, notes, code = [], [], source_hash()
        for names, study in self.plan.studies.items():
            part = self.folder.study(*names)
            for cell in part.cells:
                state = part.state(cell, study.cell_key(cell))
                if state == "done":
                    continue
                if state == "damaged":
                    notes.append(f"{'/'.join(names)}/{cell}: its rows were damaged and are computed again")
                elif state == "failed":
                    notes.append(f"{'/'.join(names)}/{cell}: failed before and is tried again")
                if state in ("damaged", "outdated"):
                    part.discard_rows(cell)
                tasks.append(
                    CellTask(names, inputs_of(study), cell, self.folder.path.resolve(), self.memory, code)
                )
        return sorted(tasks, key=self.order), notes

    def order(self, task: CellTask) -> tuple[Any, ...]:
        """Return the sort key of a task: smaller compiled shapes first, and tasks of one shape together."""
        dim = self.plan.data[task.inputs].features.shape[1]
        return (*compiled_shape(self.plan.studies[task.names].config, task.cell, dim), task.names, task.cell)

    def work(self, task: CellTask) -> float:
        """Return the work of a task without any trained heads, in arbitrary units."""
        config, cell = self.plan.studies[task.names].config.before_tuning(), task.cell
        dim = self.plan.data[task.inputs].features.shape[1]
        return float(config.shadows.models * config.train.steps * cell.classes**2 * cell.shots * dim)

    def compute(self, tasks: Mapping[CellTask, float], progress: SweepProgress) -> list[Failure]:
        """Run all tasks, given with their work, and return the failures."""
        failures = []
        shared: dict[str, Any] = {f"data {inputs}": data for inputs, data in self.plan.data.items()}
        shared |= {f"study {names}": study for names, study in self.plan.studies.items()}
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

    def finish(self, *, changed: bool) -> dict[LawKey, PowerLawFit]:
        """Fit the laws to all finished cells and, if anything changed, write them and the manifest."""
        anything = any(self.folder.path.glob("results/*.parquet"))
        laws = load_laws(self.folder.path) if anything else {}  # unless every cell failed
        if changed or not self.folder.is_finished:
            self.folder.write_json("power_law.json", laws_to_json(laws))
            self.folder.finish(self.plan.studies, left_out=[each._asdict() for each in self.plan.left_out])
        return laws


def _executor(executor: Executor | str) -> Executor:
    if not isinstance(executor, str):
        return executor
    check_choice("executor", executor, EXECUTORS)
    return LocalExecutor() if executor == "local" else RayExecutor()
