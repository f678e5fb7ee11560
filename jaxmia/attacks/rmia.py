"""RMIA, the robust membership inference attack (Zarifzadeh et al. 2024, arXiv 2312.03262)."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmia._validate import check
from jaxmia.attacks.base import base
from jaxmia.attacks.persons import sum_by_person
from jaxmia.attacks.ratios import count_below, log_ratios, offline_coefficients
from jaxmia.attacks.shadows import Side, Sides, blocks_of, check_log_odds, score_arrays, sides
from jaxmia.scores import Scores
from jaxmia.stats.result import AttackResult


def rmia(
    scores: Scores,
    *,
    offline: bool = False,
    gamma: float = 1.0,
    a: float | None = None,
    paired: bool = False,
) -> AttackResult:
    """Return the share of population examples z with [p(x) / p̄(x)] / [p(z) / p̄(z)] > gamma.

    RMIA, the robust membership inference attack: Zarifzadeh et al. 2024 (arXiv 2312.03262), equation 4.

    Online: p̄(x) = (p̄_in + p̄_out) / 2, with each side's mean over all its shadows. Offline: p̄(x) = ((1 + a) p̄_out +
    1 - a) / 2, from OUT shadows alone. The population is the target's non-members other than x, or
    scores.population_log_odds. No model trained on the latter, so p̄(z) is the mean over all shadows (online) or the
    offline form (offline). Log ratios are rounded to 1e-12 nats, so that values that are equal in exact arithmetic stay
    equal.

    Published code also compares a non-member x with itself. The share of a non-member is then out of one more example
    than a member's and never reaches 1, which reveals membership for any model: with 320 non-members it gives TPR 0.006
    at FPR 0.001 on heads with epsilon 0.5, whose ceiling is 0.0016.

    Within one target the population and gamma change only ties, and otherwise only the comparison between targets. (For
    gamma other than 1 this holds up to one example of the population, because a member is compared with one more
    population example than a non-member.)

    Args:
        scores: log_odds and member [models, examples], at least 3 models; population_log_odds
            [models, population] or None.
        offline: use OUT shadows alone.
        gamma: positive threshold on the ratio.
        a: coefficient of the offline form, in [0, 1]; by default tuned for each target on one of its shadows.
        paired: use every shadow on both sides, by scores.flipped_log_odds.

    Returns:
        float64 statistic [models, examples] in [0, 1]. An example without the shadows it needs is undefined and treated
        as if p(x) = p̄(x). Every example of a target without population is undefined and has 1/2. The statistic is a
        rank within the population, whose size the result's `population` holds: an FPR f needs at least 10 / f.

    Raises:
        InputError: for bad scores or population, gamma not positive, a outside [0, 1] or without offline, or paired
            without flipped scores.
    """
    check(0 < gamma < np.inf, "gamma", gamma, "be positive and finite")
    log_odds, member = score_arrays(scores)
    shadows = sides(scores, paired=paired)
    offline_a = offline_coefficients(log_odds, member, shadows.outside, offline=offline, a=a)
    statistic, defined = log_ratios(log_odds, shadows, offline_a)
    population = None
    if scores.population_log_odds is not None:
        outside = _checked_population(np.asarray(scores.population_log_odds), len(log_odds))
        # With a = 1 the offline form is the mean over OUT shadows. For a population all shadows are OUT.
        mean_a = np.ones((len(log_odds), 1)) if offline_a is None else offline_a
        nobody = np.zeros(outside.shape, bool)
        population, _ = log_ratios(outside, Sides(Side(outside, nobody), Side(outside, ~nobody)), mean_a)
    return _ranks(AttackResult(statistic, member, defined), gamma, population)


def rmia_by_person(scores: Scores, person: np.ndarray, *, gamma: float = 1.0, **options: Any) -> AttackResult:
    """RMIA on persons: the share of the target's other non-member persons with a smaller ratio.

    The ratio of a person is the product of those of their records, p(x) / p̄(x): the population are persons too.

    Args:
        scores: log_odds and member [models, examples], at least 3 models.
        person: [examples], integers or strings: whose record each example is.
        gamma: as of rmia.
        options: offline, a and paired of rmia.

    Returns:
        float64 statistic [models, persons] in [0, 1], persons ascending by name.

    Raises:
        InputError: as rmia, or for a person with some records in a model's training set and others out of it.
    """
    check(0 < gamma < np.inf, "gamma", gamma, "be positive and finite")
    return _ranks(sum_by_person(base(scores, **options), person), gamma, None)


def _ranks(ratios: AttackResult, gamma: float, population: np.ndarray | None) -> AttackResult:
    """Return the share of a population with a ratio smaller by gamma, for every target.

    Args:
        ratios: log p - log p̄ [models, examples or persons]; overwritten.
        gamma: positive.
        population: log ratios [models, population]; None for the target's own non-members.
    """
    statistic, member, defined = ratios.statistic, ratios.member, ratios.defined
    sizes = np.empty(len(statistic), np.int64)
    for rows in blocks_of(2 * statistic.shape[1], len(statistic)):
        values, line = statistic[rows], statistic[rows] - np.log(gamma)
        itself = ~member[rows] & defined[rows] & (population is None)
        others = np.where(itself, values, np.inf) if population is None else population[rows]
        sizes[rows] = np.sum(others < np.inf, axis=1)
        number = sizes[rows, None] - itself
        below = count_below(line, others) - (itself & (values < line))
        statistic[rows] = np.where(number > 0, below / np.maximum(number, 1), 0.5)
        defined[rows] &= number > 0
    return AttackResult(statistic, member, defined, population=sizes)


def _checked_population(population: np.ndarray, models: int) -> np.ndarray:
    """Return the population's scores, or raise InputError unless they are [models, at least 1]."""
    name, shape = "population_log_odds", population.shape
    check(
        len(shape) == 2 and shape[0] == models and shape[1] > 0,
        f"{name}.shape",
        shape,
        f"be [{models}, z > 0]",
    )
    check_log_odds(name, population)
    return population
