"""Means and variances from few shadows, shrunk towards analytic ones (the priors of Scores).

The log of a sample variance with nu degrees of freedom has mean log sigma² + psi(nu / 2) - log(nu / 2) and variance
psi'(nu / 2), for any sigma. Its spread over examples about the log of the prior, beyond this sampling variance, is the
error of the prior. This gives an empirical Bayes estimate of the variance of a Gaussian prior on the log, as in limma
for gene expression (Smyth 2004, doi 10.2202/1544-6115.1027). Means are treated in the same way, in units of the known
standard deviation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.special

from jaxmia._validate import InputError, check
from jaxmia.attacks.shadows import RESOLUTION
from jaxmia.scores import Scores

LEVEL_ERROR = 0.04  # error of the logs of analytic variances that all examples share: docs/frontier.md


class Residuals(NamedTuple):
    """Differences of sample values from their prior, and their sampling variance; 0 and infinite if unknown."""

    values: np.ndarray
    sampling: np.ndarray


class Levels(NamedTuple):
    """The residuals' common level and their spread beyond sampling error, for every target [targets, 1].

    Attributes:
        found: mean residual.
        kept: the part of `found` that is kept; the rest may be sampling error of the few shadows.
        spread: variance of the prior's error over examples.
        error: variance of kept.
    """

    found: np.ndarray
    kept: np.ndarray
    spread: np.ndarray
    error: np.ndarray


def prior_means(scores: Scores) -> np.ndarray:
    """Return the checked prior, float64[2, examples].

    Raises:
        InputError: if it is missing or bad.
    """
    return _prior(scores, "prior_mean")


def prior_variances(scores: Scores) -> np.ndarray:
    """Return the checked prior, float64[2, examples].

    Raises:
        InputError: if it is missing or bad.
    """
    prior = _prior(scores, "prior_variance")
    check(bool((prior > 0).all()), "lowest prior_variance", float(prior.min()), "be positive")
    return prior


def _prior(scores: Scores, name: str) -> np.ndarray:
    if getattr(scores, name) is None:
        raise InputError(
            f"{name}=None must be given: jaxmia.analytic_vulnerability computes it for ridge heads."
        )
    prior = np.asarray(getattr(scores, name), np.float64)
    expected = (2, np.asarray(scores.log_odds).shape[1])
    check(prior.shape == expected, f"{name}.shape", prior.shape, f"be {expected}")
    bad = int(np.count_nonzero(~np.isfinite(prior)))
    check(bad == 0, f"values of {name} that are not finite", bad, "be 0")
    return prior


def residuals(variance: np.ndarray, degrees: np.ndarray, prior: np.ndarray) -> Residuals:
    """Return the log ratios of sample variances to their prior.

    Args:
        variance: unbiased sample variances, [targets, examples].
        degrees: nu, degrees of freedom of each.
        prior: [examples].
    """
    known = (degrees >= 1) & (variance > RESOLUTION**2)
    half = np.where(known, degrees, 1) / 2
    bias = scipy.special.digamma(half) - np.log(half)
    logs = np.log(np.where(known, variance, 1.0) / np.where(known, prior, 1.0)) - bias
    return Residuals(np.where(known, logs, 0.0), np.where(known, scipy.special.polygamma(1, half), np.inf))


def mean_residuals(
    number: np.ndarray, mean: np.ndarray, prior: np.ndarray, variance: np.ndarray
) -> Residuals:
    """Return sample means minus their prior, in standard deviations.

    Args:
        number: [targets, examples], number of scores in each mean.
        mean: [targets, examples], sample means.
        prior: [examples].
        variance: [examples], variance of one score.
    """
    values = np.where(number > 0, (mean - prior) / np.sqrt(variance), 0.0)
    return Residuals(values, np.where(number > 0, 1 / np.maximum(number, 1), np.inf))


def prior_error(sums: np.ndarray) -> np.ndarray:
    """Return the mean square of a prior's errors [targets, 1], from the sums of its residuals (sums_of)."""
    number, _, squares, sampling = sums
    return np.maximum(squares - sampling, 0.0) / np.maximum(number, 1)


def posterior(residual: Residuals, error: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Return the posterior means of residuals under a Gaussian prior with variance `error`, and their variances."""
    exact = residual.sampling == 0
    weight = np.where(exact, 1.0, error / (error + np.where(exact, 1.0, residual.sampling)))
    known = np.isfinite(residual.sampling)
    return weight * residual.values, np.where(known, weight * np.where(known, residual.sampling, 0.0), error)


def levels(sums: np.ndarray, own_error: float | None = None) -> Levels:
    """Return the levels of all targets, each computed from the shadows without the target.

    Args:
        sums: float64[4, targets, 1], sums over the known examples of each target: their number, residuals, squared
            residuals, and sampling variances.
        own_error: variance of a level over draws of the shadows; by default the jackknife estimate over targets.
    """
    number, total, squares, sampling = sums
    number = np.maximum(number, 1)
    found = total / number
    spread = np.maximum(squares / number - found**2 - sampling / number, 0.0)
    own = jackknife(found) if own_error is None else own_error
    believed = LEVEL_ERROR**2 / (LEVEL_ERROR**2 + own)
    return Levels(found, believed * found, spread, np.full_like(found, believed * own))


def jackknife(replicates: np.ndarray) -> float:
    """Return the jackknife variance of an estimate, from its values with each shadow left out once."""
    number = len(replicates)
    return float((number - 1) / number * np.sum((replicates - replicates.mean()) ** 2))


def sums_of(residual: Residuals) -> np.ndarray:
    """Return the sums that `levels` takes, for one block of examples; add them up over blocks."""
    known = np.isfinite(residual.sampling)
    terms = (
        known,
        residual.values,
        residual.values**2,
        np.where(known, residual.sampling, 0.0),
    )
    return np.stack([term.sum(axis=1, keepdims=True, dtype=np.float64) for term in terms])


def shrunk(residual: Residuals, level: Levels, prior: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the shrunk variances, and the variance of their logs."""
    beyond, own = posterior(Residuals(residual.values - level.found, residual.sampling), level.spread)
    return prior * np.exp(level.kept + beyond), own + level.error
