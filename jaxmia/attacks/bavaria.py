"""BaVarIA (Brännvall 2026, arXiv 2603.11799): LiRA with a posterior over each example's mean and variance."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.special

from jaxmia.attacks.shadows import (
    RESOLUTION,
    Side,
    SideMoments,
    Sides,
    blocks_of,
    score_arrays,
    side_moments,
    sides,
)
from jaxmia.scores import Scores
from jaxmia.stats.result import AttackResult

_MAX_STRENGTH = (
    1000.0  # largest weight of a prior, in shadows; at this weight examples differ by sampling error alone
)


class _NormalInverseGamma(NamedTuple):
    """Mean ~ N(location, variance / kappa) given a variance ~ inverse gamma(alpha, beta)."""

    location: np.ndarray
    kappa: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray


_Density = Callable[[np.ndarray, _NormalInverseGamma], np.ndarray]


def bavaria_t(scores: Scores, *, paired: bool = False) -> AttackResult:
    """Return log p_in(s) - log p_out(s), each the posterior predictive Student-t of one side.

    BaVarIA-t: Brännvall 2026 (arXiv 2603.11799).

    For each example and side, n shadows with mean x̄ update a normal-inverse-gamma prior to kappa_n = kappa_0 + n, mu_n
    = (kappa_0 mu_0 + n x̄) / kappa_n, alpha_n = alpha_0 + n / 2 and beta_n = beta_0 + sum (x_i - x̄)^2 / 2 + kappa_0 n
    (x̄ - mu_0)^2 / (2 kappa_n). The predictive distribution of s has 2 alpha_n degrees of freedom, location mu_n and
    scale^2 = beta_n (kappa_n + 1) / (alpha_n kappa_n).

    The prior is ours, not the paper's: empirical Bayes by the method of moments over the examples, for each target and
    side. Let v be the pooled variance within examples (ddof 1). Then beta_0 / (alpha_0 - 1) = v; alpha_0 = 2 + 1 / (R -
    1), where R is the mean square of the examples' variances (each divided by 1 + 2 / (n - 1) for its sampling error)
    over their squared mean; mu_0 is the mean of the examples' means; kappa_0 = v / tau^2, where tau^2 is their variance
    minus its sampling part. Neither alpha_0 - 2 nor kappa_0 exceeds 1000. Where no example has 2 shadows or all scores
    are equal, v is that of the other side, or else 1 square nat, and alpha_0 is 3.

    Args:
        scores: log_odds and member [models, examples], at least 3 models.
        paired: use every shadow on both sides, by scores.flipped_log_odds.

    Returns:
        float64 statistic [models, examples]; 0 and undefined where a side has no shadow.

    Raises:
        InputError: for bad scores, or paired without flipped scores.
    """
    return _attack(scores, _student_t, paired)


def bavaria_n(scores: Scores, *, paired: bool = False) -> AttackResult:
    """Return log N(s; mu_n, v_n) of the IN side minus that of the OUT side, v_n = beta_n / (alpha_n - 1).

    BaVarIA-n: Brännvall 2026 (arXiv 2603.11799).

    The posterior means of mean and variance replace LiRA's estimates. With many shadows this equals LiRA with
    per-example deviations; with few, the estimates shrink towards values common to all examples. Prior and update are
    those of bavaria_t.

    Args:
        scores: log_odds and member [models, examples], at least 3 models.
        paired: use every shadow on both sides, by scores.flipped_log_odds.

    Returns:
        float64 statistic [models, examples]; 0 and undefined where a side has no shadow.

    Raises:
        InputError: for bad scores, or paired without flipped scores.
    """
    return _attack(scores, _normal, paired)


def _student_t(log_odds: np.ndarray, posterior: _NormalInverseGamma) -> np.ndarray:
    """Return the log density of the posterior predictive distribution."""
    location, kappa, alpha, beta = posterior
    spread = 2 * beta * (kappa + 1) / kappa  # degrees of freedom times squared scale
    constant = scipy.special.gammaln(alpha + 0.5) - scipy.special.gammaln(alpha)
    return (
        constant - np.log(np.pi * spread) / 2 - (alpha + 0.5) * np.log1p((log_odds - location) ** 2 / spread)
    )


def _normal(log_odds: np.ndarray, posterior: _NormalInverseGamma) -> np.ndarray:
    """Return the log density of the Gaussian with the posterior means of mean and variance."""
    variance = posterior.beta / (posterior.alpha - 1)
    return -(np.log(2 * np.pi * variance) + (log_odds - posterior.location) ** 2 / variance) / 2


def _attack(scores: Scores, log_density: _Density, paired: bool) -> AttackResult:
    """Return the log ratio of the two sides' densities."""
    log_odds, member = score_arrays(scores)
    shadows = sides(scores, paired=paired)
    priors = _priors(log_odds, shadows)
    statistic, defined = np.empty(log_odds.shape), np.empty(log_odds.shape, bool)
    for columns in blocks_of(*log_odds.shape):
        block = log_odds[:, columns].astype(np.float64)
        moments = [side_moments(*side.block(columns)) for side in shadows]
        log_in, log_out = (
            log_density(block, _update(prior, side)) for prior, side in zip(priors, moments, strict=True)
        )
        defined[:, columns] = (moments[0].number > 0) & (moments[1].number > 0)
        statistic[:, columns] = np.where(defined[:, columns], log_in - log_out, 0.0)
    return AttackResult(statistic, member, defined)


