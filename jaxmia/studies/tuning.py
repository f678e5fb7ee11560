"""Search for a recipe: Optuna's tree of Parzen estimators (TPE), the trials of a round trained side by side.

As in arXiv 2402.06674, a recipe is searched on the data of a target: here the training set of the cell's model 0, of
which every trial trains on one part and is judged by its accuracy, or its loss, on the other. All models of the cell
are then trained with the recipe that was found.

A trial stands for a recipe of the whole training set and keeps its sampling rate and its steps, so that all trials are
one program whatever their batches: every model samples its members at its own rate (Poisson) and stands still after
its own steps. The final training draws its batches as train.sampling says.

**Privacy.** The epsilon of a private cell is that of the final training, given the recipe, and does not cover the
search. Trials are trained by DP-SGD at the cell's epsilon, but they compose with the final training, and what chooses
between them is an exact score on records that the target trains on later, which has no finite epsilon at all. A
private release needs a private selection (Papernot and Steinke 2022, arXiv 2110.03620) or other data to tune on.
Attacks do not see this: for all models but model 0 the recipe was chosen without regard to who their members are, and
given the recipe their epsilon and the ceiling on TPR hold.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Bool, Int

from jaxmia._buckets import in_float32
from jaxmia._validate import InputError
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.membership import MembershipMasks
from jaxmia.privacy.accounting import adjacency_for, delta_notes, dp_epsilon, noise_multiplier_for
from jaxmia.studies.folder.cell import Cell
from jaxmia.studies.recipe import Recipe, recipe_for
from jaxmia.studies.settings.experiment import ExperimentConfig
from jaxmia.studies.settings.parts import TuningSettings
from jaxmia.studies.settings.toml import to_toml
from jaxmia.training.ensemble import ShadowEnsemble, train_ensemble
from jaxmia.training.scoring import accuracy, score
from jaxmia.training.settings import Hyperparams, TrainConfig

_CHECKED_BATCHES = 9  # of a range, for whether they can be trained


class Trial(NamedTuple):
    """A recipe that was tried, and what came of it.

    Attributes:
        learning_rate: peak step size.
        batch_size: expected members per step, of S x C; S x C is the full batch.
        epochs: asked for.
        steps: epochs x S x C / batch_size, rounded up, at most TuningSettings.max_steps.
        clipping_norm: of a private cell, else None.
        accuracy: on the validation part.
        loss: mean cross-entropy there, in nats; None if the head diverged.
    """

    learning_rate: float
    batch_size: int
    epochs: int
    steps: int
    clipping_norm: float | None
    accuracy: float = 0.0
    loss: float | None = None


@dataclasses.dataclass(frozen=True)
class Tuning:
    """A search and its outcome.

    Attributes:
        trials: in the order in which they were asked for.
        objective: "accuracy" or "loss".
        num_training: examples that each trial trained on.
        num_validation: examples that it was judged by.
        optuna: version of Optuna.
    """

    trials: tuple[Trial, ...]
    objective: str
    num_training: int
    num_validation: int
    optuna: str

    @property
    def chosen(self) -> Trial:
        """The best trial, the first of several; one that diverged only if all did."""

        def rank(trial: Trial) -> tuple[float, ...]:
            loss = math.inf if trial.loss is None else trial.loss
            return (trial.loss is None, loss if self.objective == "loss" else -trial.accuracy, loss)

        return min(self.trials, key=rank)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "chosen": self.trials.index(self.chosen),
            "objective": self.objective,
            "num_training": self.num_training,
            "num_validation": self.num_validation,
            "optuna": self.optuna,
            "trials": [trial._asdict() for trial in self.trials],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Tuning:
        """The search of to_json.

        Raises:
            KeyError, TypeError: if the content is of something else.
        """
        trials = tuple(Trial(**entry) for entry in content["trials"])
        names = ("objective", "num_training", "num_validation", "optuna")
        return cls(trials, *(content[name] for name in names))


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
    """Search for the recipe of a training set. The same arguments give the same trials.

    Args:
        key: random key of the split, the search and the trials.
        pool: candidates.
        member: which of them are the training set.
        config: settings, with their tuning (its defaults, if there is none).
        classes: C.
        shots: S, which with C says how many members are expected.
        epsilon: that trials are trained to; inf for ordinary training.
        memory: as in train_ensemble.
        on_round: called with the number of trials that are through, after each round.

    Raises:
        InputError: if Optuna is not installed, or as train_ensemble.
    """
    optuna = import_optuna()
    tuning = config.tuning or TuningSettings()
    split_key, search_key, training_key = jax.random.split(key, 3)
    training, validation = split_training_set(
        split_key, pool.labels, np.asarray(member), share=tuning.validation
    )
    kept_out = np.setdiff1d(np.arange(len(pool.labels)), training)
    # Filled up with examples that nobody trains on, to a size that follows from S and C: seeds share programs.
    rows = np.append(training, kept_out[: max(0, _table_rows(tuning, classes * shots) - len(training))])
    # What private training divides by must be public: the expected size of the part, not the realised one.
    expected_share = (1 - tuning.validation) * classes * shots / len(rows)
    held_out = _take(pool, validation)
    distributions = _distributions(optuna, config, classes * shots, private=epsilon != math.inf)
    # Trials of a round do not know of each other's outcome: the constant liar keeps them apart.
    seed = int(jax.random.bits(search_key, dtype="uint32"))
    sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    done: list[Trial] = []
    with _quiet(optuna):
        study = optuna.create_study(direction="maximize", sampler=sampler)
        while len(done) < tuning.trials:
            count = min(tuning.round_size, tuning.trials - len(done))
            asked = [study.ask(distributions) for _ in range(count)]
            trials = [_trial(each.params, tuning, classes * shots) for each in asked]
            recipes = [
                recipe_for(
                    tuned_settings(config, trial, classes=classes, shots=shots),
                    classes=classes,
                    shots=shots,
                    epsilon=epsilon,
                )
                for trial in trials
            ]
            heads = train_ensemble(
                training_key,
                _take(pool, rows),
                MembershipMasks(
                    jnp.broadcast_to(np.arange(len(rows)) < len(training), (count, len(rows))),
                    jnp.arange(len(done), len(done) + count, dtype=jnp.int32),
                    config.shadows.design,
                    expected_share,
                ),
                _side_by_side(recipes, trials, classes * shots),
                _one_program(recipes[0].config, tuning, sampled="batch_size" in distributions),
                memory=memory,
            )
            for each, trial, (correct, loss) in zip(asked, trials, _judge(heads, held_out), strict=True):
                done.append(trial._replace(accuracy=correct, loss=loss))
                if loss is None:
                    study.tell(each, state=optuna.trial.TrialState.FAIL)
                else:
                    study.tell(each, -loss if tuning.objective == "loss" else correct)
            on_round(len(done))
    return Tuning(tuple(done), tuning.objective, len(training), len(validation), str(optuna.__version__))


def split_training_set(
    key: jax.Array, labels: Int[np.ndarray, "examples"], member: Bool[np.ndarray, "examples"], *, share: float
) -> tuple[Int[np.ndarray, "training"], Int[np.ndarray, "validation"]]:
    """Rows of the members that trials train on, and of those that they are judged by: a share of every class.

    The share is rounded, and leaves a class at least one of its members to train on.

    Args:
        key: random key.
        labels: of the candidates.
        member: which of them are the training set.
        share: to be judged by.
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


