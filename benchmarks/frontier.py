"""Compare paired scores and the analytic estimate with ordinary shadows, against a ground truth of many more shadows.

For every number of shots, ridge and seed a pool is drawn, and thousands of heads are trained to the minimum of their
ridge objective. They give the true separation D of each record. From other models:

- plain shadows: D from K heads, and what LiRA with K shadows finds;
- paired: the same K heads, each scored with and without every record;
- paired and shrunk: means and deviations shrunk towards the analytic ones;
- analytic: no shadows.

Errors of D are root mean squares over the records, without the sampling error of the truth. Rank correlations are
divided by what an exact D, with the spread of the analytic one, would reach against a truth with that error. Predicted
before measuring: 8 paired and shrunk shadows as good as 257 plain ones at ridge 1 and 10; the analytic estimate within
5% of mean TPR there and too high below.

    python benchmarks/frontier.py --features nouns.npz --shots 16 64 --ridge 0.1 1 10 --seeds 0 1 2
    python benchmarks/frontier.py --tables frontier/*.json      # medians over seeds, from --json files
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import pandas as pd
from _common import add_features, chosen_features, machine, parser, report
from scipy.stats import norm, spearmanr

from jaxmia import attacks
from jaxmia.data.feature_set import FeatureSet, feature_set
from jaxmia.data.membership import draw_membership
from jaxmia.data.pool import candidate_pool
from jaxmia.ridge.expected import AnalyticVulnerability, analytic_vulnerability
from jaxmia.ridge.paired import paired_scores
from jaxmia.scores import Scores
from jaxmia.stats.operating_points import operating_points
from jaxmia.stats.result import AttackResult
from jaxmia.training.ensemble import ShadowEnsemble, train_ensemble
from jaxmia.training.scoring import score
from jaxmia.training.settings import Hyperparams, TrainConfig
from jaxmia.vulnerability.curves import per_example_vulnerability

FPRS = (0.1, 0.01, 0.001)
TRUTH = 2**20  # id of the first model of the ground truth
RECIPE = TrainConfig("newton")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the cells of the command line, or make tables from the JSON of earlier runs."""
    arguments = options().parse_args(argv)
    if arguments.tables:
        print(tables(arguments.tables))
        return
    data = projected(chosen_features(arguments), arguments.dim)
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        for shots in arguments.shots:
            for ridge in arguments.ridge:
                rows += cell(data, arguments, seed=seed, shots=shots, ridge=ridge)
                if arguments.json:  # written after each cell, so that nothing is lost
                    name = pathlib.Path(arguments.features).stem
                    content = {"machine": machine(), "dtype": "float32", "features": name, "rows": rows}
                    arguments.json.write_text(json.dumps(content, indent=1, default=float) + "\n")
    json_file, arguments.json = arguments.json, None
    shown = ("S", "ridge", "seed", "method", "K", "D", "error of D", "rank", "slope", "TPR 0.01", "LiRA 0.01")
    report(
        "Errors of D, and mean TPR over its truth",
        [{name: row[name] for name in shown} for row in rows],
        dtype="float32",
        facts={"truth": arguments.truth, "written": str(json_file)},
        arguments=arguments,
    )


def options() -> argparse.ArgumentParser:
    """Return the options of the command line."""
    result = parser(__doc__)
    result.formatter_class = argparse.RawDescriptionHelpFormatter
    add_features(result)
    result.add_argument(
        "--dim", type=int, default=0, help="number of principal components to project on; 0 for none"
    )
    result.add_argument("--shots", type=int, nargs="+", default=[16])
    result.add_argument("--ridge", type=float, nargs="+", default=[1.0])
    result.add_argument("--seeds", type=int, nargs="+", default=[0])
    result.add_argument("--truth", type=int, default=4096, help="shadows of the ground truth")
    result.add_argument("--plain", type=int, nargs="*", default=[16, 64, 256], help="K of plain shadows")
    result.add_argument("--paired", type=int, nargs="*", default=[4, 8, 16, 32], help="K of paired shadows")
    result.add_argument("--tables", type=pathlib.Path, nargs="+", metavar="FILE")
    return result


