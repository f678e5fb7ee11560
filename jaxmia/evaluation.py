"""ROC curves and operating points of membership inference attacks. NumPy and SciPy only: for anyone's scores.

An attack calls a pair (model, example) a member where statistic >= threshold. TPR at FPR f is the largest TPR
over thresholds whose FPR is at most f: a step function, never interpolated, where ties share a threshold.
"""

from __future__ import annotations

import dataclasses
import fractions
import math
from collections.abc import Iterable
from typing import Literal, overload

import numpy as np
import scipy.stats

from jaxmia._validate import InputError, check, check_choice, check_fpr

MIN_FALSE_POSITIVES = (
    10  # a TPR at FPR f is resolved by 10 / f non-member scores: about ten of them lie above
)
EVALUATIONS = ("pooled",)


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """What an attack says of every candidate under every target model.

    Attributes:
        statistic: float64[models, examples], higher means more likely a member; never NaN.
        member: bool[models, examples], True where the example was in the model's training set.
        defined: bool[models, examples], False where the shadows could not support a statistic (say no IN
            shadow is left); the statistic then holds the attack's "no evidence" value and counts as such.
    """

    statistic: np.ndarray
    member: np.ndarray
    defined: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Roc:
    """Step ROC: one point per distinct statistic, from (0, 0), which calls nothing, to (1, 1).

    Attributes:
        fpr: float64[points], nondecreasing, share of non-members with statistic >= threshold.
        tpr: float64[points], nondecreasing, share of members with statistic >= threshold.
        threshold: float64[points], nonincreasing. The first is +inf and stands for calling nothing, even if
            some statistics are +inf: those are the second point.
        num_members: member scores behind the curve.
        num_nonmembers: non-member scores behind the curve.
    """

    fpr: np.ndarray
    tpr: np.ndarray
    threshold: np.ndarray
    num_members: int
    num_nonmembers: int

    @property
    def auc(self) -> float:
        """Area under the curve: P(member's statistic > non-member's) + P(equal) / 2 (Mann-Whitney)."""
        return float(np.trapezoid(self.tpr, self.fpr))

    @property
    def balanced_accuracy(self) -> float:
        """Largest (TPR + 1 - FPR) / 2; its threshold is chosen on the audited labels, so it is optimistic."""
        return float(np.max(self.tpr + 1 - self.fpr) / 2)


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """TPR at one FPR under one evaluation: a row of results.

    Attributes:
        evaluation: "pooled" (one ROC over all pairs).
        fpr: requested FPR.
        fpr_realised: false_positives / num_nonmembers.
        tpr: true_positives / num_members.
        tpr_low: lower end of the 95% Clopper-Pearson interval of tpr. It takes the scores as independent,
            which those of one model are not.
        tpr_high: upper end of that interval.
        advantage: tpr - fpr, with the requested FPR.
        threshold: the smallest statistic that is called a member; +inf if none is.
        num_members: member scores.
        num_nonmembers: non-member scores.
        true_positives: members called members; None if unresolved.
        false_positives: non-members called members; None if unresolved.
        status: "ok", or "unresolved" if the non-member scores are too few for the FPR: then fpr_realised,
            tpr, tpr_low, tpr_high, advantage and threshold are NaN.
        reason: why it is unresolved; otherwise empty.
    """

    evaluation: str
    fpr: float
    fpr_realised: float
    tpr: float
    tpr_low: float
    tpr_high: float
    advantage: float
    threshold: float
    num_members: int
    num_nonmembers: int
    true_positives: int | None
    false_positives: int | None
    status: Literal["ok", "unresolved"]
    reason: str


