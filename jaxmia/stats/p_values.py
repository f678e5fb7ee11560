"""Calibrated p-values: each record at the same FPR, against its own statistics under models that never saw it.

The choice of method and the arrays; the laws of the nulls themselves are in jaxmia.stats.nulls.
"""

from __future__ import annotations

import numpy as np

from jaxmia._validate import check_choice
from jaxmia.stats.nulls import NULLS, pooled_p_values, rank_p_values, residual_p_values
from jaxmia.stats.result import AttackResult, checked_arrays

METHODS = ("residuals", "empirical")
CALIBRATED = {"calibrated": "residuals", "calibrated_empirical": "empirical"}  # evaluation: method
EVALUATIONS = ("pooled", "per_target", *CALIBRATED)
BLOCK_SIZE = 2**20  # pairs whose p-values are computed at a time: bounds the scratch memory


def calibrated_p_values(result: AttackResult, *, method: str = "residuals") -> np.ndarray:
    """Return the p-value of each pair under its example's own null: the other models that never saw it.

    The target's own label enters nothing. Undefined statistics join no null and have p-value 1.

    Args:
        result: what the attack said, [models, examples].
        method: "residuals", standardised by the example's own null and joined over all examples, or
            "empirical", the rank, valid for any null but never below 1 / (1 + its size): see jaxmia.stats.nulls.

    Returns:
        float64[models, examples] in [0, 1].

    Raises:
        InputError: for an unknown method, "residuals" of a statistic whose null is unknown, a NaN statistic, or
            if members or non-members are missing.
    """
    check_choice("method", method, METHODS)
    check_choice("null", result.null, NULLS)
    statistic, member, defined = checked_arrays(result)
    null = ~member & defined
    p_values = np.empty_like(statistic)
    width = max(1, BLOCK_SIZE // len(statistic))
    for start in range(0, statistic.shape[1], width):
        block = np.s_[:, start : start + width]
        some = statistic[block], null[block]
        p_values[block] = (
            rank_p_values(*some) if method == "empirical" else residual_p_values(*some, result.null)
        )
    if method == "residuals":
        p_values = pooled_p_values(p_values, null)
    return np.where(defined, p_values, 1.0)