def projected(data: FeatureSet, dim: int) -> FeatureSet:
    """Return the leading principal components of the centred features; for 0 the features as they are."""
    if dim == 0:
        return data
    centred = data.features - data.features.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    return feature_set(centred @ axes[:, ::-1][:, :dim], data.labels, data.class_names)


def cell(
    data: FeatureSet, arguments: argparse.Namespace, *, seed: int, shots: int, ridge: float
) -> list[dict[str, Any]]:
    """Compare all estimates on one pool with its truth."""
    keys = dict(zip(("pool", "masks", "training"), jax.random.split(jax.random.key(seed), 3), strict=True))
    pool = candidate_pool(
        data, classes=arguments.classes, shots=shots, key=keys["pool"], test_per_class=0
    ).data

    def trained(first: int, number: int) -> ShadowEnsemble:
        masks = draw_membership(keys["masks"], pool.labels, num_models=number, first_model=first)
        return train_ensemble(keys["training"], pool, masks, Hyperparams(0.1, ridge=ridge), RECIPE)

    def timed(function: Callable[[], Any]) -> tuple[Any, float]:
        function()  # compiles
        clock = time.perf_counter()
        return function(), time.perf_counter() - clock

    analytic, seconds = timed(lambda: analytic_vulnerability(pool, ridge=ridge))
    truth = Truth(score(trained(TRUTH, arguments.truth), pool), analytic.separation)
    facts = {"C": arguments.classes, "S": shots, "ridge": ridge, "seed": seed, "D": truth.separation.mean()}
    facts |= {f"truth {fpr}": truth.tpr(truth.separation, fpr) for fpr in FPRS}
    rows = [facts | {"method": "analytic", "K": 0, "seconds": seconds} | truth.errors(analytic.separation)]
    rows[0] |= {"fluctuation": analytic.fluctuation, "leverage rank": truth.rank(analytic.leverage)}
    if arguments.plain:
        ensemble, seconds = timed(lambda: trained(0, max(arguments.plain) + 1))
        plain = score(ensemble, pool)
        rows[0] |= found_by(attacks.analytic(dataclasses.replace(plain, **analytic.prior())))
        for number in arguments.plain:
            share = seconds * number / (max(arguments.plain) + 1)
            rows.append(
                facts | {"method": "plain", "K": number, "seconds": share} | estimate(truth, plain, number)
            )
    if arguments.paired:
        ensemble = trained(0, max(arguments.paired) + 1)
        paired, seconds = once(lambda: paired_scores(ensemble, pool, ridge=ridge))
        rows += paired_rows(facts | {"method": "paired"}, truth, paired, analytic, arguments.paired, seconds)
    return [{"LiRA 0.01": None, "LiRA 0.001": None} | row for row in rows]


