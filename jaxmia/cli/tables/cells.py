"""Cells of terminal tables, which are narrower than a page."""

from __future__ import annotations

import dataclasses
import decimal

import pandas as pd

from jaxmia.tables import NONE, Measured
from jaxmia.tables.rates import over_seeds, realised


def tpr_cell(rows: pd.DataFrame) -> Measured:
    """Return the median TPR over rows that differ in their seed; lines below the tables explain missing ones."""
    found = over_seeds(rows)
    return dataclasses.replace(found, reason="") if found.value is None else found


def realised_cell(rows: pd.DataFrame) -> Measured:
    """Return the FPR realised over rows that differ in their seed, without its interval."""
    found = realised(rows)
    if found.value is None:
        return NONE
    return found.alone(".3g" if found.value >= 0.01 else ".2g")


def by_unit(rows: pd.DataFrame) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    """Rows on records and rows on persons, each with the cell that says which; all rows and none where no row says."""
    if "unit" not in rows:
        return [((), rows)]
    return [((f"{unit}s",), of_unit) for unit, of_unit in rows.groupby("unit", sort=False)]


def unit_heading(rows: pd.DataFrame) -> tuple[str, ...]:
    """The heading of by_unit's cells."""
    return ("of",) if "unit" in rows else ()


def shots_word(rows: pd.DataFrame) -> str:
    """What S counts, for titles; empty where it is records as ever."""
    persons = "shots_of" in rows and (rows["shots_of"] == "persons").all()
    return "; S counts persons" if persons else ""


def span(interval: tuple[float, float]) -> str:
    """A range."""
    return f"{interval[0]:.3f}…{interval[1]:.3f}"


def rounded_up(value: float, digits: int = 5) -> str:
    """Return a number rounded up to some digits, so that a bound stays a bound, and noise stays sufficient."""
    rounded = decimal.Context(prec=digits, rounding=decimal.ROUND_CEILING).create_decimal_from_float(
        float(value)
    )
    return f"{float(rounded):g}"
