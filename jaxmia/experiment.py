"""One experiment, end to end: a grid of cells, each an ensemble of heads under attack, then the power law."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
import pandas as pd
import rich.console

from jaxmia.accounting import adjacency_for
from jaxmia.assess import assess, check_resolvable, control_rows, per_example_rows, run_attack
from jaxmia.auditing import median_epsilon_lower_bound
from jaxmia.config import ExperimentConfig, load_config, parse_config
from jaxmia.ensemble import ShadowEnsemble, empty_heads, join_ensembles, train_ensemble
from jaxmia.evaluation import AttackResult
from jaxmia.features import (
    CandidatePool,
    FeatureSet,
    FeatureStatistics,
    bag_of_tokens,
    candidate_pool,
    check_candidates,
    load_features,
    load_statistics,
    normalized_pool,
)
from jaxmia.formulation import Formulation, formulate
from jaxmia.membership import MembershipMasks, draw_membership
from jaxmia.plots import plot_power_law, plot_privacy
from jaxmia.power_law import DEFAULT_RECIPE, LawOf, PowerLawFit, fit_power_law
from jaxmia.processes import Group, Piece, deal, group
from jaxmia.progress import GridProgress, grid_progress
from jaxmia.recipe import Recipe, recipe_for
from jaxmia.scores import Scores, accuracy, score, split_diverged
from jaxmia.scratch import NetworkPlan, plan_networks
from jaxmia.store import (
    Cell,
    DamagedError,
    RunFolder,
    content_key,
    json_number,
    load_results,
    load_table,
    versions,
)

_ROWS = 2  # raised when rows get other columns: cells are then assessed anew from their heads


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a run leaves.

    Attributes:
        path: the run folder.
        results: one row per cell, attack, evaluation and FPR.
        controls: one row per cell and attack: its negative control.
        laws: the power law of each attack, evaluation and privacy level.
        cells_computed: cells that this call computed; the others were there.
        heads_trained: heads that this call trained, in this process.
    """

    path: pathlib.Path
    results: pd.DataFrame
    controls: pd.DataFrame
    laws: Mapping[LawOf, PowerLawFit]
    cells_computed: int
    heads_trained: int


def run_experiment(
    config: ExperimentConfig | Mapping[str, Any] | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    memory: int | None = None,
    console: rich.console.Console | None = None,
) -> RunResult:
    """Run an experiment into a folder; what the folder already holds is kept and not computed again.

    A finished run given more shots, seeds, classes, models, attacks or FPRs computes only what is missing.

    Where jax.distributed has several processes, all of them make this call with the same arguments, and out is a folder
    that they share. Each trains its share of every cell's models on its own devices; process 0 does the rest. All
    return the same results.

    Args:
        config: settings, as an object, nested dictionaries, or a TOML file.
        out: the run folder.
        resume: continue an unfinished run.
        memory: bytes that training may hold on each device, as in train_ensemble; more or less of it changes rounding.
        console: where progress is shown, if anywhere.

    Raises:
        InputError: for whatever is wrong with settings, features or folder; before any training. In one of several
            processes, also for what is wrong in another.
        ProcessError: if another process failed otherwise.
    """
    with group() as processes:
        return _run_experiment(config, out, resume, memory, console, processes)


