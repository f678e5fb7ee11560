"""What a run found, on one screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from rich.console import RenderableType
from rich.table import Table

from jaxmia.cli.tables.laws import law_table
from jaxmia.cli.tables.layout import add_row, footnoted, new_table, realised_cell, tpr_cell
from jaxmia.cli.tables.results import results_tables
from jaxmia.laws.fit import LawOf, PowerLawFit

MOST_ROWS = 18  # of the table


def brief_tables(results: pd.DataFrame, laws: Mapping[LawOf, PowerLawFit]) -> Iterator[RenderableType]:
    """The first attack: its TPRs, each with the FPR realised, and its law. With private cells, their first table."""
    attack, evaluation = results[["attack", "evaluation"]].iloc[0]
    if np.isfinite(results["epsilon"]).any():
        yield from results_tables(results[results["evaluation"] == evaluation])
    else:
        yield _tprs(results[results["attack"] == attack])
    name = next((name for name in laws if name[:2] == (attack, evaluation)), None)
    if name is not None:
        table = law_table(name, laws[name])
        table.title = f"{name}: log10(TPR - FPR) = slope log10 S + intercept"
        yield table


def _tprs(results: pd.DataFrame) -> Table:
    """TPR and realised FPR at each FPR, pooled and calibrated beside one another; smallest S first."""
    evaluations = [
        name for name in results["evaluation"].unique() if name == "pooled" or name.startswith("calibrated")
    ][:2] or [results["evaluation"].iloc[0]]
    number, seeds = results["classes"].nunique(), results["seed"].nunique()
    of_classes = f"C = {results['classes'].iloc[0]}, " if number == 1 else ""
    table = new_table(
        f"{results['attack'].iloc[0]}: TPR with 95% interval ({of_classes}seeds: {seeds})",
        (
            *(["C"] if number > 1 else []),
            "S",
            "FPR",
            *(word for each in evaluations for word in (each, "realised")),
        ),
    )
    ordered = results.sort_values(["classes", "shots", "fpr"], ascending=[True, True, False], kind="stable")
    groups, last = list(ordered.groupby(["classes", "shots", "fpr"], sort=False)), None
    for (classes, shots, fpr), cells in groups[:MOST_ROWS]:
        of_each = [cells[cells["evaluation"] == name] for name in evaluations]
        numbers = [word for rows in of_each for word in (tpr_cell(rows), realised_cell(rows))]
        head = [f"{classes}", f"{shots}"] if (classes, shots) != last else ["", ""]
        add_row(table, *head[-2 if number > 1 else -1 :], f"{fpr:g}", *numbers)
        last = (classes, shots)
    if len(groups) > MOST_ROWS:
        add_row(table, *[""] * min(number - 1, 1), "...", "", f"and {len(groups) - MOST_ROWS} more")
    return footnoted(table)


def brief_note(notes: list[str]) -> list[str]:
    """That there are notes, in a line, or nothing."""
    return (
        [f"Notes on cells that diverged or have no number: {len(notes)}; --verbose has them."]
        if notes
        else []
    )
