"""What attacks reach: one table for the terminal and for reports."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from jaxmia.tables.rates import on_persons, over_seeds, realised
from jaxmia.tables.reasons import grouped
from jaxmia.tables.table import NONE, Measured, Table, Value, number

THRESHOLDS = {
    "pooled": "one threshold for all models",
    "per_target": "one threshold for each model",
    "calibrated": "one threshold for each record, from its shadows",
    "calibrated_empirical": "one threshold for each record, by ranks among its shadows",
}
"""What each evaluation is, in words."""


def thresholds(evaluation: str) -> str:
    """An evaluation in words and by its name, for titles."""
    return f"{THRESHOLDS[evaluation]} ({evaluation})" if evaluation in THRESHOLDS else evaluation


def targets_named(targets: str) -> str:
    """Of whom rows of attack_scores are: "all", "others" or "row 4" in words."""
    words = {"all": "all models", "others": "the other models, its shadows"}
    return words.get(targets, f"the model under audit ({targets})")


def tpr_cell(rows: pd.DataFrame) -> Measured:
    """The median TPR of rows that differ in their seed."""
    return over_seeds(rows)


def realised_cell(rows: pd.DataFrame) -> Measured:
    """The FPR that rows that differ in their seed realised together, without its interval."""
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


def attack_tables(results: pd.DataFrame) -> Iterator[str | Table]:
    """What each attack of attack_scores reaches at each FPR, one table for each targets and evaluation.

    FPRs that a table's attacks resolve nowhere have no rows; a line says why.
    """
    for (targets, evaluation), rows in results.groupby(["targets", "evaluation"], sort=False):
        missing = grouped(rows["reason"][rows["status"] != "ok"])
        fprs = set(rows["fpr"][rows["status"] == "ok"])
        title = f"{targets_named(str(targets)).capitalize()}: {thresholds(str(evaluation))}"
        if not fprs:
            yield f"{title}: not resolved. {' '.join(missing)}\n"
            continue
        unresolved = set(rows["fpr"]) - fprs
        reasons = grouped(rows["reason"][rows["fpr"].isin(unresolved)])
        yield _attack_table(title, str(evaluation), rows[rows["fpr"].isin(fprs)], " ".join(reasons))


def _attack_table(title: str, evaluation: str, rows: pd.DataFrame, missing: str) -> Table:
    told = ("threshold",) if evaluation == "pooled" else ()  # elsewhere each target or pair has its own
    lines: list[tuple[Value, ...]] = []
    for of, of_unit in by_unit(rows):
        for _, point in of_unit.iterrows():
            row = point.to_frame().T
            areas = (number(point[name]) for name in ("auc", "balanced_accuracy"))
            threshold = (number(point[name], ".3g") for name in told)
            rates = (f"{point['fpr']:g}", realised_cell(row), tpr_cell(row))
            lines.append((*of, str(point["attack"]), *areas, *rates, *threshold))
    return Table(
        title,
        (*unit_heading(rows), "attack", "AUC", "acc.", "FPR", "realised", "TPR, 95% interval", *told),
        tuple(lines),
        "acc.: balanced accuracy at the best threshold. realised: the FPR reached."
        + (f" Not resolved: {missing}" if missing else ""),
        sortable=True,
        stub=3 + len(unit_heading(rows)),
        about="How many of the members each attack finds, when it accepts so many false alarms.",
    )


def controls_table(controls: pd.DataFrame, of: str = "") -> Table:
    """The negative control of each attack, on records or persons: on permuted labels it must be at chance."""
    rows: list[tuple[Value, ...]] = []
    for attack, mine in controls.groupby("attack", sort=False):
        resolved = mine[mine["status"] != "unresolved"]
        if resolved.empty:
            rows.append((str(attack), 0, 0, Measured(None, status="unresolved", reason="too few scores")))
            continue
        share = (resolved["advantage"].abs() / resolved["limit"]).max()
        failed = int((resolved["status"] == "failed").sum())
        rows.append((str(attack), len(resolved), failed, Measured(float(share))))
    return Table(
        f"Negative control{of and f', {of}'}: membership permuted, where an attack must be at chance",
        ("attack", "controls", "failed", "largest |TPR − FPR| over its limit"),
        tuple(rows),
        "A failed control means that the attack's results are not to be trusted. Limit: four standard errors.",
        about="Whether attacks find nothing where there is nothing to be found.",
    )


def failed_controls(controls: pd.DataFrame) -> list[str]:
    """A line for each attack that was not at chance on permuted labels."""
    failed = controls[controls["status"] == "failed"]
    return [
        f"NEGATIVE CONTROL FAILED: {row['attack']}{on_persons(row)}{_where(row)} reaches TPR - FPR ="
        f" {row['advantage']:.4f} at FPR {row['fpr']:g} on permuted labels (limit {row['limit']:.4f}): its results are"
        " not to be trusted."
        for row in failed.to_dict("records")
    ]


def _where(row: Mapping[Hashable, Any]) -> str:
    return f" at {cell_label(row)}" if "shots" in row else ""


def cell_label(row: Mapping[Hashable, Any]) -> str:
    """A cell and seed of a run, for lines below tables."""
    private = f" epsilon={row['epsilon']:g}" if np.isfinite(row["epsilon"]) else ""
    return f"C={row['classes']} S={row['shots']} seed={row['seed']}{private}"