def _run_experiment(
    config: ExperimentConfig | Mapping[str, Any] | str | os.PathLike[str],
    out: str | os.PathLike[str],
    resume: bool,
    memory: int | None,
    console: rich.console.Console | None,
    processes: Group,
) -> RunResult:
    if isinstance(config, (str, os.PathLike)):
        config = load_config(config)
    elif isinstance(config, Mapping):
        config = parse_config(dict(config))
    data = load_features(config.data.features, inputs=config.train.inputs)
    cells = [
        Cell(classes, shots, seed, epsilon)
        for classes in config.grid.classes
        for shots in config.grid.shots
        for seed in config.grid.seeds
        for epsilon in config.privacy.epsilon
    ]
    statistics = given_statistics(config, data)
    _check_before_training(config, data, cells, memory)
    identity = training_identity(config, data, statistics)
    if processes.index > 0:
        todo = processes.hear("todo", 0)
        folder = RunFolder.join(out, identity=identity, manifest_hash=todo["manifest"])
        run = GridRun(config, data, folder, content_key(identity), memory, statistics, processes=processes)
        return run.assist(todo["cells"], console)
    settings = config.model_dump(mode="json")
    with RunFolder.open(
        out, settings=settings, identity=identity, cells=cells, models=config.shadows.models, resume=resume
    ) as folder:
        return GridRun(
            config, data, folder, content_key(identity), memory, statistics, processes=processes
        ).complete(console)


