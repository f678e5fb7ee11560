"""The table of the advisor's options."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from jaxmia.advice.advice import Advice
from jaxmia.tables.table import Measured, Table, number

_MARKS = {"yes": "within", "no": "beyond", "not decided": "not decided"}


def advice_tables(found: Advice) -> Iterator[Table]:
    """Yield all options, grouped by lever, and measurements, if any."""
    settings, options = found.settings, found.options
    yield Table(
        f"Options at FPR {settings.fpr:g}; limit: TPR {settings.max_tpr:g} for every {settings.unit}",
        ("lever", "option", "accuracy", "mean TPR", "most vulnerable", "limit"),
        tuple(_row(row) for _, row in options.iterrows()),
        note="Accuracy: on records outside a head's training set. Heads train on a random half of the"
        f" {settings.unit}s. *: no option with the same classes is better both in accuracy and for the most"
        f" vulnerable {settings.unit}. At most: the ceiling of a guarantee for any attack. More records:"
        " extrapolated by the power law.",
        ruled=1,
    )
    if "measured_tpr" in options:
        rows = options[options["measured_tpr"].notna()]
        yield Table(
            f"Measured with {settings.confirm} shadow heads",
            (
                "option",
                "accuracy",
                "estimated",
                "mean TPR",
                "estimated",
                f"most vulnerable {settings.unit}",
                "estimated",
            ),
            tuple(
                (
                    str(row["option"]),
                    number(row["measured_accuracy"]),
                    number(row["accuracy"]),
                    number(row["measured_tpr"]),
                    number(row["tpr"]),
                    Measured(
                        row["measured_worst_tpr"], row["measured_worst_low"], row["measured_worst_high"]
                    ),
                    Measured(row["worst_tpr"], row["worst_low"], row["worst_high"]),
                )
                for _, row in rows.iterrows()
            ),
        )


def _row(row: pd.Series) -> tuple[str | Measured, ...]:
    bound = row["how"] == "bound"
    worst = (
        f"at most {row['worst_tpr']:.3f}"
        if bound
        else Measured(row["worst_tpr"], row["worst_low"], row["worst_high"])
    )
    return (
        str(row["lever"]),
        f"{row['option']}{' *' if row['pareto'] else ''}",
        number(row["accuracy"]),
        number(row["tpr"]) if not bound else "",
        worst,
        _MARKS[row["meets"]],
    )
