"""Does a batch order shared by all models change what attacks find? Compares it with independent shuffles, by seed.

With a shared order, an example is in the same batches with the same neighbours in a target and its shadows. So scores
vary less between models than with independent shuffles. Everything else is equal: pools, memberships, recipe.
"""

from __future__ import annotations

import argparse
from typing import Any

import _common
import jax
import numpy as np
from scipy import stats

from jaxmia import attacks
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.membership import draw_membership
from jaxmia.data.pool import candidate_pool
from jaxmia.scores import Scores
from jaxmia.stats.operating_points import operating_points
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.scoring import score
from jaxmia.training.settings import Hyperparams, TrainConfig

FPRS = (0.1, 0.01, 0.001)


def main(argv: list[str] | None = None) -> None:
    options = _common.parser(__doc__)
    _common.add_features(options)
    options.add_argument("--shots", type=int, default=100, help="S, mean number of members per class")
    options.add_argument("--models", type=int, default=257)
    options.add_argument("--steps", type=int, default=200)
    options.add_argument("--batch-size", type=int, default=200, help="mean number of members per step")
    options.add_argument("--optimizers", nargs="+", default=["adam:0.1", "sgd:4"], help="NAME:LEARNING_RATE")
    options.add_argument("--num-seeds", type=int, default=5)
    arguments = options.parse_args(argv)
    data = _common.chosen_features(arguments)
    rows = []
    for recipe in arguments.optimizers:
        seeds = range(arguments.seed, arguments.seed + arguments.num_seeds)
        pairs = [
            [measure(arguments, data, recipe, sampling, seed) for seed in seeds]
            for sampling in ("shared", "independent")
        ]
        shared, independent = (
            {name: np.array([run[name] for run in runs]) for name in runs[0]} for runs in pairs
        )
        rows += [
            {"optimizer": recipe, "order": "shared", **{n: summary(v) for n, v in shared.items()}},
            {"optimizer": recipe, "order": "independent", **{n: summary(v) for n, v in independent.items()}},
            {
                "optimizer": recipe,
                "order": "shared - independent",
                **{name: summary(shared[name] - independent[name]) for name in shared},
            },
        ]
    _common.report(
        f"LiRA, pooled and by record: C = {arguments.classes}, S = {arguments.shots}, {arguments.models} models,"
        f" {arguments.steps} steps of {arguments.batch_size}; mean (standard error) over {arguments.num_seeds} seeds",
        rows,
        dtype="float32",
        facts={
            "features": _common.named(arguments.features),
            "t at 95%": stats.t.isf(0.025, arguments.num_seeds - 1),
        },
        arguments=arguments,
    )


def measure(
    arguments: argparse.Namespace, data: FeatureSet, recipe: str, sampling: str, seed: int
) -> dict[str, float]:
    """Train one ensemble; return LiRA's TPRs, and the means and deviations of its scores."""
    name, _, rate = recipe.partition(":")
    pool_key, member_key, key = jax.random.split(jax.random.key(seed), 3)
    pool = candidate_pool(data, classes=arguments.classes, shots=arguments.shots, key=pool_key).data
    masks = draw_membership(member_key, pool.labels, num_models=arguments.models)
    config = TrainConfig(name, steps=arguments.steps, batch_size=arguments.batch_size, sampling=sampling)
    scores = score(train_ensemble(key, pool, masks, Hyperparams(float(rate)), config), pool)
    points = operating_points(attacks.lira(scores), FPRS)
    return {f"TPR at {point.fpr:g}": point.tpr for point in points} | moments(scores)


def moments(scores: Scores) -> dict[str, float]:
    """Return the mean over examples of mu_in - mu_out, and root mean square deviations of members and non-members."""
    log_odds, member = np.asarray(scores.log_odds, np.float64), np.asarray(scores.member)
    inside, outside = (np.ma.masked_array(log_odds, mask) for mask in (~member, member))
    return {
        "mu_in - mu_out": float(np.mean(inside.mean(axis=0) - outside.mean(axis=0))),
        "sigma_in": float(np.sqrt(np.mean(inside.var(axis=0, ddof=1)))),
        "sigma_out": float(np.sqrt(np.mean(outside.var(axis=0, ddof=1)))),
    }


def summary(values: np.ndarray) -> Any:
    """Return mean and standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


if __name__ == "__main__":
    main()
