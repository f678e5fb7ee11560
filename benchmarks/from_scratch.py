"""Are heads on pretrained features less vulnerable than models trained from scratch, at equal shots?

Reads the folder of `jaxmia sweep configs/from_scratch.toml`, finished or not: the recipes of a feature set share
candidates, masks and seeds. Columns: held-out accuracy; with --losses, mean loss of members and of non-members, which
say how far training went and how far it overfits; TPR of LiRA, pooled and calibrated. TPRs are medians over seeds, with
the smallest lower and the largest upper end of the seeds' intervals; the others are means over seeds.
"""

from __future__ import annotations

import pathlib
from typing import Any

import _common
import numpy as np
import pandas as pd

from jaxmia.config import SweepConfig, load_sweep
from jaxmia.experiment import GridRun, draw_pool, given_statistics
from jaxmia.features import load_features
from jaxmia.progress import grid_progress
from jaxmia.store import Cell, load_results, study_folder

CELL = ["dataset", "recipe", "classes", "shots", "seed"]


def main(argv: list[str] | None = None) -> None:
    options = _common.parser(__doc__)
    options.add_argument("sweep", type=pathlib.Path, help="the sweep's folder")
    options.add_argument("--config", default="from_scratch", help="the sweep's file, or a built-in one")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of the sweep")
    options.add_argument("--losses", action="store_true", help="score all heads again, for their losses")
    arguments = options.parse_args(argv)
    results = load_results(arguments.sweep)
    results = results[results["attack"] == "lira"]
    if arguments.losses:
        config = load_sweep(arguments.config, arguments.set)
        results = results.merge(member_losses(config, arguments.sweep, results), on=CELL)
    _common.report(
        "LiRA on heads over pretrained features and on models from scratch",
        table(results),
        dtype="float32 training and scores, float64 statistics",
        facts={},
        arguments=arguments,
    )


def member_losses(config: SweepConfig, path: pathlib.Path, results: pd.DataFrame) -> pd.DataFrame:
    """Mean loss of members and non-members of every cell, from its checkpoints."""
    datasets, recipes = ({each.name: each for each in some} for some in (config.datasets, config.recipes))
    rows = []
    for (dataset, recipe), some in results.groupby(["dataset", "recipe"]):
        settings = config.experiment(datasets[dataset], recipes[recipe])
        data = load_features(settings.data.features, inputs=settings.train.inputs)
        statistics = given_statistics(settings, data)
        run = GridRun(settings, data, study_folder(path, dataset, recipe), "", None, statistics)
        for key, _ in some.groupby(CELL):
            cell = Cell(*map(int, key[2:]))
            run.deal(cell)
            with grid_progress(None, 0.0) as bar:
                scores, _ = run.scores(cell, draw_pool(settings, data, cell, statistics), bar, [])
            loss, member = (
                np.logaddexp(0, -np.asarray(scores.log_odds, np.float64)),
                np.asarray(scores.member),
            )
            rows.append([*key, loss[member].mean(), loss[~member].mean()])
    return pd.DataFrame(rows, columns=[*CELL, "member loss", "non-member loss"])


def table(results: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per feature set, shots and recipe."""
    rows = []
    for (dataset, shots, recipe), some in results.groupby(["dataset", "shots", "recipe"], sort=False):
        cells = some.drop_duplicates(CELL)
        row = {"set": dataset, "S": shots, "recipe": recipe, "seeds": len(cells)}
        means = [name for name in ("accuracy", "member loss", "non-member loss") if name in cells]
        row |= {name: cells[name].mean() for name in means}
        for (evaluation, fpr), rates in some.groupby(["evaluation", "fpr"], sort=False):
            resolved = rates[rates["status"] == "ok"]
            row[f"{evaluation} {fpr:g}"] = interval(resolved) if len(resolved) == len(rates) else "unresolved"
        rows.append(row)
    return sorted(rows, key=lambda row: (row["set"], row["S"], row["recipe"]))


def interval(rates: pd.DataFrame) -> str:
    """Median over seeds, with the outermost ends of their intervals."""
    low, high = rates["tpr_low"].min(), rates["tpr_high"].max()
    return f"{rates['tpr'].median():.3f} ({low:.3f}, {high:.3f})"


if __name__ == "__main__":
    main()