@dataclasses.dataclass
class GridRun:
    """A grid of cells of one feature set under one recipe, over an open folder.

    Attributes:
        config: settings.
        data: the feature set.
        folder: where heads and rows go.
        identity_key: hash of what every trained head depends on.
        memory: as in run_experiment.
        statistics: to standardise by, if they are given.
        names: the first columns of all rows, beside the cell's; by default of a run.
        processes: that share the run.
        dealt: the pieces of the cells to be computed.
        heads_trained: heads that were trained so far.
        seconds_training: of the cell in flight; what prepares it (its pool, masks, checkpoints) is counted apart.
    """

    config: ExperimentConfig
    data: FeatureSet
    folder: RunFolder
    identity_key: str
    memory: int | None
    statistics: FeatureStatistics | None = None
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    processes: Group = dataclasses.field(default_factory=Group)
    dealt: dict[Cell, list[Piece]] = dataclasses.field(default_factory=dict)
    heads_trained: int = 0
    seconds_training: float = 0.0

    def complete(self, console: rich.console.Console | None) -> RunResult:
        """Compute the cells that are missing, then tables, laws and plots over all cells of the folder."""
        states = {cell: self.folder.state(cell, self.cell_key(cell)) for cell in self.folder.cells}
        todo = [cell for cell, state in states.items() if state != "done"]
        damaged = [f"the rows of {cell} were damaged" for cell in todo if states[cell] == "damaged"]
        unfinished = bool(todo) or not self.folder.is_finished
        if unfinished:
            self.folder.start()
        for cell in todo:
            self.deal(cell)
        cells = [(cell.entry(), pieces) for cell, pieces in self.dealt.items()]
        self.processes.tell("todo", {"manifest": self.folder.manifest_hash(), "cells": cells})
        if unfinished:
            with grid_progress(console, sum((self.work(cell) for cell in todo), 0.0)) as bar:
                _say(console, damaged)
                for cell in todo:
                    _say(console, self.compute(cell, bar)["repaired"])
            self.folder.assemble("per_example", self.folder.cells)
            self.folder.assemble("controls", self.folder.cells)
            results = self.folder.assemble("results", self.folder.cells)
            laws = fit_laws(results)
            self.folder.write_json("power_law.json", laws_to_json(laws))
            plot_power_law(results, laws, self.folder.path / "plots")
            plot_privacy(results, self.folder.path / "plots")
            self.folder.finish()
        self.processes.tell("finished")
        return self.result(len(todo))

    def assist(self, cells: list[Any], console: rich.console.Console | None) -> RunResult:
        """Train and score this process's models of the cells that process 0 lists, and wait until it has finished."""
        self.dealt = {Cell.from_entry(entry): [Piece(*piece) for piece in pieces] for entry, pieces in cells}
        console = console if self.dealt else None
        with grid_progress(console, sum((self.work(cell) for cell in self.dealt), 0.0)) as bar:
            for cell in self.dealt:
                self.processes.check()
                bar.cell(str(cell))
                repaired: list[str] = []
                pool = draw_pool(self.config, self.data, cell, self.statistics)
                self.score_pieces(cell, pool, bar, repaired)
                self.processes.tell(str(cell), repaired)
        self.processes.hear("finished", 0)
        return self.result(len(cells))

    def result(self, cells_computed: int) -> RunResult:
        """What the finished folder holds."""
        results = load_results(self.folder.path)
        controls = load_table(self.folder.path, "controls")
        return RunResult(
            self.folder.path, results, controls, fit_laws(results), cells_computed, self.heads_trained
        )

    def cell_key(self, cell: Cell) -> str:
        """What the rows of a cell are computed from."""
        return content_key(
            [self.identity_key, cell.entry(), self.config.evaluation_identity(), dict(self.names), _ROWS]
        )

    @property
    def first_columns(self) -> dict[str, str]:
        """What every row says first: which data and which recipe it is of."""
        return {"dataset": self.config.data.features, "recipe": DEFAULT_RECIPE, **self.names}

    def is_done(self, cell: Cell) -> bool:
        """Whether the folder has the rows of a cell under the present settings."""
        return self.folder.is_done(cell, self.cell_key(cell))

    def deal(self, cell: Cell) -> None:
        """Deal the models of a cell to the processes."""
        trained = self.folder.trained_models(cell)
        self.dealt[cell] = deal(trained, self.config.shadows.models, self.processes.count)

    def pieces(self, cell: Cell) -> list[Piece]:
        """This process's models of a cell."""
        return [piece for piece in self.dealt[cell] if piece.process == self.processes.index]

    def work(self, cell: Cell) -> float:
        """Arithmetic that this process has to do for a cell, in an arbitrary unit."""
        heads = sum(piece.end - piece.first for piece in self.pieces(cell) if not piece.trained)
        return heads * self.work_per_head(cell)

    def work_per_head(self, cell: Cell) -> float:
        """Arithmetic of one head of a cell."""
        return formulation_of(self.config, self.data, cell, self.memory).work * cell.classes

    def recipe(self, cell: Cell) -> Recipe:
        """What the heads of a cell are trained with."""
        return recipe_for(self.config, classes=cell.classes, shots=cell.shots, epsilon=cell.epsilon)

    def compute(self, cell: Cell, bar: GridProgress) -> dict[str, Any]:
        """Train what is missing of a cell, attack it, write its rows, and return the record of that."""
        bar.cell(str(cell))
        clock, trained_before, self.seconds_training = time.perf_counter(), self.heads_trained, 0.0
        settings = self.config.shadows
        recipe = self.recipe(cell)
        pool = draw_pool(self.config, self.data, cell, self.statistics)
        repaired: list[str] = []
        scores, accuracies = self.scores(cell, pool, bar, repaired)
        ready = time.perf_counter()
        scores, diverged = split_diverged(scores)
        accuracies = np.delete(accuracies, diverged)
        inclusion_rate = 1 / settings.pool_multiplier
        facts = {
            "normalize": self.config.train.normalize,
            "design": settings.design,
            "inclusion_rate": inclusion_rate,
            "num_models": settings.models,
            "num_diverged": len(diverged),
            "accuracy": float(accuracies.mean()) if len(accuracies) else math.nan,
            **self.privacy_facts(recipe),
        }
        # Ranks have no finite-pool correction: the rows of attacks say so, whatever the per-example rows carry.
        results = assess(
            self.config.attack,
            scores,
            fprs=self.config.fpr,
            evaluations=self.config.evaluation,
            features=pool.data.features,
            audit=None if len(diverged) else self.audit(recipe),
        ).assign(correction="none", **dataclasses.asdict(cell), **facts)
        results["tpr_ceiling"] = recipe.tpr_ceiling(results["fpr"].to_numpy())
        records = pd.DataFrame(
            {"record": pool.rows, "class_name": np.array(pool.data.class_names)[pool.data.labels]}
        )
        per_example = per_example_rows(
            scores,
            self.config.fpr,
            records,
            correction=self.config.correction,
            inclusion_rate=inclusion_rate,
        ).assign(**dataclasses.asdict(cell))
        controls = control_rows(
            self.config.attack,
            scores,
            fprs=self.config.fpr,
            seed=cell.seed,
            features=pool.data.features,
        ).assign(**dataclasses.asdict(cell))
        tables = {"results": results, "per_example": per_example, "controls": controls}
        for table in tables.values():
            for place, (column, value) in enumerate(self.first_columns.items()):
                table.insert(place, column, value)
        record = {
            "diverged_models": diverged.tolist(),
            "training": str(formulation_of(self.config, pool.data, cell, self.memory)),
            "repaired": repaired,
            "heads_trained": self.heads_trained - trained_before,
            "seconds_training": round(self.seconds_training, 3),
            "seconds_attacking": round(time.perf_counter() - ready, 3),
            "seconds_preparing": round(ready - clock - self.seconds_training, 3),
        }
        return self.folder.finish_cell(cell, self.cell_key(cell), tables, record)

    def scores(
        self, cell: Cell, pool: CandidatePool, bar: GridProgress, repaired: list[str]
    ) -> tuple[Scores, np.ndarray]:
        """Log-odds and test accuracies of all models of a cell; those of other processes come through the folder."""
        if self.processes.count == 1:
            heads = [self.heads(cell, pool, piece, bar, repaired) for piece in self.pieces(cell)]
            ensemble = join_ensembles(heads)
            return score(ensemble, pool.data), accuracy(ensemble, pool.test)
        self.score_pieces(cell, pool, bar, repaired)
        for process in range(1, self.processes.count):
            repaired += self.processes.hear(str(cell), process)
        parts = [self.folder.load_scores(cell, piece.models) for piece in self.dealt[cell]]
        log_odds, accuracies = map(np.concatenate, zip(*parts, strict=True))
        masks = self.masks(cell_keys(cell.seed), pool, (0, self.config.shadows.models))
        return Scores(log_odds, np.asarray(masks.member)), accuracies

    def score_pieces(self, cell: Cell, pool: CandidatePool, bar: GridProgress, repaired: list[str]) -> None:
        """Write the scores of this process's models of a cell, for process 0 to read."""
        for piece in self.pieces(cell):
            ensemble = self.heads(cell, pool, piece, bar, repaired)
            log_odds, accuracies = score(ensemble, pool.data).log_odds, accuracy(ensemble, pool.test)
            self.folder.save_scores(cell, piece.models, np.asarray(log_odds), accuracies)

    def heads(
        self, cell: Cell, pool: CandidatePool, piece: Piece, bar: GridProgress, repaired: list[str]
    ) -> ShadowEnsemble:
        """The heads of a piece: those on disk, or trained and checkpointed.

        A damaged checkpoint is named in repaired, and its heads are trained again, side by side as they were: the
        same bytes.
        """
        if not piece.trained:
            return self.train(cell, pool, piece.models, bar)
        masks = self.masks(cell_keys(cell.seed), pool, piece.models)
        network = self.recipe(cell).config.network
        template = empty_heads(pool.data, num_models=piece.end - piece.first, network=network)
        try:
            return ShadowEnsemble(
                self.folder.load_heads(cell, piece.models, template), masks, network=network
            )
        except DamagedError as error:
            repaired.append(f"{error}; its heads were trained again")
            return self.train(cell, pool, piece.models, bar)

    def train(
        self, cell: Cell, pool: CandidatePool, models: tuple[int, int], bar: GridProgress
    ) -> ShadowEnsemble:
        """Train and checkpoint the models first .. end - 1 of a cell."""
        recipe, keys = self.recipe(cell), cell_keys(cell.seed)
        share, masks, clock = self.work_per_head(cell), self.masks(keys, pool, models), time.perf_counter()
        trained = train_ensemble(
            keys["training"],
            pool.data,
            masks,
            recipe.hyper,
            recipe.config,
            memory=self.memory,
            on_chunk=lambda count: bar.heads(count, count * share),
        )
        self.seconds_training += time.perf_counter() - clock
        self.folder.save_heads(cell, models, trained.params)
        self.heads_trained += models[1] - models[0]
        return trained

    def privacy_facts(self, recipe: Recipe) -> dict[str, Any]:
        """What a cell's rows say of its privacy; delta and adjacency are also those of its audit."""
        return {
            "delta": self.config.privacy.delta,
            "adjacency": adjacency_for(self.config.shadows.design),
            "noise_multiplier": recipe.guarantee.noise_multiplier if recipe.guarantee else 0.0,
            "sampling_rate": float(recipe.hyper.sampling_rate),
            "audit": recipe.audit_method() if self.audit(recipe) else "none",
        }

    def audit(self, recipe: Recipe) -> Callable[[AttackResult], float] | None:
        """The lower bound on epsilon for the cells of a recipe, where the membership design allows one."""
        design, inclusion_rate = self.config.shadows.design, 1 / self.config.shadows.pool_multiplier
        if (design, inclusion_rate) != ("bernoulli", 0.5):
            return None
        return functools.partial(
            median_epsilon_lower_bound,
            delta=self.config.privacy.delta,
            method=recipe.audit_method(),
            design=design,
            inclusion_rate=inclusion_rate,
        )

    def masks(
        self, keys: Mapping[str, jax.Array], pool: CandidatePool, models: tuple[int, int]
    ) -> MembershipMasks:
        """Membership of the models first .. end - 1 of a cell."""
        settings = self.config.shadows
        return draw_membership(
            keys["membership"],
            pool.data.labels,
            num_models=models[1] - models[0],
            first_model=models[0],
            design=settings.design,
            inclusion_rate=1 / settings.pool_multiplier,
        )


