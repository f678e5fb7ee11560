"""Calls of members at a stated false discovery rate, and the positive predictive value (PPV) of calls."""

from __future__ import annotations

import numpy as np
import scipy.stats

from jaxmia._validate import check, check_fpr

ROUNDING = 1 + 1e-12  # p-values on a grid can equal the bound exactly: rounding must not decide


def positive_predictive_value(
    tpr: np.ndarray | float, fpr: np.ndarray | float, *, prior: np.ndarray | float
) -> np.ndarray:
    """Return the share of true members among calls, prior TPR / (prior TPR + (1 - prior) FPR).

    Args:
        tpr: true positive rates in [0, 1], any shape.
        fpr: false positive rates in [0, 1], broadcast against tpr.
        prior: share of members among the candidates that the attacker asks about, in (0, 1), broadcast likewise.

    Raises:
        InputError: unless tpr and fpr lie in [0, 1] and prior in (0, 1); if both rates are 0, since nothing is called
            and the share is undefined.
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

    A p-value is valid for a non-member, P(p <= f) <= f, if its statistic is exchangeable with those of the known
    non-members (Vovk, Gammerman and Shafer 2005): drawn in the same way, scored by the same attack, and not used by
    that attack.

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
    """Return which candidates to call members at a false discovery rate of at most fdr (Benjamini and Hochberg 1995).

    The expected share of non-members among the calls is at most fdr times their share among the candidates if the
    p-values of non-members are valid and either independent or positively dependent. Conformal p-values against one set
    of known non-members are positively dependent (Bates et al. 2023, arXiv 2104.08279). Calibrated p-values of one
    target share their shadow models, and no proof covers them. A conformal p-value from n known non-members is at least
    1 / (1 + n), so k calls among m candidates need n >= m / (k fdr) - 1.

    Args:
        p_values: float in [0, 1], any shape; all of them are adjusted together as one family.
        fdr: false discovery rate, in (0, 1).

    Returns:
        bool array of p_values' shape, True for a call.

    Raises:
        InputError: if p_values is empty or has values outside [0, 1], or unless 0 < fdr < 1.
    """
    p_values = np.asarray(p_values, np.float64)
    check(p_values.size > 0, "number of p_values", p_values.size, "be at least 1")
    check(bool(np.all((p_values >= 0) & (p_values <= 1))), "p_values", p_values, "lie between 0 and 1")
    check_fpr("fdr", fdr)
    adjusted = scipy.stats.false_discovery_control(p_values, axis=None, method="bh")
    return adjusted.reshape(p_values.shape) <= fdr * ROUNDING
