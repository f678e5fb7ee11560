"""Probabilities as they are stored: rounded to some decimals or to a float format, which cuts log-odds off.

An API that prints 0.9731 gives log-odds with a grain, and one that prints 1.0000 gives none at all: only that 1 - p is
below half a unit. Such scores are censored. What is known of them is the end of the range, log((1 - u/2) / (u/2)) for a
unit u, and that is what stands in. Scores that are to be compared with them must go through the same rounding.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.special

MOST_DECIMALS = 12
_CHANCE = 1e-9  # that numbers which were not rounded look so
_FLOAT16_BITS, _BFLOAT16_BITS = 11, 8  # of their significands
_SEVERAL = 3  # different numbers that tell: 0.5 and 0.25 are numbers of every format


@dataclasses.dataclass(frozen=True)
class Rounding:
    """How probabilities were rounded.

    Attributes:
        unit: between two numbers; of a float format its smallest positive number.
        decimals: k of 10^-k, or None for a float format.
        bits: of the significand of float16 or bfloat16; None for decimals and wider formats, which are only cut off.
    """

    unit: float
    decimals: int | None = None
    bits: int | None = None

    def __str__(self) -> str:
        """For a note."""
        if self.decimals is not None:
            return f"rounded to {self.decimals} decimal{'s' if self.decimals > 1 else ''}"
        if self.bits is not None:
            return "stored with the precision of " + ("float16" if self.bits == _FLOAT16_BITS else "bfloat16")
        return "exactly 0 or 1 in places"

    @property
    def grain(self) -> float:
        """Between two numbers just below 1: what a sum over classes may be off by, for each."""
        return self.unit if self.bits is None else 2.0**-self.bits

    @property
    def limit(self) -> float:
        """The log-odds at which scores are cut off, in nats."""
        return float(np.log(1 - self.unit / 2) - np.log(self.unit / 2))

    def log_odds(self, true: np.ndarray, rest: np.ndarray) -> np.ndarray:
        """Log-odds of rounded probabilities; what is rounded to 0 counts as half a unit.

        Args:
            true: of the true class, rounded, any shape.
            rest: of all others together, rounded; 1 - true for decimals.
        """
        ends = self.unit / 2, 1 - self.unit / 2
        return np.asarray(np.log(np.clip(true, *ends)) - np.log(np.clip(rest, *ends)))

    def applied(self, log_odds: np.ndarray) -> np.ndarray:
        """Log-odds as they would be read from probabilities that were rounded so; float64, any shape.

        Of several classes the others' probabilities count as one number: their sum is rounded once, here.
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
    """How probabilities were rounded, as far as they tell; None if they were not.

    Decimals: every number is the nearest of its format to a multiple of 10^-k, or 1 minus such a number; k is the
    smallest that fits, up to 12, and only numbers other than 0 and 1 count as evidence, enough of them that numbers
    which were not rounded would pass with a probability below 1e-9. Formats: float16 and bfloat16, also where they
    were stored as wider floats. Wider formats need no name: log-odds reach 16 at float32's 1 - p, and more at p.

    Args:
        probabilities: in [0, 1], any shape, float16, float32 or float64.
    """
    values = np.unique(probabilities)
    inner = values[(values > 0) & (values < 1)].astype(np.float64)
    if inner.size < _SEVERAL:
        return None
    for dtype in (probabilities.dtype.type, np.float32):  # float64 often holds what was rounded in float32
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
    """Where log-odds end if some probabilities are exactly 0 or 1, though nothing was rounded; None if none are.

    They are taken as half of the smallest positive one that was seen, or of the format's resolution below 1 if that is
    smaller: beyond all others, and no further than the data themselves go.

    Args:
        true: of the true class, any shape.
        rest: of all others together.
        dtype: in which they are stored.
    """
    positive = np.concatenate([part[part > 0] for part in (true, rest)])
    if positive.size == true.size + rest.size:
        return None
    smallest = min(float(positive.min()), float(np.finfo(dtype).epsneg))
    return Rounding(max(smallest, 2 * float(np.finfo(np.float64).smallest_subnormal)))


def _decimals(inner: np.ndarray, eps: float) -> int | None:
    """The fewest decimals that these numbers have, or None.

    Args:
        inner: float64, in (0, 1), each once.
        eps: of the format in which they were rounded.
    """
    for decimals in range(1, MOST_DECIMALS + 1):
        scale = 10.0**decimals
        chance = 4 * eps * scale  # that a number lies so near to a multiple
        if chance >= 1:
            return None
        nearest = np.round(inner * scale)
        near = np.abs(inner * scale - nearest) <= chance / 2
        if bool(np.all(near & (nearest > 0) & (nearest < scale))):
            known = min(len(inner), int(scale) - 1)
            return decimals if known * np.log(chance) <= np.log(_CHANCE) else None
    return None


def _to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The nearest numbers of bfloat16, ties to even, as float32."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    even = ((bits >> 16) & 1) + np.uint32(0x7FFF)
    return ((bits + even) & np.uint32(0xFFFF0000)).view(np.float32)
