"""What a folder can have of a cell: its tables, their states, and files that are damaged."""

from __future__ import annotations

from typing import Literal

TABLES = ("results", "per_example", "controls")
MORE_TABLES = ("per_person",)
"""Of cells whose members are persons."""
CellState = Literal["done", "absent", "outdated", "failed", "damaged"]
"""Of a cell's rows: there; not there; of other settings; not there since computing them failed; not as written."""


class DamagedError(RuntimeError):
    """A file of a run folder is not what was written; whoever reads it can compute it again."""
