"""What a report is made of, whatever it is shown as: sections of sentences, tables and figures."""

from __future__ import annotations

import dataclasses
import math
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
        form: how it is shown.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    status: str = "ok"
    reason: str = ""
    form: str = ".3f"

    @property
    def text(self) -> str:
        """The number and its interval."""
        if self.value is None:
            return ""
        ends = [_shown(end, self.form) for end in (self.low, self.high) if end is not None]
        return _shown(self.value, self.form) + (f" ({ends[0]} to {ends[1]})" if len(ends) == 2 else "")

    def to_json(self) -> dict[str, Any]:
        """Value, interval and status."""
        numbers = {name: getattr(self, name) for name in ("value", "low", "high")}
        infinite = {name: json_number(number) if number else number for name, number in numbers.items()}
        return infinite | {"status": self.status, "reason": self.reason}


def _shown(value: float, form: str) -> str:
    if value == math.inf:
        return "∞"
    return f"{value:{form}}".replace("-", "−")


def measured(value: float, low: float, high: float, status: str = "ok", reason: str = "") -> Measured:
    """A number from a results table, where NaN stands for none."""
    value_, low_, high_ = (None if math.isnan(number) else float(number) for number in (value, low, high))
    return Measured(value_, low_, high_, status, reason)


Value = str | int | Measured
"""Of a cell of a table."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names it.

    Attributes:
        title: what it holds.
        columns: headings.
        rows: of cells.
        note: what a reader must know to read it.
        sortable: whether a reader may order its rows.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    note: str = ""
    sortable: bool = False

    def to_json(self) -> dict[str, Any]:
        """Rows as objects would lose the order of columns: they are lists."""
        rows = [[cell.to_json() if isinstance(cell, Measured) else cell for cell in row] for row in self.rows]
        return {"title": self.title, "columns": list(self.columns), "rows": rows, "note": self.note}


@dataclasses.dataclass(frozen=True)
class Picture:
    """A plot, in words and numbers too.

    Attributes:
        title: what it shows.
        alternative: what a reader sees in it, for whoever cannot.
        svg: the drawing; its text follows the colour of the page.
        table: the numbers drawn.
    """

    title: str
    alternative: str
    svg: str
    table: Table

    def to_json(self) -> dict[str, Any]:
        """Everything but the drawing."""
        return {"title": self.title, "alternative": self.alternative, "table": self.table.to_json()}


Block = str | Table | Picture


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        key: its name in links and in the JSON.
        title: its heading.
        blocks: sentences, tables and figures, in order.
    """

    key: str
    title: str
    blocks: tuple[Block, ...]

    def to_json(self) -> dict[str, Any]:
        """Its blocks, each under its kind."""
        kinds = {str: "text", Table: "table", Picture: "figure"}
        content = [
            {kinds[type(block)]: block if isinstance(block, str) else block.to_json()}
            for block in self.blocks
        ]
        return {"key": self.key, "title": self.title, "content": content}


@dataclasses.dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        title: of the page.
        sections: in order.
    """

    title: str
    sections: tuple[Section, ...]

    def to_json(self) -> dict[str, Any]:
        """The same content as the page."""
        return {"title": self.title, "sections": [section.to_json() for section in self.sections]}


def facts(title: str, pairs: dict[str, Value], note: str = "") -> Table:
    """A table of one column: what is known of some things."""
    return Table(title, ("", "answer"), tuple(pairs.items()), note)
