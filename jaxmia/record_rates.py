"""What makes a record's TPR of its shadows: three estimates, and what the shadows attain themselves."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from scipy.special import stdtrit
from scipy.stats import binom, norm

from jaxmia.attacks._shadows import RESOLUTION, Sides, blocks_of, score_arrays, side_moments
from jaxmia.calibration import pooled_p_values, residual_p_values
from jaxmia.evaluation import clopper_pearson, required_nonmembers
from jaxmia.residuals import (
    SideMoments,
    drawn_together,
    law_error,
    position,
    record_laws,
    share_above,
)
from jaxmia.scores import Scores
from jaxmia.separation import paired_laws

CONFIDENCE = 0.95  # of intervals


class Found(NamedTuple):
    """What does not depend on the FPR."""

    shadows: Sides
    inside: SideMoments
    outside: SideMoments
    separation: np.ndarray
    separation_error: np.ndarray


@runtime_checkable
class Rates(Protocol):
    """TPR of every record at an FPR, its error, and intervals at any confidence."""

    found: Found

    def tpr(self, fpr: float) -> tuple[np.ndarray, np.ndarray]:
        """Return TPR and standard error [examples], NaN where unresolved."""

    def drawn(self, fpr: float) -> np.ndarray:
        """Return TPRs [examples] whose spread over records is without that of their errors."""

    def interval(self, fpr: float, tail: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the ends [examples] that the TPR lies beyond with a probability of tail each."""


class ResidualRates:
    """Both sides' own moments, and the tails of all records together."""

    def __init__(
        self,
        found: Found,
        scale: float,
        *,
        paired: bool,
        prior: tuple[np.ndarray, np.ndarray] | None,
    ) -> None:
        self.found = found
        self.shift_variance: np.ndarray | None = None
        laws = record_laws(found.shadows, found.inside, found.outside)
        if paired:
            laws, self.shift_variance = paired_laws(found.shadows, laws, prior)
        wider = (each._replace(deviation=each.deviation / scale) for each in laws)
        self.inside, self.outside = wider
        still = (self.inside.deviation <= RESOLUTION) & (self.outside.deviation <= RESOLUTION)
        self.silent = still & (np.abs(self.inside.mean - self.outside.mean) <= RESOLUTION)

    def tpr(self, fpr: float) -> tuple[np.ndarray, np.ndarray]:
        """As Rates."""
        t, error = position(self.inside, self.outside, fpr, shift_variance=self.shift_variance)
        low, high = (share_above(self.inside.residuals, t + side * error) for side in (1, -1))
        return self._share(t, fpr), (high - low) / 2

    def drawn(self, fpr: float) -> np.ndarray:
        """As Rates."""
        t, error = position(self.inside, self.outside, fpr, shift_variance=self.shift_variance)
        law = self.inside.residuals
        return self._share(drawn_together(np.clip(t, law[0] - 1, law[-1] + 1), error), fpr)

    def interval(self, fpr: float, tail: float) -> tuple[np.ndarray, np.ndarray]:
        """As Rates."""
        # The records' own errors take 3/5 of the tail, those of either side's law, which all have in common, 1/5 each.
        in_common = norm.isf((1 - CONFIDENCE) / 2 / 5)
        ends = []
        for side in (1, -1):
            of_law = float(law_error(self.outside, fpr))
            moved = float(np.clip(fpr - side * in_common * of_law, 1e-9, 1 - 1e-9))
            t, error = position(self.inside, self.outside, moved, shift_variance=self.shift_variance)
            width = norm.isf(3 / 5 * tail) * np.where(np.isnan(error), 0.0, error)
            share = self._share(t + side * width, fpr)
            ends.append(np.clip(share - side * in_common * law_error(self.inside, share), 0, 1))
        return ends[0], ends[1]

    def _share(self, t: np.ndarray, fpr: float) -> np.ndarray:
        return np.where(self.silent, fpr, share_above(self.inside.residuals, t))


class GaussianRates:
    """Gaussians with one deviation, D apart."""

    def __init__(self, found: Found) -> None:
        self.found = found

    def tpr(self, fpr: float) -> tuple[np.ndarray, np.ndarray]:
        """As Rates."""
        at = norm.ppf(fpr) + self.found.separation
        return norm.cdf(at), norm.pdf(at) * self.found.separation_error

    def drawn(self, fpr: float) -> np.ndarray:
        """As Rates."""
        separation = drawn_together(self.found.separation, self.found.separation_error)
        return norm.cdf(norm.ppf(fpr) + separation)

    def interval(self, fpr: float, tail: float) -> tuple[np.ndarray, np.ndarray]:
        """As Rates."""
        error = self.found.separation_error
        width = norm.isf(tail) * np.where(np.isnan(error), 0.0, error)
        at = norm.ppf(fpr) + self.found.separation
        return norm.cdf(at - width), norm.cdf(at + width)


