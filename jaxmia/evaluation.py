"""ROC curves and operating points of membership inference attacks. NumPy and SciPy only: for anyone's scores.

An attack calls a pair (model, example) a member where statistic >= threshold. TPR at FPR f is the largest TPR
over thresholds whose FPR is at most f: a step function, never interpolated, where ties share a threshold.
Which pairs share a threshold is the evaluation. Pooled and calibrated values answer different questions
(Jälkö, Pradhan, Räisä and Honkela 2026, arXiv 2605.25819): report neither under the other's name.
"""

from __future__ import annotations

import dataclasses
import fractions
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, overload

import numpy as np
import scipy.stats

from jaxmia._validate import InputError, check, check_choice, check_fpr
from jaxmia.calibration import NULLS, pooled_p_values, rank_p_values, residual_p_values

MIN_FALSE_POSITIVES = (
    10  # a TPR at FPR f is resolved by 10 / f non-member scores: about ten of them lie above
)
METHODS = ("residuals", "empirical")
CALIBRATED = {"calibrated": "residuals", "calibrated_empirical": "empirical"}  # evaluation: method
EVALUATIONS = ("pooled", "per_target", *CALIBRATED)
BLOCK_SIZE = 2**20  # pairs whose p-values are computed at a time: bounds the scratch memory


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """What an attack says of every candidate under every target model.

    Attributes:
        statistic: float64[models, examples], higher means more likely a member; never NaN.
        member: bool[models, examples], True where the example was in the model's training set.
        defined: bool[models, examples], False where the shadows could not support a statistic (say no IN
            shadow is left); the statistic then holds the attack's "no evidence" value and counts as such.
        null: law of a non-member's statistic under the models, as far as its attack knows: "z", "gaussian",
            "location_scale" (jaxmia.calibration.residual_p_values) or "unknown", of which only ranks can be calibrated.
        population: int64[models], how many scores each target's statistics are ranks among; None if they are no ranks.
    """

    statistic: np.ndarray
    member: np.ndarray
    defined: np.ndarray
    null: str = "unknown"
    population: np.ndarray | None = None


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """TPR at one FPR under one evaluation: a row of results.

    Attributes:
        evaluation: "pooled", "per_target", "calibrated" or "calibrated_empirical": see tpr_at_fpr.
        fpr: requested FPR.
        fpr_realised: false_positives / num_nonmembers.
        tpr: true_positives / num_members.
        tpr_low: lower end of the 95% Clopper-Pearson interval of tpr. It takes the scores as independent,
            which those of one model are not: see jaxmia.bootstrap.
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


def roc(result: AttackResult, *, evaluation: str = "pooled", targets: Sequence[int] | None = None) -> Roc:
    """Return the ROC over all (model, example) pairs under an evaluation of tpr_at_fpr. One sort.

    Pooled, as the papers report, one threshold for all examples gives each example its own FPR. Under the
    other evaluations pairs are ranked by the FPR from which on they are called, and thresholds are minus it;
    the curve's own FPR is the realised one. No pair is left out, however small its null.

    Args:
        result: what the attack said, [models, examples].
        evaluation: one of the four.
        targets: the models whose pairs are counted; all by default.

    Raises:
        InputError: for an unknown evaluation, a NaN statistic, or if members or non-members are missing.
    """
    check_choice("evaluation", evaluation, EVALUATIONS)
    if evaluation in CALIBRATED:
        p_values = calibrated_p_values(result, method=CALIBRATED[evaluation])
        result = dataclasses.replace(result, statistic=-p_values)
    statistic, member, _ = checked_arrays(of_targets(result, targets))
    if evaluation == "per_target":
        statistic = -_fpr_within_targets(statistic, member)
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


def of_targets(result: AttackResult, targets: Sequence[int] | None) -> AttackResult:
    """Return the rows of some models, all for None.

    Raises:
        InputError: for no row, or one that is not there.
    """
    if targets is None:
        return result
    num_models = len(result.statistic)
    check(len(targets) > 0, "targets", targets, "name at least 1 model")
    for row in targets:
        check(0 <= row < num_models, "target", row, f"be the row of a model, 0 to {num_models - 1}")
    rows = list(targets)
    return dataclasses.replace(
        result,
        statistic=np.asarray(result.statistic)[rows],
        member=np.asarray(result.member)[rows],
        defined=np.asarray(result.defined)[rows],
        population=None if result.population is None else np.asarray(result.population)[rows],
    )


def _fpr_within_targets(statistic: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Return the share of its target's non-members whose statistic is at least that of each pair."""
    share = np.empty(statistic.shape)
    for row, (values, members) in enumerate(zip(statistic, member, strict=True)):
        others = np.sort(values[~members])
        share[row] = 1 - np.searchsorted(others, values, side="left") / max(len(others), 1)
    return share


