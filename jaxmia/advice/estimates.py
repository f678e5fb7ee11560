"""Accuracy and vulnerability of one ridge head: analytic, with a few heads for tails and accuracy."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from scipy.stats import norm

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
        found: every record's moments with and without it.
        accuracy: share of the records outside a head's training set that it classifies correctly.
        accuracy_low: lower end of its 95% interval over records.
        accuracy_high: upper end.
        tpr: float64[examples], each record's TPR at its own FPR.
        tpr_low: float64[examples], the same with a separation smaller by SEPARATION_ERROR.
        tpr_high: float64[examples], the same with a separation larger by it.
        tpr_labels: float64[examples], each record's TPR where the attacker sees the predicted label alone.
        confusion: float64[classes, classes], share of the records of a class (rows) outside of the training set that
            heads give each label.
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


def ridge_estimate(
    pool: FeatureSet, *, ridge: float, fpr: float, key: jax.Array, memory: int | None = None
) -> RidgeEstimate:
    """Return estimates for a ridge head on half of a pool, at one FPR.

    Args:
        pool: the records.
        ridge: lambda, scikit-learn's 1 / C.
        fpr: FPR of every record.
        key: random key of the few heads.
        memory: largest number of bytes, as in analytic_vulnerability.

    Raises:
        InputError: as analytic_vulnerability.
    """
    found = analytic_vulnerability(pool, ridge=ridge, memory=memory)
    ensemble = ridge_heads(pool, found, fpr, key, fewest=HEADS)
    tails = tails_of(score(ensemble, pool), found)
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
        tpr_labels=label_only_tpr(margin, outside, fpr),
        confusion=confusion,
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


def label_only_tpr(margin: np.ndarray, outside: np.ndarray, fpr: float) -> np.ndarray:
    """Return each record's TPR at its own FPR for the best attack on whether the predicted label is correct.

    The probabilities of a correct label with and without the record follow from Gaussian fits of the margin. The attack
    calls a member if the label is correct, with randomisation to meet the FPR exactly (Neyman and Pearson).

    Args:
        margin: [models, examples], above 0 where a model is right.
        outside: bool[models, examples], True where the model did not train on the record.
        fpr: FPR of every record.
    """
    inside, without = (_share_right(margin, side) for side in (~outside, outside))
    with np.errstate(divide="ignore", invalid="ignore"):
        among_right = fpr * inside / without
        all_right = inside + (fpr - without) / (1 - without) * (1 - inside)
    found: np.ndarray = np.clip(np.where(without >= fpr, among_right, all_right), fpr, 1.0)
    return found


def _share_right(margin: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Return the probability [examples] that the margin is above 0 over the models of one side."""
    values = np.where(side, margin, np.nan)
    share: np.ndarray = norm.cdf(np.nanmean(values, axis=0) / np.nanstd(values, axis=0, ddof=1))
    return share


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
