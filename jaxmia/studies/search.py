"""Search for a recipe by Optuna's tree-structured Parzen estimator (TPE); the trials of a round are trained at once.

As in arXiv 2402.06674, the search uses the data of a target, here the training set of the cell's model 0. Every trial
trains on one part of it and is ranked by its accuracy or loss on the other part. All models of the cell are then
trained with the best recipe.

A trial uses the sampling rate and the steps that the recipe has on the whole training set. All trials run in one
program, whatever their batch sizes: every model samples its members at its own rate (Poisson) and stops changing after
its own number of steps. The final training draws batches by train.sampling.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Bool, Int

from jaxmia._buckets import in_float32
from jaxmia._validate import InputError
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.membership import MembershipMasks
from jaxmia.data.normalization import Normalizer
from jaxmia.studies.cell import Cell, cell_keys, draw_masks, draw_pool
from jaxmia.studies.recipe import Recipe, recipe_for
from jaxmia.studies.settings.experiment import ExperimentConfig
from jaxmia.studies.settings.tuning import TuningSettings
from jaxmia.studies.tuning import Trial, Tuning, trial_of, tuned_settings
from jaxmia.training.ensemble import ShadowEnsemble, train_ensemble
from jaxmia.training.scoring import accuracy, score
from jaxmia.training.settings import Hyperparams, TrainConfig


def tuned_cell(config: ExperimentConfig, cell: Cell) -> Cell:
    """Return the cell whose data the search uses: the cell itself, or that of seed 0 (not necessarily in the grid)."""
    shared = config.tuning is not None and config.tuning.per == "shots"
    return dataclasses.replace(cell, seed=0) if shared else cell


def tune_cell(
    config: ExperimentConfig,
    data: FeatureSet,
    cell: Cell,
    statistics: Normalizer | None = None,
    *,
    memory: int | None = None,
    on_round: Callable[[int], None] = lambda _: None,
) -> Tuning:
    """Search for a recipe on the training set of a cell's model 0.

    Args:
        config: settings of the experiment.
        data: the feature set.
        cell: the cell.
        statistics: statistics to standardise with, if given.
        memory: as in train_ensemble.
        on_round: called with the number of finished trials, after each round.

    Raises:
        InputError: as tune.
    """
    pool = draw_pool(config, data, cell, statistics).data
    first = draw_masks(config, pool, cell.seed, (0, 1))
    return tune(
        cell_keys(cell.seed)["tuning"],
        pool,
        np.asarray(first.member[0]),
        config,
        classes=cell.classes,
        shots=cell.shots,
        epsilon=cell.epsilon,
        memory=memory,
        on_round=on_round,
    )


@in_float32
def tune(
    key: jax.Array,
    pool: FeatureSet,
    member: Bool[np.ndarray, "examples"],
    config: ExperimentConfig,
    *,
    classes: int,
    shots: int,
    epsilon: float = math.inf,
    memory: int | None = None,
    on_round: Callable[[int], None] = lambda _: None,
) -> Tuning:
    """Return the search for the recipe of a training set. The same arguments give the same trials.

    Args:
        key: random key of the split, the search and the trials.
        pool: the candidates.
        member: True for the candidates in the training set.
        config: settings; tuning has its defaults if missing.
        classes: C.
        shots: S; the expected number of members is S x C.
        epsilon: target epsilon of the trials; inf for training without differential privacy.
        memory: as in train_ensemble.
        on_round: called with the number of finished trials, after each round.

    Raises:
        InputError: if Optuna is not installed, or as train_ensemble.
    """
    optuna = import_optuna()
    tuning = config.tuning or TuningSettings()
    split_key, search_key, training_key = jax.random.split(key, 3)
    parts = split_training_set(split_key, pool.labels, np.asarray(member), share=tuning.validation)
    rounds = _Rounds(training_key, pool, *parts, config, tuning, classes, shots, epsilon, memory)
    distributions = _distributions(optuna, config, rounds.members, private=epsilon != math.inf)
    # Trials of a round are proposed before any of them is done: the constant liar keeps them different.
    seed = int(jax.random.bits(search_key, dtype="uint32"))
    sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    done: list[Trial] = []
    with _quiet(optuna):
        study = optuna.create_study(direction="maximize", sampler=sampler)
        while len(done) < tuning.trials:
            count = min(tuning.round_size, tuning.trials - len(done))
            asked = [study.ask(distributions) for _ in range(count)]
            trials = [trial_of(each.params, tuning, rounds.members) for each in asked]
            heads = rounds.train(trials, len(done), sampled="batch_size" in distributions)
            validated = _validate(heads, rounds.held_out)
            for each, trial, (correct, loss) in zip(asked, trials, validated, strict=True):
                done.append(trial._replace(accuracy=correct, loss=loss))
                if loss is None:
                    study.tell(each, state=optuna.trial.TrialState.FAIL)
                else:
                    study.tell(each, -loss if tuning.objective == "loss" else correct)
            on_round(len(done))
    training, validation = map(len, parts)
    return Tuning(tuple(done), tuning.objective, training, validation, str(optuna.__version__))


@dataclasses.dataclass(frozen=True, eq=False)
class _Rounds:
    """Trains the trials of a round at once, all on one part of the training set."""

    key: jax.Array
    pool: FeatureSet
    training: Int[np.ndarray, "training"]
    validation: Int[np.ndarray, "validation"]
    config: ExperimentConfig
    tuning: TuningSettings
    classes: int
    shots: int
    epsilon: float
    memory: int | None

    @property
    def members(self) -> int:
        """Return the expected size of the whole training set, S x C."""
        return self.classes * self.shots

    @property
    def held_out(self) -> FeatureSet:
        """Return the validation part."""
        return _take(self.pool, self.validation)

    def rows(self) -> Int[np.ndarray, "rows"]:
        """Return the candidates of the trials: the training part, padded with examples that no trial trains on.

        Their number depends on S and C alone, so that seeds share compiled programs.
        """
        kept_out = np.setdiff1d(np.arange(len(self.pool.labels)), self.training)
        more = max(0, _table_rows(self.tuning, self.members) - len(self.training))
        return np.append(self.training, kept_out[:more])

    def train(self, trials: Sequence[Trial], first: int, *, sampled: bool) -> ShadowEnsemble:
        """Train a head for each trial.

        Args:
            trials: the trials of the round.
            first: number of trials in earlier rounds.
            sampled: whether batch sizes are searched.
        """
        sizes = {"classes": self.classes, "shots": self.shots}
        recipes = [
            recipe_for(tuned_settings(self.config, trial, **sizes), **sizes, epsilon=self.epsilon)
            for trial in trials
        ]
        rows = self.rows()
        # Private training must divide by a public number: the expected size of the part, not the realised one.
        expected_share = (1 - self.tuning.validation) * self.members / len(rows)
        masks = MembershipMasks(
            jnp.broadcast_to(np.arange(len(rows)) < len(self.training), (len(trials), len(rows))),
            jnp.arange(first, first + len(trials), dtype=jnp.int32),
            self.config.shadows.design,
            expected_share,
        )
        return train_ensemble(
            self.key,
            _take(self.pool, rows),
            masks,
            _side_by_side(recipes, trials, self.members),
            _one_program(recipes[0].config, self.tuning, sampled=sampled),
            memory=self.memory,
        )


def split_training_set(
    key: jax.Array, labels: Int[np.ndarray, "examples"], member: Bool[np.ndarray, "examples"], *, share: float
) -> tuple[Int[np.ndarray, "training"], Int[np.ndarray, "validation"]]:
    """Return the rows of the training part and of the validation part of the members, split by class.

    The validation share of each class is rounded, and leaves at least one member for training.

    Args:
        key: random key.
        labels: labels of the candidates.
        member: True for the candidates in the training set.
        share: share of the validation part.
    """
    training, validation = [], []
    draws = np.asarray(jax.random.uniform(key, labels.shape))
    for label in range(labels.max() + 1):
        rows = np.flatnonzero(member & (labels == label))
        rows = rows[np.argsort(draws[rows], kind="stable")]
        count = min(round(share * rows.size), max(rows.size - 1, 0))
        validation.append(rows[:count])
        training.append(rows[count:])
    return np.sort(np.concatenate(training)), np.sort(np.concatenate(validation))


def import_optuna() -> Any:
    """Return the optional package Optuna.

    Raises:
        InputError: if it is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError:
        raise InputError(
            "tuning needs Optuna, which must be installed: pip install 'jaxmia[tune]'."
        ) from None
    return optuna


