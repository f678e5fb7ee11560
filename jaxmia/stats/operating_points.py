"""Operating points: the TPR of an attack at a fixed FPR, with counts and intervals.

An attack calls a pair (model, example) a member where statistic >= threshold. TPR at FPR f is the largest TPR
over thresholds whose FPR is at most f: a step function, never interpolated, where ties share a threshold.
Which pairs share a threshold is the evaluation. Pooled and calibrated values answer different questions
(Jälkö, Pradhan, Räisä and Honkela 2026, arXiv 2605.25819): report neither under the other's name.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, overload

import numpy as np

from jaxmia._validate import check, check_choice, check_fpr
from jaxmia.stats.p_values import CALIBRATED, EVALUATIONS, calibrated_p_values
from jaxmia.stats.resolution import (
    UnresolvedError,
    allowed_false_positives,
    check_resolved,
    clopper_pearson,
    required_nonmembers,
)
from jaxmia.stats.result import AttackResult, checked_arrays, of_targets


@dataclasses.dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """TPR at one FPR under one evaluation: a row of results.

    Attributes:
        evaluation: "pooled", "per_target", "calibrated" or "calibrated_empirical": see tpr_at_fpr.
        fpr: requested FPR.
        fpr_realised: false_positives / num_nonmembers.
        tpr: true_positives / num_members.
        tpr_low: lower end of the 95% Clopper-Pearson interval of tpr. It takes the scores as independent,
            which those of one model are not: see jaxmia.stats.bootstrap.
        tpr_high: upper end of that interval.
        advantage: tpr - fpr, with the requested FPR.
        threshold: the smallest statistic that is called a member, +inf if none is; NaN unless pooled, since
            each target or example then has its own.
        num_members: member scores of all targets.
        num_nonmembers: non-member scores of all targets.
        true_positives: members called members.
        false_positives: non-members called members.
        status: "unresolved" if the non-member scores are too few for the FPR: what depends on calls is then
            NaN, and the counts of calls are None.
        reason: why it is unresolved, or how many examples it leaves out; empty if neither.
    """

    evaluation: str
    fpr: float
    fpr_realised: float = math.nan
    tpr: float = math.nan
    tpr_low: float = math.nan
    tpr_high: float = math.nan
    advantage: float = math.nan
    threshold: float = math.nan
    num_members: int
    num_nonmembers: int
    true_positives: int | None = None
    false_positives: int | None = None
    status: Literal["ok", "unresolved"]
    reason: str


@overload
def tpr_at_fpr(result: AttackResult, fpr: float, *, evaluation: str = ...) -> OperatingPoint: ...


@overload
def tpr_at_fpr(
    result: AttackResult, fpr: Iterable[float], *, evaluation: str = ...
) -> tuple[OperatingPoint, ...]: ...


def tpr_at_fpr(
    result: AttackResult, fpr: float | Iterable[float], *, evaluation: str = "pooled"
) -> OperatingPoint | tuple[OperatingPoint, ...]:
    """Return the TPR at an FPR, with counts and what was realised.

    Evaluations, each with its thresholds:

    - "pooled": one for all (model, example) pairs, what the papers report. The largest TPR over thresholds
      whose FPR is at most fpr; each example then has an FPR of its own.
    - "per_target": one for each target model, likewise. Targets count by their number of members.
    - "calibrated": one for each pair, p-value <= fpr under "residuals" of calibrated_p_values, from shadows
      alone. Fixes the mean FPR over examples, and that of each where their residuals have one law. For
      results that know the law of their null, as lira(calibrated=True).
    - "calibrated_empirical": the same under "empirical", whatever the null.

    The realised FPR of all models together is near the nominal one by construction under the last two, since each
    model is among the nulls of the others; that of targets apart from them, as of a head under audit, tells.

    Resolution: a ROC needs 10 / fpr non-member scores, and so does the population that a statistic is a rank in; for
    "calibrated_empirical" the null of each example needs as many, for "calibrated" the nulls of all examples together,
    and each needs 2. Examples with fewer are left out, and the reason says so.

    Args:
        result: what the attack said, [models, examples].
        fpr: a fraction, or several of them.
        evaluation: one of the four.

    Returns:
        One OperatingPoint; for several FPRs a tuple, with status "unresolved" where scores are too few.

    Raises:
        InputError: unless every fpr lies in (0, 1); for an unknown evaluation, one that does not hold for the
            statistic, or a NaN statistic; without members or non-members.
        UnresolvedError: if a single fpr, or every one of several, is unresolved; says how many scores it
            takes. An InputError.
    """
    fprs = fpr if isinstance(fpr, Iterable) else (fpr,)
    points = operating_points(result, fprs, evaluation=evaluation)
    if all(point.status == "unresolved" for point in points):
        raise UnresolvedError(" ".join(point.reason for point in points))
    return points if isinstance(fpr, Iterable) else points[0]


def operating_points(
    result: AttackResult,
    fprs: Iterable[float],
    *,
    evaluation: str = "pooled",
    targets: Sequence[int] | None = None,
) -> tuple[OperatingPoint, ...]:
    """Return the points of tpr_at_fpr, unresolved ones marked even if there is no other: rows of a table.

    Args:
        result: what the attack said, [models, examples].
        fprs: fractions.
        evaluation: as in tpr_at_fpr.
        targets: the models whose pairs are counted, all by default; nulls always come from all models.

    Raises:
        InputError: as tpr_at_fpr, but never for an unresolved FPR.
    """
    fprs = [float(fpr) for fpr in fprs]
    check(len(fprs) > 0, "number of FPRs", len(fprs), "be at least 1")
    for fpr in fprs:
        check_fpr("fpr", fpr)
    decide = decision_rule(result, evaluation, targets=targets)
    member = np.asarray(of_targets(result, targets).member)
    return tuple(_operating_point(fpr, decide, member=member, evaluation=evaluation) for fpr in fprs)


class Calls(NamedTuple):
    """The pairs that an evaluation calls members at one FPR.

    Attributes:
        called: bool[targets, examples].
        counted: bool[examples], False for examples whose null cannot resolve the FPR.
        threshold: the smallest statistic called, NaN unless all pairs share it.
    """

    called: np.ndarray
    counted: np.ndarray
    threshold: float


def decision_rule(
    result: AttackResult, evaluation: str, *, targets: Sequence[int] | None = None
) -> Callable[[float], Calls]:
    """Return the function from FPR to Calls; what does not depend on the FPR is computed once, here.

    Args:
        result: what the attack said, [models, examples].
        evaluation: as in tpr_at_fpr.
        targets: as in operating_points.

    Raises:
        InputError: for an unknown evaluation, a NaN statistic, or if members or non-members are missing. The
            function raises UnresolvedError.
    """
    check_choice("evaluation", evaluation, EVALUATIONS)
    if evaluation in CALIBRATED:
        return _p_value_rule(result, CALIBRATED[evaluation], targets=targets)
    return _threshold_rule(of_targets(result, targets), pooled=evaluation == "pooled")


def _threshold_rule(result: AttackResult, *, pooled: bool) -> Callable[[float], Calls]:
    """Call what lies above the lowest threshold that keeps the FPR: one for all pairs, or one per model."""
    statistic, member, _ = checked_arrays(result)
    scores, members = (statistic.reshape(1, -1), member.reshape(1, -1)) if pooled else (statistic, member)
    num_nonmembers = np.count_nonzero(~members, axis=-1)
    ranked = np.sort(np.where(members, -np.inf, scores), axis=-1)  # a row is a ROC, and ends with non-members
    counted = np.ones(statistic.shape[1], bool)
    what = "non-member scores" if pooled else "non-member scores of each target"

    def decide(fpr: float) -> Calls:
        check_resolved(fpr, int(num_nonmembers.min()), what)
        if result.population is not None:
            ranked_among = "scores that each target's statistics are ranks among"
            check_resolved(fpr, int(np.min(result.population)), ranked_among)
        # The thresholds with FPR <= fpr are those above the first non-member that would be one too many.
        one_too_many = scores.shape[1] - 1 - allowed_false_positives(fpr, num_nonmembers)
        called = scores > np.take_along_axis(ranked, one_too_many[:, None], axis=-1)
        threshold = float(np.min(scores, where=called, initial=np.inf)) if pooled else math.nan
        return Calls(called.reshape(statistic.shape), counted, threshold)

    return decide


def _p_value_rule(
    result: AttackResult, method: str, *, targets: Sequence[int] | None
) -> Callable[[float], Calls]:
    """Call the pairs whose p-value under their example's own null is at most the FPR."""
    _, member, defined = checked_arrays(result)
    null = ~member & defined
    null_sizes = np.count_nonzero(null, axis=0) - 1  # the target itself is left out
    of_models = np.count_nonzero(null, axis=1)
    smallest_null = int(of_models.sum() - of_models.max())
    ranked = dataclasses.replace(result, statistic=calibrated_p_values(result, method=method))
    p_values, member, _ = checked_arrays(of_targets(ranked, targets))

    def decide(fpr: float) -> Calls:
        if method == "empirical":
            check_resolved(fpr, int(null_sizes.max()), "other models without the example")
        counted = null_sizes >= (required_nonmembers(fpr) if method == "empirical" else 2)
        members = member[:, counted]
        check_resolved(fpr, int(np.count_nonzero(~members)), "non-member scores with a null")
        if method == "residuals":
            check_resolved(fpr, smallest_null, "non-member scores of other models")
        if not members.any():
            raise UnresolvedError(f"fpr={fpr} has no member score with a null that resolves it.")
        return Calls(p_values <= fpr, counted, math.nan)

    return decide


