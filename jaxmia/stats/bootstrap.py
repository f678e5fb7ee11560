"""Bootstrap intervals of TPR at a fixed FPR. Whole models are resampled: scores of one model are not independent."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from jaxmia._validate import check, check_at_least
from jaxmia.stats.operating_points import Calls, decision_rule
from jaxmia.stats.resolution import UnresolvedError, allowed_false_positives
from jaxmia.stats.result import AttackResult, checked_arrays, of_targets

BLOCK_SIZE = 1024  # ranked scores from one stored partial sum to the next
ROW_RESAMPLES = 400  # for intervals in tables: ten resamples lie below the lower end


def bootstrap_interval(
    result: AttackResult,
    fpr: float,
    *,
    evaluation: str,
    seed: int,
    num_resamples: int = 1000,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Return the ends (low, high) of the percentile interval of tpr_at_fpr over resampled target models.

    Each resample draws as many models as there are, with replacement. "pooled" recomputes its threshold in each
    resample. The calibrated evaluations keep the nulls of all models, because a resample would put copies of the target
    among its own shadows: their interval covers the choice of targets, not of shadows.

    Args:
        result: an attack's statistics, [models, examples].
        fpr: requested FPR.
        evaluation: as in tpr_at_fpr.
        seed: seed of the resampling, a non-negative integer.
        num_resamples: number of resamples.
        confidence: nominal coverage.

    Raises:
        InputError: as tpr_at_fpr; or if a model has no members or no non-members, since a resample might then have
            none.
    """
    check_at_least("seed", seed, 0)
    check_at_least("num_resamples", num_resamples, 1)
    check(0 < confidence < 1, "confidence", confidence, "lie strictly between 0 and 1")
    member = np.asarray(result.member)
    calls = decision_rule(result, evaluation)(fpr)
    has_both = _has_both(member[:, calls.counted])
    check(
        bool(has_both.all()), "models without members or without non-members", int((~has_both).sum()), "be 0"
    )
    hits = _hits(result, evaluation)
    return _percentiles(hits, calls, member, fpr, _weights(len(member), seed, num_resamples), confidence)


def row_intervals(
    result: AttackResult, fprs: Sequence[float], *, evaluation: str, targets: Sequence[int] | None = None
) -> list[tuple[float, float]]:
    """Return the 95% bootstrap_interval at each FPR, for rows of a table; the seed follows from the membership.

    Args:
        result: an attack's statistics, [models, examples].
        fprs: fractions.
        evaluation: as in tpr_at_fpr.
        targets: rows of the models that are resampled; all by default.

    Returns:
        Ends (low, high) for each FPR; NaN where the FPR is unresolved, where there is only one target, or where a
        target has no members or no non-members.
    """
    decide = decision_rule(result, evaluation, targets=targets)
    chosen = of_targets(result, targets)
    member = np.asarray(chosen.member)
    weights = _weights(len(member), zlib.crc32(np.packbits(member).tobytes()), ROW_RESAMPLES)
    hits = _hits(chosen, evaluation)
    intervals = []
    for fpr in fprs:
        interval = (math.nan, math.nan)
        try:
            calls = decide(fpr)
        except UnresolvedError:
            calls = None
        if calls is not None and len(member) > 1 and _has_both(member[:, calls.counted]).all():
            interval = _percentiles(hits, calls, member, fpr, weights, 0.95)
        intervals.append(interval)
    return intervals


_Hits = Callable[[Calls, float, np.ndarray], np.ndarray]  # calls, FPR, weights: members called [resamples]


def _hits(result: AttackResult, evaluation: str) -> _Hits:
    """Return a function that counts members called, by weight; what does not depend on the FPR is computed once."""
    statistic, member, _ = checked_arrays(result)
    if evaluation == "pooled":
        ranked = (_rank(statistic, member), _rank(statistic, ~member))
        num_nonmembers = np.count_nonzero(~member, axis=1)
        return lambda calls, fpr, weights: _pooled_true_positives(
            *ranked, fpr=fpr, num_nonmembers=num_nonmembers, weights=weights
        )

    def hits(calls: Calls, fpr: float, weights: np.ndarray) -> np.ndarray:
        called = calls.called[:, calls.counted] & member[:, calls.counted]
        return np.asarray(weights @ np.count_nonzero(called, axis=1))

    return hits


