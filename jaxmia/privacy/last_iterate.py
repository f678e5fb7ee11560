"""The last-iterate heuristic for Poisson-sampled DP-SGD: an estimate of what the final head alone leaks, no guarantee.

Accounting composes all T steps, as if every iterate were released. If gradients did not depend on the weights, the last
iterate would be a sum, and one record would shift N(0, sigma² T) by the number of batches that it is in (Steinke, Nasr
et al. 2025, arXiv 2410.06186, Theorem 1):

    P = Binomial(T, q) + N(0, sigma² T),    Q = N(0, sigma² T),
    delta(epsilon) = max(H(P, Q), H(Q, P)),    H(P, Q) = E_P (1 - e^epsilon Q / P)_+.

Gradients of a real head do depend on its weights, and the paper has examples that leak more. The estimate lies between
what audits prove and what accountants guarantee; it must never be called a guarantee. On full batches all three agree.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats

from jaxmia._validate import check, check_at_least
from jaxmia.privacy.accounting import check_delta


def last_iterate_epsilon(*, noise_multiplier: float, sampling_rate: float, steps: int, delta: float) -> float:
    """Return the epsilon that the heuristic estimates, for adding or removing one record.

    Args:
        noise_multiplier: sigma, positive.
        sampling_rate: q.
        steps: T.
        delta: as of a guarantee.

    Raises:
        InputError: for a value outside of its range.
    """
    check(0 < noise_multiplier < math.inf, "noise_multiplier", noise_multiplier, "be a positive number")
    check(0 < sampling_rate <= 1, "sampling_rate", sampling_rate, "lie in (0, 1]")
    check_at_least("steps", steps, 1)
    check_delta(delta)
    law = _Law(noise_multiplier * math.sqrt(steps), sampling_rate, steps)
    if law.delta(0.0) <= delta:
        return 0.0
    high = 1.0
    while law.delta(high) > delta:
        high *= 2
    return float(scipy.optimize.brentq(lambda epsilon: law.delta(epsilon) - delta, 0.0, high, xtol=1e-9))


class _Law:
    """P and Q; their likelihood ratio rises with y, so that each hockey stick is a difference of two tails."""

    def __init__(self, deviation: float, sampling_rate: float, steps: int):
        counts = np.arange(steps + 1.0)
        weights = scipy.stats.binom.logpmf(counts, steps, sampling_rate)
        kept = weights > -800  # the others are 0 in float64
        self._deviation, self._counts, self._weights = deviation, counts[kept], weights[kept]

    def delta(self, epsilon: float) -> float:
        """Return the larger of both hockey sticks."""
        low, high = self._where(-epsilon), self._where(epsilon)
        added = self._shifted(high, upper=True) - math.exp(epsilon) * self._centred(high, upper=True)
        removed = self._centred(low, upper=False) - math.exp(epsilon) * self._shifted(low, upper=False)
        return max(added, removed, 0.0)

    def _log_ratio(self, y: float) -> float:
        exponents = (self._counts * y - self._counts**2 / 2) / self._deviation**2
        return float(scipy.special.logsumexp(self._weights + exponents))

    def _where(self, log_ratio: float) -> float:
        """Return the y at which log P / Q has this value; -inf where it is larger everywhere."""
        least = self._weights[0] if self._counts[0] == 0 else -math.inf  # the limit for small y
        if log_ratio <= least:
            return -math.inf
        low, high = -self._deviation, self._deviation
        while self._log_ratio(high) < log_ratio:
            high = 2 * high
        while self._log_ratio(low) > log_ratio:
            low = 2 * low
        return float(scipy.optimize.brentq(lambda y: self._log_ratio(y) - log_ratio, low, high, xtol=1e-12))

    def _centred(self, y: float, *, upper: bool) -> float:
        return float(scipy.special.ndtr((-y if upper else y) / self._deviation))

    def _shifted(self, y: float, *, upper: bool) -> float:
        apart = (self._counts - y) / self._deviation
        return float(np.exp(self._weights) @ scipy.special.ndtr(apart if upper else -apart))
