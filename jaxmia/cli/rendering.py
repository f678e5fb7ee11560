"""Tables for terminals: narrow, with repeated names shown once, and statuses as marks with a legend below."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import rich.box
import rich.text
from rich.console import Group, RenderableType
from rich.table import Table as Drawn

from jaxmia.tables import NONE, Measured, Table, Value
from jaxmia.tables.reasons import explained

_MARKS = {"off": "†", "partial": "*", "extrapolated": "‡", "capped": "^"}  # of numbers, by status


def rendered(blocks: Iterable[str | Table]) -> Iterator[RenderableType]:
    """Yield sentences unchanged, and for each table its title, the table, and its notes."""
    for block in blocks:
        if isinstance(block, str):
            yield block
            continue
        below = (rich.text.Text(line, style="table.caption") for line in _below(block))
        yield Group(rich.text.Text(block.title, style="bold"), draw(block), *below)


def draw(table: Table) -> Drawn:
    """Return a table for rich, with cells as text objects, since consoles read strings as markup."""
    drawn = Drawn(box=rich.box.SIMPLE_HEAD, pad_edge=False, show_header=any(table.columns))
    for place, heading in enumerate(table.columns):
        words = all(_is_words(row[place]) for row in table.rows)
        drawn.add_column(
            rich.text.Text(heading),
            justify="left" if words else "right",
            overflow="fold" if words else "ellipsis",
        )
    for above, row in zip((None, *table.rows), table.rows, strict=False):
        if above is not None and above[: table.ruled] != row[: table.ruled]:
            drawn.add_section()
        drawn.add_row(*(rich.text.Text(cell) for cell in _cells(table, above, row)))
    return drawn


def _cells(table: Table, above: tuple[Value, ...] | None, row: tuple[Value, ...]) -> Iterator[str]:
    """Yield the texts of a row; leading names that equal those of the row above are left out."""
    same = 0
    if above is not None:
        while same < table.stub and same < len(row) - 1 and above[same] == row[same]:
            same += 1
    for place, value in enumerate(row):
        yield "" if place < same else text(value)


def text(value: Value) -> str:
    """Return the text of a cell."""
    if not isinstance(value, Measured):
        return str(value)
    if value.value is None:
        return "-" if value.status == NONE.status else value.status
    shown = f"{value.value:{value.form}}"
    if value.error is not None:
        shown += f"±{value.error:{value.form}}"
    shown += _MARKS.get(value.status, "")
    if value.low is None or value.high is None:
        return shown
    between = " to " if value.low < 0 else "-"
    return f"{shown} {value.low:{value.form}}{between}{value.high:{value.form}}"


def _is_words(value: Value) -> bool:
    return isinstance(value, str) and not re.match(r"[-+−.\d]", value)


def _below(table: Table) -> list[str]:
    """The table's note, and what its marks and its words without a number mean."""
    legend = [
        f"{_MARKS.get(status, status)}: {' '.join(reasons)}" for status, reasons in explained(table).items()
    ]
    return [line for line in (table.note, *legend) if line]