def _update(prior: _NormalInverseGamma, side: SideMoments) -> _NormalInverseGamma:
    """Return the posterior of every target and example given the moments of one side's shadows."""
    number, mean, variance = side
    kappa = prior.kappa + number
    location = (prior.kappa * prior.location + number * mean) / kappa
    shift = prior.kappa * number * (mean - prior.location) ** 2 / kappa
    return _NormalInverseGamma(
        location, kappa, prior.alpha + number / 2, prior.beta + (number * variance + shift) / 2
    )


def _priors(log_odds: np.ndarray, shadows: Sides) -> list[_NormalInverseGamma]:
    """Fit the priors [models, 1] of the IN and the OUT side by the method of moments over the examples."""
    centre = float(log_odds.mean(dtype=np.float64))  # prevents cancellation in the variance of the means
    sums = [_prior_sums(side, centre) for side in shadows]
    own = [_ratio(total["squares"], total["degrees"]) for total in sums]
    largest = np.maximum(*own)
    largest = np.where(largest > RESOLUTION**2, largest, 1.0)
    return [
        _prior(total, np.where(within > RESOLUTION**2, within, largest), centre)
        for total, within in zip(sums, own, strict=True)
    ]


def _prior_sums(side: Side, centre: float) -> dict[str, np.ndarray]:
    """Return the sums over examples that the prior of one side needs, each float64[models, 1]."""
    sums: dict[str, np.ndarray] = {}
    for columns in blocks_of(*side.log_odds.shape):
        number, mean, variance = side_moments(*side.block(columns))
        has_mean, degrees = number > 0, np.maximum(number - 1, 0)
        unbiased = np.where(degrees > 0, variance * number / np.maximum(degrees, 1), 0.0)
        terms = {
            "means": has_mean,
            "mean": np.where(has_mean, mean - centre, 0.0),
            "mean_square": np.where(has_mean, mean - centre, 0.0) ** 2,
            "inverse_number": has_mean / np.maximum(number, 1),
            "variances": degrees > 0,
            "variance": unbiased,
            "variance_square": unbiased**2 / (1 + 2 / np.maximum(degrees, 1)),
            "squares": number * variance,
            "degrees": degrees,
        }
        for name, term in terms.items():
            sums[name] = sums.get(name, 0.0) + term.sum(axis=1, keepdims=True)
    return sums


def _prior(sums: dict[str, np.ndarray], within: np.ndarray, centre: float) -> _NormalInverseGamma:
    """Return the prior of one side from its sums and the variance within examples, never 0."""
    location = _ratio(sums["mean"], sums["means"])
    between = _ratio(sums["mean_square"], sums["means"]) - location**2
    between -= within * _ratio(sums["inverse_number"], sums["means"])
    kappa = within / np.maximum(between, within / _MAX_STRENGTH)
    square = _ratio(sums["variance"], sums["variances"]) ** 2
    excess = _ratio(_ratio(sums["variance_square"], sums["variances"]), square) - 1
    alpha = np.where(square > RESOLUTION**4, 2 + 1 / np.maximum(excess, 1 / _MAX_STRENGTH), 3.0)
    return _NormalInverseGamma(location + centre, kappa, alpha, (alpha - 1) * within)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return the quotient, 0 where the denominator is 0."""
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1), 0.0)
