"""Private heads: the ceiling that a guarantee sets for any attack, and its cost in accuracy."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from jaxmia.advice.estimates import HEADS, held_out_accuracy, held_out_answers
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.membership import draw_membership
from jaxmia.privacy.accounting import adjacency_for
from jaxmia.privacy.guarantee import PrivacyGuarantee, PrivacySpec
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.settings import Hyperparams, TrainConfig

STEPS = 30
RECIPE = (TrainConfig("adam", schedule="constant", steps=STEPS, private=True), Hyperparams(0.1))
"""Full-batch DP-SGD with Adam's steps, as in configs/privacy.toml; independent of the given records."""


@dataclasses.dataclass(frozen=True)
class PrivateEstimate:
    """Guarantee and accuracy of a private recipe.

    Attributes:
        guarantee: epsilon, delta, noise.
        accuracy: on records outside of the training set.
        accuracy_low: lower end of its 95% interval.
        accuracy_high: upper end.
        ceiling: the largest TPR of any attack on any record at the FPR.
    """

    guarantee: PrivacyGuarantee
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    ceiling: float


def private_estimate(
    pool: FeatureSet,
    *,
    epsilon: float,
    delta: float,
    fpr: float,
    key: jax.Array,
    person: np.ndarray | None = None,
) -> PrivateEstimate:
    """Train a few private heads on random halves of the pool.

    Args:
        pool: the records.
        epsilon: epsilon of the guarantee.
        delta: delta of the guarantee.
        fpr: FPR of the ceiling.
        key: random key of training sets and noise.
        person: [examples], the person of each record, if the guarantee is of persons.
    """
    spec = PrivacySpec(epsilon=epsilon, delta=delta)
    guarantee = spec.guarantee(sampling_rate=1.0, steps=STEPS, adjacency=adjacency_for("bernoulli"))
    config, hyper = RECIPE
    if person is not None:
        config = dataclasses.replace(config, privacy_unit="person")
    hyper = dataclasses.replace(
        hyper, noise_multiplier=guarantee.noise_multiplier, clipping_norm=spec.clipping_norm
    )
    masks = draw_membership(jax.random.fold_in(key, 0), pool.labels, num_models=HEADS, person=person)
    ensemble = train_ensemble(jax.random.fold_in(key, 1), pool, masks, hyper, config)
    margin, _ = held_out_answers(ensemble, pool)
    accuracy, low, high = held_out_accuracy(margin, ~np.asarray(masks.member))
    return PrivateEstimate(guarantee, accuracy, low, high, float(guarantee.tpr_ceiling(fpr)))
