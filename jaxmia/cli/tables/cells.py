"""Cells of terminal tables, which are narrower than a page."""

from __future__ import annotations

import decimal

import pandas as pd


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
