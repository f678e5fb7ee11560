"""How tables look, and what their cells say."""

from __future__ import annotations

import decimal
from collections.abc import Iterable

import numpy as np
import pandas as pd
import rich.box
import rich.text
from rich.table import Table

from jaxmia.stats.realised import OFF, realised_fpr

FOOTNOTE = f"†: {OFF}"


def new_table(title: str, headings: Iterable[str]) -> Table:
    """An empty table with these columns."""
    table = Table(
        title=rich.text.Text(title),
        box=rich.box.SIMPLE_HEAD,
        pad_edge=False,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
    )
    for heading in headings:
        table.add_column(rich.text.Text(heading), justify="right")
    return table


def add_row(table: Table, *cells: str) -> None:
    """Add cells that stand as they are: a console may read a string as markup."""
    table.add_row(*map(rich.text.Text, map(str, cells)))


def decimals(value: float, form: str) -> str:
    """A number, or a dash for NaN."""
    return "-" if np.isnan(value) else f"{value:{form}}"


def with_error(value: float | None, error: float | None) -> str:
    """A number with its standard error, or a dash."""
    if value is None:
        return "-"
    return f"{value:.3f}" if error is None else f"{value:.3f}±{error:.3f}"


def span(interval: tuple[float, float]) -> str:
    """A range."""
    return f"{interval[0]:.3f}…{interval[1]:.3f}"


def tpr_cell(rows: pd.DataFrame) -> str:
    """The median TPR of rows that differ in their seed, with the outermost ends of their intervals."""
    resolved = rows[rows["status"] == "ok"]
    if resolved.empty:
        return ", ".join(sorted(rows["status"].unique())) or "-"
    low, high = resolved["tpr_low"].min(), resolved["tpr_high"].max()
    mark = "*" if len(resolved) < len(rows) else ""  # some seeds have no number: problems() says which
    return f"{resolved['tpr'].median():.3f}{mark} {low:.3f}-{high:.3f}"


def realised_cell(rows: pd.DataFrame) -> str:
    """The FPR that rows that differ in their seed realised together, with a dagger if it is off."""
    found = realised_fpr(rows)
    digits = 3 if found.fpr >= 0.01 else 2
    return "-" if np.isnan(found.fpr) else f"{found.fpr:.{digits}g}{'†' if found.off else ''}"


def footnoted(table: Table) -> Table:
    """The table, with the footnote that its daggers need."""
    if any("†" in str(cell) for column in table.columns for cell in column.cells):
        table.caption = FOOTNOTE
    return table


def rounded_up(value: float, digits: int = 5) -> str:
    """So many significant digits, rounded up: a bound stays a bound, and noise stays enough."""
    rounded = decimal.Context(prec=digits, rounding=decimal.ROUND_CEILING).create_decimal_from_float(
        float(value)
    )
    return f"{float(rounded):g}"
