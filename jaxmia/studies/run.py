"""One experiment, end to end: a grid of cells, each an ensemble of heads under attack, then the power law."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import pandas as pd
import rich.console
from jaxtyping import Bool, Float

from jaxmia._hashes import content_key
from jaxmia._progress import GridProgress, grid_progress
from jaxmia._validate import check
from jaxmia.attacks.weights import check_memory, check_methods
from jaxmia.data.bag_of_words import bag_of_tokens
from jaxmia.data.feature_set import FeatureSet, load_features
from jaxmia.data.membership import MembershipMasks, draw_membership
from jaxmia.data.normalization import FeatureStatistics, load_statistics, normalized_pool
from jaxmia.data.pool import CandidatePool, candidate_pool, check_candidates
from jaxmia.laws.fit import DEFAULT_RECIPE, LawOf, PowerLawFit
from jaxmia.plots import plot_power_law, plot_privacy
from jaxmia.privacy.accounting import adjacency_for
from jaxmia.privacy.lower_bounds import median_epsilon_lower_bound
from jaxmia.ridge.expected import analytic_vulnerability
from jaxmia.ridge.influence import check_size
from jaxmia.ridge.paired import paired_scores
from jaxmia.scores import Scores, WeightsUnder, split_diverged
from jaxmia.stats.result import AttackResult
from jaxmia.studies.assess import (
    assess,
    check_attacks,
    check_resolvable,
    control_rows,
    needs_pairs,
    needs_prior,
    per_example_rows,
    white_box_methods,
)
from jaxmia.studies.distributed import Group, Piece, deal, group
from jaxmia.studies.folder.cell import Cell, DamagedError
from jaxmia.studies.folder.manifest import versions
from jaxmia.studies.folder.run import RunFolder
from jaxmia.studies.folder.tables import load_results, load_table
from jaxmia.studies.laws import laws_to_json, load_laws
from jaxmia.studies.recipe import Recipe, recipe_for
from jaxmia.studies.settings.experiment import ExperimentConfig
from jaxmia.studies.settings.toml import load_config, parse_config
from jaxmia.studies.tuning import Trial, Tuning, import_optuna, possible_settings, tune, tuned_settings
from jaxmia.training.contrasts import objective_ridge
from jaxmia.training.ensemble import ShadowEnsemble, empty_heads, join_ensembles, train_ensemble
from jaxmia.training.from_scratch import NetworkPlan, plan_networks
from jaxmia.training.newton import unbounded_note
from jaxmia.training.plan import Formulation, formulate
from jaxmia.training.scoring import accuracy, gradient_norms, score
from jaxmia.vulnerability.white_box import white_box_under

_ROWS = 8  # raised when rows get other columns: cells are then assessed anew from their heads

_RECIPE = ("learning_rate", "batch_size", "steps", "clipping_norm", "noise_multiplier")


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a run leaves.

    Attributes:
        path: the run folder.
        results: one row per cell, attack, evaluation and FPR.
        controls: one row per cell and attack: its negative control.
        laws: the power law of each attack, evaluation and privacy level, and of records' quantiles.
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
    cells = cells_of(config)
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
        seconds_tuning: the same.
        chosen: the recipes of the cells that were tuned.
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
    seconds_tuning: float = 0.0
    chosen: dict[Cell, Trial] = dataclasses.field(default_factory=dict)

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
                    record = self.compute(cell, bar)
                    _say(console, [*record["repaired"], *(f"{cell}: {line}" for line in record["notes"])])
            self.folder.assemble("per_example", self.folder.cells)
            self.folder.assemble("controls", self.folder.cells)
            results = self.folder.assemble("results", self.folder.cells)
            laws = load_laws(self.folder.path)
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
            self.folder.path,
            results,
            controls,
            load_laws(self.folder.path),
            cells_computed,
            self.heads_trained,
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
        return formulation_of(self.config.before_tuning(), self.data, cell, self.memory).work * cell.classes

    def recipe(self, cell: Cell) -> Recipe:
        """What the heads of a cell are trained with."""
        return recipe_for(self.settings(cell), classes=cell.classes, shots=cell.shots, epsilon=cell.epsilon)

    def settings(self, cell: Cell) -> ExperimentConfig:
        """What the heads of a cell are trained with, as settings: tuned ones, where there is tuning.

        Process 0 tunes, or finds that the folder has it, and tells the others.
        """
        if self.config.tuning is None:
            return self.config
        if cell not in self.chosen and self.processes.index > 0:
            self.chosen[cell] = Trial(**self.processes.hear(f"recipe of {cell}", 0))
        elif cell not in self.chosen:
            self.chosen[cell] = self.tuning(cell).chosen
            self.processes.tell(f"recipe of {cell}", self.chosen[cell]._asdict())
        return tuned_settings(self.config, self.chosen[cell], classes=cell.classes, shots=cell.shots)

    def tuning(self, cell: Cell) -> Tuning:
        """The search for a cell's recipe: that of the folder, or a new one, which is then in the folder."""
        cell, clock = tuned_cell(self.config, cell), time.perf_counter()
        try:
            return Tuning.from_json(self.folder.load_tuning(cell) or {})
        except (KeyError, TypeError):  # there is none, or it was damaged: a new one is the same
            tuning = tune_cell(self.config, self.data, cell, self.statistics, memory=self.memory)
        self.folder.save_tuning(cell, tuning.to_json())
        self.seconds_tuning = time.perf_counter() - clock
        return tuning

    def compute(self, cell: Cell, bar: GridProgress) -> dict[str, Any]:
        """Train what is missing of a cell, attack it, write its rows, and return the record of that."""
        bar.cell(str(cell))
        clock, trained_before, self.seconds_training = time.perf_counter(), self.heads_trained, 0.0
        settings, self.seconds_tuning = self.config.shadows, 0.0
        recipe = self.recipe(cell)
        pool = draw_pool(self.config, self.data, cell, self.statistics)
        masks = self.masks(cell_keys(cell.seed), pool, (0, settings.models))
        notes: list[str] = []
        if recipe.config.optimizer == "newton" and recipe.config.intercept:
            notes = unbounded_note(np.asarray(masks.member), pool.data.labels)
        repaired: list[str] = []
        scored, weights_under = self.scores(cell, pool, bar, repaired)
        ready = time.perf_counter()
        inclusion_rate = 1 / settings.pool_multiplier
        prior: dict[str, np.ndarray] = {}
        if needs_prior(self.config.attack):
            rates = {"ridge": self.config.train.ridge, "inclusion_rate": inclusion_rate}
            prior = analytic_vulnerability(pool.data, **rates, memory=self.memory).prior()
        scores, diverged = split_diverged(
            Scores(
                scored["log_odds"],
                np.asarray(masks.member),
                flipped_log_odds=scored.get("flipped_log_odds"),
                white_box=None if weights_under is None else weights_under(np.asarray(masks.member)),
                weights_under=weights_under,
                **prior,
            )
        )
        accuracies = np.delete(scored["accuracy"], diverged)
        facts = {
            "normalize": self.config.train.normalize,
            **self.origins(),
            "design": settings.design,
            "inclusion_rate": inclusion_rate,
            "num_models": settings.models,
            "num_diverged": len(diverged),
            "accuracy": float(accuracies.mean()) if len(accuracies) else math.nan,
            **_mean_losses(scores),
            **self.privacy_facts(recipe),
            **recipe_facts(recipe, members=cell.classes * cell.shots),
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
            {
                "record": pool.rows,
                "class_name": np.array(pool.data.class_names)[pool.data.labels],
                "gradient_norm": _mean_over(
                    np.delete(scored["gradient_norm"], diverged, axis=0), np.asarray(scores.member)
                ),
            }
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
            "parameters": self.num_parameters(cell, pool),
            "training": str(formulation_of(self.settings(cell), pool.data, cell, self.memory)),
            **({} if self.config.tuning is None else {"tuned": self.chosen[cell]._asdict()}),
            **({} if recipe.guarantee is None else {"privacy": recipe.guarantee.record()}),
            "recipe": {name: None if pd.isna(facts[name]) else facts[name] for name in _RECIPE}
            | self.origins(),
            "repaired": repaired,
            "notes": notes,
            "heads_trained": self.heads_trained - trained_before,
            "seconds_training": round(self.seconds_training, 3),
            "seconds_attacking": round(time.perf_counter() - ready, 3),
            "seconds_tuning": round(self.seconds_tuning, 3),
            "seconds_preparing": round(ready - clock - self.seconds_training - self.seconds_tuning, 3),
        }
        return self.folder.finish_cell(cell, self.cell_key(cell), tables, record)

    def num_parameters(self, cell: Cell, pool: CandidatePool) -> int:
        """Of one model."""
        one = empty_heads(pool.data, num_models=1, network=self.recipe(cell).config.network)
        return sum(leaf.size for leaf in jax.tree.leaves(one))

    def scores(
        self, cell: Cell, pool: CandidatePool, bar: GridProgress, repaired: list[str]
    ) -> tuple[dict[str, np.ndarray], WeightsUnder | None]:
        """What all models of a cell say, and what their weights do if an attack asks; through the folder if need be."""
        if self.processes.count == 1:
            heads = join_ensembles(
                [self.heads(cell, pool, piece, bar, repaired) for piece in self.pieces(cell)]
            )
            return self.scored(cell, pool, heads), self.weights_under(cell, pool, heads)
        self.score_pieces(cell, pool, bar, repaired)
        for process in range(1, self.processes.count):
            repaired += self.processes.hear(str(cell), process)
        parts = [self.folder.load_scores(cell, piece.models) for piece in self.dealt[cell]]
        scored = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if not white_box_methods(self.config.attack):
            return scored, None
        # All of them are on disk by now.
        pieces = [piece._replace(trained=True) for piece in self.dealt[cell]]
        heads = join_ensembles([self.heads(cell, pool, piece, bar, repaired) for piece in pieces])
        return scored, self.weights_under(cell, pool, heads)

    def scored(self, cell: Cell, pool: CandidatePool, heads: ShadowEnsemble) -> dict[str, np.ndarray]:
        """Log-odds, as they are and flipped if an attack asks, gradient norms, and test accuracies, of all models."""
        found = {
            "gradient_norm": gradient_norms(heads, pool.data),
            "accuracy": accuracy(heads, pool.test),
        }
        if not needs_pairs(self.config.attack):
            return found | {"log_odds": np.asarray(score(heads, pool.data).log_odds)}
        paired = paired_scores(heads, pool.data, ridge=self.config.train.ridge, memory=self.memory)
        return found | {
            "log_odds": np.asarray(paired.log_odds),
            "flipped_log_odds": np.asarray(paired.flipped_log_odds),
        }

    def weights_under(self, cell: Cell, pool: CandidatePool, heads: ShadowEnsemble) -> WeightsUnder | None:
        """The statistics of all heads of a cell that white-box attacks read, by membership, or None."""
        methods = white_box_methods(self.config.attack)
        train = self.settings(cell).train
        decay = train.weight_decay + objective_ridge(train.ridge, cell.classes) / (cell.classes * cell.shots)
        if not methods:
            return None
        return white_box_under(heads, pool.data, weight_decay=decay, methods=methods, memory=self.memory)

    def score_pieces(self, cell: Cell, pool: CandidatePool, bar: GridProgress, repaired: list[str]) -> None:
        """Write the scores of this process's models of a cell, for process 0 to read."""
        for piece in self.pieces(cell):
            heads = self.heads(cell, pool, piece, bar, repaired)
            self.folder.save_scores(cell, piece.models, self.scored(cell, pool, heads))

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
                self.folder.load_heads(cell, piece.models, template),
                masks,
                network=network,
                link=self.settings(cell).train.link,
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

    def origins(self) -> dict[str, str]:
        """Where the recipe of a cell comes from: a search, and whose statistics its features were standardised by."""
        train, tuning = self.config.train, self.config.tuning
        given = (
            "none" if train.normalize != "standardize" else "pool" if train.statistics == "pool" else "given"
        )
        return {"tuned": "no" if tuning is None else f"per {tuning.per}", "standardised_by": given}

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