def tuned_settings(config: ExperimentConfig, trial: Trial, *, classes: int, shots: int) -> ExperimentConfig:
    """The settings of a cell that is trained with a trial's recipe.

    Args:
        config: settings with tuning.
        trial: a recipe for S · C members.
        classes: C.
        shots: S.
    """
    batch_size = "full" if trial.batch_size == classes * shots else trial.batch_size
    train = {"learning_rate": trial.learning_rate, "batch_size": batch_size, "steps": trial.steps}
    privacy = {} if trial.clipping_norm is None else {"clipping_norm": trial.clipping_norm}
    return config.model_copy(
        update={
            "train": config.train.model_copy(update=train),
            "privacy": config.privacy.model_copy(update=privacy),
            "tuning": None,
        }
    )


def possible_settings(config: ExperimentConfig, *, classes: int, shots: int) -> Iterator[ExperimentConfig]:
    """Settings that a search may end in, the most demanding among them; without tuning, the settings themselves.

    For each batch those of the most epochs: fewer steps need no more memory.

    Args:
        config: settings.
        classes: C.
        shots: S.
    """
    if config.tuning is None:
        yield config
        return
    members = classes * shots
    lowest, highest = (min(end, members) for end in config.tuning.batch_size)
    for batch in sorted({*np.geomspace(lowest, highest, _CHECKED_BATCHES).round().astype(int), members}):
        params = {"learning_rate": 1.0, "epochs": config.tuning.epochs[1], "batch_size": int(batch)}
        yield tuned_settings(config, _trial(params, config.tuning, members), classes=classes, shots=shots)


