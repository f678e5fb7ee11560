"""The largest TPR that a differential privacy guarantee allows any attack at an FPR, in closed form.

For the ceiling of a training run by accounting see jaxmia.privacy.accounting.tpr_ceiling.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr, ndtri

from jaxmia._validate import check, check_fpr

MAX_EXPONENT = 700.0  # e^709 is close to the largest float64; the ceiling is 1 at far smaller exponents


def kairouz_ceiling(
    fpr: np.ndarray | float, *, epsilon: np.ndarray | float, delta: np.ndarray | float
) -> np.ndarray:
    """Return the largest TPR at an FPR that (epsilon, delta)-DP allows, never above 1.

    min{e^epsilon fpr + delta, 1 - e^-epsilon (1 - delta - fpr)}: Kairouz et al. 2015 (arXiv 1311.0776).

    Args:
        fpr: fractions in (0, 1), any shape.
        epsilon: finite and at least 0, broadcast against fpr.
        delta: in [0, 1), broadcast against fpr.

    Raises:
        InputError: if fpr is outside (0, 1), epsilon negative or infinite, or delta outside [0, 1).
    """
    fprs, epsilons, deltas = (np.asarray(value, np.float64) for value in (fpr, epsilon, delta))
    _check_fprs(fprs)
    rule = "be a finite number of at least 0"
    check(bool(np.all((epsilons >= 0) & np.isfinite(epsilons))), "epsilon", epsilon, rule)
    check(bool(np.all((deltas >= 0) & (deltas < 1))), "delta", delta, "lie in [0, 1)")
    relaxed = np.exp(np.minimum(epsilons, MAX_EXPONENT)) * fprs + deltas
    swapped = 1.0 - np.exp(-epsilons) * (1.0 - deltas - fprs)  # the bound with D and D' swapped
    return np.asarray(np.minimum(np.minimum(relaxed, swapped), 1.0))


def gaussian_ceiling(fpr: np.ndarray | float, mu: np.ndarray | float) -> np.ndarray:
    """Return the largest TPR at an FPR that mu-Gaussian DP allows: Phi(Phi^-1(fpr) + mu).

    This is the trade-off of testing N(0, 1) against N(mu, 1): Dong, Roth and Su 2022 (arXiv 1905.02383, equation 6).

    Args:
        fpr: fractions in (0, 1), any shape.
        mu: at least 0, broadcast against fpr.

    Raises:
        InputError: if fpr is outside (0, 1), or mu negative, infinite or NaN.
    """
    fprs, mus = np.asarray(fpr, np.float64), np.asarray(mu, np.float64)
    _check_fprs(fprs)
    check(bool(np.all((mus >= 0) & np.isfinite(mus))), "mu", mu, "be a finite number of at least 0")
    return np.asarray(ndtr(ndtri(fprs) + mus))


def _check_fprs(fprs: np.ndarray) -> None:
    for outside in fprs[~((fprs > 0) & (fprs < 1))]:
        check_fpr("fpr", float(outside))
