"""Is a record's own TPR right: the estimate for unlimited shadows, and the thresholds of K shadows?

The truth comes from thousands of heads on one pool: each record's TPR at the threshold of its own non-member scores.
The same records are then estimated from groups of K other heads. Columns, for each FPR:

- mean TPR of the records over the truth's, by one Gaussian deviation and by pooled residuals;
- root mean square error per record, by pooled residuals;
- realised FPR of the K shadows' thresholds on the truth's heads, over the nominal one;
- TPR of these thresholds there, over the TPR that is reported as attained;
- quantiles over records, over the truth's;
- share of groups in which the interval of the worst record covers the truth.

Few scores lie above a threshold, so the truth has a bias. Its halves remove it: 2 T - mean(T of either half).
"""

from __future__ import annotations

import argparse
import pathlib
import time
from typing import Any

import _common
import jax
import numpy as np

from jaxmia.data.membership import draw_membership
from jaxmia.data.pool import candidate_pool
from jaxmia.scores import Scores
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.scoring import score
from jaxmia.training.settings import Hyperparams, TrainConfig
from jaxmia.vulnerability.curves import vulnerability_curves

FPRS = (0.1, 0.01, 0.001)
QUANTILES = (0.5, 0.9, 0.99)
BLOCK = 1024  # heads trained at a time
RECIPES = {
    "adam": (TrainConfig("adam", steps=100), Hyperparams(0.1)),
    "sgd": (TrainConfig("sgd", steps=100), Hyperparams(8.0, 0.9)),
    "ridge": (
        TrainConfig("newton", steps=50, tolerance=1e-4),
        Hyperparams(0.0, weight_decay=None, ridge=1.0),
    ),
}


def main(argv: list[str] | None = None) -> None:
    options = _common.parser(__doc__)
    _common.add_features(options)
    options.add_argument("--shots", type=int, default=32, help="S; 2 S candidates per class")
    options.add_argument("--recipe", choices=RECIPES, default="adam")
    options.add_argument("--truth", type=int, default=8192, help="heads for the truth")
    options.add_argument("--shadows", type=int, nargs="+", default=[256, 64, 32], help="K")
    options.add_argument("--heads", type=int, default=1024, help="other heads, divided into groups of K")
    options.add_argument("--noise", type=int, metavar="M", help="use pure noise scores of M models instead")
    options.add_argument(
        "--scores", type=pathlib.Path, metavar="FILE", help="file that keeps the scores of the heads"
    )
    arguments = options.parse_args(argv)
    start = time.perf_counter()
    scores = noise(arguments) if arguments.noise else trained(arguments)
    rows = compare(scores, arguments)
    of_what = (
        f"noise, M = {arguments.noise}" if arguments.noise else f"{arguments.recipe}, S = {arguments.shots}"
    )
    _common.report(
        f"{pathlib.Path(arguments.features).stem}, C = {arguments.classes}, {of_what}: {arguments.truth} heads",
        rows,
        dtype="float32 training and scores, float64 statistics",
        facts={"seconds": time.perf_counter() - start},
        arguments=arguments,
    )


def trained(arguments: argparse.Namespace) -> Scores:
    """Return the scores of all heads, from the file if it exists."""
    if arguments.scores and arguments.scores.is_file():
        held = np.load(arguments.scores)
        return Scores(held["log_odds"], held["member"])
    data = _common.chosen_features(arguments)
    key = jax.random.key(arguments.seed)
    drawn = candidate_pool(
        data,
        classes=arguments.classes,
        shots=arguments.shots,
        key=jax.random.fold_in(key, 0),
        test_per_class=0,
    )
    pool, (config, hyper) = drawn.data, RECIPES[arguments.recipe]
    total, parts = arguments.truth + arguments.heads, []
    for first in range(0, total, BLOCK):
        masks = draw_membership(
            jax.random.fold_in(key, 1),
            pool.labels,
            num_models=min(BLOCK, total - first),
            first_model=first,
        )
        of_block = score(train_ensemble(jax.random.fold_in(key, 2), pool, masks, hyper, config), pool)
        parts.append((np.asarray(of_block.log_odds), np.asarray(of_block.member)))
    log_odds, member = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if arguments.scores:
        np.savez(arguments.scores, log_odds=log_odds, member=member)
    return Scores(log_odds, member)