def _say(console: rich.console.Console | None, lines: Iterable[str]) -> None:
    for line in lines:
        if console is not None:
            console.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)


def cell_keys(seed: int) -> dict[str, jax.Array]:
    """The independent random keys of a cell's pool, membership and training: they depend on its seed alone."""
    key = jax.random.key(seed)
    return {
        name: jax.random.fold_in(key, stream)
        for stream, name in enumerate(("pool", "membership", "training"))
    }


def given_statistics(config: ExperimentConfig, data: FeatureSet) -> FeatureStatistics | None:
    """The statistics of the file that a recipe names, or None for those of the pool.

    Raises:
        InputError: if the file is not what it should be, or not of the features' dimension.
    """
    if config.train.statistics == "pool":
        return None
    return load_statistics(config.train.statistics, dim=data.features.shape[1])


def training_identity(
    config: ExperimentConfig, data: FeatureSet, statistics: FeatureStatistics | None
) -> dict[str, Any]:
    """What every trained head depends on, by content: settings, features, given statistics, versions."""
    given = {} if statistics is None else {"statistics": {"sha256": statistics.content_hash()}}
    return {
        "settings": config.training_identity(),
        "features": {"sha256": data.content_hash()},
        **given,
        "versions": versions(),
    }


def draw_pool(
    config: ExperimentConfig, data: FeatureSet, cell: Cell, statistics: FeatureStatistics | None = None
) -> CandidatePool:
    """The candidates and the test split of a cell, normalised as the recipe says; of token ids, bags of tokens."""
    pool = candidate_pool(
        data,
        classes=cell.classes,
        shots=cell.shots,
        multiplier=config.shadows.pool_multiplier,
        key=cell_keys(cell.seed)["pool"],
        test_per_class=config.data.test_per_class,
    )
    if len(data.input_shape) == 1:
        pool = bag_of_tokens(pool)
    return normalized_pool(pool, config.train.normalize, statistics)


