"""A record's separation D = (mean_in - mean_out) / s, from models on either side or from pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import polygamma

from jaxmia.attacks._shadows import RESOLUTION, Side, Sides, blocks_of, side_moments
from jaxmia.attacks._shrinkage import (
    Residuals,
    jackknife,
    levels,
    posterior,
    prior_error,
    residuals,
    shrunk,
    sums_of,
)
from jaxmia.residuals import RecordLaw, SideMoments, moments_of, pooled


def separation(inside: SideMoments, outside: SideMoments) -> tuple[np.ndarray, np.ndarray]:
    """Return D and its standard error [examples], NaN without both sides or a third model."""
    shift = inside.mean - outside.mean
    degrees = inside.number + outside.number - 2
    deviation = np.sqrt((inside.squares + outside.squares) / np.maximum(degrees, 1))
    known = np.isfinite(shift) & (degrees > 0)
    spread = known & (deviation > RESOLUTION)
    certain = np.where(np.abs(shift) > RESOLUTION, np.copysign(np.inf, shift), 0.0)
    separation = np.where(spread, shift / np.where(spread, deviation, 1), np.where(known, certain, np.nan))
    sampling = 1 / np.maximum(inside.number, 1) + 1 / np.maximum(outside.number, 1)
    estimation = np.where(spread, separation, 0) ** 2 / (2 * np.maximum(degrees, 1))
    return separation, np.where(spread, np.sqrt(sampling + estimation), np.nan)


def paired_separation(
    shadows: Sides, inside: SideMoments, outside: SideMoments, prior: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return D and its standard error [examples] from pairs, drawn towards a prior's means and variance, if any."""
    number = len(shadows.inside.log_odds)
    shift, degrees = inside.mean - outside.mean, np.full(len(inside.mean), number - 1)
    variance = (inside.squares + outside.squares) / (2 * (number - 1))
    difference = shadows.inside.log_odds.astype(np.float64) - shadows.outside.log_odds
    shift_variance = difference.var(axis=0, ddof=1) / number
    if prior is None:
        log_variance = polygamma(1, degrees / 2)
    else:
        (mean_in, mean_out), prior_variance = prior[0], prior[1].mean(axis=0)
        variance, log_variance = _shrunk(shadows, variance, degrees, prior_variance)
        shift, shift_variance = _shrunk_shift(difference, mean_in - mean_out, prior_variance)
    spread = variance > RESOLUTION**2
    deviation = np.sqrt(np.where(spread, variance, 1))
    certain = np.where(np.abs(shift) > RESOLUTION, np.copysign(np.inf, shift), 0.0)
    separation = np.where(spread, shift / deviation, certain)
    error = np.sqrt(shift_variance / deviation**2 + np.where(spread, separation, 0) ** 2 * log_variance / 4)
    return separation, np.where(spread, error, np.nan)


def paired_laws(
    shadows: Sides, laws: tuple[RecordLaw, RecordLaw], prior: tuple[np.ndarray, np.ndarray] | None
) -> tuple[tuple[RecordLaw, RecordLaw], np.ndarray]:
    """Return the laws with what pairs say of the shift, drawn towards a prior, if any; and the shift's variance."""
    inside, outside = laws
    difference = shadows.inside.log_odds.astype(np.float64) - shadows.outside.log_odds
    if prior is None:
        return laws, difference.var(axis=0, ddof=1) / len(difference)
    (mean_in, mean_out), variances = prior
    shift, shift_variance = _shrunk_shift(difference, mean_in - mean_out, variances.mean(axis=0))
    drawn = []
    for side, law, known in zip(shadows, laws, variances, strict=True):
        own = moments_of(side)
        variance, log_variance = _shrunk((side,), own.deviation**2, own.number - 1, known)
        deviation = np.sqrt(variance)
        tails, _, clustering = pooled(side, own.mean, deviation, own.number)
        drawn.append(
            law._replace(
                deviation=deviation, log_variance=log_variance / 4, residuals=tails, clustering=clustering
            )
        )
    centre = (inside.mean + outside.mean) / 2
    inside, outside = (
        each._replace(mean=centre + sign * shift / 2) for each, sign in zip(drawn, (1, -1), strict=True)
    )
    return (inside, outside), shift_variance


def _shrunk(
    some: Sequence[Side], variance: np.ndarray, degrees: np.ndarray, prior: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean variance of some sides, shrunk [examples], and the variance of its log.

    The level's own error is the jackknife's, over the models.
    """
    sums = []
    for columns in blocks_of(*some[0].log_odds.shape):
        moments = [side_moments(*side.block(columns)) for side in some]
        number = moments[0].number
        of_others = sum(each.number * each.variance for each in moments) / (
            len(some) * np.maximum(number - 1, 1)
        )
        sums.append(sums_of(residuals(of_others, number - 1, prior[columns])))
    own_error = jackknife(levels(np.sum(sums, axis=0)).found)
    found = residuals(variance[None], degrees[None], prior)
    variances, errors = shrunk(found, levels(sums_of(found), own_error), prior)
    return variances[0], errors[0]


def _shrunk_shift(
    difference: np.ndarray, prior: np.ndarray, prior_variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return shifts drawn towards their prior [examples], and their variances.

    The models carry only so much of the prior's error: the variances take it one standard error (the jackknife's)
    larger.
    """

    def beyond(mean: np.ndarray, sampling: np.ndarray) -> Residuals:
        return Residuals((mean - prior) / np.sqrt(prior_variance), sampling / prior_variance)

    of_others = side_moments(difference, np.ones(difference.shape, bool))
    replicates = prior_error(sums_of(beyond(of_others.mean, of_others.variance / (of_others.number - 1))))
    number = len(difference)
    found = beyond(difference.mean(axis=0)[None], difference.var(axis=0, ddof=1)[None] / number)
    error = prior_error(sums_of(found))
    values, _ = posterior(found, error)
    _, variances = posterior(found, error + np.sqrt(jackknife(replicates)))
    return prior + np.sqrt(prior_variance) * values[0], prior_variance * variances[0]
