"""Are heads on pretrained features less vulnerable than models trained from scratch, at equal shots?

Reads the folder of `jaxmia sweep from_scratch`, finished or not. The recipes of a feature set share candidates,
membership masks and seeds. Columns: held-out accuracy; mean loss of members and of non-members, which show how closely
members are fitted and how much a model overfits; TPR of LiRA, pooled and calibrated. TPRs are medians over seeds, with
the smallest lower and the largest upper end of the seeds' intervals. Other columns are means over seeds.
"""

from __future__ import annotations

import pathlib
from typing import Any

import _common
import pandas as pd

from jaxmia.studies.folder.tables import load_results

CELL = ["dataset", "recipe", "classes", "shots", "seed"]


def main(argv: list[str] | None = None) -> None:
    options = _common.parser(__doc__)
    options.add_argument("sweep", type=pathlib.Path, help="the sweep's folder")
    arguments = options.parse_args(argv)
    results = load_results(arguments.sweep)
    results = results[results["attack"] == "lira"]
    _common.report(
        "LiRA on heads over pretrained features and on models from scratch",
        table(results),
        dtype="float32 training and scores, float64 statistics",
        facts={},
        arguments=arguments,
    )


def table(results: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one row per feature set, shots and recipe."""
    rows = []
    for (dataset, shots, recipe), some in results.groupby(["dataset", "shots", "recipe"], sort=False):
        cells = some.drop_duplicates(CELL)
        row = {"set": dataset, "S": shots, "recipe": recipe, "seeds": len(cells)}
        row |= {name: cells[name].mean() for name in ("accuracy", "member_loss", "nonmember_loss")}
        for (evaluation, fpr), rates in some.groupby(["evaluation", "fpr"], sort=False):
            resolved = rates[rates["status"] == "ok"]
            row[f"{evaluation} {fpr:g}"] = interval(resolved) if len(resolved) == len(rates) else "unresolved"
        rows.append(row)
    return sorted(rows, key=lambda row: (row["set"], row["S"], row["recipe"]))


def interval(rates: pd.DataFrame) -> str:
    """Return the median over seeds, with the outermost ends of their intervals."""
    low, high = rates["tpr_low"].min(), rates["tpr_high"].max()
    return f"{rates['tpr'].median():.3f} ({low:.3f}, {high:.3f})"


if __name__ == "__main__":
    main()
