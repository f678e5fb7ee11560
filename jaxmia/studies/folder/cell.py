"""A cell of a grid: its name, and what stands for it in JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from jaxmia._hashes import json_number

TABLES = ("results", "per_example", "controls")
CellState = Literal["done", "absent", "outdated", "failed", "damaged"]
"""Of a cell's rows: there; not there; of other settings; not there since computing them failed; not as written."""


class DamagedError(RuntimeError):
    """A file of a run folder is not what was written; whoever reads it can compute it again."""


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
    """One ensemble of the grid.

    Attributes:
        classes: C.
        shots: S.
        seed: of all its randomness.
        epsilon: that it is trained to; inf for ordinary training.
    """

    classes: int
    shots: int
    seed: int
    epsilon: float = math.inf

    def __str__(self) -> str:
        """The name of the cell's folder."""
        private = "" if self.epsilon == math.inf else f"_epsilon-{self.epsilon:g}"
        return f"classes-{self.classes}_shots-{self.shots}_seed-{self.seed}{private}"

    def entry(self) -> dict[str, int | float | str]:
        """What the manifest says of the cell: JSON has no infinity."""
        return {**dataclasses.asdict(self), "epsilon": json_number(self.epsilon)}

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> Cell:
        """The cell of an entry."""
        return cls(entry["classes"], entry["shots"], entry["seed"], float(entry["epsilon"]))