def formulation_of(
    config: ExperimentConfig, data: FeatureSet, cell: Cell, memory: int | None
) -> Formulation | NetworkPlan:
    """How the heads or networks of a cell are trained.

    Args:
        config: of the experiment.
        data: the feature set, or the pool's; before the pool is drawn, a bag of tokens is taken to hold all there are.
        cell: which.
        memory: as in run_experiment.

    Raises:
        InputError: if a batch is larger than a model's members, memory holds no model, or a network does not go with
            the inputs.
    """
    recipe = recipe_for(config, classes=cell.classes, shots=cell.shots, epsilon=cell.epsilon)
    tokens = len(data.input_shape) == 1
    sizes: dict[str, Any] = {
        "num_models": config.shadows.models,
        "num_examples": cell.classes * cell.shots * config.shadows.pool_multiplier,
        "num_classes": cell.classes,
        "dim": int(data.features.max()) if tokens else data.features.shape[1],
        "inclusion_rate": 1 / config.shadows.pool_multiplier,
    }
    if recipe.config.network is not None:
        return plan_networks(recipe.config, memory, **sizes, input_shape=data.input_shape)
    rate, devices = float(recipe.hyper.sampling_rate), jax.local_device_count()
    return formulate(recipe.config, memory, **sizes, sampling_rate=rate, num_devices=devices)


