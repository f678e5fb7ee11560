"""Operating points: the TPR of an attack at a fixed FPR, with counts and intervals.

An attack calls a pair (model, example) a member where statistic >= threshold. TPR at FPR f is the largest TPR
over thresholds whose FPR is at most f: a step function, never interpolated, where ties share a threshold.
The evaluation says which pairs share a threshold. Pooled and calibrated values answer different questions (Jälkö,
Pradhan, Räisä and Honkela 2026, arXiv 2605.25819): name the evaluation wherever you report one.
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
        tpr_low: lower end of the 95% Clopper-Pearson interval of tpr. The interval treats scores as independent, but
            scores of one model are dependent: see jaxmia.stats.bootstrap.
        tpr_high: upper end of that interval.
        advantage: tpr - fpr, with the requested FPR.
        threshold: the smallest statistic that is called a member, +inf if none is; NaN under the other evaluations,
            where each target or example has its own threshold.
        num_members: number of member scores over all targets.
        num_nonmembers: number of non-member scores over all targets.
        true_positives: number of members called members.
        false_positives: number of non-members called members.
        status: "unresolved" if there are too few non-member scores for the FPR. Rates and threshold are then NaN, and
            true_positives and false_positives None.
        reason: why the point is unresolved, or how many examples were left out; otherwise empty.
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
    """Return the TPR at an FPR, with counts and the realised FPR.

    The evaluations differ in which pairs share a threshold:

    - "pooled": one threshold for all (model, example) pairs, as papers report. Returns the largest TPR over thresholds
      whose FPR is at most fpr. The FPR then differs between examples.
    - "per_target": one threshold for each target model. Targets are weighted by their number of members.
    - "calibrated": one threshold for each pair, set from shadows alone: p-value <= fpr by method "residuals" of
      calibrated_p_values. Fixes the mean FPR over examples, and the FPR of each example where all residuals have the
      same law. Needs a result with a known null law, such as lira(calibrated=True).
    - "calibrated_empirical": the same by method "empirical", for any null law.

    Under the last two, the realised FPR over all models is near the nominal one by construction, because each model is
    among the nulls of the others. Only targets that are not among the shadows, such as a head under audit, test it.

    Resolution: a ROC needs 10 / fpr non-member scores. A statistic that is a rank within a population needs a
    population of 10 / fpr. "calibrated_empirical" needs 10 / fpr null scores for each example; "calibrated" needs 10 /
    fpr over all examples together and 2 for each example. Examples with fewer are left out, and the reason says so.

    Args:
        result: an attack's statistics, [models, examples].
        fpr: one FPR or several, as fractions in (0, 1).
        evaluation: one of the four above.

    Returns:
        One OperatingPoint, or a tuple of them for several FPRs, with status "unresolved" where there are too few
        scores.

    Raises:
        InputError: if an fpr is outside (0, 1); for an unknown evaluation, or one that the statistic does not support;
            for a NaN statistic; without members or without non-members.
        UnresolvedError: if every fpr asked for is unresolved; the message says how many scores are needed. An
            InputError.
    """
    fprs = fpr if isinstance(fpr, Iterable) else (fpr,)
    points = operating_points(result, fprs, evaluation=evaluation)
    if all(point.status == "unresolved" for point in points):
        raise UnresolvedError(" ".join(point.reason for point in points))
    return points if isinstance(fpr, Iterable) else points[0]


def operating_points(
    result: AttackResult,
    fprs: float | Iterable[float],
    *,
    evaluation: str = "pooled",
    targets: Sequence[int] | None = None,
) -> tuple[OperatingPoint, ...]:
    """Return the points of tpr_at_fpr as rows of a table; points that are not resolved are marked, never raised.

    Args:
        result: an attack's statistics, [models, examples].
        fprs: one fraction, or several of them.
        evaluation: as in tpr_at_fpr.
        targets: rows of the models whose pairs are counted, all by default; nulls always come from all models.

    Raises:
        InputError: as tpr_at_fpr, but never for an unresolved FPR.
    """
    fprs = [float(fpr) for fpr in (fprs if isinstance(fprs, Iterable) else (fprs,))]
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
    """Return the function from FPR to Calls; everything that does not depend on the FPR is computed once, here.

    Args:
        result: an attack's statistics, [models, examples].
        evaluation: as in tpr_at_fpr.
        targets: as in operating_points.

    Raises:
        InputError: for an unknown evaluation, a NaN statistic, or if members or non-members are missing. The returned
            function raises UnresolvedError.
    """
    check_choice("evaluation", evaluation, EVALUATIONS)
    if evaluation in CALIBRATED:
        return _p_value_rule(result, CALIBRATED[evaluation], targets=targets)
    return _threshold_rule(of_targets(result, targets), pooled=evaluation == "pooled")


def _threshold_rule(result: AttackResult, *, pooled: bool) -> Callable[[float], Calls]:
    """Call the pairs above the lowest threshold that keeps the FPR: one threshold for all pairs, or one per model."""
    statistic, member, _ = checked_arrays(result)
    scores, members = (statistic.reshape(1, -1), member.reshape(1, -1)) if pooled else (statistic, member)
    num_nonmembers = np.count_nonzero(~members, axis=-1)
    ranked = np.sort(
        np.where(members, -np.inf, scores), axis=-1
    )  # each row is one ROC; its non-members come last
    counted = np.ones(statistic.shape[1], bool)
    what = "non-member scores" if pooled else "non-member scores of each target"

    def decide(fpr: float) -> Calls:
        check_resolved(fpr, int(num_nonmembers.min()), what)
        if result.population is not None:
            ranked_among = "scores that each target's statistics are ranks among"
            check_resolved(fpr, int(np.min(result.population)), ranked_among)
        # FPR <= fpr holds for thresholds above the first non-member in excess of the allowed number.
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
            raise UnresolvedError(
                f"fpr={fpr} is resolved for no member score: the null of every example is too small."
            )
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
