"""Where the time of a run went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jaxmia.tables import Table
from jaxmia.tables.table import number

STAGES = {
    "seconds_tuning": "tuning",
    "seconds_preparing": "preparing: pool, members, scores of heads",
    "seconds_training": "training",
    "seconds_attacking": "attacks, intervals, tables of the cells",
}


def times_tables(cells: Mapping[str, Mapping[str, Any]], seconds: float | None) -> Iterator[str | Table]:
    """Yield a table of stages, and a line with rate and slowest cell.

    Args:
        cells: entries of a run's manifest by name.
        seconds: of the whole command if it computed all cells, else None.
    """
    stages = {words: sum(float(cell[name]) for cell in cells.values()) for name, words in STAGES.items()}
    training = stages["training"]
    if seconds is not None:
        stages["the rest: start, reading, laws, plots"] = max(seconds - sum(stages.values()), 0.0)
    total = sum(stages.values())
    rows = tuple(
        (words, number(spent, ".1f"), number(spent / total, ".0%")) for words, spent in stages.items()
    )
    yield Table("Where the time went", ("stage", "seconds", "share"), rows)
    heads = sum(int(cell["heads_trained"]) for cell in cells.values())
    of_cells = {name: sum(float(cell[stage]) for stage in STAGES) for name, cell in cells.items()}
    slowest = max(of_cells, key=of_cells.__getitem__)
    rate = f"{heads / training:.0f} heads/s in training; " if training else ""
    yield f"{rate}slowest of {len(cells)} cells: {slowest}, {of_cells[slowest]:.1f} s"
