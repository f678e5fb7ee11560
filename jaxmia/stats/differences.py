"""Differences of two estimates: of rates with intervals, and of many records' rates with errors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.stats

from jaxmia.stats.calls import call_members


class Difference(NamedTuple):
    """A difference, later less earlier, with its 95% interval."""

    value: float
    low: float
    high: float


def difference_of(earlier: tuple[float, float, float], later: tuple[float, float, float]) -> Difference:
    """Return the difference of two independent estimates from their 95% intervals.

    MOVER (Newcombe 1998, method 10; Zou and Donner 2008): low = d - sqrt((t2 - l2)^2 + (u1 - t1)^2), and high alike.
    Estimates that are positively correlated, as from the same records, have a narrower interval.

    Args:
        earlier: (t1, l1, u1).
        later: (t2, l2, u2).
    """
    (t1, l1, u1), (t2, l2, u2) = earlier, later
    value = t2 - t1
    return Difference(
        value, value - float(np.hypot(t2 - l2, u1 - t1)), value + float(np.hypot(u2 - t2, t1 - l1))
    )


def paired_difference(earlier: np.ndarray, later: np.ndarray) -> Difference:
    """Return the mean difference over records that both have, with its 95% interval by Student's t.

    The interval is over the choice of records, and holds the noise of each record's rates as far as it is its own.

    Args:
        earlier: float[records], at least 2.
        later: float[records], the same records.
    """
    change = np.asarray(later, np.float64) - np.asarray(earlier, np.float64)
    error = change.std(ddof=1) / np.sqrt(len(change))
    half = float(scipy.stats.t.ppf(0.975, len(change) - 1) * error)
    return Difference(float(change.mean()), float(change.mean()) - half, float(change.mean()) + half)


def risen(change: np.ndarray, error: np.ndarray, fdr: float) -> np.ndarray:
    """Return which records' rates rose, at a false discovery rate (Benjamini-Hochberg on one-sided normal p-values).

    Args:
        change: float[records], later less earlier.
        error: float[records], the standard error of each; NaN or 0 for records that are never called.
        fdr: fraction.
    """
    known = np.isfinite(change) & np.isfinite(error) & (error > 0)
    p_values = np.ones(len(change))
    p_values[known] = scipy.stats.norm.sf(change[known] / error[known])
    return np.asarray(call_members(p_values, fdr), bool)
