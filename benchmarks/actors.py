"""What does each actor find? What is released times what is known, on heads over one feature set.

Rows: release, knowledge, and at each FPR the best of the tested attacks, its TPR with 95% interval, and the TPR of the
record most at risk. All rows are of one ensemble; actors without the recipe and those who see re-trainings have further
ensembles of the same membership.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import time
from typing import Any

import _common
import pandas as pd

from jaxmia.data.feature_set import save_features
from jaxmia.studies.run import run_experiment
from jaxmia.studies.settings.experiment import ExperimentConfig
from jaxmia.tables.rates import best_row

FPRS = (0.1, 0.01, 0.001)
RELEASES = ("labels", "labels:64", "top1", "rounded:1", "rounded:2", "probabilities", "weights")
KNOWLEDGE = (
    "full",
    "population",
    "shadows:64",
    "shadows:8",
    "shadows:0",
    "recipe:inferred",
    "recipe:guessed",
)
ATTACKS = ("lira", "bavaria_t", "threshold", "difficulty", "whitebox")


def main(argv: list[str] | None = None) -> None:
    options = _common.parser(__doc__)
    _common.add_features(options)
    options.add_argument("--shots", type=int, default=16, help="S members per class")
    options.add_argument("--models", type=int, default=257, help="heads; each is the target once")
    options.add_argument("--steps", type=int, default=100)
    options.add_argument("--releases", nargs="+", default=list(RELEASES))
    options.add_argument("--knowledge", nargs="+", default=list(KNOWLEDGE))
    options.add_argument("--attacks", nargs="+", default=list(ATTACKS))
    arguments = options.parse_args(argv)
    start = time.perf_counter()
    rows = measured(arguments)
    _common.report(
        f"actors, C = {arguments.classes}, S = {arguments.shots}",
        shown(rows),
        dtype="float32",
        facts={"seconds": round(time.perf_counter() - start, 1)},
        arguments=arguments,
    )


def measured(arguments: argparse.Namespace) -> pd.DataFrame:
    """Return the rows of actors of one cell."""
    with tempfile.TemporaryDirectory() as place:
        features = pathlib.Path(place) / "features.npz"
        save_features(_common.chosen_features(arguments), features)
        config = ExperimentConfig.model_validate(
            {
                "attack": arguments.attacks,
                "fpr": FPRS,
                "release": arguments.releases,
                "knowledge": arguments.knowledge,
                "data": {"features": str(features)},
                "grid": {
                    "classes": [arguments.classes],
                    "shots": [arguments.shots],
                    "seeds": [arguments.seed],
                },
                "shadows": {"models": arguments.models},
                "train": {"optimizer": "adam", "learning_rate": 0.1, "steps": arguments.steps},
            }
        )
        out = pathlib.Path(place) / "run"
        run_experiment(config, out, progress=False)
        return pd.read_parquet(out / "actors.parquet")


def shown(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one row per actor: its best attack, TPR and the worst record's at each FPR."""
    found = []
    for (release, knowledge), mine in rows.groupby(["release", "knowledge"], sort=False):
        row: dict[str, Any] = {"release": release, "knowledge": knowledge}
        for fpr in FPRS:
            best = best_row(mine[mine["fpr"] == fpr])
            row[f"attack {fpr:g}"] = None if best is None else best["attack"]
            names = {
                "tpr": "",
                "tpr_low": " low",
                "tpr_high": " high",
                "worst_tpr": " worst",
                "worst_fpr": " worst's FPR",
            }
            for column, word in names.items():
                value = None if best is None or pd.isna(best[column]) else round(float(best[column]), 4)
                row[f"{fpr:g}{word}"] = value
        found.append(row)
    return found


if __name__ == "__main__":
    main()
