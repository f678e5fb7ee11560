"""The ratio of the target's probability of an example to the expected probability p̄, for RMIA and BASE."""

from __future__ import annotations

import numpy as np

from jaxmia._validate import check
from jaxmia.attacks.shadows import Side, Sides, blocks_of, log_probability, side_log_means

DECIMALS = 12  # decimals of log ratios: values that are equal in exact arithmetic must stay equal
OFFLINE_GRID = np.arange(11) / 10


def offline_coefficients(
    log_odds: np.ndarray, member: np.ndarray, outside: Side, *, offline: bool, a: float | None
) -> np.ndarray | None:
    """Return the coefficient a of every target, float64[models, 1], tuned unless given; None for the online form.

    Raises:
        InputError: if a is outside [0, 1], or given without offline.
    """
    if a is None:
        return tuned_offline_a(log_odds, member, outside) if offline else None
    check(offline, "a", a, "be left out unless offline=True")
    check(0 <= a <= 1, "a", a, "lie in [0, 1]")
    return np.full((len(log_odds), 1), float(a))


def log_ratios(
    log_odds: np.ndarray, shadows: Sides, offline_a: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return log p - log p̄ of every target, 0 where a needed side has no shadow, and where it is defined.

    Args:
        log_odds: float[models, examples] of the targets.
        shadows: scores of the shadows on each side.
        offline_a: None for p̄ = (p̄_in + p̄_out) / 2; else a, float64[models, 1], for
            p̄ = ((1 + a) p̄_out + 1 - a) / 2 (Zarifzadeh et al. 2024, arXiv 2312.03262, section 3).

    Returns:
        Log ratios float64[models, examples], and bool[models, examples], True where defined.
    """
    ratios, known = np.empty(log_odds.shape), np.empty(log_odds.shape, bool)
    for columns in blocks_of(*log_odds.shape):
        log_p = log_probability(log_odds[:, columns].astype(np.float64))
        number, expected = _log_means(shadows.outside, columns)
        known[:, columns] = number > 0
        if offline_a is None:
            number, log_in = _log_means(shadows.inside, columns)
            known[:, columns] &= number > 0
            expected = _log_mean_of_two(log_in, expected)
        else:
            expected = offline_log_reference(expected, offline_a)
        ratios[:, columns] = np.where(known[:, columns], np.round(log_p - expected, DECIMALS), 0.0)
    return ratios, known


def _log_means(side: Side, columns: slice) -> tuple[np.ndarray, np.ndarray]:
    log_odds, on_side = side.block(columns)
    return side_log_means(log_probability(log_odds), on_side)


def offline_log_reference(log_out: np.ndarray, a: np.ndarray | float) -> np.ndarray:
    """Return log(((1 + a) exp(log_out) + 1 - a) / 2) for a in [0, 1]."""
    log_rest = np.where(a < 1, np.log(np.where(a < 1, 1 - a, 1.0)), -np.inf)
    return np.logaddexp(np.log1p(a) + log_out, log_rest) - np.log(2)


def _log_mean_of_two(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return log((exp(first) + exp(second)) / 2), exact where the two are equal."""
    return np.maximum(first, second) + np.log1p(np.expm1(-np.abs(first - second)) / 2)


def count_below(values: np.ndarray, population: np.ndarray) -> np.ndarray:
    """Return, for every value, how many of its row's population are strictly smaller. One sort per row.

    Args:
        values: float64[rows, values].
        population: float64[rows, population]; +inf marks a missing entry.

    Returns:
        int64[rows, values].
    """
    both = np.concatenate([values, population], axis=1)
    order = np.argsort(both, axis=1)
    ordered = np.take_along_axis(both, order, axis=1)
    is_population = order >= values.shape[1]
    before = np.cumsum(is_population, axis=1) - is_population
    # Equal values get the count of the first of them, since equal entries are not smaller.
    is_first = np.ones(both.shape, bool)
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=is_first[:, 1:])
    below = np.empty(both.shape, np.int64)
    np.put_along_axis(below, order, np.maximum.accumulate(np.where(is_first, before, 0), axis=1), axis=1)
    return below[:, : values.shape[1]]


def tuned_offline_a(log_odds: np.ndarray, member: np.ndarray, outside: Side) -> np.ndarray:
    """Return for every target the a of OFFLINE_GRID that best attacks one of its shadows.

    The shadow acts as the target and the remaining models as its shadows. The chosen a maximises the AUC over the
    shadow's members and non-members (ties count against a; of equally good ones the smallest is taken). The target's
    membership and its scores of single examples are not used: only its mean score, which selects its neighbour in the
    order of mean scores as that shadow.

    Args:
        log_odds: float[models, examples].
        member: bool[models, examples].
        outside: scores of the shadows without each example.

    Returns:
        float64[models, 1].
    """
    models, examples = log_odds.shape
    order = np.argsort(log_odds.mean(axis=1, dtype=np.float64), kind="stable")
    log_out, known = np.empty((models - 1, examples)), np.empty((models - 1, examples), bool)
    for columns in blocks_of(*log_odds.shape):
        scored, on_side = outside.block(columns)
        log_p = log_probability(scored[order])
        number, log_out[:, columns] = side_log_means(log_p, on_side[order], leave_out=2)
        known[:, columns] = number > 0
    # Model j and its shadow j + 1 in the order are left out together; the last model's shadow is the one before it.
    gaps = np.minimum(np.arange(models), models - 2)
    shadows = np.where(gaps == np.arange(models), gaps + 1, gaps)
    tuned = np.empty((models, 1))
    for rows in blocks_of(2 * examples, models):
        shadow, gap = order[shadows[rows]], gaps[rows]
        log_p = log_probability(log_odds[shadow].astype(np.float64))
        areas = [
            _auc(
                np.round(log_p - offline_log_reference(log_out[gap], a), DECIMALS), member[shadow], known[gap]
            )
            for a in OFFLINE_GRID
        ]
        tuned[order[rows], 0] = OFFLINE_GRID[np.argmax(areas, axis=0)]
    return tuned


def _auc(statistic: np.ndarray, member: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return each row's P(member > non-member) over known entries, up to a factor that does not depend on a."""
    below = count_below(statistic, np.where(known & ~member, statistic, np.inf))
    return np.sum(below, axis=1, where=known & member)
