"""The results of a search for a recipe: trials, the settings and files made from them, and their privacy cost.

**Privacy.** The epsilon of a private cell is that of the final training, given the recipe; it does not cover the
search. Trials are trained by DP-SGD at the cell's epsilon, but they compose with the final training. Trials are also
ranked by exact scores on records that the target trains on later, and this selection has no finite epsilon. A private
release needs private selection (Papernot and Steinke 2022, arXiv 2110.03620) or tuning on other data. The attacks are
not affected: for all models but model 0 the recipe does not depend on their membership, so given the recipe their
epsilon and the ceiling on TPR hold.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxmia.privacy.accounting import adjacency_for, delta_notes, dp_epsilon, noise_multiplier_for
from jaxmia.studies.cell import Cell
from jaxmia.studies.folder.states import DamagedError
from jaxmia.studies.settings.experiment import ExperimentConfig
from jaxmia.studies.settings.toml import to_toml
from jaxmia.studies.settings.tuning import TuningSettings

_CHECKED_BATCHES = 9  # number of batch sizes in a range that are checked


class Trial(NamedTuple):
    """A recipe that was tried, with its scores.

    Attributes:
        learning_rate: peak step size.
        batch_size: expected members per step, of S x C; S x C is the full batch.
        epochs: proposed number of epochs.
        steps: epochs x S x C / batch_size, rounded up, at most TuningSettings.max_steps.
        clipping_norm: clipping norm of a private cell, else None.
        accuracy: accuracy on the validation part.
        loss: mean cross-entropy on the validation part, in nats; None if the head diverged.
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
    """A search and its trials.

    Attributes:
        trials: trials, in the order in which they were proposed.
        objective: "accuracy" or "loss".
        num_training: number of examples that each trial trained on.
        num_validation: number of examples in the validation part.
        optuna: version of Optuna.
    """

    trials: tuple[Trial, ...]
    objective: str
    num_training: int
    num_validation: int
    optuna: str

    @property
    def chosen(self) -> Trial:
        """Return the best trial, the first of equally good ones; a diverged trial only if all diverged."""

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
        """Return the search from the content that to_json returned.

        Raises:
            DamagedError: if the content is not that of a search.
        """
        trials, names = content.get("trials"), ("objective", "num_training", "num_validation", "optuna")
        fields = set(Trial._fields)
        whole = isinstance(trials, list) and all(
            isinstance(trial, dict) and trial.keys() == fields for trial in trials
        )
        if not (trials and whole and content.keys() >= set(names)):
            raise DamagedError("the search for a recipe was damaged")
        return cls(tuple(Trial(**trial) for trial in trials), *(content[name] for name in names))


def trial_of(params: Mapping[str, Any], tuning: TuningSettings, members: int) -> Trial:
    """Return the recipe of a point in the search space.

    Args:
        params: learning_rate, epochs and, where they are searched, batch_size and clipping_norm.
        tuning: settings of the search.
        members: expected size of the training set, S x C, which is the batch size if batch sizes are not searched.
    """
    batch, epochs = params.get("batch_size", members), params["epochs"]
    steps = min(-(-epochs * members // batch), tuning.max_steps)
    return Trial(params["learning_rate"], batch, epochs, steps, params.get("clipping_norm"))


def tuned_settings(config: ExperimentConfig, trial: Trial, *, classes: int, shots: int) -> ExperimentConfig:
    """Return the settings of a cell that is trained with a trial's recipe.

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
    """Yield settings that a search may choose, including the most demanding; without tuning, the settings themselves.

    Each batch size has the largest number of epochs, since fewer steps need no more memory.

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
        yield tuned_settings(config, trial_of(params, config.tuning, members), classes=classes, shots=shots)


def with_tuning(config: ExperimentConfig) -> ExperimentConfig:
    """Return the settings, with default tuning if they have none."""
    return config if config.tuning is not None else config.model_copy(update={"tuning": TuningSettings()})


def tuned_file(config: ExperimentConfig, searches: Mapping[Cell, Tuning]) -> str:
    """Return an experiment file with the tuned recipes.

    Args:
        config: settings with tuning.
        searches: searches of the tuned cells. A single recipe replaces [tuning]; several are listed above it as
            comments.
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
    """Return caveats for readers of epsilons: a delta that is too large, and a line for each tuned private level."""
    sizes = [shots * classes for shots in config.grid.shots for classes in config.grid.classes]
    lines = delta_notes(config.privacy.delta, min(sizes)) if config.privacy.private_levels else []
    if config.tuning is None:
        return lines
    adjacency, trials = adjacency_for(config.shadows.design), config.tuning.trials
    for epsilon in config.privacy.private_levels:
        if config.train.sampling == "poisson":  # trials have different rates: basic composition
            bound = f"{(trials + 1) * epsilon:g} at delta {(trials + 1) * config.privacy.delta:g}"
        else:  # Gaussian mechanisms compose to a Gaussian mechanism
            delta = config.privacy.delta
            noise = noise_multiplier_for(
                epsilon=epsilon, delta=delta, sampling_rate=1.0, steps=1, adjacency=adjacency
            )
            together = dp_epsilon(
                noise_multiplier=noise, sampling_rate=1.0, steps=trials + 1, delta=delta, adjacency=adjacency
            )
            bound = f"{math.ceil(100 * together) / 100:g} at delta {delta:g}"
        lines.append(
            f"epsilon={epsilon:g}: it covers the final training only, and tuning used the target's data."
            f" Together with the heads of {trials} trials it composes to {bound}; the selection by exact"
            " validation accuracy has no finite epsilon (private selection: Papernot and Steinke 2022,"
            " arXiv 2110.03620)."
        )
    return lines