def _mean_losses(scores: Scores) -> dict[str, float]:
    """Mean cross-entropy over all models and their members, and their non-members: how far training went."""
    losses, member = np.logaddexp(0, -np.asarray(scores.log_odds, np.float64)), np.asarray(scores.member)
    sides = {"member_loss": losses[member], "nonmember_loss": losses[~member]}
    return {name: float(side.mean()) if side.size else math.nan for name, side in sides.items()}


def _mean_over(
    values: Float[np.ndarray, "models examples"], chosen: Bool[np.ndarray, "models examples"]
) -> Float[np.ndarray, "examples"]:
    """Mean over the models chosen for each example; NaN where there is none."""
    counts = chosen.sum(axis=0)
    totals = np.sum(values, axis=0, where=chosen, dtype=np.float64)
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)


def recipe_facts(recipe: Recipe, *, members: int) -> dict[str, Any]:
    """What a cell's rows say of its recipe beside its privacy; batch_size is expected members per step."""
    sampled = recipe.config.batch_size or round(float(recipe.hyper.sampling_rate) * members)
    clip = recipe.hyper.clipping_norm
    return {
        "learning_rate": float(recipe.hyper.learning_rate),
        "batch_size": sampled,
        "steps": recipe.config.steps,
        "clipping_norm": math.nan if clip is None else float(clip),
    }


