"""Difficulty calibration (Watson et al. 2022, arXiv 2111.08440): the loss relative to models trained without x."""

from __future__ import annotations

import numpy as np

from jaxmia.attacks.shadows import blocks_of, log_probability, score_arrays, side_moments
from jaxmia.scores import Scores
from jaxmia.stats.result import AttackResult


def difficulty(scores: Scores) -> AttackResult:
    """Return log p minus its mean over OUT shadows: how far the target's loss is below that of models without x.

    In nats. Difficulty calibration: Watson et al. 2022 (arXiv 2111.08440).

    Args:
        scores: log_odds and member [models, examples], at least 3 models.

    Returns:
        float64 statistic [models, examples]; 0 and undefined where no OUT shadow is left.

    Raises:
        InputError: for bad scores.
    """
    log_odds, member = score_arrays(scores)
    statistic, defined = np.empty(log_odds.shape), np.empty(log_odds.shape, bool)
    for columns in blocks_of(*log_odds.shape):
        log_p = log_probability(log_odds[:, columns].astype(np.float64))
        out = side_moments(log_p, ~member[:, columns])
        defined[:, columns] = out.number > 0
        statistic[:, columns] = np.where(out.number > 0, log_p - out.mean, 0.0)
    return AttackResult(statistic, member, defined)
