"""The loss threshold attack (Yeom et al. 2018, arXiv 1709.01604): a baseline without shadows."""

from __future__ import annotations

import numpy as np

from jaxmia.attacks.shadows import blocks_of, log_probability, score_arrays
from jaxmia.scores import Scores
from jaxmia.stats.result import AttackResult


def threshold(scores: Scores) -> AttackResult:
    """Return the negative loss in nats, log p of the true class under the target (Yeom et al. 2018, arXiv 1709.01604).

    Args:
        scores: log_odds and member [models, examples].

    Returns:
        float64 statistic [models, examples], always defined.

    Raises:
        InputError: for bad scores.
    """
    log_odds, member = score_arrays(scores, min_models=1)
    statistic = np.empty(log_odds.shape)
    for columns in blocks_of(*log_odds.shape):
        statistic[:, columns] = log_probability(log_odds[:, columns].astype(np.float64))
    return AttackResult(statistic, member, np.ones(log_odds.shape, bool))
