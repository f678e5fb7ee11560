"""Who is called a member at a stated false discovery rate, and the share of calls that are right (PPV)."""

from __future__ import annotations

import numpy as np
import scipy.stats

from jaxmia._validate import check, check_fpr

ROUNDING = 1 + 1e-12  # p-values on a grid meet the bound exactly: rounding must not decide


def positive_predictive_value(
    tpr: np.ndarray | float, fpr: np.ndarray | float, *, prior: np.ndarray | float
) -> np.ndarray:
    """Return the share of true members among calls, prior TPR / (prior TPR + (1 - prior) FPR).

    Args:
        tpr: fractions, any shape.
        fpr: fractions, broadcast against tpr.
        prior: share of members among those the attacker asks about, broadcast likewise.

    Raises:
        InputError: unless tpr and fpr lie in [0, 1] and prior in (0, 1); where both rates are 0, as the share
            among no calls is undefined.
    """
    rates = {"tpr": np.asarray(tpr, np.float64), "fpr": np.asarray(fpr, np.float64)}
    for name, rate in rates.items():
        check(bool(np.all((rate >= 0) & (rate <= 1))), name, rate, "lie between 0 and 1")
    prior = np.asarray(prior, np.float64)
    check(bool(np.all((prior > 0) & (prior < 1))), "prior", prior, "lie strictly between 0 and 1")
    true_calls, false_calls = prior * rates["tpr"], (1 - prior) * rates["fpr"]
    check(bool(np.all(true_calls + false_calls > 0)), "tpr + fpr", 0, "be positive: nothing is called")
    return np.asarray(true_calls / (true_calls + false_calls))


def conformal_p_values(statistic: np.ndarray, nonmember_statistic: np.ndarray) -> np.ndarray:
    """Return (1 + #{known non-members >= t}) / (1 + #{known non-members}) for each statistic t of one target.

    Valid, P(p <= f) <= f for a non-member, if its statistic is exchangeable with those of the known
    non-members (Vovk, Gammerman and Shafer 2005): drawn alike, scored by the same attack, and not used by it.

    Args:
        statistic: candidates under one target model, any shape, higher means more likely a member.
        nonmember_statistic: known non-members under the same model, any shape.

    Returns:
        float64 in (0, 1], of statistic's shape.

    Raises:
        InputError: for NaN, or without known non-members.
    """
    candidates, known = np.asarray(statistic, np.float64), np.sort(nonmember_statistic, axis=None)
    check(known.size > 0, "number of known non-members", known.size, "be at least 1")
    for name, values in (("statistic", candidates), ("nonmember_statistic", known)):
        num_nan = int(np.count_nonzero(np.isnan(values)))
        check(num_nan == 0, f"number of NaN in {name}", num_nan, "be 0")
    return (1 + known.size - np.searchsorted(known, candidates, side="left")) / (1 + known.size)


def call_members(p_values: np.ndarray, fdr: float) -> np.ndarray:
    """Return whom to call a member at a false discovery rate of at most fdr (Benjamini and Hochberg 1995).

    The expected share of non-members among the calls is at most fdr times the share of non-members among the
    candidates if the p-values of non-members are valid, and independent or positively dependent as conformal
    p-values against one set of known non-members are (Bates et al. 2023, arXiv 2104.08279). Calibrated
    p-values of one target share their shadow models: for them this is not proven. A conformal p-value is at
    least 1 / (1 + n), so that k calls among m candidates take at least m / (k fdr) - 1 known non-members.

    Args:
        p_values: float in [0, 1], any shape: one family, adjusted together.
        fdr: false discovery rate.

    Returns:
        bool, of p_values' shape.

    Raises:
        InputError: unless p_values are in [0, 1], at least one, and 0 < fdr < 1.
    """
    p_values = np.asarray(p_values, np.float64)
    check(p_values.size > 0, "number of p_values", p_values.size, "be at least 1")
    check(bool(np.all((p_values >= 0) & (p_values <= 1))), "p_values", p_values, "lie between 0 and 1")
    check_fpr("fdr", fdr)
    adjusted = scipy.stats.false_discovery_control(p_values, axis=None, method="bh")
    return adjusted.reshape(p_values.shape) <= fdr * ROUNDING
