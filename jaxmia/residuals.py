"""Pooled residuals: the law of a record's scores from its own moments and the tails of all records together.

Few shadows give a record's mean and deviation, but not the tail that an FPR of 0.001 asks for, and neither side of a
trained head is Gaussian. Standardised by their record's moments, the scores of all records and models of a side join
into one empirical law. With it, threshold and TPR of record i follow from its moments alone:

    t_i = (mean_out,i + F_out^-1(1 - fpr) s_out,i - mean_in,i) / s_in,i,    tpr_i = 1 - F_in(t_i).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.special

from jaxmia.attacks._shadows import RESOLUTION, Side, Sides, blocks_of, centred

LARGEST_LAW = 1 << 22  # residuals of a side that are kept: more change no quantile that is asked for
_FEWEST_RECORDS = 30  # that deviations are regressed with
_ROUNDS = 3  # of the regression's weights


class SideMoments(NamedTuple):
    """Of one side's models, for every record [examples].

    Attributes:
        number: models on the side.
        mean: of their log-odds, in nats; NaN without a model.
        squares: sum of squares about the mean.
        deviation: sqrt(squares / (number - 1)); NaN with fewer than 2 models.
    """

    number: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    deviation: np.ndarray


class RecordLaw(NamedTuple):
    """One side's law of every record: mean + deviation x a draw of the residuals.

    Attributes:
        mean: float64[examples], nats.
        mean_variance: of that estimate.
        deviation: float64[examples].
        log_variance: of the estimate log deviation.
        residuals: float64[residuals], ascending, of all records together.
        clustering: variance of a share of them over that of as many independent ones: those of one model go together.
    """

    mean: np.ndarray
    mean_variance: np.ndarray
    deviation: np.ndarray
    log_variance: np.ndarray
    residuals: np.ndarray
    clustering: float


class Position(NamedTuple):
    """Where the members' law is cut by the threshold, t_i above, and the standard error of that, [examples]."""

    t: np.ndarray
    error: np.ndarray


def moments_of(side: Side) -> SideMoments:
    """Return the moments of one side; NaN where it has too few models."""
    mean, squares = np.empty((2, side.log_odds.shape[1]))
    for columns in blocks_of(*side.log_odds.shape):
        _, mean[columns], offset = centred(*side.block(columns))
        squares[columns] = np.sum(offset * offset, axis=0)
    number = side.on_side.sum(axis=0)
    deviation = np.where(number > 1, np.sqrt(squares / np.maximum(number - 1, 1)), np.nan)
    return SideMoments(number, np.where(number > 0, mean, np.nan), squares, deviation)


def record_laws(shadows: Sides, inside: SideMoments, outside: SideMoments) -> tuple[RecordLaw, RecordLaw]:
    """Return the laws of members and non-members, deviations drawn together over the records.

    The log of a sample variance of nu degrees of freedom varies by trigamma(nu / 2) whatever the variance. It is drawn
    towards its regression, cubic in the record's two means, by empirical Bayes (as limma does: Smyth 2004, doi
    10.2202/1544-6115.1027): the prior's variance is what remains of the regression's residual variance.
    """
    laws = []
    for side, own in ((shadows.inside, inside), (shadows.outside, outside)):
        deviation, spread, fit_variance = _drawn_deviations(own, inside.mean, outside.mean)
        residuals, kurtosis, clustering = pooled(side, own.mean, deviation, own.number)
        # of log s: a quarter of the variance of s^2 over its square, and no more than the prior's
        sampling = (kurtosis - 1) / (4 * np.maximum(own.number, 1))
        if not np.isinf(spread):
            own_weight = spread / (spread + sampling)
            sampling = sampling * own_weight + (1 - own_weight) ** 2 * fit_variance
        mean_variance = deviation**2 / np.maximum(own.number, 1)
        laws.append(RecordLaw(own.mean, mean_variance, deviation, sampling, residuals, clustering))
    return laws[0], laws[1]


