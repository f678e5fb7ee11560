"""From settings to the recipe of one cell: static settings, traced settings, and the privacy guarantee."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from jaxmia.privacy.accounting import adjacency_for, check_records_per_person, sampling_rate_of
from jaxmia.privacy.guarantee import PrivacyGuarantee, PrivacySpec
from jaxmia.studies.settings.experiment import ExperimentConfig
from jaxmia.studies.settings.train import TrainSettings
from jaxmia.training.adapters.adapter import Adapter
from jaxmia.training.network import Network
from jaxmia.training.settings import Hyperparams, TrainConfig, check_class_weights


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The recipe of one cell.

    Attributes:
        config: static settings.
        hyper: traced settings; only these differ between privacy levels, so a grid over privacy levels compiles once.
        guarantee: the privacy guarantee, or None for training without differential privacy.
    """

    config: TrainConfig
    hyper: Hyperparams
    guarantee: PrivacyGuarantee | None

    def tpr_ceiling(self, fpr: np.ndarray) -> np.ndarray:
        """Return the largest TPR at each FPR that any attack on one record or person can have.

        That is 1 for ordinary training. Where membership is by person it is of persons, and of each of their records.
        """
        return np.ones(np.shape(fpr)) if self.guarantee is None else self.guarantee.tpr_ceiling(fpr)

    def audit_method(self) -> str:
        """Return the valid one-run audit method: "one_run_fdp" for full-batch DP-SGD, which is Gaussian DP."""
        gaussian = self.guarantee is not None and self.guarantee.sampling_rate == 1
        return "one_run_fdp" if gaussian else "one_run"


def network_of(train: TrainSettings) -> Network | Adapter | None:
    """The network or the adapter that a recipe trains; None for linear heads."""
    if train.adapts:
        return Adapter(train.network, train.blocks, train.rank, train.alpha, train.targets)
    return None if train.network == "linear" else Network(train.network, train.widths)


def recipe_for(
    settings: ExperimentConfig,
    *,
    classes: int,
    shots: int,
    epsilon: float = math.inf,
    members: int | None = None,
    records_per_person: int = 1,
) -> Recipe:
    """Return the recipe of a cell. The noise of a private recipe is calibrated once per process.

    Args:
        settings: settings of the experiment.
        classes: C.
        shots: S.
        epsilon: that the cell is trained to; inf for ordinary training.
        members: records that a model is expected to train on; S · C by default.
        records_per_person: the most of anybody, where membership is by person.

    Raises:
        InputError: for a Poisson batch larger than that, class weights of another number of classes, or a private cell
            with more records of a person than accounting allows.
    """
    train, privacy = settings.train, settings.privacy
    full, private = train.batch_size == "full", epsilon != math.inf
    poisson = train.sampling == "poisson" and not full
    sizes = {"shots": shots, "classes": classes} if members is None else {"shots": members, "classes": 1}
    rate = sampling_rate_of(train.batch_size, **sizes) if poisson or private else 1.0
    hyper = Hyperparams(train.learning_rate, train.momentum, train.weight_decay, sampling_rate=rate)
    if train.optimizer == "newton":
        hyper = Hyperparams(train.learning_rate, weight_decay=None, ridge=train.ridge)
    guarantee = None
    if private:
        spec = PrivacySpec(epsilon=epsilon, delta=privacy.delta, clipping_norm=privacy.clipping_norm)
        check_records_per_person(records_per_person)
        unit, adjacency = settings.privacy_unit, adjacency_for(settings.shadows.design)
        guarantee = spec.guarantee(sampling_rate=rate, steps=train.steps, adjacency=adjacency, unit=unit)
        if settings.membership.by_person and unit == "record":
            guarantee = guarantee.of_persons(records_per_person)
        hyper = dataclasses.replace(
            hyper, clipping_norm=privacy.clipping_norm, noise_multiplier=guarantee.noise_multiplier
        )
    check_class_weights(train.class_weight, classes)
    config = TrainConfig(
        train.optimizer,
        train.schedule,
        train.steps,
        batch_size=None if full or poisson else int(train.batch_size),
        sampling="shared" if full else train.sampling,
        private=private,
        privacy_unit=settings.privacy_unit if private else "record",
        matmul_dtype=train.matmul_dtype,
        network=network_of(train),
        tolerance=train.tolerance,
        class_weight=train.class_weight,
        intercept=train.intercept,
        link=train.link,
    )
    return Recipe(config, hyper, guarantee)
