"""Calibrated p-values: every record has the same FPR, set by its statistics under models that never saw it.

This module checks arrays and chooses the method; jaxmia.stats.nulls computes the p-values.
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

    The target's own membership is not used. Undefined statistics are in no null and have p-value 1.

    Args:
        result: an attack's statistics, [models, examples].
        method: "residuals": statistics standardised by the example's own null and pooled over all examples; or
            "empirical": the rank within the example's null, valid for any law but never below 1 / (1 + the null's
            size). See jaxmia.stats.nulls.

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