def _say(console: rich.console.Console | None, lines: Iterable[str]) -> None:
    for line in lines:
        if console is not None:
            console.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)


def cell_keys(seed: int) -> dict[str, jax.Array]:
    """The independent random keys of a cell's pool, membership, training and tuning: they depend on its seed alone."""
    key = jax.random.key(seed)
    return {
        name: jax.random.fold_in(key, stream)
        for stream, name in enumerate(("pool", "membership", "training", "tuning"))
    }


def cells_of(config: ExperimentConfig) -> list[Cell]:
    """All cells of an experiment's grid."""
    return [
        Cell(classes, shots, seed, epsilon)
        for classes in config.grid.classes
        for shots in config.grid.shots
        for seed in config.grid.seeds
        for epsilon in config.privacy.epsilon
    ]


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
        "versions": versions() if config.tuning is None else versions("optuna"),
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


def tuned_cell(config: ExperimentConfig, cell: Cell) -> Cell:
    """The cell on whose data a cell's recipe is searched: itself, or that of seed 0, whatever the grid's seeds are."""
    shared = config.tuning is not None and config.tuning.per == "shots"
    return dataclasses.replace(cell, seed=0) if shared else cell


def tune_cell(
    config: ExperimentConfig,
    data: FeatureSet,
    cell: Cell,
    statistics: FeatureStatistics | None = None,
    *,
    memory: int | None = None,
    on_round: Callable[[int], None] = lambda _: None,
) -> Tuning:
    """Search for a recipe on the training set of a cell's model 0.

    Args:
        config: settings.
        data: the feature set.
        cell: which one.
        statistics: to standardise by, if they are given.
        memory: as in train_ensemble.
        on_round: called with the number of trials that are through, after each round.

    Raises:
        InputError: as jaxmia.studies.tuning.tune.
    """
    pool, keys = draw_pool(config, data, cell, statistics).data, cell_keys(cell.seed)
    first = draw_membership(
        keys["membership"],
        pool.labels,
        num_models=1,
        design=config.shadows.design,
        inclusion_rate=1 / config.shadows.pool_multiplier,
    )
    return tune(
        keys["tuning"],
        pool,
        np.asarray(first.member[0]),
        config,
        classes=cell.classes,
        shots=cell.shots,
        epsilon=cell.epsilon,
        memory=memory,
        on_round=on_round,
    )


