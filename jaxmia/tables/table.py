"""A table, and the numbers in it with their intervals and statuses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from jaxmia._hashes import json_number


@dataclasses.dataclass(frozen=True)
class Measured:
    """A number with its interval and its status.

    Attributes:
        value: None where there is none.
        low: lower end of its interval, if it has one.
        high: upper end.
        status: "ok", or why a reader must not take the number as it stands: "unresolved", "extrapolated", "not run".
        reason: one clause on the status.
        form: how it is shown, as in format().
        error: its standard error, if it has one instead of an interval.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    status: str = "ok"
    reason: str = ""
    form: str = ".3f"
    error: float | None = None

    def alone(self, form: str | None = None) -> Measured:
        """The number without its interval, where there is no room for it."""
        return dataclasses.replace(self, low=None, high=None, form=form or self.form)

    def to_json(self) -> dict[str, Any]:
        """Value, interval or standard error, and status."""
        names = ("value", "low", "high") if self.error is None else ("value", "error")
        numbers = {name: getattr(self, name) for name in names}
        infinite = {name: json_number(found) if found else found for name, found in numbers.items()}
        return infinite | {"status": self.status, "reason": self.reason}


NONE = Measured(None, status="none")
"""No number, and none was expected."""


def measured(value: float, low: float, high: float, status: str = "ok", reason: str = "") -> Measured:
    """A number from a results table, where NaN stands for none."""
    value_, low_, high_ = (None if math.isnan(found) else float(found) for found in (value, low, high))
    return Measured(value_, low_, high_, status, reason)


def number(value: float | None, form: str = ".3f", *, error: float | None = None) -> Measured:
    """A number without an interval; None and NaN stand for none."""
    if value is None or math.isnan(value):
        return NONE
    return Measured(float(value), form=form, error=error)


Value = str | int | Measured
"""Of a cell of a table."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: what it holds.
        columns: headings.
        rows: of cells.
        note: what a reader must know to read it.
        sortable: whether a reader of a page may order its rows.
        stub: the first so many cells of a row name it; a terminal shows those that repeat only once.
        ruled: a terminal draws a line where one of the first so many cells changes; 0 for no lines.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    note: str = ""
    sortable: bool = False
    stub: int = 1
    ruled: int = 0

    def to_json(self) -> dict[str, Any]:
        """Rows as objects would lose the order of columns: they are lists."""
        rows = [[cell.to_json() if isinstance(cell, Measured) else cell for cell in row] for row in self.rows]
        return {"title": self.title, "columns": list(self.columns), "rows": rows, "note": self.note}


def facts(title: str, pairs: Mapping[str, Value], note: str = "") -> Table:
    """A table of questions and their answers."""
    return Table(title, ("", "answer"), tuple(pairs.items()), note)