@contextlib.contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Silence Optuna's line for every study and trial."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _distributions(optuna: Any, config: ExperimentConfig, members: int, *, private: bool) -> dict[str, Any]:
    tuning, of = config.tuning or TuningSettings(), optuna.distributions
    space = {
        "learning_rate": of.FloatDistribution(*tuning.learning_rate, log=True),
        "epochs": of.IntDistribution(*tuning.epochs, log=True),
    }
    if not private or config.train.sampling == "poisson":  # otherwise only the full batch has an epsilon
        lowest, highest = (min(end, members) for end in tuning.batch_size)
        space["batch_size"] = of.IntDistribution(lowest, highest, log=True)
    if private:
        space["clipping_norm"] = of.FloatDistribution(*tuning.clipping_norm, log=True)
    return space


def _validate(heads: ShadowEnsemble, held_out: FeatureSet) -> list[tuple[float, float | None]]:
    """Return accuracy and loss of every head; without a validation part, those of a head at zero."""
    if not len(held_out.labels):
        classes = held_out.num_classes
        return [(1 / classes, math.log(classes))] * len(heads.masks.model_ids)
    log_odds = score(heads, held_out).log_odds
    losses = -scipy.special.log_expit(np.asarray(log_odds, np.float64)).mean(axis=1)
    return [
        (float(correct), float(loss) if math.isfinite(loss) else None)
        for correct, loss in zip(accuracy(heads, held_out), losses, strict=True)
    ]


