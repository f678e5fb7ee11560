"""What predicted labels alone reveal of a record, or of a person's records, from margins of a few heads."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from jaxmia.ridge.units import Layout, by_unit, layouts

_SHRINKAGE = 0.1  # of correlations between a person's margins, as in jaxmia.attacks.persons
_DRAWS = (4000, 50)  # smallest number of draws of a person's labels, and of draws beyond the threshold
_BLOCK = 1 << 22  # values of one temporary array
_CERTAIN = 1e-6  # closest that a label's probability comes to 0 or 1


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


def label_only_tpr_of_persons(
    margin: np.ndarray, outside: np.ndarray, person: np.ndarray, fpr: float
) -> np.ndarray:
    """Return each person's TPR at their own FPR, from which of their records are labelled correctly.

    The margins of a person's records are drawn from Gaussians fitted to heads with and without the person. The attack
    adds up the records' log likelihood ratios of a correct or wrong label. Draws that share a value are called at
    random, so that the FPR is met exactly. With one record it is label_only_tpr, up to the error of the draws.

    Args:
        margin: [models, examples], above 0 where a model is right.
        outside: bool[models, examples], True where the model did not train on the record's person.
        person: [examples], the person of each record.
        fpr: FPR of every person.

    Returns:
        float64[persons], persons ascending by name.
    """
    placed = layouts(len(person), person)
    rng = np.random.default_rng(0)
    number = max(_DRAWS[0], int(np.ceil(_DRAWS[1] / fpr)))
    return by_unit(placed, [_of_layout(margin, outside, layout, fpr, number, rng) for layout in placed])


def _of_layout(
    margin: np.ndarray,
    outside: np.ndarray,
    layout: Layout,
    fpr: float,
    number: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the TPR [units] of persons with about as many records."""
    units, places = layout.rows.shape
    width = max(1, _BLOCK // (max(number, len(margin)) * places))
    normal, found = rng.normal(size=(number, places)), np.empty(units)
    for start in range(0, units, width):
        block = slice(start, start + width)
        rows, used = layout.rows[block], layout.used[block]
        without = outside[:, rows[:, 0]]
        own, right, shares = margin[:, rows], [], []
        for side in (~without, without):
            mean, factor = _gaussian(own, side)
            drawn = mean + np.einsum("ukl,dl->duk", factor, normal)
            right.append(drawn > 0)
            deviation = np.sqrt(np.square(factor).sum(axis=2))
            shares.append(np.clip(norm.cdf(mean / deviation), _CERTAIN, 1 - _CERTAIN))
        gains = np.where(used, np.log(shares[0] / shares[1]), 0.0)
        losses = np.where(used, np.log((1 - shares[0]) / (1 - shares[1])), 0.0)
        inside, out = (np.where(each, gains, losses).sum(axis=2).round(9) for each in right)
        found[block] = _tpr(inside, out, fpr)
    return found


def _gaussian(values: np.ndarray, side: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean [units, places] and a factor of the covariance [units, places, places] over one side's models."""
    count = side.sum(axis=0)[:, None]
    mean = np.where(side[..., None], values, 0.0).sum(axis=0) / count
    centred = np.where(side[..., None], values - mean, 0.0)
    covariance = np.einsum("muk,mul->ukl", centred, centred) / (count[..., None] - 1)
    places = np.arange(values.shape[2])
    own = covariance[:, places, places]
    covariance *= 1 - _SHRINKAGE
    covariance[:, places, places] = own
    return mean, np.linalg.cholesky(covariance)


def _tpr(inside: np.ndarray, outside: np.ndarray, fpr: float) -> np.ndarray:
    """Return the TPR [units] at an FPR met exactly, of statistics [draws, units] of members and non-members."""
    rank = int(fpr * len(outside))
    threshold = -np.partition(-outside, rank, axis=0)[rank]
    above, at = ((outside > threshold).mean(axis=0), (outside == threshold).mean(axis=0))
    share = np.clip((fpr - above) / at, 0.0, 1.0)
    called = (inside > threshold).mean(axis=0) + share * (inside == threshold).mean(axis=0)
    found: np.ndarray = np.clip(called, fpr, 1.0)
    return found
