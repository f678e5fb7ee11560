"""Slow references for audits: the published tests written out, sharing no code with jaxmia or jax_privacy."""

import math

import numpy as np
from scipy import stats

from jaxmia.stats.result import AttackResult


def one_record(members, nonmembers):
    """The statistics of one record under models with it and models without."""
    statistic = np.concatenate([members, nonmembers]).astype(float)[:, None]
    member = np.repeat([True, False], [len(members), len(nonmembers)])[:, None]
    return AttackResult(statistic, member, np.ones(member.shape, bool))


def one_run(statistic, member):
    """The statistics of many records under one model."""
    statistic, member = np.asarray(statistic, float)[None], np.asarray(member, bool)[None]
    return AttackResult(statistic, member, np.ones(member.shape, bool))


def upper_end(successes, trials, significance):
    """One-sided exact interval of a proportion, by scipy's binomial test."""
    if successes == trials:
        return 1.0
    test = stats.binomtest(int(successes), int(trials), alternative="less")
    return test.proportion_ci(confidence_level=1 - significance, method="exact").high


def clopper_pearson_epsilon(members, nonmembers, threshold, *, significance, delta):
    """log((TPR - delta) / FPR), half of the significance for each rate."""
    missed = upper_end(sum(s < threshold for s in members), len(members), significance / 2)
    alarms = upper_end(sum(s >= threshold for s in nonmembers), len(nonmembers), significance / 2)
    return max(0.0, math.log((1 - missed - delta) / alarms)) if 1 - missed > delta else 0.0


def one_run_epsilon(records, guesses, correct, *, significance, delta):
    """Theorem 5.2 of Steinke, Nasr and Jagielski with fair coins, inverted by bisection over epsilon."""

    def p_value(epsilon):
        chance = math.exp(epsilon) / (1 + math.exp(epsilon))
        weights = [stats.binom.pmf(k, guesses, chance) for k in range(guesses + 1)]
        beta = sum(weights[correct:])
        alpha = max(
            (sum(weights[correct - i : correct]) / i for i in range(1, correct + 1)), default=0.0
        )  # P(v - i <= k < v) / i
        return beta + alpha * delta * 2 * records

    if p_value(0.0) >= significance:
        return 0.0
    low, high = 0.0, 20.0
    while high - low > 1e-7:
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(middle) < significance else (low, middle)
    return low
