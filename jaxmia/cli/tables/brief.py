"""The results of a run, on one screen."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from jaxmia.cli.tables.cells import shots_word
from jaxmia.cli.tables.laws import law_table
from jaxmia.cli.tables.results import results_tables
from jaxmia.laws.law import LawKey, PowerLawFit
from jaxmia.tables import Table, Value
from jaxmia.tables.attacks import by_unit, realised_cell, tpr_cell, unit_heading

MOST_ROWS = 18  # of the table


def brief_tables(results: pd.DataFrame, laws: Mapping[LawKey, PowerLawFit]) -> Iterator[str | Table]:
    """Yield the first attack's TPRs with realised FPRs, and its law; with private cells, their first table."""
    attack, evaluation = results[["attack", "evaluation"]].iloc[0]
    if np.isfinite(results["epsilon"]).any():
        yield from results_tables(results[results["evaluation"] == evaluation])
    else:
        yield _tprs(results[results["attack"] == attack])
    name = next((name for name in laws if name[:2] == (attack, evaluation)), None)
    if name is not None:
        title = f"{name}: log10(TPR - FPR) = slope log10 S + intercept"
        yield dataclasses.replace(law_table(name, laws[name]), title=title)


def _tprs(results: pd.DataFrame) -> Table:
    """Return TPR and realised FPR at each FPR, pooled and calibrated next to each other; smallest S first."""
    evaluations = [
        name for name in results["evaluation"].unique() if name == "pooled" or name.startswith("calibrated")
    ][:2] or [results["evaluation"].iloc[0]]
    sizes = ["classes", "shots"] if results["classes"].nunique() > 1 else ["shots"]
    of_classes = f"C = {results['classes'].iloc[0]}, " if len(sizes) == 1 else ""
    ordered = results.sort_values(["classes", "shots", "fpr"], ascending=[True, True, False], kind="stable")
    groups = list(ordered.groupby([*sizes, "fpr"], sort=False))
    rows: list[tuple[Value, ...]] = []
    for (*size, fpr), cells in groups[:MOST_ROWS]:
        for of, of_unit in by_unit(cells):
            of_each = [of_unit[of_unit["evaluation"] == name] for name in evaluations]
            rates = [cell for each in of_each for cell in (tpr_cell(each), realised_cell(each))]
            rows.append((*map(str, size), f"{fpr:g}", *of, *rates))
    more = len(groups) - MOST_ROWS
    return Table(
        f"{results['attack'].iloc[0]}: TPR with 95% interval ({of_classes}seeds: {results['seed'].nunique()}"
        f"{shots_word(results)})",
        (
            *("C" if size == "classes" else "S" for size in sizes),
            *("FPR", *unit_heading(results)),
            *(word for each in evaluations for word in (each, "realised")),
        ),
        tuple(rows),
        f"... and {more} more" if more > 0 else "",
        stub=len(sizes),
    )


def brief_note(notes: list[str]) -> list[str]:
    """That there are notes, in a line, or nothing."""
    return [f"Notes on cells that diverged: {len(notes)}; --verbose has them."] if notes else []