def fit_laws(results: pd.DataFrame) -> dict[LawOf, PowerLawFit]:
    """Fit the power law to each attack, evaluation, privacy level and recipe, over all cells of all data sets."""
    groups = results.groupby(["attack", "evaluation", "epsilon", "recipe"], sort=False)
    return {
        LawOf(str(attack), str(evaluation), float(str(epsilon)), str(recipe)): fit_power_law(rows)
        for (attack, evaluation, epsilon, recipe), rows in groups
    }


def laws_to_json(laws: Mapping[LawOf, PowerLawFit]) -> list[dict[str, Any]]:
    """The content of power_law.json."""
    return [
        {**law._asdict(), "epsilon": json_number(law.epsilon), **fit.to_dict()} for law, fit in laws.items()
    ]


def laws_from_json(content: list[dict[str, Any]]) -> dict[LawOf, PowerLawFit]:
    """Laws from the content of power_law.json."""
    return {
        LawOf(
            entry["attack"],
            entry["evaluation"],
            float(entry["epsilon"]),
            entry.get("recipe", DEFAULT_RECIPE),  # runs from before sweeps named none
        ): PowerLawFit.from_dict(entry)
        for entry in content
    }


def _check_before_training(
    config: ExperimentConfig, data: FeatureSet, cells: list[Cell], memory: int | None
) -> None:
    """Fail on what would fail later, while nothing is lost."""
    multiplier = config.shadows.pool_multiplier
    for classes, shots in dict.fromkeys((cell.classes, cell.shots) for cell in cells):
        check_candidates(data, classes=classes, shots=shots, multiplier=multiplier)
    check_plans(config, data, cells, memory)
    check_attacks(config)
    largest = max(cell.shots * cell.classes for cell in cells) * (config.shadows.pool_multiplier - 1)
    expected = largest * config.shadows.models
    check_resolvable(config.fpr, expected, "the largest cell")


def check_plans(config: ExperimentConfig, data: FeatureSet, cells: list[Cell], memory: int | None) -> None:
    """Raise InputError if some cell has a batch larger than its pool, or memory holds none of its models."""
    for cell in dict.fromkeys(dataclasses.replace(cell, seed=0) for cell in cells):
        formulation_of(config, data, cell, memory)


def check_attacks(config: ExperimentConfig) -> None:
    """Raise InputError if an attack refuses its options, as they turn out on a few scores."""
    tiny = np.random.default_rng(0)
    scores = Scores(tiny.normal(size=(8, 4)), np.arange(32).reshape(8, 4) % 8 < 4)
    for attack in config.attack:
        run_attack(attack, scores, tiny.normal(size=(4, 2)))
