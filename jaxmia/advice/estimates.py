"""Accuracy and vulnerability of one ridge head, by record or person: analytic, with a few heads for the tails."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from scipy.stats import norm

from jaxmia.advice.labels import label_only_tpr, label_only_tpr_of_persons
from jaxmia.data.feature_set import FeatureSet
from jaxmia.ridge.expected import AnalyticVulnerability, analytic_vulnerability
from jaxmia.ridge.triage import ridge_heads, tails_of
from jaxmia.training.ensemble import ShadowEnsemble
from jaxmia.training.scoring import score

HEADS = 256
"""Heads trained for each estimate. All records of a head share its other members, so the tails of fewer heads are
off: with 64, mean TPR of ten classes of 16 records is off by 10 to 25%."""
SEPARATION_ERROR = 0.05
"""Relative error of a record's analytic separation that the interval of its TPR allows for: docs/advise.md."""
_Z = float(norm.ppf(0.975))


@dataclasses.dataclass(frozen=True, eq=False)
class RidgeEstimate:
    """Accuracy and vulnerability of a ridge head that trains on a random half of the records.

    Attributes:
        found: every record's or person's moments with and without it.
        accuracy: share of the records outside a head's training set that it classifies correctly.
        accuracy_low: lower end of its 95% interval over records.
        accuracy_high: upper end.
        tpr: float64[units], each record's or person's TPR at its own FPR; persons ascending by name.
        tpr_low: float64[units], the same with a separation smaller by SEPARATION_ERROR.
        tpr_high: float64[units], the same with a separation larger by it.
        tpr_labels: float64[units], each unit's TPR where the attacker sees the predicted labels alone.
        confusion: float64[classes, classes], share of the records of a class (rows) outside of the training set that
            heads give each label.
        tails: standardised residuals of members and non-members, ascending.
    """

    found: AnalyticVulnerability
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    tpr: np.ndarray
    tpr_low: np.ndarray
    tpr_high: np.ndarray
    tpr_labels: np.ndarray
    confusion: np.ndarray
    tails: tuple[np.ndarray, np.ndarray]


def ridge_estimate(
    pool: FeatureSet,
    *,
    ridge: float,
    fpr: float,
    key: jax.Array,
    memory: int | None = None,
    person: np.ndarray | None = None,
) -> RidgeEstimate:
    """Return estimates for a ridge head on half of a pool, at one FPR.

    Args:
        pool: the records.
        ridge: lambda, scikit-learn's 1 / C.
        fpr: FPR of every record or person.
        key: random key of the few heads.
        memory: largest number of bytes, as in analytic_vulnerability.
        person: [examples], the person of each record, if persons are members.

    Raises:
        InputError: as analytic_vulnerability.
    """
    found = analytic_vulnerability(pool, ridge=ridge, memory=memory, person=person)
    ensemble = ridge_heads(pool, found, fpr, key, fewest=HEADS)
    tails = tails_of(found.of_units(score(ensemble, pool)), found)
    margin, confusion = held_out_answers(ensemble, pool)
    outside = ~np.asarray(ensemble.masks.member)
    accuracy, low, high = held_out_accuracy(margin, outside)
    tprs = {
        factor: scaled(found, factor).tpr(fpr, tails)
        for factor in (1 - SEPARATION_ERROR, 1.0, 1 + SEPARATION_ERROR)
    }
    below, exact, above = tprs.values()
    return RidgeEstimate(
        found=found,
        accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=high,
        tpr=exact,
        tpr_low=np.minimum(below, exact),
        tpr_high=np.maximum(above, exact),
        tpr_labels=label_only_tpr(margin, outside, fpr)
        if person is None
        else label_only_tpr_of_persons(margin, outside, person, fpr),
        confusion=confusion,
        tails=tails,
    )


def scaled(found: AnalyticVulnerability, factor: float) -> AnalyticVulnerability:
    """Return the result with the distance between both means multiplied by a factor."""
    mean_in = found.mean_out + factor * (found.mean_in - found.mean_out)
    return dataclasses.replace(found, mean_in=mean_in, separation=factor * found.separation)


def held_out_accuracy(margin: np.ndarray, outside: np.ndarray) -> tuple[float, float, float]:
    """Return the accuracy on records outside the training set, with its 95% interval over records.

    Args:
        margin: [models, examples], above 0 where a model is right.
        outside: bool[models, examples], True where the model did not train on the record.

    Returns:
        The mean over records of the share of such models that are right, and the ends of its interval. The standard
        error is that of a mean of independent records; it holds the few models' share of the error as well.
    """
    counts = outside.sum(axis=0)
    right = np.where(outside, margin > 0, False).sum(axis=0)[counts > 0] / counts[counts > 0]
    error = right.std(ddof=1) / np.sqrt(right.size)
    mean = float(right.mean())
    return mean, max(0.0, mean - _Z * error), min(1.0, mean + _Z * error)


def held_out_answers(ensemble: ShadowEnsemble, pool: FeatureSet) -> tuple[np.ndarray, np.ndarray]:
    """Return the heads' margins on all records, and the confusion matrix on records they did not train on.

    Returns:
        The logit of the label minus the largest other one, float64[models, examples], above 0 where a head is right;
        and the share of each class's held-out records that heads give each label, float64[classes, classes].
    """
    params = ensemble.params["params"]
    rows, counts, found = np.arange(len(pool.labels)), np.zeros((pool.num_classes,) * 2), []
    for kernel, bias, member in zip(
        np.asarray(params["kernel"]),
        np.asarray(params["bias"]),
        np.asarray(ensemble.masks.member),
        strict=True,
    ):
        logits = pool.features @ kernel.T + bias
        np.add.at(counts, (pool.labels[~member], logits.argmax(axis=1)[~member]), 1)
        own = logits[rows, pool.labels]
        logits[rows, pool.labels] = -np.inf
        found.append(own - logits.max(axis=1))
    return np.array(found, np.float64), counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