def pooled(
    side: Side, mean: np.ndarray, deviation: np.ndarray, number: np.ndarray | None
) -> tuple[np.ndarray, float, float]:
    """Return the residuals of one side, ascending, their kurtosis, and how they cluster by model (RecordLaw).

    Args:
        side: the models' scores.
        mean: [examples].
        deviation: [examples]; records where it is 0 or NaN have no residuals.
        number: models behind each mean: a score lies nearer to a mean that it is part of, by sqrt(1 - 1 / number).
            None for means that are known without these models.
    """
    known = np.isfinite(mean) & (deviation > RESOLUTION)
    if number is not None:
        known &= number > 1
    total = int(side.on_side[:, known].sum())
    columns = np.flatnonzero(known)[:: max(1, -(-total // LARGEST_LAW))]
    if columns.size == 0:
        return np.zeros(1), 3.0, 1.0
    shortening = 1.0 if number is None else np.sqrt(1 - 1 / number[columns])
    offset = side.log_odds[:, columns].astype(np.float64) - mean[columns]
    on_side = side.on_side[:, columns]
    offset /= deviation[columns] * shortening
    residuals = np.sort(offset[on_side])
    square = np.mean(residuals**2)
    kurtosis = float(np.mean(residuals**4) / square**2) if square > 0 else 3.0
    beyond = np.sum(on_side & (offset > np.quantile(residuals, 0.95)), axis=1)
    number_of = on_side.sum(axis=1)
    excess = np.mean((beyond - 0.05 * number_of) ** 2) / max(0.05 * 0.95 * number_of.mean(), 1e-300)
    return residuals, kurtosis, max(1.0, float(excess))


def law_error(law: RecordLaw, share: np.ndarray | float) -> np.ndarray | float:
    """Return the standard error of a share of a law's residuals."""
    return np.sqrt(np.maximum(share * (1 - share), 0) * law.clustering / law.residuals.size)


def position(
    inside: RecordLaw, outside: RecordLaw, fpr: float, *, shift_variance: np.ndarray | None = None
) -> Position:
    """Return t of every record, and its standard error by the delta method.

    Args:
        inside: of members.
        outside: of non-members.
        fpr: of every record.
        shift_variance: of mean_in - mean_out; by default both means' own together.
    """
    quantile = np.quantile(outside.residuals, 1 - fpr)
    with np.errstate(divide="ignore", invalid="ignore"):
        above = outside.mean + quantile * outside.deviation - inside.mean
        t = np.where(inside.deviation > 0, above / inside.deviation, np.copysign(np.inf, above))
        t = np.where(np.isnan(above + inside.deviation), np.nan, t)
        if shift_variance is None:
            shift_variance = inside.mean_variance + outside.mean_variance
        of_threshold = (quantile * outside.deviation) ** 2 * outside.log_variance
        variance = (shift_variance + of_threshold) / inside.deviation**2 + t**2 * inside.log_variance
    certain = ~((inside.deviation > RESOLUTION) & (outside.deviation > RESOLUTION))
    return Position(t, np.where(certain, np.nan, np.sqrt(variance)))


def share_above(residuals: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return the share of a law at or above t; NaN where t is."""
    share = 1 - np.searchsorted(residuals, t, side="left") / residuals.size
    return np.where(np.isnan(t), np.nan, share)


def drawn_together(values: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Return noisy values drawn towards their mean until they spread no more than what lies behind the noise.

    Constrained empirical Bayes (Louis 1984, doi 10.2307/2288282) under a Gaussian prior: posterior means spread too
    little, the values themselves too much. One error, the median, stands for all: a few large ones would else draw
    everything to the mean. NaN stays, and so does a value without an error.

    Args:
        values: [records].
        errors: standard errors; NaN where values are certain.
    """
    noisy = np.isfinite(values) & np.isfinite(errors)
    if np.count_nonzero(noisy) < _FEWEST_RECORDS:
        return values
    mean, sampling = values[noisy].mean(), float(np.median(errors[noisy] ** 2))
    prior = max(float(values[noisy].var(ddof=1)) - sampling, 0.0)
    weight = np.sqrt(prior / max(prior + sampling, 1e-300))
    drawn = values.copy()
    drawn[noisy] = mean + weight * (values[noisy] - mean)
    return drawn


def _drawn_deviations(
    own: SideMoments, mean_in: np.ndarray, mean_out: np.ndarray
) -> tuple[np.ndarray, float, np.ndarray | float]:
    """Return deviations drawn towards their regression [examples], the prior variance of their logs, and the fit's.

    A record with fewer than 2 models, or with equal scores, keeps what it has; few records keep all they have.
    """
    known = (own.number > 1) & (own.deviation > RESOLUTION) & np.isfinite(mean_in) & np.isfinite(mean_out)
    if np.count_nonzero(known) < _FEWEST_RECORDS:
        return own.deviation, np.inf, 0.0
    half = (own.number[known] - 1) / 2
    sampling = scipy.special.polygamma(1, half)
    logs = 2 * np.log(own.deviation[known]) - scipy.special.digamma(half) + np.log(half)
    first, second = (_standardised(mean[known]) for mean in (mean_in, mean_out))
    design = np.stack([first**i * second**j for i in range(4) for j in range(4 - i)], axis=1)
    weights = np.ones(len(logs))
    for _ in range(_ROUNDS):
        root = np.sqrt(weights)
        coefficients = np.linalg.lstsq(root[:, None] * design, root * logs, rcond=None)[0]
        beyond = logs - design @ coefficients
        fitted = len(logs) / max(1, len(logs) - design.shape[1])
        spread = max(np.sum(weights * (fitted * beyond**2 - sampling)) / weights.sum(), 1e-6)
        weights = 1 / (spread + sampling)
    drawn = own.deviation.copy()
    drawn[known] = np.exp((logs - beyond * sampling * weights) / 2)
    leverage = np.zeros(len(drawn))
    leverage[known] = np.einsum("rp,pq,rq->r", design, np.linalg.pinv((weights * design.T) @ design), design)
    return drawn, spread / 4, leverage / 4


def _standardised(values: np.ndarray) -> np.ndarray:
    """Return values of mean 0 and deviation 1, and of size at most 4: a cubic is for where the records are."""
    scale = values.std()
    return np.clip((values - values.mean()) / (scale if scale > 0 else 1.0), -4, 4)
