"""The likelihood ratio of a decision: LiRA for an actor who sees labels alone."""

from __future__ import annotations

import numpy as np

from jaxmia.attacks.shadows import blocks_of, score_arrays
from jaxmia.scores import Scores
from jaxmia.stats.result import AttackResult

_PRIOR = 1.0  # decisions that the share over all records counts as, for each record and side


def label_ratio(scores: Scores, *, offline: bool = False) -> AttackResult:
    """Return log P(decision | shadows with x) - log P(decision | shadows without x).

    The decision is whether the label is right: scores.margin > 0, or log-odds > 0 where there is no margin (then a
    decision is right if its class has more than half of the probability). A side with k right among n shadows gives
    P(right) = (k + q) / (n + 1), where q is the share of right decisions of all the target's shadows on all records.
    If the target and all shadows are right, or all are wrong, the decision tells nothing, and the statistic is 0.

    The form with a law for each record follows LiRA (Carlini et al. 2022, arXiv 2112.03570) with the Bernoulli law in
    place of the Gaussian; without shadows it is the gap attack (Yeom et al. 2018, arXiv 1709.01604; Choquette-Choo et
    al. 2021, arXiv 2007.14321). The share q as prior is this project's choice.

    Args:
        scores: log_odds and member [models, examples], at least 3 models; margin [models, examples] or None.
        offline: -log P(decision | shadows without x) where the decision is right, and 0 where it is wrong: a wrong
            decision never speaks for membership.

    Returns:
        float64 statistic [models, examples]; 0 and undefined where a needed side has no shadow.

    Raises:
        InputError: for bad scores.
    """
    log_odds, member = score_arrays(scores)
    right = np.asarray(log_odds if scores.margin is None else scores.margin) > 0
    models, examples = right.shape
    total = np.count_nonzero(right)
    share = (total - right.sum(axis=1, keepdims=True)) / ((models - 1) * examples)
    statistic, defined = np.empty(right.shape), np.empty(right.shape, bool)
    for columns in blocks_of(models, examples):
        mine, inside = right[:, columns], member[:, columns]
        log_p, number = {}, {}
        for side, on_side in ((True, inside), (False, ~inside)):
            number[side] = on_side.sum(axis=0) - on_side
            agree = (mine & on_side).sum(axis=0) - (mine & on_side)
            p_right = (agree + _PRIOR * share) / (number[side] + _PRIOR)
            chance = np.where(mine, p_right, 1 - p_right)
            log_p[side] = np.log(np.where(chance > 0, chance, 1.0))
        known = (number[False] > 0) & (offline | (number[True] > 0))
        ratio = np.where(mine, -log_p[False], 0.0) if offline else log_p[True] - log_p[False]
        alike = (mine.sum(axis=0) == models) | (mine.sum(axis=0) == 0)
        statistic[:, columns] = np.where(known & ~alike, ratio, 0.0)
        defined[:, columns] = known
    return AttackResult(statistic, member, defined)
