"""Slow references for ROC evaluation: definitions written as loops, with nothing shared with jaxmia.evaluation."""

import numpy as np


def roc_points(members, nonmembers):
    """(fpr, tpr, threshold) of every rule "score >= threshold", after the rule that calls nothing."""
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