def checked_arrays(result: AttackResult) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (statistic float64, member bool, defined bool), all [models, examples].

    Raises:
        InputError: unless shapes agree, the statistic has no NaN, and there are both members and non-members.
    """
    statistic = np.asarray(result.statistic, np.float64)
    member, defined = np.asarray(result.member), np.asarray(result.defined)
    check(statistic.ndim == 2, "statistic.shape", statistic.shape, "be (models, examples)")
    for name, mask in (("member", member), ("defined", defined)):
        check(
            mask.shape == statistic.shape, f"{name}.shape", mask.shape, f"equal statistic's {statistic.shape}"
        )
        check(mask.dtype == bool, f"{name}.dtype", str(mask.dtype), "be bool")
    num_nan = int(np.count_nonzero(np.isnan(statistic)))
    check(num_nan == 0, "number of NaN in statistic", num_nan, "be 0")
    num_members = int(np.count_nonzero(member))
    check(num_members > 0, "number of members", num_members, "be at least 1")
    check(num_members < member.size, "number of non-members", member.size - num_members, "be at least 1")
    return statistic, member, defined


def roc(result: AttackResult) -> Roc:
    """Return the ROC pooled over all (model, example) pairs, as the papers report. One sort.

    One threshold for all examples gives each example its own FPR: it is not calibrated per example.

    Raises:
        InputError: for a NaN statistic, or if members or non-members are missing.
    """
    statistic, member, _ = checked_arrays(result)
    order = np.argsort(statistic, axis=None)[::-1]
    ranked = statistic.ravel()[order]
    last_of_tie = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), ranked.size - 1)
    true_positives = np.cumsum(member.ravel()[order])[last_of_tie]
    false_positives = last_of_tie + 1 - true_positives
    num_members, num_nonmembers = int(true_positives[-1]), int(false_positives[-1])
    return Roc(
        fpr=np.append(0.0, false_positives / num_nonmembers),
        tpr=np.append(0.0, true_positives / num_members),
        threshold=np.append(np.inf, ranked[last_of_tie]),
        num_members=num_members,
        num_nonmembers=num_nonmembers,
    )


def required_nonmembers(fpr: float) -> int:
    """Return how many non-member scores in one ROC resolve fpr: the least n with 10 / n <= fpr.

    Raises:
        InputError: unless 0 < fpr < 1.
    """
    check_fpr("fpr", fpr)
    # Exact division first: 10 / fpr in floating point may land beside the integer that fpr was written for.
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
    # A beta law needs positive parameters: the ends at 0 and n successes are set, not computed.
    low = np.where(k == 0, 0.0, scipy.stats.beta.ppf(tail, np.maximum(k, 1), n - k + 1))
    high = np.where(k == n, 1.0, scipy.stats.beta.isf(tail, k + 1, np.maximum(n - k, 1)))
    return low, high


@overload
def tpr_at_fpr(result: AttackResult, fpr: float, *, evaluation: str = ...) -> OperatingPoint: ...
@overload
def tpr_at_fpr(
    result: AttackResult, fpr: Iterable[float], *, evaluation: str = ...
) -> tuple[OperatingPoint, ...]: ...
def tpr_at_fpr(
    result: AttackResult, fpr: float | Iterable[float], *, evaluation: str = "pooled"
) -> OperatingPoint | tuple[OperatingPoint, ...]:
    """Return the largest TPR over thresholds whose FPR is at most fpr.

    Args:
        result: what the attack said, [models, examples].
        fpr: a fraction, or several of them.
        evaluation: "pooled": one ROC over all (model, example) pairs.

    Returns:
        One OperatingPoint; for several FPRs a tuple in which those with fewer than 10 / fpr non-member scores
        per ROC are marked unresolved.

    Raises:
        InputError: unless every fpr lies in (0, 1); for a NaN statistic; without members or non-members; if a
            single fpr, or every one of several, is unresolved: the message says how many scores it takes.
    """
    if isinstance(fpr, Iterable):
        points = operating_points(result, fpr, evaluation=evaluation)
    else:
        points = operating_points(result, (fpr,), evaluation=evaluation)
    if all(point.status == "unresolved" for point in points):
        raise InputError(" ".join(point.reason for point in points))
    return points if isinstance(fpr, Iterable) else points[0]


def operating_points(
    result: AttackResult, fprs: Iterable[float], *, evaluation: str = "pooled"
) -> tuple[OperatingPoint, ...]:
    """Return the points of tpr_at_fpr, unresolved ones marked even if there is no other: rows of a table.

    Raises:
        InputError: as tpr_at_fpr, but never for an unresolved FPR.
    """
    check_choice("evaluation", evaluation, EVALUATIONS)
    fprs = [float(value) for value in fprs]
    check(len(fprs) > 0, "number of FPRs", len(fprs), "be at least 1")
    for value in fprs:
        check_fpr("fpr", value)
    statistic, member, _ = checked_arrays(result)
    return _ranked_points(statistic.reshape(1, -1), member.reshape(1, -1), fprs=fprs, evaluation=evaluation)


def _ranked_points(
    statistic: np.ndarray, member: np.ndarray, *, fprs: list[float], evaluation: str
) -> tuple[OperatingPoint, ...]:
    """Return operating points where each row of [rocs, scores] is a ROC of its own with its own threshold."""
    ranked = np.sort(np.where(member, -np.inf, statistic), axis=-1)  # the non-members of a row end it
    num_nonmembers = np.count_nonzero(~member, axis=-1)
    points = []
    for fpr in fprs:
        fewest = int(num_nonmembers.min())
        if not resolvable(fpr, fewest):
            points.append(_unresolved(fpr, member=member, evaluation=evaluation, num_scores=fewest))
            continue
        # FPR <= fpr holds for the thresholds above the first non-member that is one too many, for no others.
        first_too_many = member.shape[-1] - 1 - _allowed_false_positives(fpr, num_nonmembers)
        called = statistic > np.take_along_axis(ranked, first_too_many[:, None], axis=-1)
        threshold = float(np.min(statistic, where=called, initial=np.inf))
        points.append(
            _resolved(fpr, called=called, member=member, evaluation=evaluation, threshold=threshold)
        )
    return tuple(points)


def _allowed_false_positives(fpr: float, num_nonmembers: np.ndarray) -> np.ndarray:
    """Return the largest integers k with k / num_nonmembers <= fpr, rounded as the FPR of a Roc is."""
    k = np.floor(fpr * num_nonmembers).astype(np.int64)  # may be one off by rounding
    k += (k + 1) / num_nonmembers <= fpr
    k -= k / num_nonmembers > fpr
    return k


def _resolved(
    fpr: float, *, called: np.ndarray, member: np.ndarray, evaluation: str, threshold: float
) -> OperatingPoint:
    """Count the calls among members and non-members."""
    true_positives = int(np.count_nonzero(called & member))
    false_positives = int(np.count_nonzero(called)) - true_positives
    num_members = int(np.count_nonzero(member))
    low, high = clopper_pearson(true_positives, num_members)
    return OperatingPoint(
        evaluation=evaluation,
        fpr=fpr,
        fpr_realised=false_positives / (member.size - num_members),
        tpr=true_positives / num_members,
        tpr_low=float(low),
        tpr_high=float(high),
        advantage=true_positives / num_members - fpr,
        threshold=threshold,
        num_members=num_members,
        num_nonmembers=member.size - num_members,
        true_positives=true_positives,
        false_positives=false_positives,
        status="ok",
        reason="",
    )


def _unresolved(fpr: float, *, member: np.ndarray, evaluation: str, num_scores: int) -> OperatingPoint:
    """Return an operating point without numbers, and why."""
    num_members = int(np.count_nonzero(member))
    return OperatingPoint(
        evaluation=evaluation,
        fpr=fpr,
        fpr_realised=math.nan,
        tpr=math.nan,
        tpr_low=math.nan,
        tpr_high=math.nan,
        advantage=math.nan,
        threshold=math.nan,
        num_members=num_members,
        num_nonmembers=member.size - num_members,
        true_positives=None,
        false_positives=None,
        status="unresolved",
        reason=f"fpr={fpr} needs at least {required_nonmembers(fpr)} non-member scores, got {num_scores}.",
    )