def with_tuning(config: ExperimentConfig) -> ExperimentConfig:
    """The settings, with the defaults of tuning if they have none."""
    return config if config.tuning is not None else config.model_copy(update={"tuning": TuningSettings()})


def tuned_file(config: ExperimentConfig, searches: Mapping[Cell, Tuning]) -> str:
    """An experiment file of what was found.

    Args:
        config: settings with tuning.
        searches: of the cells that were tuned. The recipe of one takes the place of [tuning]; those of several stand
            above it as comments.
    """
    lines = []
    for cell, search in searches.items():
        best = search.chosen
        batch = '"full"' if best.batch_size == cell.classes * cell.shots else best.batch_size
        clip = "" if best.clipping_norm is None else f", clipping_norm = {best.clipping_norm!r}"
        lines.append(
            f"# {cell}: learning_rate = {best.learning_rate!r}, batch_size = {batch}, steps = {best.steps}{clip}"
            f" (validation accuracy {best.accuracy:.3f})"
        )
    if len(searches) == 1:
        ((cell, search),) = searches.items()
        config = tuned_settings(config, search.chosen, classes=cell.classes, shots=cell.shots)
    return "\n".join(["# Found by jaxmia tune.", *lines, to_toml(config)])


def privacy_notes(config: ExperimentConfig) -> list[str]:
    """What a reader of epsilons must know: a delta that guarantees little, and a line for each tuned private level."""
    private = any(epsilon < math.inf for epsilon in config.privacy.epsilon)
    sizes = [shots * classes for shots in config.grid.shots for classes in config.grid.classes]
    lines = delta_notes(config.privacy.delta, min(sizes)) if private else []
    if config.tuning is None:
        return lines
    adjacency, trials = adjacency_for(config.shadows.design), config.tuning.trials
    for epsilon in config.privacy.epsilon:
        if epsilon == math.inf:
            continue
        if config.train.sampling == "poisson":  # every trial has a rate of its own: basic composition
            bound = f"{(trials + 1) * epsilon:g} at delta {(trials + 1) * config.privacy.delta:g}"
        else:  # each is a Gaussian mechanism, and so are all of them together
            delta = config.privacy.delta
            noise = noise_multiplier_for(
                epsilon=epsilon, delta=delta, sampling_rate=1.0, steps=1, adjacency=adjacency
            )
            together = dp_epsilon(
                noise_multiplier=noise, sampling_rate=1.0, steps=trials + 1, delta=delta, adjacency=adjacency
            )
            bound = f"{math.ceil(100 * together) / 100:g} at delta {delta:g}"
        lines.append(
            f"epsilon={epsilon:g}: tuned on the target's data, and covers the final training only. With the heads of"
            f" {trials} trials it composes to {bound}; the exact validation accuracies that chose between them have"
            " no finite epsilon (private selection: Papernot and Steinke 2022, arXiv 2110.03620)."
        )
    return lines


def import_optuna() -> Any:
    """The optional package.

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
    """Without Optuna's line for every study and trial."""
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
    if not private or config.train.sampling == "poisson":  # else only the full batch has an epsilon
        lowest, highest = (min(end, members) for end in tuning.batch_size)
        space["batch_size"] = of.IntDistribution(lowest, highest, log=True)
    if private:
        space["clipping_norm"] = of.FloatDistribution(*tuning.clipping_norm, log=True)
    return space


def _trial(params: Mapping[str, Any], tuning: TuningSettings, members: int) -> Trial:
    batch, epochs = params.get("batch_size", members), params["epochs"]
    steps = min(-(-epochs * members // batch), tuning.max_steps)
    return Trial(params["learning_rate"], batch, epochs, steps, params.get("clipping_norm"))


def _judge(heads: ShadowEnsemble, held_out: FeatureSet) -> list[tuple[float, float | None]]:
    """Accuracy and loss of every head; without examples to judge by, those of a head at zero."""
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
    """The part to train on, with six deviations to spare; the number of members is no more spread than Poisson's."""
    return math.ceil((1 - tuning.validation) * (members + 6 * math.sqrt(members)))


def _side_by_side(recipes: list[Recipe], trials: list[Trial], members: int) -> Hyperparams:
    """The traced settings of all trials of a round: arrays [trials] of what is searched."""
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
    """What all trials of a cell's shape are compiled for."""
    sampling = "poisson" if sampled else "shared"
    return dataclasses.replace(config, steps=tuning.max_steps, batch_size=None, sampling=sampling)


def _take(pool: FeatureSet, rows: Int[np.ndarray, "rows"]) -> FeatureSet:
    return FeatureSet(pool.features[rows], pool.labels[rows], pool.class_names)
