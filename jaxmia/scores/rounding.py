"""Probabilities rounded to decimals or to a float format, and the log-odds that such rounding leaves.

An API that prints 0.9731 gives log-odds on a coarse grid. An API that prints 1.0000 says only that 1 - p is below half
a unit: such scores are censored. They are set to the end of the known range, log((1 - u/2) / (u/2)) for a unit u.
Scores to be compared with them must go through the same rounding.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.special

MOST_DECIMALS = 12
_CHANCE = 1e-9  # probability that numbers which were not rounded look rounded
_FLOAT16_BITS, _BFLOAT16_BITS = 11, 8  # bits of the significand
_SEVERAL = 3  # distinct numbers needed as evidence: 0.5 and 0.25 exist in every format


@dataclasses.dataclass(frozen=True)
class Rounding:
    """How probabilities were rounded.

    Attributes:
        unit: distance between two neighbouring numbers; for a float format its smallest positive number.
        decimals: k of 10^-k, or None for a float format.
        bits: bits of the significand of float16 or bfloat16; None for decimals, and for wider formats, where only the
            ends are cut off.
    """

    unit: float
    decimals: int | None = None
    bits: int | None = None

    def __str__(self) -> str:
        """Return the words for a note."""
        if self.decimals is not None:
            return f"rounded to {self.decimals} decimal{'s' if self.decimals > 1 else ''}"
        if self.bits is not None:
            return "stored with the precision of " + ("float16" if self.bits == _FLOAT16_BITS else "bfloat16")
        return "exactly 0 or 1 in places"

    @property
    def grain(self) -> float:
        """Return the distance between two numbers just below 1: each class may add this error to a sum over classes."""
        return self.unit if self.bits is None else 2.0**-self.bits

    @property
    def limit(self) -> float:
        """Return the log-odds at which scores are cut off, in nats."""
        return float(np.log(1 - self.unit / 2) - np.log(self.unit / 2))

    def log_odds(self, true: np.ndarray, rest: np.ndarray) -> np.ndarray:
        """Return log-odds of rounded probabilities, where 0 counts as half a unit.

        Args:
            true: rounded probabilities of the true class, any shape.
            rest: rounded probability of all other classes together, of true's shape; 1 - true for decimals.
        """
        ends = self.unit / 2, 1 - self.unit / 2
        return np.asarray(np.log(np.clip(true, *ends)) - np.log(np.clip(rest, *ends)))

    def applied(self, log_odds: np.ndarray) -> np.ndarray:
        """Return the log-odds that would be read if their probabilities were rounded in this way; float64, any shape.

        The probabilities of all other classes count as one number: their sum is rounded once.
        """
        exact = np.asarray(log_odds, np.float64)
        if self.decimals is None and self.bits is None:
            return np.clip(exact, -self.limit, self.limit)
        true = self._rounded(scipy.special.expit(exact))
        rest = 1 - true if self.decimals is not None else self._rounded(scipy.special.expit(-exact))
        return self.log_odds(true, rest)

    def _rounded(self, p: np.ndarray) -> np.ndarray:
        if self.decimals is not None:
            return np.round(p, self.decimals)
        if self.bits == _FLOAT16_BITS:
            return p.astype(np.float16).astype(np.float64)
        return _to_bfloat16(p).astype(np.float64)


def rounding_of(probabilities: np.ndarray) -> Rounding | None:
    """Return how probabilities were rounded, as far as the values show; None if they were not.

    Decimals: every number is the closest float to a multiple of 10^-k, or 1 minus such a number, with the smallest k
    that fits, up to 12. Only numbers other than 0 and 1 count as evidence. There must be so many that numbers which
    were not rounded would pass with probability below 1e-9. Formats: float16 and bfloat16 are recognised, also when
    stored as wider floats. Wider formats are not reported: with float32's 1 - p, log-odds reach 16 already.

    Args:
        probabilities: in [0, 1], any shape, float16, float32 or float64.
    """
    values = np.unique(probabilities)
    inner = values[(values > 0) & (values < 1)].astype(np.float64)
    if inner.size < _SEVERAL:
        return None
    for dtype in (probabilities.dtype.type, np.float32):  # float64 often holds numbers rounded in float32
        if np.array_equal(inner, inner.astype(dtype)):
            decimals = _decimals(inner, float(np.finfo(dtype).eps))
            if decimals is not None:
                return Rounding(10.0**-decimals, decimals=decimals)
    if np.array_equal(inner, inner.astype(np.float16)):
        return Rounding(float(np.finfo(np.float16).smallest_subnormal), bits=_FLOAT16_BITS)
    if np.array_equal(inner, _to_bfloat16(inner)):
        return Rounding(float(np.finfo(np.float32).tiny), bits=_BFLOAT16_BITS)
    return None


def cut_off(true: np.ndarray, rest: np.ndarray, dtype: np.dtype) -> Rounding | None:
    """Return where to cut log-odds off if some probabilities are exactly 0 or 1 without rounding; None if none are.

    A probability of 0 is taken as half of the smallest positive one in the data, or half of the format's resolution
    below 1 if that is smaller: beyond all other values, but not further than the data reach.

    Args:
        true: probabilities of the true class, any shape.
        rest: probability of all other classes together, of true's shape.
        dtype: format in which they are stored.
    """
    positive = np.concatenate([part[part > 0] for part in (true, rest)])
    if positive.size == true.size + rest.size:
        return None
    smallest = min(float(positive.min()), float(np.finfo(dtype).epsneg))
    return Rounding(max(smallest, 2 * float(np.finfo(np.float64).smallest_subnormal)))


def _decimals(inner: np.ndarray, eps: float) -> int | None:
    """Return the smallest number of decimals that fits these numbers, or None.

    Args:
        inner: float64, distinct values in (0, 1).
        eps: machine epsilon of the format in which they were rounded.
    """
    for decimals in range(1, MOST_DECIMALS + 1):
        scale = 10.0**decimals
        chance = 4 * eps * scale  # probability that a number lies this close to a multiple
        if chance >= 1:
            return None
        nearest = np.round(inner * scale)
        near = np.abs(inner * scale - nearest) <= chance / 2
        if bool(np.all(near & (nearest > 0) & (nearest < scale))):
            known = min(len(inner), int(scale) - 1)
            return decimals if known * np.log(chance) <= np.log(_CHANCE) else None
    return None


def _to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Round to the nearest bfloat16, ties to even, and return float32."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    even = ((bits >> 16) & 1) + np.uint32(0x7FFF)
    return ((bits + even) & np.uint32(0xFFFF0000)).view(np.float32)