def tune_grid(
    config: ExperimentConfig, *, memory: int | None = None, console: rich.console.Console | None = None
) -> Iterator[tuple[Cell, Tuning]]:
    """Search for every recipe of a grid; those that seeds share (per = "shots") once.

    Args:
        config: settings with tuning.
        memory: as in run_experiment.
        console: where progress is shown, if anywhere.

    Raises:
        InputError: as run_experiment; before any training.
    """
    data = load_features(config.data.features, inputs=config.train.inputs)
    statistics = given_statistics(config, data)
    cells = cells_of(config)
    _check_before_training(config, data, cells, memory)
    searched = dict.fromkeys(tuned_cell(config, cell) for cell in cells)
    work = {cell: float(cell.classes**2 * cell.shots) for cell in searched}
    with grid_progress(console, sum(work.values())) as bar:
        for cell in searched:
            bar.cell(f"tuning {cell}")
            search = tune_cell(config, data, cell, statistics, memory=memory)
            bar.heads(len(search.trials), work[cell])
            yield cell, search


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


def _check_before_training(
    config: ExperimentConfig, data: FeatureSet, cells: list[Cell], memory: int | None
) -> None:
    """Fail on what would fail later, while nothing is lost."""
    multiplier = config.shadows.pool_multiplier
    for classes, shots in dict.fromkeys((cell.classes, cell.shots) for cell in cells):
        check_candidates(data, classes=classes, shots=shots, multiplier=multiplier)
    check_plans(config, data, cells, memory)
    check_attacks(config.attack)
    largest = max(cell.shots * cell.classes for cell in cells) * (config.shadows.pool_multiplier - 1)
    expected = largest * config.shadows.models
    check_resolvable(config.fpr, expected, "the largest cell")


