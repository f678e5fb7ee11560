"""Slow references for ROC evaluation: definitions written as loops, sharing no formula with jaxmia."""

import fractions

import numpy as np
import scipy.stats

from jaxmia.stats.result import AttackResult


def result_of(statistic, member, defined=None):
    """An attack result; every statistic is defined unless said otherwise."""
    statistic, member = np.atleast_2d(statistic), np.atleast_2d(member)
    defined = np.ones(member.shape, bool) if defined is None else defined
    return AttackResult(np.asarray(statistic, float), np.asarray(member, bool), defined, "location_scale")


def one_target(members, nonmembers):
    """The result of an attack on one model from its members' and non-members' statistics."""
    return result_of(
        np.concatenate([members, nonmembers]), np.repeat([True, False], [len(members), len(nonmembers)])
    )


def gaussian_result(seed, *, models=20, examples=500, shift=1.5, digits=16):
    """N(0, 1) for non-members and N(shift, 1) for members; few digits make ties."""
    rng = np.random.default_rng(seed)
    member = rng.random((models, examples)) < 0.5
    return result_of((rng.normal(size=member.shape) + shift * member).round(digits), member)


def roc_points(members, nonmembers):
    """(fpr, tpr, threshold) of every rule "score >= threshold", preceded by the rule that calls nothing."""
    points = [(0.0, 0.0, np.inf)]
    for threshold in sorted({*members, *nonmembers}, reverse=True):
        false_positives = sum(score >= threshold for score in nonmembers)
        true_positives = sum(score >= threshold for score in members)
        points.append((false_positives / len(nonmembers), true_positives / len(members), threshold))
    return points


def auc(members, nonmembers):
    """P(member > non-member) + P(equal) / 2 over all pairs (Mann-Whitney)."""
    wins = sum((m > n) + 0.5 * (m == n) for m in members for n in nonmembers)
    return wins / (len(members) * len(nonmembers))


def tpr_at_fpr(members, nonmembers, fpr):
    """Largest TPR over thresholds whose FPR is at most fpr."""
    return max(point[1] for point in roc_points(members, nonmembers) if point[0] <= fpr)


def p_value(target, others, method):
    """P-value of a target among other statistics, by its rank or by Student's predictive law."""
    rank = (1 + sum(other >= target for other in others)) / (1 + len(others))
    gaussian = np.isfinite([target, *others]).all() and len(set(others)) > 1
    if method == "empirical" or not gaussian:
        return rank
    mean, deviation, number = np.mean(others), np.std(others, ddof=1), len(others)
    return scipy.stats.t.sf((target - mean) / (deviation * np.sqrt(1 + 1 / number)), number - 1)


def pooled_p_values(p_values, null):
    """Conformal among the nulls of the other models, pair by pair."""
    found = np.empty(p_values.shape)
    for model, example in np.ndindex(p_values.shape):
        others = np.delete(p_values, model, axis=0)[np.delete(null, model, axis=0)]
        found[model, example] = (1 + sum(others <= p_values[model, example])) / (1 + len(others))
    return found


def calibrated_p_values(result, method):
    """Leave-one-out p-values, by removing one model at a time."""
    if method == "residuals":
        found = calibrated_p_values(result, "student_t")
        return np.where(result.defined, pooled_p_values(found, ~result.member & result.defined), 1.0)
    found = np.ones(result.statistic.shape)
    for model, example in np.argwhere(result.defined):
        others = [
            result.statistic[other, example]
            for other in range(len(found))
            if other != model and result.defined[other, example] and not result.member[other, example]
        ]
        found[model, example] = p_value(result.statistic[model, example], others, method)
    return found


def benjamini_hochberg(p_values, fdr):
    """Step-up calls in exact arithmetic on fractions."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    passed = [
        k for k, index in enumerate(order, 1) if p_values[index] <= fdr * fractions.Fraction(k, len(order))
    ]
    called = order[: max(passed, default=0)]
    return [index in called for index in range(len(p_values))]
