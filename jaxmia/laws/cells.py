"""Check the cells that a law is fitted to or compared with, and select those that can be used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from jaxmia._validate import InputError, check

COLUMNS = ("shots", "classes", "advantage", "fpr")
SATURATED_TPR = 0.99  # at larger TPRs the ceiling of 1, not S, determines the TPR


def checked_columns(table: pd.DataFrame | Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the columns that a law needs, each float64[cells].

    Raises:
        InputError: if a column is missing, or has a value outside its range.
    """
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise InputError(f"The table must have columns {', '.join(COLUMNS)}; it lacks {', '.join(missing)}.")
    try:
        frame = pd.DataFrame({name: table[name] for name in COLUMNS})
        columns = {name: frame[name].to_numpy(dtype=float, na_value=np.nan) for name in COLUMNS}
    except (TypeError, ValueError) as error:
        raise InputError(f"The table must hold numbers, in columns of one length: {error}.") from error
    check(len(frame) > 0, "rows", len(frame), "be at least 1")
    shots, classes, advantage, fpr = (columns[name] for name in COLUMNS)
    _check_all(np.isfinite(shots) & (shots > 0), "shots", shots, "be a positive number in every row")
    whole = np.isfinite(classes) & (classes >= 1) & (classes == np.round(classes))
    _check_all(whole, "classes", classes, "be a whole number of at least 1 in every row")
    _check_all((fpr > 0) & (fpr < 1), "fpr", fpr, "lie strictly between 0 and 1 in every row")
    possible = np.isnan(advantage) | (np.abs(advantage) <= 1)
    _check_all(possible, "advantage", advantage, "lie in [-1, 1] or be missing in every row")
    return columns


def _check_all(holds: np.ndarray, name: str, values: np.ndarray, rule: str) -> None:
    if not holds.all():
        check(False, name, float(values[np.argmin(holds)]), rule)


def usable_cells(advantage: np.ndarray, fpr: float) -> np.ndarray:
    """Return whether each cell [cells] lies above chance and below saturation."""
    return np.asarray((advantage > 0) & ~saturated_cells(advantage, fpr))


def saturated_cells(advantage: np.ndarray, fpr: float) -> np.ndarray:
    """Return whether the TPR of each cell [cells] is at its ceiling of 1, or near it."""
    return np.asarray(fpr + advantage >= SATURATED_TPR)
