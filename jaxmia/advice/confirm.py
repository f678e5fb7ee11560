"""Measure recommended options with shadow heads, to confirm the estimates."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from jaxmia.advice.estimates import held_out_accuracy, held_out_answers
from jaxmia.attacks.persons import weighed_person_scores
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.membership import draw_membership
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.scoring import score
from jaxmia.training.settings import Hyperparams, TrainConfig
from jaxmia.vulnerability.curves import per_example_vulnerability


class Measurement(NamedTuple):
    """Accuracy, mean TPR, and the most vulnerable unit's TPR with its simultaneous interval, from shadow heads."""

    accuracy: float
    tpr: float
    worst_tpr: float
    worst_low: float
    worst_high: float


def measured_ridge(
    pool: FeatureSet,
    *,
    ridge: float,
    fpr: float,
    shadows: int,
    key: jax.Array,
    person: np.ndarray | None = None,
) -> Measurement:
    """Train shadow heads of a ridge recipe on random halves of a pool, and measure them.

    Args:
        pool: the records.
        ridge: lambda.
        fpr: FPR of every record.
        shadows: number of heads to train.
        key: random key of their training sets.
        person: [examples], the person of each record, if persons are members.
    """
    masks = draw_membership(jax.random.fold_in(key, 0), pool.labels, num_models=shadows, person=person)
    hyper = Hyperparams(0.0, weight_decay=None, ridge=ridge)
    config = TrainConfig("newton", steps=200, tolerance=1e-4)
    ensemble = train_ensemble(jax.random.fold_in(key, 1), pool, masks, hyper, config)
    scores = score(ensemble, pool)
    if person is not None:
        scores = weighed_person_scores(scores, person).scores
    curve = per_example_vulnerability(scores, fpr=fpr)
    margin, _ = held_out_answers(ensemble, pool)
    worst = int(np.nanargmax(curve.tpr_drawn))
    return Measurement(
        held_out_accuracy(margin, ~np.asarray(masks.member))[0],
        float(np.nanmean(curve.tpr)),
        float(curve.tpr_drawn[worst]),
        float(np.nanmax(curve.tpr_low_all)),
        float(np.nanmax(curve.tpr_high_all)),
    )
