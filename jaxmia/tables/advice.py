"""Rows of the advisor's options, for the terminal and the report."""

from __future__ import annotations

import numpy as np
import pandas as pd

from jaxmia.tables.table import Measured, number

_MARKS = {"yes": "within", "no": "beyond", "not decided": "not decided"}


def option_row(row: pd.Series) -> tuple[str | Measured, ...]:
    """Return lever, option, accuracy, mean TPR, the most vulnerable one's TPR, and how it stands to the limit.

    A value that no method extrapolates is left empty.
    """
    bound = row["how"] == "bound"
    worst: str | Measured = ""
    if bound:
        worst = f"at most {row['worst_tpr']:.3f}"
    elif np.isfinite(row["worst_tpr"]):
        worst = Measured(row["worst_tpr"], row["worst_low"], row["worst_high"])
    return (
        str(row["lever"]),
        f"{row['option']}{' *' if row['pareto'] else ''}",
        number(row["accuracy"]) if np.isfinite(row["accuracy"]) else "",
        number(row["tpr"]) if not bound else "",
        worst,
        _MARKS[row["meets"]],
    )


def options_note(unit: str) -> str:
    """Return the note below a table of options."""
    return (
        "Accuracy: on records outside a head's training set. Heads train on a random half of the"
        f" {unit}s. *: no option with the same classes is better both in accuracy and for the most vulnerable {unit}."
        " At most: the ceiling of a guarantee for any attack. More records: extrapolated by the power law."
    )