def check_plans(config: ExperimentConfig, data: FeatureSet, cells: list[Cell], memory: int | None) -> None:
    """Raise InputError if some cell has a batch larger than its pool, or memory holds none of its models.

    With tuning also if Optuna is missing, or for a recipe that may be chosen; and for an attack on weights that cannot
    be run on such models.
    """
    methods = white_box_methods(config.attack)
    if methods:
        network = config.train.network
        check(
            network == "linear",
            "network",
            network,
            "be 'linear' for attack 'whitebox', which reads heads' weights",
        )
        dim = int(data.features.max()) if len(data.input_shape) == 1 else data.features.shape[1]
        check_methods(methods, classes=max(cell.classes for cell in cells), dim=dim)
        for cell in cells:
            examples = cell.classes * cell.shots * config.shadows.pool_multiplier
            sizes = {"classes": cell.classes, "dim": dim, "examples": examples}
            check_memory(methods, **sizes, models=config.shadows.models, memory=memory)
    knowing = bool(methods) or needs_pairs(config.attack) or needs_prior(config.attack)
    rule = (
        "be 'none', and intercept true, for whitebox, analytic, paired and 'shrunk', which know the objective"
    )
    check(config.train.plain or not knowing, "train.class_weight", config.train.class_weight, rule)
    if needs_pairs(config.attack) or needs_prior(config.attack):
        rule = "be 'newton' for analytic attacks, paired=true or 'shrunk': they need heads at their minimum"
        check(config.train.optimizer == "newton", "train.optimizer", config.train.optimizer, rule)
        for cell in cells:
            candidates = cell.classes * cell.shots * config.shadows.pool_multiplier
            check_size(cell.classes, min(data.features.shape[1], candidates) + 1, candidates, memory)
    if config.tuning is not None:
        import_optuna()
    for cell in dict.fromkeys(dataclasses.replace(cell, seed=0) for cell in cells):
        if config.tuning is not None:  # noise and privacy levels ask no more memory
            cell = dataclasses.replace(cell, epsilon=math.inf)
        for settings in possible_settings(config, classes=cell.classes, shots=cell.shots):
            formulation_of(settings, data, cell, memory)