def _operating_point(
    fpr: float, decide: Callable[[float], Calls], *, member: np.ndarray, evaluation: str
) -> OperatingPoint:
    """Count the calls among members and non-members, or say why the FPR is unresolved."""
    try:
        calls = decide(fpr)
    except UnresolvedError as error:
        return OperatingPoint(
            evaluation=evaluation,
            fpr=fpr,
            num_members=int(np.count_nonzero(member)),
            num_nonmembers=int(np.count_nonzero(~member)),
            status="unresolved",
            reason=str(error),
        )
    called, counted = calls.called[:, calls.counted], member[:, calls.counted]
    num_members, num_nonmembers = int(np.count_nonzero(counted)), int(np.count_nonzero(~counted))
    true_positives, false_positives = int(np.sum(called & counted)), int(np.sum(called & ~counted))
    low, high = clopper_pearson(true_positives, num_members)
    num_left_out = int(np.count_nonzero(~calls.counted))
    return OperatingPoint(
        evaluation=evaluation,
        fpr=fpr,
        fpr_realised=false_positives / num_nonmembers,
        tpr=true_positives / num_members,
        tpr_low=float(low),
        tpr_high=float(high),
        advantage=true_positives / num_members - fpr,
        threshold=calls.threshold,
        num_members=num_members,
        num_nonmembers=num_nonmembers,
        true_positives=true_positives,
        false_positives=false_positives,
        status="ok",
        reason=f"{num_left_out} of {len(calls.counted)} examples left out: null too small."
        if num_left_out
        else "",
    )
