"""The examples per class at which a law meets the ceiling that differential privacy would set."""

from __future__ import annotations

import dataclasses
import math

from jaxmia.laws.law import (
    MAX_EXPONENT,
    Interval,
    PowerLaw,
    PowerLawFit,
    coefficients_of,
    is_outside,
    noise_of,
    regressors,
)
from jaxmia.laws.published import PublishedLine
from jaxmia.privacy.tradeoff import kairouz_ceiling


@dataclasses.dataclass(frozen=True)
class RequiredShots:
    """Examples per class at which a law meets the ceiling that (epsilon, delta)-DP would set.

    Attributes:
        shots: S where the line meets the ceiling, not rounded; None unless status is "ok".
        low: lower end of the calibration interval: all S whose prediction interval contains the ceiling. None where the
            law has no standard errors or the interval is unbounded.
        high: its upper end.
        ceiling: the largest TPR that (epsilon, delta)-DP allows at the FPR.
        extrapolated: True where shots or classes lie outside the fitted cells; None if those are not known.
        status: "ok"; "no_advantage" (the ceiling is the FPR itself, which no finite S reaches); "never" (the
            law does not fall with S, or meets the ceiling only beyond 1e300 examples).
        reason: why there are no shots, or no interval.
    """

    shots: float | None
    low: float | None
    high: float | None
    ceiling: float
    extrapolated: bool | None
    status: str
    reason: str | None


def required_shots(
    fit: PowerLawFit | PublishedLine,
    *,
    epsilon: float,
    delta: float,
    fpr: float,
    classes: int,
    confidence: float = 0.95,
) -> RequiredShots:
    """Solve a law for the S at which its TPR meets the ceiling of (epsilon, delta)-DP.

    Meeting the ceiling at one FPR is no privacy guarantee: the law describes only attacks of the fitted kind.

    Args:
        fit: a fitted law, or a published line.
        epsilon: epsilon of the guarantee to compare with.
        delta: delta of the guarantee to compare with.
        fpr: one of the fitted FPRs.
        classes: number of classes; the fitted one where the law knows a single number of classes.
        confidence: confidence of the calibration interval [low, high] (the inverted prediction band).

    Raises:
        InputError: for a bad argument, an undetermined law, or classes that the law does not cover.
    """
    ceiling = float(kairouz_ceiling(fpr, epsilon=epsilon, delta=delta))
    law = _law_at(fit, fpr)
    coefficients = coefficients_of(law)
    slope, at_one_shot = float(coefficients[0]), float(coefficients @ regressors(law, 0.0, classes))
    if ceiling <= fpr:
        return _no_shots(
            ceiling, "no_advantage", "the ceiling allows no advantage, but the law predicts some at every S"
        )
    if slope >= 0:
        return _no_shots(ceiling, "never", f"the advantage does not fall with S: its slope is {slope:.3g}")
    target = math.log10(ceiling - fpr)
    log_shots = (target - at_one_shot) / slope
    if log_shots > MAX_EXPONENT:
        return _no_shots(ceiling, "never", "the law meets the ceiling only beyond 1e300 examples per class")
    interval, reason = _calibration_interval(law, target, classes, confidence)
    shots = 10.0**log_shots
    extrapolated = is_outside(law, shots, classes)
    low, high = (None, None) if interval is None else (10.0 ** interval[0], 10.0 ** interval[1])
    return RequiredShots(shots, low, high, ceiling, extrapolated, status="ok", reason=reason)


def _calibration_interval(
    law: PowerLaw, target: float, classes: int, confidence: float
) -> tuple[Interval | None, str | None]:
    """Return the interval of log10 S whose prediction interval contains target, or None and the reason.

    With x(L) = x(0) + L e_1 these L satisfy (beta x(L) - target)² <= t² s² + u² x(L)ᵀ V x(L), quadratic in L:
    Fieller 1954; inverse regression in Draper and Smith 1998.
    """
    noise = noise_of(law, confidence)
    if noise is None:
        return None, "the law has no standard errors, so there is no interval"
    covariance, variance = noise
    coefficients = coefficients_of(law)
    origin = regressors(law, 0.0, classes)
    slope, gap = coefficients[0], coefficients @ origin - target
    square = slope**2 - covariance[0, 0]
    if square <= 0:
        return (
            None,
            f"the slope does not differ from 0 at confidence {confidence}, so the interval is unbounded",
        )
    linear = slope * gap - covariance[0] @ origin
    constant = gap**2 - variance - origin @ covariance @ origin
    root = math.sqrt(max(linear**2 - square * constant, 0.0))  # rounding may leave -1e-20 for an exact law
    low, high = (-linear - root) / square, (-linear + root) / square
    if high > MAX_EXPONENT:
        return None, "the interval reaches beyond 1e300 examples per class"
    return (float(low), float(high)), None


def _law_at(fit: PowerLawFit | PublishedLine, fpr: float) -> PowerLaw:
    if isinstance(fit, PublishedLine):
        return PowerLawFit((fit.law,))[fpr]
    return fit[fpr]


def _no_shots(ceiling: float, status: str, reason: str) -> RequiredShots:
    return RequiredShots(None, None, None, ceiling, extrapolated=None, status=status, reason=reason)
