"""LiRA without shadows: the likelihood ratio of the target's log-odds under analytic Gaussians of each record."""

from __future__ import annotations

import numpy as np

from jaxmia.attacks.shadows import score_arrays
from jaxmia.attacks.shrinkage import prior_means, prior_variances
from jaxmia.scores import Scores
from jaxmia.stats.result import AttackResult


def analytic(scores: Scores, *, calibrated: bool = False) -> AttackResult:
    """Return log N(s; mean_in, variance_in) - log N(s; mean_out, variance_out) with analytic means and variances.

    This is the limit of LiRA with infinitely many shadows, for heads at the minimum of a ridge objective.

    Args:
        scores: log_odds and member [models, examples] of at least 1 model, with prior_mean and prior_variance
            (jaxmia.ridge.expected).
        calibrated: return z = sign(mean_in - mean_out) (s - mean_out) / deviation_out.

    Returns:
        float64 statistic [models, examples], always defined.

    Raises:
        InputError: for bad scores, or scores without analytic means and variances.
    """
    log_odds, member = score_arrays(scores, min_models=1)
    (mean_in, mean_out), (variance_in, variance_out) = prior_means(scores), prior_variances(scores)
    offset = log_odds.astype(np.float64) - mean_out
    if calibrated:
        statistic = np.sign(mean_in - mean_out) * offset / np.sqrt(variance_out)
    else:
        distance = offset**2 / variance_out - (log_odds - mean_in) ** 2 / variance_in
        statistic = (np.log(variance_out / variance_in) + distance) / 2
    null = "gaussian" if calibrated else "unknown"
    return AttackResult(statistic, member, np.ones(log_odds.shape, bool), null)