def once(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result and its seconds, including compilation: pairing takes too long to be run twice."""
    clock = time.perf_counter()
    return function(), time.perf_counter() - clock


def paired_rows(
    facts: dict[str, Any],
    truth: Truth,
    paired: Scores,
    analytic: AnalyticVulnerability,
    numbers: Sequence[int],
    seconds: float,
) -> list[dict[str, Any]]:
    """Return estimates from pairs, shrunk and not."""
    rows = []
    for number in numbers:
        own = facts | {"K": number, "seconds": seconds * number / (max(numbers) + 1)}
        rows.append(own | estimate(truth, paired, number, paired=True))
        known = dataclasses.replace(paired, **analytic.prior())
        name = own["method"] + ", shrunk"
        rows.append(own | {"method": name} | estimate(truth, known, number, paired=True, shrink=True))
    return rows


class Truth:
    """The D of every record, from many shadows.

    Attributes:
        separation: float64[examples].
        noise: mean square of its sampling error.
        allowed: rank correlation that the exact D would have with it, if D has the spread of the likely values.
        rank_error: standard deviation of `allowed` over draws of the truth.
    """

    def __init__(self, scores: Scores, likely: np.ndarray) -> None:
        """Compute the truth from plain scores and a likely D of every record."""
        curve = per_example_vulnerability(scores, FPRS[0])
        self.separation = curve.separation
        self.noise = float(np.mean(curve.separation_error**2))
        noise = curve.separation_error * np.random.default_rng(0).normal(size=(32, len(self.separation)))
        correlations = [spearmanr(likely, likely + each)[0] for each in noise]
        self.allowed, self.rank_error = float(np.mean(correlations)), float(np.std(correlations))

    @staticmethod
    def tpr(separation: np.ndarray, fpr: float) -> float:
        """Return the mean TPR over the records."""
        return float(norm.cdf(norm.ppf(fpr) + separation).mean())

    def rank(self, values: np.ndarray) -> float:
        """Return the rank correlation, over what the noise of the truth allows."""
        return float(spearmanr(values, self.separation)[0] / self.allowed)

    def errors(self, separation: np.ndarray) -> dict[str, float]:
        """Return the errors of an estimate against the truth."""
        square = np.mean((separation - self.separation) ** 2) - self.noise
        slope = np.polyfit(separation, self.separation, 1)[0]
        found = {
            "error of D": float(np.sqrt(max(square, 0.0))),
            "rank": self.rank(separation),
            "rank error": self.rank_error / self.allowed,
            "slope": slope,
        }
        ratios = {f"TPR {fpr}": self.tpr(separation, fpr) / self.tpr(self.separation, fpr) for fpr in FPRS}
        return found | {"bias of D": float(np.mean(separation - self.separation))} | ratios


def estimate(
    truth: Truth, scores: Scores, number: int, *, paired: bool = False, shrink: bool = False
) -> dict[str, float]:
    """Return D from the first K models, and LiRA's TPR with K shadows: groups of K + 1, each model the target once."""
    first = of_models(scores, slice(0, number))
    found = truth.errors(per_example_vulnerability(first, FPRS[0], paired=paired, shrink=shrink).separation)
    total = len(np.asarray(scores.member))
    variance = "shrunk" if shrink else "per_example" if number > 16 or paired else "global"
    location = "shrunk" if shrink else "mean"
    results = [
        attacks.lira(
            of_models(scores, slice(start, start + number + 1)),
            paired=paired,
            variance=variance,
            location=location,
        )
        for start in range(0, total - number, number + 1)
    ]
    everyone = AttackResult(
        *(
            np.concatenate([getattr(result, name) for result in results])
            for name in ("statistic", "member", "defined")
        )
    )
    return found | found_by(everyone)


def found_by(result: AttackResult) -> dict[str, float]:
    """Return the pooled TPR of an attack; NaN if there are too few pairs."""
    points = operating_points(result, FPRS[1:], evaluation="pooled")
    return {f"LiRA {point.fpr}": point.tpr for point in points}


def of_models(scores: Scores, models: slice) -> Scores:
    """Return the same for some of the models."""
    of_a_model = ("log_odds", "member", "flipped_log_odds")
    held = {name: getattr(scores, name) for name in of_a_model}
    some = {name: array[models] for name, array in held.items() if array is not None}
    return dataclasses.replace(scores, **some)


def tables(files: Sequence[pathlib.Path]) -> str:
    """Return Markdown tables of the errors and of the attack, with medians over seeds."""
    rows = [
        {"features": content["features"], **row}
        for content in (json.loads(file.read_text()) for file in files)
        for row in content["rows"]
    ]
    table = pd.DataFrame(rows)
    by = ["features", "C", "S", "ridge", "method", "K"]
    columns = [
        "D",
        "error of D",
        "rank",
        "slope",
        *(f"TPR {fpr}" for fpr in FPRS),
        "LiRA 0.01",
        "LiRA 0.001",
        "seconds",
    ]
    medians = table.groupby(by, sort=True)[columns].median().reset_index()
    medians.insert(len(by), "seeds", table.groupby(by, sort=True)["seed"].nunique().to_numpy())
    lines = ["| " + " | ".join(medians.columns) + " |", "|" + "---|" * len(medians.columns)]
    for row in medians.itertuples(index=False):
        cells = [
            "-" if value != value else f"{value:.3g}" if isinstance(value, float) else str(value)
            for value in row
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