def noise(arguments: argparse.Namespace) -> Scores:
    """Return scores that do not depend on membership, for as many records as a pool has."""
    rng = np.random.default_rng(arguments.seed)
    examples = 2 * arguments.shots * arguments.classes
    member = rng.random((arguments.truth + arguments.heads, examples)) < 0.5
    return Scores(rng.normal(size=member.shape), member)


def true_rates(log_odds: np.ndarray, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the TPR of every record at its own thresholds [FPRs, examples], without first-order bias.

    And the worst record's [FPRs], chosen by one half and measured by the other, in turn, less one member of a half, by
    which a rate of 1 is known: the largest of thousands of measured rates is higher than the largest true one.
    """
    half = len(log_odds) // 2
    halves = [_rates(log_odds[part], member[part]) for part in (slice(half), slice(half, None))]
    worst = np.mean(
        [
            measured[np.arange(len(FPRS)), chosen.argmax(axis=1)]
            for chosen, measured in (halves, halves[::-1])
        ],
        axis=0,
    )
    worst = worst - 2 / half
    return np.clip(2 * _rates(log_odds, member) - np.mean(halves, axis=0), 0, 1), worst


def _rates(log_odds: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Return TPR [FPRs, examples]; fpr (n + 1) of n non-members are at or above a threshold in expectation."""
    rates = np.empty((len(FPRS), log_odds.shape[1]))
    for example in range(log_odds.shape[1]):
        inside = np.sort(log_odds[member[:, example], example])
        outside = np.sort(log_odds[~member[:, example], example])[::-1]
        places = np.clip(np.array(FPRS) * (len(outside) + 1) - 1, 0, len(outside) - 1)
        thresholds = np.interp(places, np.arange(len(outside)), outside)
        rates[:, example] = 1 - np.searchsorted(inside, thresholds) / len(inside)
    return rates


def compare(scores: Scores, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row for each K and FPR: means over groups."""
    log_odds, member = np.asarray(scores.log_odds), np.asarray(scores.member)
    truth, others = slice(len(log_odds) - arguments.heads), slice(len(log_odds) - arguments.heads, None)
    rates, worst = true_rates(log_odds[truth], member[truth])
    rows = []
    for number in arguments.shadows:
        groups = [
            Scores(log_odds[others][first : first + number], member[others][first : first + number])
            for first in range(0, arguments.heads - number + 1, number)
        ]
        of_groups = [_group(group, log_odds[truth], member[truth], rates, worst) for group in groups]
        for place, fpr in enumerate(FPRS):
            row: dict[str, Any] = {"K": number, "FPR": fpr, "true": float(rates[place].mean())}
            for name in of_groups[0][place]:
                row[name] = float(np.mean([figures[place][name] for figures in of_groups]))
            rows.append(row)
    return rows


def _group(
    shadows: Scores, log_odds: np.ndarray, member: np.ndarray, rates: np.ndarray, worst: np.ndarray
) -> list[dict[str, float]]:
    """Return the figures of one group of shadows at each FPR."""
    rows = []
    estimates = vulnerability_curves(shadows, FPRS)
    gaussians = vulnerability_curves(shadows, FPRS, method="gaussian")
    for curve, gaussian, truth, least in zip(estimates, gaussians, rates, worst, strict=True):
        called = log_odds > curve.threshold
        attained = float(np.mean(called[member]))
        low, high = curve.worst
        row = {
            "one deviation": _ratio(gaussian.tpr.mean(), truth.mean()),
            "residuals": _ratio(curve.tpr.mean(), truth.mean()),
            "error": np.sqrt(np.mean((curve.tpr - truth) ** 2)),
            "error, one deviation": np.sqrt(np.mean((gaussian.tpr - truth) ** 2)),
            "realised FPR": np.mean(called[~member]) / curve.fpr,
            "TPR of thresholds": _ratio(attained, truth.mean()),
            "attained": _ratio(np.nanmean(curve.tpr_attained), attained),
            "own interval": np.mean((curve.tpr_low <= truth) & (truth <= curve.tpr_high)),
            "worst covered": low <= truth.max() and least <= high,
        }
        for level in QUANTILES:
            row[f"q{level:g}"] = _ratio(np.quantile(curve.tpr_drawn, level), np.quantile(truth, level))
        rows.append(row)
    return rows


def _ratio(value: float, truth: float) -> float:
    """Return the ratio; NaN where the truth is 0."""
    return value / truth if truth > 0 else float("nan")


if __name__ == "__main__":
    main()
