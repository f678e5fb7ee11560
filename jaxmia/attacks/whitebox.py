"""The white-box attack: statistics of heads' weights (jaxmia.attacks.weights) in the registry of attacks."""

from __future__ import annotations

import numpy as np

from jaxmia._validate import InputError, check, check_choice
from jaxmia.attacks.shadows import score_arrays
from jaxmia.attacks.weights import METHODS
from jaxmia.scores import Scores
from jaxmia.stats.result import AttackResult


def whitebox(scores: Scores, *, method: str = "mahalanobis") -> AttackResult:
    """Return the statistic of one method of jaxmia.vulnerability.white_box.white_box.

    Args:
        scores: log_odds and member [models, examples], and white_box with the method's statistic.
        method: "mahalanobis", for heads trained in any way; "stationarity", for heads trained to the minimum of their
            objective; or "inverse_hessian".

    Returns:
        float64 statistic [models, examples], always defined.

    Raises:
        InputError: for bad scores, an unknown method, or scores without its statistic.
    """
    check_choice("method", method, METHODS)
    log_odds, member = score_arrays(scores, min_models=1)
    held = scores.white_box or {}
    if method not in held:
        raise InputError(
            f"white_box={sorted(held)} must hold the statistic {method!r} of the models' weights for"
            " attack 'whitebox'. It cannot be computed from scores; experiments and audits of linear"
            " heads compute it."
        )
    statistic = np.asarray(held[method], np.float64)
    name = f"white_box[{method!r}]"
    check(statistic.shape == log_odds.shape, f"{name}.shape", statistic.shape, f"be {log_odds.shape}")
    bad = int(np.count_nonzero(~np.isfinite(statistic)))
    check(bad == 0, f"values of {name} that are not finite", bad, "be 0")
    return AttackResult(statistic, member, np.ones(log_odds.shape, bool))
