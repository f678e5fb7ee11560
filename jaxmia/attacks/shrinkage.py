"""Means and deviations from few shadows, drawn towards those that are known without any (priors of Scores).

The log of a sample variance of nu degrees of freedom has the mean log sigma² + psi(nu / 2) - log(nu / 2) and the
variance psi'(nu / 2), whatever sigma. What remains of its spread about the log of the prior, over examples, is the
prior's own error: an empirical Bayes estimate of the variance of a Gaussian prior on the log, as limma's of gene
expression (Smyth 2004, doi 10.2202/1544-6115.1027). Means likewise, in units of the known deviation: the square of
their distance from the prior, beyond what sampling makes of it, is the square of the prior's error on average.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.special

from jaxmia._validate import InputError, check
from jaxmia.attacks.shadows import RESOLUTION
from jaxmia.scores import Scores

LEVEL_ERROR = 0.04  # of the logs of analytic variances, in common to all examples: docs/frontier.md


class Residuals(NamedTuple):
    """How far samples are from their prior, and the sampling variance of that; 0 and infinite if unknown."""

    values: np.ndarray
    sampling: np.ndarray


class Levels(NamedTuple):
    """Of every target [targets, 1]: what the examples' residuals have in common, and their own spread beyond sampling.

    Attributes:
        found: mean residual.
        kept: the part of it that is believed: the rest may be the few shadows' own.
        spread: variance of the prior's error from example to example.
        error: variance of kept.
    """

    found: np.ndarray
    kept: np.ndarray
    spread: np.ndarray
    error: np.ndarray


def prior_means(scores: Scores) -> np.ndarray:
    """Return float64[2, examples], checked.

    Raises:
        InputError: without them, or with bad ones.
    """
    return _prior(scores, "prior_mean")


def prior_variances(scores: Scores) -> np.ndarray:
    """Return float64[2, examples], checked.

    Raises:
        InputError: without them, or with bad ones.
    """
    prior = _prior(scores, "prior_variance")
    check(bool((prior > 0).all()), "lowest prior_variance", float(prior.min()), "be positive")
    return prior


def _prior(scores: Scores, name: str) -> np.ndarray:
    if getattr(scores, name) is None:
        raise InputError(f"{name}=None must be given: jaxmia.analytic_vulnerability has it of ridge heads.")
    prior = np.asarray(getattr(scores, name), np.float64)
    expected = (2, np.asarray(scores.log_odds).shape[1])
    check(prior.shape == expected, f"{name}.shape", prior.shape, f"be {expected}")
    bad = int(np.count_nonzero(~np.isfinite(prior)))
    check(bad == 0, f"values of {name} that are not finite", bad, "be 0")
    return prior


def residuals(variance: np.ndarray, degrees: np.ndarray, prior: np.ndarray) -> Residuals:
    """Return the logs of sample variances over their prior.

    Args:
        variance: unbiased, [targets, examples].
        degrees: nu of each.
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
    """Return sample means less their prior, in deviations.

    Args:
        number: [targets, examples], scores behind each mean.
        mean: likewise.
        prior: [examples].
        variance: of one score, [examples].
    """
    values = np.where(number > 0, (mean - prior) / np.sqrt(variance), 0.0)
    return Residuals(values, np.where(number > 0, 1 / np.maximum(number, 1), np.inf))


def prior_error(sums: np.ndarray) -> np.ndarray:
    """Return the mean square of a prior's errors [targets, 1], from the sums of its residuals (sums_of)."""
    number, _, squares, sampling = sums
    return np.maximum(squares - sampling, 0.0) / np.maximum(number, 1)


def posterior(residual: Residuals, error: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Return what is believed of residuals, under a Gaussian prior of this variance, and its variance."""
    exact = residual.sampling == 0
    weight = np.where(exact, 1.0, error / (error + np.where(exact, 1.0, residual.sampling)))
    known = np.isfinite(residual.sampling)
    return weight * residual.values, np.where(known, weight * np.where(known, residual.sampling, 0.0), error)


def levels(sums: np.ndarray, own_error: float | None = None) -> Levels:
    """Return the levels of all targets, each from shadows without the target.

    Args:
        sums: float64[4, targets, 1], over the known examples of each target: their number, and the sums of residuals,
            of their squares, and of their sampling variances.
        own_error: variance of a level over draws of the shadows; by default the jackknife's from the targets.
    """
    number, total, squares, sampling = sums
    number = np.maximum(number, 1)
    found = total / number
    spread = np.maximum(squares / number - found**2 - sampling / number, 0.0)
    own = jackknife(found) if own_error is None else own_error
    believed = LEVEL_ERROR**2 / (LEVEL_ERROR**2 + own)
    return Levels(found, believed * found, spread, np.full_like(found, believed * own))


def jackknife(replicates: np.ndarray) -> float:
    """Return the variance of an estimate from its values with each shadow left out once, as the targets' levels."""
    number = len(replicates)
    return float((number - 1) / number * np.sum((replicates - replicates.mean()) ** 2))


def sums_of(residual: Residuals) -> np.ndarray:
    """Return what levels takes, of a block of examples: add up the blocks."""
    known = np.isfinite(residual.sampling)
    terms = (
        known,
        residual.values,
        residual.values**2,
        np.where(known, residual.sampling, 0.0),
    )
    return np.stack([term.sum(axis=1, keepdims=True, dtype=np.float64) for term in terms])


def shrunk(residual: Residuals, level: Levels, prior: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the variances, and the variance of their logs."""
    beyond, own = posterior(Residuals(residual.values - level.found, residual.sampling), level.spread)
    return prior * np.exp(level.kept + beyond), own + level.error
