"""P-values of one example's statistic against its null: its values under other models that never saw the example.

Examples differ in the law of their statistics, so only an example's own null fixes its FPR. Every model is the target
in turn, and its own statistic is left out of the null.

A few shadows do not determine the tail of one record's law. Residuals standardised by each record's own shadows can be
pooled over all records if they share one law (pooled_p_values). Otherwise ranks are used (rank_p_values).
"""

from __future__ import annotations

import numpy as np
import scipy.special

from jaxmia._validate import InputError

NULLS = ("z", "gaussian", "location_scale", "unknown")  # laws of a non-member's statistic: AttackResult.null
HUGE = 1e140  # squares of larger statistics, infinite ones included, cannot be summed


def residual_p_values(statistic: np.ndarray, null: np.ndarray, law: str) -> np.ndarray:
    """Return the p-value of each statistic against its own record's null, as if every null were Gaussian.

    This is a residual on the scale of a probability, comparable between records with different numbers of shadows.
    pooled_p_values turns it into a p-value that needs no Gaussian assumption.

    Args:
        statistic: float64[models, examples], no NaN.
        null: bool[models, examples], True where the statistic belongs to its example's null.
        law: "z": (score - mean) / deviation over its n null shadows, which never include the target (denominator n), so
            sqrt((n + 1) / (n - 1)) times Student's t with n - 1 degrees of freedom; "gaussian": the same with a mean
            and deviation that hardly depend on the record's own shadows; or "location_scale": the same law for all
            records up to a centre and a width, which are estimated from the other nulls (student_t_p_values).

    Returns:
        float64[models, examples] in [0, 1].

    Raises:
        InputError: for law="unknown".
    """
    if law == "location_scale":
        return student_t_p_values(statistic, null)
    if law == "gaussian":
        return scipy.special.ndtr(-statistic)
    if law != "z":
        raise InputError(
            f"null={law!r} must be one of {', '.join(map(repr, NULLS[:3]))} for calibration by"
            " residuals: use lira(scores, calibrated=True) in place of LiRA's ratio, or"
            " evaluation='calibrated_empirical', which uses ranks."
        )
    number = np.count_nonzero(null, axis=0) - null
    degrees = np.maximum(number - 1, 1)
    p_values = scipy.special.stdtr(degrees, -statistic * np.sqrt(degrees / (number + 1)))
    return np.where(number >= 2, p_values, scipy.special.ndtr(-statistic))


def pooled_p_values(p_values: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Return (1 + #{nulls of other models <= p}) / (1 + #{nulls of other models}), over all examples together.

    P(result <= f) <= f, averaged over examples, for a target model that is exchangeable with the others: it is the
    conformal p-value of a random example and model (Vovk, Gammerman and Shafer 2005). A model's own values never set
    its thresholds. The FPR holds for each single example if all residuals have the same law.

    Args:
        p_values: float64[models, examples] of residual_p_values.
        null: bool[models, examples], True where the value belongs to a null.

    Returns:
        float64[models, examples] in (0, 1].
    """
    everyone = np.sort(p_values[null])
    result = np.empty_like(p_values)
    for row, (own, nulls) in enumerate(zip(p_values, null, strict=True)):
        mine = np.sort(own[nulls])
        below = np.searchsorted(everyone, own, side="right") - np.searchsorted(mine, own, side="right")
        result[row] = (1 + below) / (1 + everyone.size - mine.size)
    return result


def rank_p_values(statistic: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Return the conformal p-values (1 + #{other nulls >= t}) / (1 + #{other nulls}).

    P(p <= f) <= f for a target that is exchangeable with its null, whatever their law (Vovk, Gammerman and
    Shafer 2005). If each of n untied null statistics is the target once, exactly floor(f n) of them get p <= f.

    Args:
        statistic: float64[models, examples] of t, no NaN.
        null: bool[models, examples], True where the statistic belongs to its example's null.

    Returns:
        float64[models, examples] in (0, 1].
    """
    order = np.argsort(statistic, axis=0)
    ranked = np.take_along_axis(statistic, order, axis=0)
    nulls_from = np.cumsum(np.take_along_axis(null, order, axis=0)[::-1], axis=0)[::-1]
    starts_tie = np.ones(ranked.shape, bool)
    starts_tie[1:] = ranked[1:] != ranked[:-1]
    position = np.arange(len(ranked))[:, None]
    first_of_tie = np.maximum.accumulate(np.where(starts_tie, position, 0), axis=0)
    at_least = np.empty_like(nulls_from)
    np.put_along_axis(at_least, order, np.take_along_axis(nulls_from, first_of_tie, axis=0), axis=0)
    return (1 + at_least - null) / (1 + np.count_nonzero(null, axis=0) - null)


def student_t_p_values(statistic: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Return P(T > (t - mean) / (s sqrt(1 + 1/n))), T of Student's law with n - 1 degrees of freedom.

    mean and s (denominator n - 1) are taken over the n other nulls. For a Gaussian null the p-value is exactly uniform
    at any n >= 2; a Gaussian T would be anticonservative. Where s is not finite and positive, or t is not finite, the
    p-value by rank is returned instead.

    Args:
        statistic: float64[models, examples] of t, no NaN.
        null: bool[models, examples], True where the statistic belongs to its example's null.

    Returns:
        float64[models, examples] in [0, 1].
    """
    usable = np.abs(statistic) < HUGE
    known = null & usable
    centred = np.where(usable, statistic, 0.0) - _median(statistic, known)
    number = np.count_nonzero(known, axis=0) - known
    mean = _sum_of_others(np.where(known, centred, 0.0)) / np.maximum(number, 1)
    squares = _sum_of_others(np.where(known, centred**2, 0.0))
    variance = (squares - number * mean**2) / np.maximum(number - 1, 1)
    gaussian = usable & (number >= 2) & (variance > 0) & (_sum_of_others(null & ~usable) == 0)
    scale = np.sqrt(np.where(gaussian, variance, 1.0) * (1 + 1 / np.maximum(number, 1)))
    p_values = scipy.special.stdtr(np.maximum(number - 1, 1), (mean - centred) / scale)
    return p_values if gaussian.all() else np.where(gaussian, p_values, rank_p_values(statistic, null))


def _median(statistic: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the upper median [1, examples] of the known statistics, 0 where there are none.

    Used as a centre, it prevents cancellation in the variance even if one model is an outlier, and gives a constant
    null a variance of exactly 0.
    """
    middle = np.minimum(np.count_nonzero(known, axis=0, keepdims=True) // 2, len(known) - 1)
    median = np.take_along_axis(np.sort(np.where(known, statistic, np.inf), axis=0), middle, axis=0)
    return np.where(np.isfinite(median), median, 0.0)


def _sum_of_others(values: np.ndarray) -> np.ndarray:
    """Return for each model the sum over the others, by additions only, so that an outlier leaves no rounding error."""
    before, after = np.zeros(values.shape), np.zeros(values.shape)
    np.cumsum(values[:-1], axis=0, out=before[1:])
    np.cumsum(values[:0:-1], axis=0, out=after[-2::-1])
    return before + after