def _table_rows(tuning: TuningSettings, members: int) -> int:
    """Return the rows for the training part: its expected size plus six Poisson standard deviations, an upper bound."""
    return math.ceil((1 - tuning.validation) * (members + 6 * math.sqrt(members)))


def _side_by_side(recipes: Sequence[Recipe], trials: Sequence[Trial], members: int) -> Hyperparams:
    """Return the traced settings of a round: arrays [trials] of the searched settings."""
    first = recipes[0].hyper
    private = recipes[0].guarantee is not None

    def each(values: Iterable[Any], dtype: Any = jnp.float32) -> jax.Array:
        return jnp.array(list(values), dtype)

    return dataclasses.replace(
        first,
        learning_rate=each(trial.learning_rate for trial in trials),
        sampling_rate=each(trial.batch_size / members for trial in trials),
        steps=each((trial.steps for trial in trials), jnp.int32),
        clipping_norm=each(recipe.hyper.clipping_norm for recipe in recipes) if private else None,
        noise_multiplier=each(recipe.hyper.noise_multiplier for recipe in recipes) if private else None,
    )


def _one_program(config: TrainConfig, tuning: TuningSettings, *, sampled: bool) -> TrainConfig:
    """Return the static settings that all trials of a cell's shape share."""
    sampling = "poisson" if sampled else "shared"
    return dataclasses.replace(config, steps=tuning.max_steps, batch_size=None, sampling=sampling)


def _take(pool: FeatureSet, rows: Int[np.ndarray, "rows"]) -> FeatureSet:
    return dataclasses.replace(pool, features=pool.features[rows], labels=pool.labels[rows], person=None)
