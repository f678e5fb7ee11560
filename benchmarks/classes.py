"""The slope of C: how vulnerability grows with the number of classes, for tuned and untuned recipes, and why.

    jaxmia sweep classes --out sweeps/classes
    python benchmarks/classes.py sweeps/classes

For each recipe, data set and evaluation of LiRA it prints:

- the slope of C over all cells, and over those far from the ceiling;
- the slope between neighbouring numbers of classes at each S;
- the slope at equal test error: log10 of the error is a regressor in addition to log10 S and log10 C.
"""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import _common
import numpy as np
import pandas as pd
from of_run import cells_of, seconds_of
from statsmodels.regression.linear_model import OLS
from study import UNSATURATED, far, law_of, show, with_error

from jaxmia.laws.cells import SATURATED_TPR
from jaxmia.studies.folder.tables import load_json, load_results


def main(argv: list[str] | None = None) -> None:
    options = _common.parser(__doc__)
    options.add_argument("folders", type=pathlib.Path, nargs="+", help="of sweeps")
    arguments = options.parse_args(argv)
    rows = load_results(arguments.folders)
    rows = rows[(rows["attack"] == "lira") & rows["evaluation"].isin(["pooled", "calibrated"])]
    pooled = rows[rows["evaluation"] == "pooled"]
    tables = {
        "cells": ("Cells: means over seeds", cells_table(pooled)),
        "slopes": ("Slope of C", slopes_table(rows)),
        "steps": ("Between neighbouring C, pooled", steps_table(pooled)),
        "equal_error": ("At equal test error", equal_error_table(rows)),
    }
    for title, table in tables.values():
        show(title, table)
    print(_common.machine())
    more: dict[str, Any] = {name: table for name, (_, table) in tables.items() if name != "slopes"}
    if arguments.json:
        manifests = [load_json(folder, "manifest.json") for folder in arguments.folders]
        more["seconds"] = sum(seconds_of(cells_of(manifest)) for manifest in manifests)
    _common.keep(
        arguments, "Slope of C", tables["slopes"][1], dtype="float32 heads, float64 statistics", **more
    )


def cells_table(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the recipes, with the accuracy and TPR that they give."""
    table = []
    for (dataset, recipe, classes, shots), cells in rows.groupby(["dataset", "recipe", "classes", "shots"]):
        at_fpr = [cells[cells["fpr"] == fpr] for fpr in sorted(rows["fpr"].unique(), reverse=True)]
        one = at_fpr[0]
        table.append(
            {
                "data set": dataset,
                "recipe": recipe,
                "C": classes,
                "S": shots,
                "learning rate": _each(one["learning_rate"], ".2g"),
                "batch": _each(one["batch_size"], ".0f"),
                "steps": _each(one["steps"], ".0f"),
                "accuracy": f"{one['accuracy'].mean():.3f}",
                "TPR": " / ".join(_number(at["tpr"].mean()) for at in at_fpr),
            }
        )
    return table


def _each(values: pd.Series, form: str) -> str:
    """Return the values of the seeds; only one if they are equal."""
    return " ".join(dict.fromkeys(f"{value:{form}}" for value in values))


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def groups(rows: pd.DataFrame) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """Yield every recipe, evaluation and data set (and all sets), for all cells and for those far from the ceiling."""
    for (recipe, evaluation), cells in rows.groupby(["recipe", "evaluation"], sort=False):
        sets = [(str(name), of_set) for name, of_set in cells.groupby("dataset")]
        for dataset, of_set in [*sets, ("all sets", cells)] if len(sets) > 1 else sets:
            names = {"data set": dataset, "recipe": str(recipe), "evaluation": str(evaluation)}
            yield names | {"cells of": "all"}, of_set
            yield names | {"cells of": f"TPR at 0.1 < {UNSATURATED:g}"}, far(of_set)


def slopes_table(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return slopes, one column per FPR, and the number of cells in each law, in the order of FPRs."""
    table = []
    for names, cells in groups(rows):
        laws = law_of(cells).lines if len(cells) else ()
        slopes = {f"FPR {law.fpr:g}": with_error(law.slope_classes, law.slope_classes_stderr) for law in laws}
        counts = " / ".join(str(law.num_cells) for law in laws)
        over = ", ".join(dict.fromkeys(law.errors_over for law in laws if law.slope_classes is not None))
        table.append(names | slopes | {"cells": counts, "errors over": over})
    return _filled(table)


def _filled(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give every row all columns."""
    headings = list(dict.fromkeys(heading for row in table for heading in row))
    return [{heading: row.get(heading, "-") for heading in headings} for row in table]


def steps_table(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return slopes between neighbouring C at one S: means over seeds, without saturated or unresolved cells."""
    table = []
    for (dataset, recipe, shots, fpr), cells in rows.groupby(
        ["dataset", "recipe", "shots", "fpr"], sort=False
    ):
        usable = cells[(cells["advantage"] > 0) & (cells["tpr"] < SATURATED_TPR)]
        logs = np.log10(usable.pivot(index="seed", columns="classes", values="advantage").astype(float))
        known = sorted(cells["classes"].unique())
        row = {"data set": dataset, "recipe": recipe, "S": shots, "FPR": fpr}
        for low, high in itertools.pairwise(known):
            both = low in logs and high in logs
            slopes = (logs[high] - logs[low]) / np.log10(high / low) if both else pd.Series([np.nan])
            row[f"{low} to {high}"] = _number(float(slopes.mean()))
        table.append(row)
    return _filled(table)


def equal_error_table(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the slopes of C and of log10 test error, as a third regressor, with plain standard errors."""
    table = []
    for names, cells in ((names, cells) for names, cells in groups(rows) if names["cells of"] == "all"):
        row: dict[str, Any] = {name: value for name, value in names.items() if name != "cells of"}
        for fpr, at_fpr in cells.groupby("fpr", sort=False):
            usable = at_fpr[(at_fpr["advantage"] > 0) & (at_fpr["tpr"] < SATURATED_TPR)]
            columns = (usable["classes"], usable["shots"], 1 - usable["accuracy"])
            design = np.column_stack([np.log10(column.astype(float)) for column in columns])
            design = np.hstack([design, np.ones((len(usable), 1))])
            if len(usable) > design.shape[1] and np.linalg.matrix_rank(design) == design.shape[1]:
                fit = OLS(np.log10(usable["advantage"].astype(float)).to_numpy(), design).fit()
                row[f"slope of C, FPR {fpr:g}"] = with_error(fit.params[0], fit.bse[0])
                row[f"of the error, FPR {fpr:g}"] = with_error(fit.params[2], fit.bse[2])
        table.append(row)
    return _filled(table)


if __name__ == "__main__":
    main()