def _percentiles(
    hits: _Hits, calls: Calls, member: np.ndarray, fpr: float, weights: np.ndarray, confidence: float
) -> tuple[float, float]:
    """Return the ends of the interval of the TPR over the resamples."""
    num_members = weights @ np.count_nonzero(member[:, calls.counted], axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(hits(calls, fpr, weights) / num_members, [tail, 1 - tail])
    return float(low), float(high)


def _has_both(member: np.ndarray) -> np.ndarray:
    """Return whether each model [models] has members and non-members."""
    return np.asarray(member.any(axis=1) & ~member.all(axis=1))


def _weights(num_models: int, seed: int, num_resamples: int) -> np.ndarray:
    """Return how often each resample contains each model, float64[resamples, models]."""
    draws = np.random.default_rng(seed).multinomial(
        num_models, np.full(num_models, 1 / num_models), num_resamples
    )
    return draws.astype(np.float64)  # counts stay exact, and matrix products are fast in floating point


def _pooled_true_positives(
    members: _Ranked, nonmembers: _Ranked, *, fpr: float, num_nonmembers: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return the weighted number of members called, [resamples], each at its resample's own pooled threshold."""
    allowed = allowed_false_positives(fpr, weights @ num_nonmembers)
    one_too_many = nonmembers.scores[nonmembers.first_beyond(weights, allowed)]
    num_above = len(members.scores) - np.searchsorted(members.scores[::-1], one_too_many, side="right")
    return members.weight_of_first(weights, num_above)


@dataclasses.dataclass(frozen=True, eq=False)
class _Ranked:
    """Scores in descending order with their models, and cumulative counts of each model's scores by block.

    A weighted count then needs one small matrix product and one block per resample, not a pass over all scores.

    Attributes:
        scores: float64[scores], nonincreasing.
        model: int[scores, padded to whole blocks]; padding is the index one past the last model.
        before: float64[blocks, models], number of scores of each model before each block.
    """

    scores: np.ndarray
    model: np.ndarray
    before: np.ndarray

    def first_beyond(self, weights: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        """Return the index [resamples] of the first score at which the running sum of weights exceeds allowed."""
        before = weights @ self.before.T
        block = np.count_nonzero(before <= allowed[:, None], axis=1) - 1
        sums = self._sums_within(weights, block) + np.take_along_axis(before, block[:, None], axis=1)
        return block * BLOCK_SIZE + np.argmax(sums > allowed[:, None], axis=1)

    def weight_of_first(self, weights: np.ndarray, number: np.ndarray) -> np.ndarray:
        """Return the sum of weights [resamples] of the first `number` [resamples] scores."""
        block, rest = np.divmod(number, BLOCK_SIZE)
        sums = np.pad(self._sums_within(weights, block), ((0, 0), (1, 0)))
        before = np.einsum("rm,rm->r", weights, self.before[block])
        return before + np.take_along_axis(sums, rest[:, None], axis=1)[:, 0]

    def _sums_within(self, weights: np.ndarray, block: np.ndarray) -> np.ndarray:
        """Return the running sums of weights inside one block per resample, [resamples, BLOCK_SIZE]."""
        padded = np.pad(weights, ((0, 0), (0, 1)))
        models = self.model.reshape(-1, BLOCK_SIZE)[block]
        return np.cumsum(np.take_along_axis(padded, models, axis=1), axis=1)


def _rank(statistic: np.ndarray, mask: np.ndarray) -> _Ranked:
    """Sort the masked scores and count them by block."""
    model, _ = np.nonzero(mask)
    scores = statistic[mask]
    order = np.argsort(scores)[::-1]
    num_models, num_blocks = len(mask), len(scores) // BLOCK_SIZE + 1  # the last block may be padding only
    padded = np.full(num_blocks * BLOCK_SIZE, num_models)
    padded[: len(scores)] = model[order]
    block = np.arange(len(scores)) // BLOCK_SIZE
    counts = np.bincount(block * num_models + model[order], minlength=num_blocks * num_models)
    inside = counts.reshape(num_blocks, num_models).astype(np.float64)
    return _Ranked(scores[order], padded, np.cumsum(inside, axis=0) - inside)
