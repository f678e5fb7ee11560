"""The table of the advisor's options."""

from __future__ import annotations

from collections.abc import Iterator

from jaxmia.advice.advice import Advice
from jaxmia.tables.advice import option_row, options_note
from jaxmia.tables.table import Measured, Table, number


def advice_tables(found: Advice) -> Iterator[Table]:
    """Yield all options, grouped by lever, and measurements, if any."""
    settings, options = found.settings, found.options
    yield Table(
        f"Options at FPR {settings.fpr:g}; limit: TPR {settings.max_tpr:g} for every {settings.unit}",
        ("lever", "option", "accuracy", "mean TPR", "most vulnerable", "limit"),
        tuple(option_row(row) for _, row in options.iterrows()),
        note=options_note(settings.unit),
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
