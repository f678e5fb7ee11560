"""Leave-one-out statistics of the shadows: every model is the target once, and the others are its shadows.

They are computed in closed form from sums (or the order) over all models, in float64, for one block of examples at a
time. A *side* is the set of models that trained on an example (IN) or did not (OUT). The target is never among its own
shadows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import ml_dtypes
import numpy as np
import scipy.special

from jaxmia._validate import InputError, check
from jaxmia.scores import Scores

BLOCK_SIZE = 1 << 15  # values per temporary array: 256 kB in float64, so that a few fit into a core's cache
RESOLUTION = 1e-9  # nats of log-odds; smaller deviations are rounding error
LARGEST = 1e60  # nats of log-odds; fourth powers of larger values overflow


class Side(NamedTuple):
    """Scores of the models of one side: with (IN) or without (OUT) each example.

    Attributes:
        log_odds: [models, examples]; arbitrary where on_side is False.
        on_side: bool[models, examples].
    """

    log_odds: np.ndarray
    on_side: np.ndarray

    def block(self, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return log_odds and on_side of a block of examples, in float64."""
        return self.log_odds[:, columns].astype(np.float64), self.on_side[:, columns]


class Sides(NamedTuple):
    """The scores of the shadows with (IN) and without (OUT) each example."""

    inside: Side
    outside: Side


class SideMoments(NamedTuple):
    """Moments of one side's shadows for every target; where number is 0, mean and variance are finite placeholders.

    Attributes:
        number: float64[models, block], number of shadows on this side without the target.
        mean: float64[models, block], in nats.
        variance: float64[models, block], about the mean with ddof 0, in square nats.
    """

    number: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


class SideLogMeans(NamedTuple):
    """Log of the mean probability over the models of one side; log_mean is 0 where number is 0.

    Attributes:
        number: int64[gaps, block], number of models in the mean.
        log_mean: float64[gaps, block], in nats.
    """

    number: np.ndarray
    log_mean: np.ndarray


