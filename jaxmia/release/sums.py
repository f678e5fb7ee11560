"""Sums of clipped gradients on a lattice, and OpenDP's noise on them: the only place where a release sees its records.

The sensitivity of a floating-point sum cannot be proved: the sum depends on the order, and a blocked matrix product
rounds a record differently with other records around it. So

- a record's contribution is a function of that record and of what has been released, computed separately;
- it is scaled to at most the clipping norm, with a margin for rounding, and truncated towards zero to whole multiples
  of 2^-LATTICE_BITS, which enlarges no coordinate and so no norm;
- contributions are added as integers, exactly and in any order.

Adding or removing a record, or a person, then moves the integers by at most clipping norm x 2^LATTICE_BITS, replacing
one by at most twice that. The noise is OpenDP's discrete Gaussian on integers, from the operating system's generator:
neither predictable nor open to attacks on floating-point noise (Mironov 2012).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxmia._validate import InputError
from jaxmia.privacy.accounting import SENSITIVITY
from jaxmia.privacy.certificate import LATTICE_BITS

_ROOM = 1 - 2.0**-40  # for rounding of a norm and of what is scaled by it
_UNIT = math.ldexp(1.0, LATTICE_BITS)


def on_lattice(
    contribution: Float[np.ndarray, "classes inputs"], clipping_norm: float
) -> Int[np.ndarray, "classes inputs"]:
    """Return a contribution clipped to a norm, in whole lattice units; zero if it is not finite."""
    norm = float(np.sqrt(np.sum(contribution * contribution)))
    if not math.isfinite(norm):
        return np.zeros(contribution.shape, np.int64)
    scale = min(1.0, clipping_norm / norm) * _ROOM if norm > 0 else 0.0
    return np.trunc(contribution * (scale * _UNIT)).astype(np.int64)


def gradient_of(
    record: Float[np.ndarray, "inputs"], label: int, head: Float[np.ndarray, "classes inputs"]
) -> Float[np.ndarray, "classes inputs"]:
    """Return the cross-entropy's gradient of one record at a head: (p - e_y) xᵀ."""
    logits = head @ record
    shares = np.exp(logits - logits.max())
    errors = shares / shares.sum()
    errors[label] -= 1
    return np.outer(errors, record)


def lattice_sum(
    inputs: Float[np.ndarray, "members inputs"],
    labels: Int[np.ndarray, "members"],
    head: Float[np.ndarray, "classes inputs"],
    *,
    clipping_norm: float,
    units: list[np.ndarray],
    on_unit: Callable[[], None] = lambda: None,
) -> Int[np.ndarray, "classes inputs"]:
    """Return the sum over units of their clipped gradients, in lattice units.

    Args:
        inputs: features of the members, with a constant 1 where there is a bias.
        labels: their classes.
        head: at whose weights gradients are taken; released, or zero.
        clipping_norm: c.
        units: rows of every unit: one for a record, all of a person's for a person.
        on_unit: called after each unit.
    """
    total = np.zeros(head.shape, np.int64)
    held = np.empty(inputs.shape[1])  # one place for all records: the same alignment, the same rounding
    for rows in units:
        whole = np.zeros(head.shape)
        for row in rows:
            held[:] = inputs[row]
            whole += gradient_of(held, int(labels[row]), head)
        total += on_lattice(whole, clipping_norm)
        on_unit()
    return total


def units_of(members: int, person: np.ndarray | None) -> list[np.ndarray]:
    """Return the rows of each unit: of each record, or of each person."""
    if person is None:
        return list(np.arange(members)[:, None])
    whose = np.unique(person, return_inverse=True)[1]
    return list(_rows_of(whose))


def _rows_of(whose: np.ndarray) -> Iterator[np.ndarray]:
    order = np.argsort(whose, kind="stable")
    return iter(np.split(order, np.flatnonzero(np.diff(whose[order])) + 1))


def import_opendp() -> Any:
    """Return opendp.prelude.

    Raises:
        InputError: if OpenDP is not installed.
    """
    try:
        import opendp.prelude as dp
    except ImportError:
        raise InputError(
            "A release needs OpenDP, for cryptographic noise: pip install 'jaxmia[release]'."
        ) from None
    dp.enable_features("contrib")  # the Gaussian mechanism is behind this switch
    return dp


def noisy(
    total: Int[np.ndarray, "classes inputs"], *, noise_multiplier: float, clipping_norm: float
) -> Float[np.ndarray, "classes inputs"]:
    """Return the sum with discrete Gaussian noise of scale noise_multiplier x clipping_norm, in units of a gradient."""
    dp = import_opendp()
    domain, metric = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="f64")
    measure = dp.m.make_gaussian(domain, metric, scale=noise_multiplier * clipping_norm * _UNIT)
    drawn = np.array(measure(total.ravel().tolist()), np.int64)
    return drawn.reshape(total.shape) / _UNIT


def sensitivity(clipping_norm: float, adjacency: str) -> float:
    """Return how far one unit moves the sum, in lattice units and L2 norm."""
    return SENSITIVITY[adjacency] * clipping_norm * _UNIT
