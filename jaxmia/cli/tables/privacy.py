"""Tables of what differential privacy guarantees."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from rich.table import Table

from jaxmia.cli.tables.layout import add_row, new_table, rounded_up
from jaxmia.privacy.accounting import PrivacyGuarantee
from jaxmia.privacy.tradeoff import kairouz_ceiling


def privacy_tables(guarantee: PrivacyGuarantee, fprs: Sequence[float]) -> Iterator[Table]:
    """What a DP-SGD recipe guarantees, and the ceilings that it puts on any attack; bounds are rounded up."""
    recipe = new_table("DP-SGD", ("", ""))
    recipe.show_header, recipe.columns[0].justify = False, "left"
    for name, value in (
        ("noise multiplier", rounded_up(guarantee.noise_multiplier)),
        ("sampling rate", f"{guarantee.sampling_rate:g}"),
        ("steps", str(guarantee.steps)),
        ("epsilon, achieved", rounded_up(guarantee.epsilon)),
        ("delta", f"{guarantee.delta:g}"),
        ("adjacency", guarantee.adjacency),
        ("accountant", guarantee.accountant),
    ):
        add_row(recipe, name, value)
    yield recipe
    ceilings = new_table(
        "The largest TPR that any attack on one record can have",
        ("FPR", "trade-off curve", "advantage", f"Kairouz, at delta {guarantee.delta:g} alone"),
    )
    for fpr, ceiling in zip(fprs, guarantee.tpr_ceiling(np.asarray(fprs, float)), strict=True):
        single = 1.0
        if math.isfinite(guarantee.epsilon):
            single = float(kairouz_ceiling(fpr, epsilon=guarantee.epsilon, delta=guarantee.delta))
        add_row(
            ceilings, f"{fpr:g}", rounded_up(ceiling), rounded_up(max(ceiling - fpr, 0.0)), rounded_up(single)
        )
    ceilings.caption = (
        "Of the mechanism on paper. JAX's generators are not cryptographic: heads trained with them are for"
        " measurement, not for release."
    )
    yield ceilings