def score_arrays(scores: Scores, *, min_models: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return (log_odds, member) as NumPy arrays [models, examples], checked.

    Args:
        scores: Scores with arrays of any framework.
        min_models: 3 for an attack with shadows: a target and one shadow on each side.

    Raises:
        InputError: for wrong shapes or dtypes, too few models, no example, or scores that are not finite.
    """
    log_odds, member = np.asarray(scores.log_odds), np.asarray(scores.member)
    shape = log_odds.shape
    check(log_odds.ndim == 2, "log_odds.shape", shape, "be [models, examples]")
    check(shape[0] >= min_models, "log_odds.shape", shape, f"hold at least {min_models} models")
    check(shape[1] >= 1, "log_odds.shape", shape, "hold at least 1 example")
    check_log_odds("log_odds", log_odds)
    check(member.shape == shape, "member.shape", member.shape, f"equal that of log_odds, {shape}")
    check(member.dtype == bool, "member.dtype", str(member.dtype), "be bool")
    return log_odds, member


def sides(scores: Scores, *, paired: bool = False) -> Sides:
    """Return the shadow scores that attacks compare a target with.

    Args:
        scores: checked by score_arrays.
        paired: put every model on both sides; the side it is not on takes its flipped_log_odds.

    Raises:
        InputError: for paired without flipped_log_odds, or with bad ones.
    """
    log_odds, member = np.asarray(scores.log_odds), np.asarray(scores.member)
    if not paired:
        return Sides(Side(log_odds, member), Side(log_odds, ~member))
    if scores.flipped_log_odds is None:
        raise InputError("flipped_log_odds=None must be given for paired=True: see jaxmia.paired_scores.")
    flipped = np.asarray(scores.flipped_log_odds)
    check(flipped.shape == log_odds.shape, "flipped_log_odds.shape", flipped.shape, f"equal {log_odds.shape}")
    check_log_odds("flipped_log_odds", flipped)
    everyone = np.ones(member.shape, bool)
    return Sides(
        Side(np.where(member, log_odds, flipped), everyone),
        Side(np.where(member, flipped, log_odds), everyone),
    )


def check_log_odds(name: str, log_odds: np.ndarray) -> None:
    """Raise InputError unless all scores are floating point numbers with an absolute value of at most LARGEST."""
    dtype = log_odds.dtype
    check(_is_floating(dtype), f"{name}.dtype", str(dtype), "be floating")
    largest = max(abs(float(log_odds.min())), abs(float(log_odds.max())))
    check(largest <= LARGEST, f"max |{name}|", largest, f"be finite and at most {LARGEST:g}")


def _is_floating(dtype: np.dtype) -> bool:
    """Return whether a dtype is floating point, including JAX's bfloat16, which NumPy does not know."""
    try:
        ml_dtypes.finfo(dtype)
    except ValueError:
        return False
    return dtype.kind != "c"


def log_probability(log_odds: np.ndarray) -> np.ndarray:
    """Return log p = log sigmoid(log_odds), without overflow."""
    return -np.logaddexp(0.0, -log_odds)


def blocks_of(rows: int, columns: int) -> Iterator[slice]:
    """Yield slices of the columns such that a [rows, block] array has at most BLOCK_SIZE values."""
    width = max(1, BLOCK_SIZE // rows)
    for start in range(0, columns, width):
        yield slice(start, min(start + width, columns))


def side_moments(log_odds: np.ndarray, on_side: np.ndarray) -> SideMoments:
    """Return the moments of one side's shadows for every target.

    Removing y = x_k - mean from n values reduces the mean by y / (n - 1) and the sum of squares by y^2 n / (n - 1).

    Args:
        log_odds: float64[models, block].
        on_side: bool[models, block], True where a model is on this side.
    """
    total, mean, offset = centred(log_odds, on_side)
    squares = np.sum(offset * offset, axis=0)
    number = total - on_side
    rest = np.maximum(total - 1, 1)
    means = mean - offset / rest
    sum_squares = squares - offset * offset * (total / rest)
    # Where the target makes up almost all of the sum, the difference loses all digits. At most one target per example
    # can be such an outlier, so recomputing these costs no more than one pass.
    target, example = np.nonzero((sum_squares < 1e-4 * squares) & (number >= 2))
    others = on_side[:, example]
    others[target, np.arange(target.size)] = False
    _, means[target, example], offset = centred(log_odds[:, example], others)
    sum_squares[target, example] = np.sum(offset * offset, axis=0)
    return SideMoments(number, means, np.maximum(sum_squares, 0) / np.maximum(number, 1))


def centred(log_odds: np.ndarray, on_side: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return number [block], mean [block] and log-odds minus mean (0 off the side) [models, block] of one side.

    One score of the side is subtracted first, so that equal scores have a deviation of exactly 0.
    """
    total = on_side.sum(axis=0, dtype=np.float64)
    reference = log_odds[on_side.argmax(axis=0), np.arange(log_odds.shape[1])]
    offset = np.where(on_side, log_odds - reference, 0.0)
    shift = offset.sum(axis=0) / np.maximum(total, 1)
    return total, reference + shift, np.where(on_side, offset - shift, 0.0)


def side_medians(log_odds: np.ndarray, on_side: np.ndarray) -> np.ndarray:
    """Return the median of one side's shadows for every target, 0 where there are none.

    One sort per example serves all targets: after removing a value v, position q of the sorted side holds its old value
    if that was below v, and otherwise the old value of position q + 1.

    Args:
        log_odds: float64[models, block].
        on_side: bool[models, block].

    Returns:
        float64[models, block].
    """
    ordered = np.sort(np.where(on_side, log_odds, np.inf).T, axis=1)
    total = on_side.sum(axis=0)
    everyone = (_place(ordered, (total - 1) // 2) + _place(ordered, total // 2)) / 2
    others = np.zeros_like(log_odds)
    for rank in ((total - 2) // 2, (total - 1) // 2):
        below = _place(ordered, rank)
        others += np.where(below < log_odds, below, _place(ordered, rank + 1)) / 2
    return np.where(total > on_side, np.where(on_side, others, everyone), 0.0)


def _place(ordered: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Return the value at a rank of each row, [block]; ranks beyond an end are clipped to it."""
    return ordered[np.arange(len(ordered)), np.clip(rank, 0, ordered.shape[1] - 1)]


def side_log_means(log_p: np.ndarray, on_side: np.ndarray, *, leave_out: int = 1) -> SideLogMeans:
    """Return the log of the mean probability over one side's models, with each gap of neighbouring models left out.

    Adding the sums before and after the gap avoids cancellation, whatever the models in the gap hold.

    Args:
        log_p: float64[models, block], at most 0.
        on_side: bool[models, block].
        leave_out: 1 for every target's shadows; 2 leaves out models k and k + 1 for every k.

    Returns:
        Arrays [gaps, block], gaps = models - leave_out + 1.
    """
    gaps = len(log_p) - leave_out + 1
    counts = _with_zero(np.cumsum(on_side, axis=0))
    number = counts[:gaps] + counts[-1] - counts[leave_out:]
    largest = np.max(log_p, axis=0, where=on_side, initial=-np.inf)
    largest = np.where(counts[-1] > 0, largest, 0.0)
    shares = np.where(on_side, np.exp(np.minimum(log_p - largest, 0)), 0.0)
    before = _with_zero(np.cumsum(shares, axis=0))[:gaps]
    after = _with_zero(np.cumsum(shares[::-1], axis=0))[::-1][leave_out:]
    total = before + after
    # Where a model in the gap lies far above the others, their terms underflow: rescale by their own largest.
    gap, example = np.nonzero((total < 1e-290) & (number > 0))
    others = on_side[:, example]
    for offset in range(leave_out):
        others[gap + offset, np.arange(gap.size)] = False
    log_mean = largest + np.log(np.maximum(total, 1e-300) / np.maximum(number, 1))
    rest = np.where(others, log_p[:, example], -np.inf)
    log_mean[gap, example] = scipy.special.logsumexp(rest, axis=0) - np.log(number[gap, example])
    return SideLogMeans(number, np.where(number > 0, log_mean, 0.0))


def _with_zero(sums: np.ndarray) -> np.ndarray:
    """Prepend a row of zeros, the sum over no model, to the cumulative sums."""
    return np.concatenate([np.zeros_like(sums[:1]), sums])