class UnresolvedError(InputError):
    """An FPR was asked for that the non-member scores are too few to resolve."""


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


def calibrated_p_values(result: AttackResult, *, method: str = "residuals") -> np.ndarray:
    """Return the p-value of each pair under its example's own null: the other models that never saw it.

    The target's own label enters nothing. Undefined statistics join no null and have p-value 1.

    Args:
        result: what the attack said, [models, examples].
        method: "residuals", standardised by the example's own null and joined over all examples, or
            "empirical", the rank, valid for any null but never below 1 / (1 + its size): see jaxmia.calibration.

    Returns:
        float64[models, examples] in [0, 1].

    Raises:
        InputError: for an unknown method, "residuals" of a statistic whose null is unknown, a NaN statistic, or
            if members or non-members are missing.
    """
    check_choice("method", method, METHODS)
    check_choice("null", result.null, NULLS)
    statistic, member, defined = checked_arrays(result)
    null = ~member & defined
    p_values = np.empty_like(statistic)
    width = max(1, BLOCK_SIZE // len(statistic))
    for start in range(0, statistic.shape[1], width):
        block = np.s_[:, start : start + width]
        some = statistic[block], null[block]
        p_values[block] = (
            rank_p_values(*some) if method == "empirical" else residual_p_values(*some, result.null)
        )
    if method == "residuals":
        p_values = pooled_p_values(p_values, null)
    return np.where(defined, p_values, 1.0)


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
        "pooled": one for all (model, example) pairs, what the papers report. The largest TPR over thresholds
            whose FPR is at most fpr; each example then has an FPR of its own.
        "per_target": one for each target model, likewise. Targets count by their number of members.
        "calibrated": one for each pair, p-value <= fpr under "residuals" of calibrated_p_values, from shadows
            alone. Fixes the mean FPR over examples, and that of each where their residuals have one law. For
            results that know the law of their null, as lira(calibrated=True).
        "calibrated_empirical": the same under "empirical", whatever the null.
        The realised FPR of all models together is near the nominal one by construction under both, since each
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
        _check_resolved(fpr, int(num_nonmembers.min()), what)
        if result.population is not None:
            ranked_among = "scores that each target's statistics are ranks among"
            _check_resolved(fpr, int(np.min(result.population)), ranked_among)
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
            _check_resolved(fpr, int(null_sizes.max()), "other models without the example")
        counted = null_sizes >= (required_nonmembers(fpr) if method == "empirical" else 2)
        members = member[:, counted]
        _check_resolved(fpr, int(np.count_nonzero(~members)), "non-member scores with a null")
        if method == "residuals":
            _check_resolved(fpr, smallest_null, "non-member scores of other models")
        if not members.any():
            raise UnresolvedError(f"fpr={fpr} has no member score with a null that resolves it.")
        return Calls(p_values <= fpr, counted, math.nan)

    return decide


def _check_resolved(fpr: float, number: int, what: str) -> None:
    """Raise UnresolvedError unless the number of scores resolves fpr."""
    if not resolvable(fpr, number):
        raise UnresolvedError(f"fpr={fpr} needs at least {required_nonmembers(fpr)} {what}, got {number}.")


def allowed_false_positives(fpr: np.ndarray | float, num_nonmembers: np.ndarray) -> np.ndarray:
    """Return the largest integers k with k / num_nonmembers <= fpr, rounded as the FPR of a Roc is."""
    k = np.floor(fpr * num_nonmembers).astype(np.int64)  # may be one off by rounding
    k += (k + 1) / num_nonmembers <= fpr
    k -= k / num_nonmembers > fpr
    return k


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
