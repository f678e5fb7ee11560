"""Tables of guarantees by differential privacy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from jaxmia.cli.tables.cells import rounded_up
from jaxmia.privacy.guarantee import PrivacyGuarantee
from jaxmia.privacy.tradeoff import kairouz_ceiling
from jaxmia.tables import Table, Value


def privacy_tables(guarantee: PrivacyGuarantee, fprs: Sequence[float]) -> Iterator[Table]:
    """Yield the guarantee of a DP-SGD recipe, and its ceilings on any attack; bounds are rounded up."""
    yield Table(
        "DP-SGD",
        ("", ""),
        (
            ("noise multiplier", rounded_up(guarantee.noise_multiplier)),
            ("sampling rate", f"{guarantee.sampling_rate:g}"),
            ("steps", guarantee.steps),
            ("epsilon, achieved", rounded_up(guarantee.epsilon)),
            ("delta", f"{guarantee.delta:g}"),
            ("adjacency", guarantee.adjacency),
            ("accountant", guarantee.accountant),
        ),
    )
    rows: list[tuple[Value, ...]] = []
    for fpr, ceiling in zip(fprs, guarantee.tpr_ceiling(np.asarray(fprs, float)), strict=True):
        single = 1.0
        if math.isfinite(guarantee.epsilon):
            single = float(kairouz_ceiling(fpr, epsilon=guarantee.epsilon, delta=guarantee.delta))
        bounds = (rounded_up(bound) for bound in (ceiling, max(ceiling - fpr, 0.0), single))
        rows.append((f"{fpr:g}", *bounds))
    yield Table(
        "The largest TPR that any attack on one record can have",
        ("FPR", "trade-off curve", "advantage", f"Kairouz, at delta {guarantee.delta:g} alone"),
        tuple(rows),
        "Bounds hold for the mathematical mechanism. JAX's random generators are not cryptographic:"
        " heads trained with them are for measurement, not for release.",
    )
