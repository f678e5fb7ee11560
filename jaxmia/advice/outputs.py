"""What rounded probabilities reveal of a record: its analytic law, seen through the bins of the rounding."""

from __future__ import annotations

import numpy as np
import scipy.special

from jaxmia.ridge.expected import AnalyticVulnerability


def rounded_tpr(
    found: AnalyticVulnerability, tails: tuple[np.ndarray, np.ndarray], fpr: float, decimals: int
) -> np.ndarray:
    """Return each record's TPR at its own FPR where its probability is released with so many decimals.

    A threshold can only lie between two numbers that are printed. The attack calls what lies above the one next to the
    exact threshold, and at random what shares its number, so that the FPR is met exactly (jaxmia.scores.release says
    how an actor reads rounded probabilities).

    Args:
        found: every record's moments.
        tails: standardised residuals of members and non-members, ascending.
        fpr: FPR of every record.
        decimals: of the printed probability.

    Returns:
        float64[examples].
    """
    inside, outside = tails
    steps = 10**decimals
    exact = found.mean_out + np.quantile(outside, 1 - fpr) * found.std_out
    number = np.clip(np.floor(steps * scipy.special.expit(exact) + 0.5), 0, steps)

    def above(edge: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the shares of members and non-members whose probability exceeds (edge - 1/2) / steps."""
        share = np.clip((edge - 0.5) / steps, 0.0, 1.0)
        with np.errstate(divide="ignore"):
            log_odds = scipy.special.logit(share)
        of_members = np.searchsorted(inside, (log_odds - found.mean_in) / found.std_in, side="left")
        of_others = np.searchsorted(outside, (log_odds - found.mean_out) / found.std_out, side="left")
        return 1 - of_members / inside.size, 1 - of_others / outside.size

    (tpr_low, fpr_low), (tpr_high, fpr_high) = above(number), above(number + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(fpr_low > fpr_high, (fpr - fpr_high) / (fpr_low - fpr_high), 0.0)
    called: np.ndarray = np.clip(tpr_high + np.clip(share, 0, 1) * (tpr_low - tpr_high), fpr, 1.0)
    return called
