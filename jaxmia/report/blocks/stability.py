"""Agreement of attacks, and of seeds, on the most vulnerable records."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from jaxmia.report.blocks.records import RecordsOf
from jaxmia.tables import Measured, Table, Value
from jaxmia.vulnerability.stability import agreement, pairs, top

_COLUMNS = ("flagged by the first", "by the second", "by both", "by both, if by chance")


def attacks_table(flags: Mapping[str, np.ndarray], member: np.ndarray, fpr: float) -> Table:
    """Return the agreement of pairs of attacks on members of the audited model."""
    rows: list[tuple[Value, ...]] = []
    for one, two, found in pairs({name: each[member] for name, each in flags.items()}):
        expected = Measured(found.expected, form=".1f", status="by chance")
        rows.append((f"{one}, {two}", found.first, found.second, found.both, expected))
    return Table(
        f"Stability: members flagged by two attacks at FPR {fpr:g}",
        ("attacks", *_COLUMNS),
        tuple(rows),
        "Flagged: the record's rank p-value in this model, among the shadows that never saw it, is at most the FPR."
        " records.parquet has the number of attacks that flag each record (flagged_by).",
        about="Whether different attacks point to the same records.",
    )


def seeds_table(records: Sequence[RecordsOf]) -> Table | None:
    """Return the agreement of two seeds of a cell on records in both pools; None without two seeds."""
    rows: list[tuple[Value, ...]] = []
    for one, two in itertools.combinations(records, 2):
        cell, _, seed = one.name.rpartition(", seed ")
        other, _, second = two.name.rpartition(", seed ")
        if cell != other:
            continue
        shared = one.table[["id", "separation"]].merge(two.table[["id", "separation"]], on="id")
        if shared.empty:
            continue
        found = agreement(*(top(shared[name].to_numpy(float)) for name in ("separation_x", "separation_y")))
        order = Measured(float(shared["separation_x"].corr(shared["separation_y"], method="spearman")))
        expected = Measured(found.expected, form=".1f", status="by chance")
        name = f"{cell}, seeds {seed} and {second}"
        rows.append((name, len(shared), found.first, found.second, found.both, expected, order))
    if not rows:
        return None
    return Table(
        "Stability: the top 1% of two seeds",
        ("cell and seeds", "records in both pools", *_COLUMNS, "rank correlation"),
        tuple(rows),
        "Each seed has its own pool and models. Of the records in both pools, the 1% with the largest separation"
        " under each seed. Spearman's correlation over all of them.",
        about="Whether repetitions with other members point to the same records.",
    )
