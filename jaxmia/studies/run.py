"""One experiment from end to end: a grid of cells, attacks on each cell's ensemble, and the power law."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
import rich.console

from jaxmia._progress import grid_progress
from jaxmia._terminal import progress_console
from jaxmia.data.feature_set import DEMO_NAME, IN_MEMORY, FeatureSet, check_given, load_features
from jaxmia.laws.law import LawKey, PowerLawFit
from jaxmia.studies.cell import Cell, cells_of
from jaxmia.studies.checks import check_experiment
from jaxmia.studies.distributed import Group, group
from jaxmia.studies.folder.run import RunFolder
from jaxmia.studies.folder.tables import load_results, load_table
from jaxmia.studies.grid import GridRun
from jaxmia.studies.laws import load_laws
from jaxmia.studies.normalizer import given_normalizer
from jaxmia.studies.search import tune_cell, tuned_cell
from jaxmia.studies.settings.experiment import ExperimentConfig
from jaxmia.studies.settings.toml import load_config, parse_config
from jaxmia.studies.shown import StudyShown
from jaxmia.studies.study import study_of
from jaxmia.studies.tuning import Tuning
from jaxmia.tables.rates import best_at_the_lowest, on_persons


@dataclasses.dataclass(frozen=True, repr=False)
class RunResult(StudyShown):
    """The result of a run.

    Attributes:
        path: the run folder.
        results: one row per cell, attack, evaluation and FPR.
        controls: negative controls, one row per cell and attack.
        laws: the power law of each attack, evaluation and privacy level, and of records' quantiles.
        cells_computed: number of cells that this call computed; the folder already had the others.
        heads_trained: number of heads that this call trained, in this process.
    """

    path: pathlib.Path
    results: pd.DataFrame
    controls: pd.DataFrame
    laws: Mapping[LawKey, PowerLawFit]
    cells_computed: int
    heads_trained: int

    def headline(self) -> str:
        """Return one line with the number of cells and the largest TPR at the lowest resolved FPR."""
        cells = self.results[["classes", "shots", "seed", "epsilon"]].drop_duplicates()
        best = best_at_the_lowest(self.results)
        if best is None:
            return f"{len(cells)} cells in {self.path}; no FPR is resolved"
        of = f"{best['attack']}{on_persons(best)}"
        found = f"TPR up to {best['tpr']:.3g} at FPR {best['fpr']:g} ({of}, S = {best['shots']})"
        return f"{len(cells)} cells in {self.path}; {found}"

    def to_frame(self) -> pd.DataFrame:
        """Return the results."""
        return self.results

    @property
    def records(self) -> pd.DataFrame:
        """Return a table with one row per cell, candidate and FPR."""
        return load_table(self.path, "per_example")


def run_experiment(
    config: ExperimentConfig | Mapping[str, Any] | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    memory: int | None = None,
    console: rich.console.Console | None = None,
    progress: bool = True,
    features: FeatureSet | None = None,
) -> RunResult:
    """Run an experiment and save it in a folder; results that the folder already holds are kept, not recomputed.

    To extend a finished run, call again with more shots, seeds, classes, models, attacks or FPRs: only missing results
    are computed.

    If jax.distributed has several processes, all of them must make this call with the same arguments, and out must be a
    shared folder. Each process trains its share of every cell's models on its own devices; process 0 does the rest. All
    return the same results.

    Args:
        config: settings, as an object, nested dictionaries, or a TOML file.
        out: the run folder.
        resume: continue an unfinished run.
        memory: largest number of bytes to hold on each device, as in train_ensemble; its value affects rounding.
        console: console for progress; by default the notebook, or standard error if it is a terminal.
        progress: False to show no progress.
        features: the feature set, if it is in memory; data.features of the settings is then its name.

    Raises:
        InputError: for bad settings, features or folder, before any training. With several processes, also for bad
            input of another process.
        ProcessError: if another process failed otherwise.
    """
    with group() as processes:
        if isinstance(config, (str, os.PathLike)):
            config = load_config(config)
        elif isinstance(config, Mapping):
            config = parse_config(dict(config))
        console = progress_console(console, progress and (console is not None or processes.index == 0))
        return _run(config, pathlib.Path(out), resume, memory, console, processes, features)


def _run(
    config: ExperimentConfig,
    out: pathlib.Path,
    resume: bool,
    memory: int | None,
    console: rich.console.Console | None,
    processes: Group,
    features: FeatureSet | None,
) -> RunResult:
    """Run the experiment as one of the processes."""
    if features is None:
        data = load_features(config.data.features, inputs=config.train.reads)
    else:
        check_given("features", features, inputs=config.train.reads)
        data = features
        if config.data.features == DEMO_NAME:  # the default names the bundled set
            config = config.model_copy(
                update={"data": config.data.model_copy(update={"features": IN_MEMORY})}
            )
    cells = cells_of(config)
    check_experiment(config, data, cells, memory)
    study = study_of(config, data)
    if processes.index > 0:
        todo = processes.receive("todo", 0)
        folder = RunFolder.join(out, identity=study.identity, manifest_hash=todo["manifest"])
        run = GridRun(study, data, folder, memory, processes)
        return _result(run, run.assist(todo["cells"], console))
    settings = config.model_dump(mode="json")
    with RunFolder.open(
        out,
        settings=settings,
        identity=study.identity,
        cells=cells,
        models=config.shadows.models,
        resume=resume,
    ) as folder:
        run = GridRun(study, data, folder, memory, processes)
        return _result(run, run.complete(console))


def _result(run: GridRun, cells_computed: int) -> RunResult:
    """Return the result from a finished folder."""
    path = run.folder.path
    results, controls = load_results(path), load_table(path, "controls")
    return RunResult(path, results, controls, load_laws(path), cells_computed, run.heads_trained)


def tune_grid(
    config: ExperimentConfig, *, memory: int | None = None, console: rich.console.Console | None = None
) -> Iterator[tuple[Cell, Tuning]]:
    """Yield the search for every recipe of a grid; seeds share one search if per = "shots".

    Args:
        config: settings with tuning.
        memory: as in run_experiment.
        console: console for progress, or None for no output.

        Raises: InputError: as run_experiment, before any training.
    """
    data = load_features(config.data.features, inputs=config.train.reads)
    statistics = given_normalizer(config.train, data)
    cells = cells_of(config)
    check_experiment(config, data, cells, memory)
    searched = dict.fromkeys(tuned_cell(config, cell) for cell in cells)
    work = {cell: float(cell.classes**2 * cell.shots) for cell in searched}
    with grid_progress(console, sum(work.values())) as bar:
        for cell in searched:
            bar.cell(f"tuning {cell}")
            search = tune_cell(config, data, cell, statistics, memory=memory)
            bar.heads(len(search.trials), work[cell])
            yield cell, search
