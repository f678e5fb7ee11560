"""The tables of a cell, the states of its rows, and the error for damaged files."""

from __future__ import annotations

from typing import Literal

TABLES = ("results", "per_example", "controls")
MORE_TABLES = ("per_person", "actors")
"""Of cells whose members are persons, and of those with actors."""
CellState = Literal["done", "absent", "outdated", "failed", "damaged"]
"""State of a cell's rows: present; missing; of other settings; missing because computing them failed; damaged."""


class DamagedError(RuntimeError):
    """A file of a run folder differs from what was written; the reader can compute it again."""
