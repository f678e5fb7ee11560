"""How many non-member scores a TPR at an FPR needs before it is reported, and the Clopper-Pearson interval."""

from __future__ import annotations

import fractions
import math

import numpy as np
import scipy.stats

from jaxmia._validate import InputError, check, check_fpr

MIN_FALSE_POSITIVES = 10  # 10 / f non-member scores resolve FPR f: about ten of them lie above the threshold


class UnresolvedError(InputError):
    """There are too few non-member scores to resolve the FPR that was asked for."""


def required_nonmembers(fpr: float) -> int:
    """Return how many non-member scores in one ROC resolve fpr: the least n with 10 / n <= fpr.

    Raises:
        InputError: unless 0 < fpr < 1.
    """
    check_fpr("fpr", fpr)
    # 10 / fpr in floating point may miss the integer that the user meant, such as 1000 for fpr=0.01.
    number = math.ceil(MIN_FALSE_POSITIVES / fractions.Fraction(float(fpr)))
    return number - 1 if resolvable(fpr, number - 1) else number


def resolvable(fpr: float, num_nonmembers: int) -> bool:
    """Return whether num_nonmembers scores in one ROC resolve fpr: 10 / num_nonmembers <= fpr.

    Raises:
        InputError: unless 0 < fpr < 1.
    """
    check_fpr("fpr", fpr)
    return num_nonmembers > 0 and MIN_FALSE_POSITIVES / num_nonmembers <= fpr


def clopper_pearson(
    successes: np.ndarray | int, trials: np.ndarray | int, *, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends (low, high) of the exact binomial interval of a proportion (Clopper and Pearson 1934).

    Args:
        successes: integers, any shape.
        trials: integers, at least 1, broadcast against successes.
        confidence: coverage, at least attained for every proportion.

    Raises:
        InputError: unless 0 <= successes <= trials, trials >= 1 and 0 < confidence < 1.
    """
    check(0 < confidence < 1, "confidence", confidence, "lie strictly between 0 and 1")
    k, n = np.broadcast_arrays(successes, trials)
    check(bool(np.all(n >= 1)), "trials", trials, "be at least 1")
    check(bool(np.all((k >= 0) & (k <= n))), "successes", successes, "lie between 0 and trials")
    tail = (1 - confidence) / 2
    # The beta law needs positive parameters, so the ends for 0 and for n successes are set, not computed.
    low = np.where(k == 0, 0.0, scipy.stats.beta.ppf(tail, np.maximum(k, 1), n - k + 1))
    high = np.where(k == n, 1.0, scipy.stats.beta.isf(tail, k + 1, np.maximum(n - k, 1)))
    return low, high


def check_resolved(fpr: float, number: int, what: str) -> None:
    """Raise UnresolvedError unless the number of scores resolves fpr."""
    if not resolvable(fpr, number):
        raise UnresolvedError(f"fpr={fpr} needs at least {required_nonmembers(fpr)} {what}, got {number}.")


def allowed_false_positives(fpr: np.ndarray | float, num_nonmembers: np.ndarray) -> np.ndarray:
    """Return the largest integers k with k / num_nonmembers <= fpr, rounded as the FPR of a Roc is."""
    k = np.floor(fpr * num_nonmembers).astype(np.int64)  # may be one off by rounding
    k += (k + 1) / num_nonmembers <= fpr
    k -= k / num_nonmembers > fpr
    return k