class EmpiricalRates:
    """Counts of scores above a threshold that counts set."""

    def __init__(self, found: Found) -> None:
        self.found = found

    def tpr(self, fpr: float) -> tuple[np.ndarray, np.ndarray]:
        """As Rates."""
        inside, outside, separation = self.found.inside, self.found.outside, self.found.separation
        allowed = np.floor(fpr * outside.number).astype(int)
        # the product may land just below an integer
        allowed += (allowed + 1) / np.maximum(outside.number, 1) <= fpr
        tpr = np.where(self._resolved(fpr), self._hits(allowed) / np.maximum(inside.number, 1), np.nan)
        # Slope of the ROC of N(0, 1) against N(D, 1) at the threshold; 0 where D is infinite.
        usual = np.where(np.isfinite(separation), separation, 0.0)
        slope = np.where(np.isinf(separation), 0.0, np.exp(usual * float(norm.isf(fpr)) - usual**2 / 2))
        sampling = tpr * (1 - tpr) / np.maximum(inside.number, 1)
        return tpr, np.sqrt(sampling + slope**2 * fpr * (1 - fpr) / np.maximum(outside.number, 1))

    def drawn(self, fpr: float) -> np.ndarray:
        """As Rates."""
        return drawn_together(*self.tpr(fpr))

    def interval(self, fpr: float, tail: float) -> tuple[np.ndarray, np.ndarray]:
        """As Rates."""
        inside, outside = self.found.inside, self.found.outside
        ends = []
        # The true threshold leaves a binomial number of OUT scores above it.
        for end, share in enumerate((tail / 2, 1 - tail / 2)):
            above = np.asarray(binom.ppf(share, outside.number, fpr)).astype(int) - (1 - end)
            hits = np.where(above < 0, 0, self._hits(np.maximum(above, 0)))
            exact = clopper_pearson(hits, np.maximum(inside.number, 1), confidence=1 - tail)
            ends.append(np.where(self._resolved(fpr), exact[end], np.nan))
        return ends[0], ends[1]

    def _resolved(self, fpr: float) -> np.ndarray:
        enough = self.found.outside.number >= required_nonmembers(fpr)
        return (self.found.inside.number > 0) & enough & ~np.isnan(self.found.separation)

    def _hits(self, allowed: np.ndarray) -> np.ndarray:
        """Count the IN scores [examples] above the OUT score that so many others exceed."""
        shadows = self.found.shadows
        hits = np.empty(len(allowed), np.int64)
        for columns in blocks_of(*shadows.inside.log_odds.shape):
            (members, inside), (others, outside) = (side.block(columns) for side in shadows)
            ordered = np.sort(np.where(outside, -others, np.inf), axis=0)
            place = np.minimum(allowed[columns], len(others) - 1)
            threshold = -ordered[place, np.arange(others.shape[1])]
            hits[columns] = np.sum(inside & (members > threshold), axis=0)
        return hits


class Attained:
    """What these shadows reach: calls by p-values of pooled residuals, each model against the others."""

    def __init__(self, scores: Scores, found: Found, *, paired: bool) -> None:
        log_odds, self.member = score_arrays(scores)
        self.law = "gaussian" if paired else "z"
        null = ~self.member
        self.number, self.mean = found.outside.number, found.outside.mean
        self.deviation = np.sqrt(found.outside.squares / np.maximum(self.number, 1))
        residual = np.empty(log_odds.shape)
        for columns in blocks_of(*log_odds.shape):
            block, own = log_odds[:, columns].astype(np.float64), found.shadows.outside.block(columns)
            _, mean, variance = side_moments(*own)
            spread = np.sqrt(np.where(variance > RESOLUTION**2, variance, 1.0))
            z = (block - mean) / spread
            residual[:, columns] = residual_p_values(z, null[:, columns], self.law)
        # Models without another shadow on the side say nothing of a record.
        counted = null & (self.number - null >= 2)
        self.nulls = np.sort(residual[counted])
        self.p_values = np.where(self.number - null >= 2, pooled_p_values(residual, counted), 1.0)

    def rates(self, fpr: float) -> tuple[np.ndarray, np.ndarray]:
        """Return TPR and FPR [examples]; NaN without a model on the side."""
        called = self.p_values <= fpr
        shares = []
        for side in (self.member, ~self.member):
            number = side.sum(axis=0)
            shares.append(np.where(number > 0, np.sum(called & side, axis=0) / np.maximum(number, 1), np.nan))
        return shares[0], shares[1]

    def threshold(self, fpr: float) -> np.ndarray:
        """Return the log-odds [examples] above which a new model is called."""
        rank = int(fpr * (self.nulls.size + 1))
        if rank == 0:
            return np.full(len(self.number), np.nan)
        residual = self.nulls[rank - 1]
        if self.law == "gaussian":
            z = np.full(len(self.number), norm.isf(residual))
        else:
            degrees = np.maximum(self.number - 1, 1)
            z = -stdtrit(degrees, residual) * np.sqrt((self.number + 1) / degrees)
        return np.where(self.number >= 2, self.mean + z * self.deviation, np.nan)
