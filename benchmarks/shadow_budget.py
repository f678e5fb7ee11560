"""TPR of every attack against the number of its shadows, on held-out targets.

Targets are never shadows. Shadows come in complementary pairs, so that any even number of them contains each example
in exactly half, as in the published experiments. Targets have different shadows if there are enough. An attack gets one
target and K shadows. The statistics of all targets share one pooled ROC.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import _common
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from jaxmia import attacks
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.membership import draw_membership
from jaxmia.data.pool import CandidatePool, candidate_pool
from jaxmia.scores import Scores
from jaxmia.stats.operating_points import operating_points
from jaxmia.stats.result import AttackResult
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.scoring import score
from jaxmia.training.settings import Hyperparams, TrainConfig

FPRS = (0.1, 0.01, 0.001)
RECIPE, HYPER = TrainConfig("adam", "constant", 100, None), Hyperparams(0.1)
SHADOW_ATTACKS: dict[str, tuple[Callable[..., AttackResult], dict[str, Any]]] = {
    "lira": (attacks.lira, {}),
    "lira, global": (attacks.lira, {"variance": "global"}),
    "lira, offline": (attacks.lira, {"offline": True}),
    "rmia": (attacks.rmia, {}),
    "rmia, offline": (attacks.rmia, {"offline": True}),
    "base": (attacks.base, {}),
    "bavaria_t": (attacks.bavaria_t, {}),
    "bavaria_n": (attacks.bavaria_n, {}),
    "difficulty": (attacks.difficulty, {}),
}
QUANTILE_DIM = 64
MIN_SHADOWS = 2  # attacks need at least this many
STYLES = {  # one colour per family
    "lira": "C0-",
    "lira, global": "C0--",
    "lira, offline": "C0:",
    "rmia": "C1-",
    "rmia, offline": "C1--",
    "base": "C1:",
    "bavaria_t": "C2-",
    "bavaria_n": "C2--",
    "difficulty": "C3-",
    "threshold": "C7-",
    "quantile": "C7--",
}


def main(argv: list[str] | None = None) -> None:
    options = _common.parser(__doc__)
    _common.add_features(options)
    options.add_argument("--shots", type=int, default=32, help="S, members per class")
    options.add_argument("--shadows", type=int, default=256, help="largest number of shadows, a power of 2")
    options.add_argument("--targets", type=int, default=36, help="held-out target models per seed")
    options.add_argument("--num-seeds", type=int, default=3, help="number of seeds, from --seed on")
    options.add_argument("--plot", type=pathlib.Path, metavar="PNG", help="also plot the curves")
    options.add_argument("--quick", action="store_true", help="tiny sizes, to check that it runs")
    arguments = options.parse_args(argv)
    steps = RECIPE.steps
    if arguments.quick:
        arguments.classes, arguments.shots, arguments.shadows = 2, 8, 4
        arguments.targets, arguments.num_seeds, steps = 10, 2, 10
    data = _common.chosen_features(arguments)
    start = time.perf_counter()
    budgets = [2**k for k in range(arguments.shadows.bit_length())]
    config = dataclasses.replace(RECIPE, steps=steps)
    seeds = range(arguments.seed, arguments.seed + arguments.num_seeds)
    tprs = [one_seed(arguments, data, budgets, config, seed) for seed in seeds]
    mean, error = summary(tprs)
    if arguments.plot:
        draw(budgets, mean, arguments.plot)
    _common.report(
        f"Pooled TPR by number of shadows: C = {arguments.classes}, S = {arguments.shots}, {arguments.targets} targets;"
        f" mean (standard error) over {arguments.num_seeds} seeds",
        table(budgets, mean, error),
        dtype="float32 heads and scores, float64 statistics",
        facts={"features": _common.named(arguments.features), "seconds": time.perf_counter() - start},
        arguments=arguments,
    )


def one_seed(
    arguments: argparse.Namespace, data: FeatureSet, budgets: list[int], config: TrainConfig, seed: int
) -> dict[tuple[float, str, int], float]:
    """Return the TPR of every (FPR, attack, number of shadows); NaN if there is none."""
    keys = jax.random.split(jax.random.key(seed), 3)
    pool = candidate_pool(
        data, classes=arguments.classes, shots=arguments.shots, key=keys[0], test_per_class=0
    )
    shadows, targets = trained_scores(arguments, pool, config, keys[1:])
    statistics: dict[tuple[str, int], AttackResult] = {}
    for budget in budgets:
        statistics["threshold", budget] = attacks.threshold(targets)
        if budget >= MIN_SHADOWS:
            for name, (attack, settings) in SHADOW_ATTACKS.items():
                statistics[name, budget] = with_shadows(attack, settings, targets, shadows, budget)
    quantile = attacks.quantile(targets, features=leading_components(pool.data.features))
    statistics |= {("quantile", budget): quantile for budget in budgets}
    return {
        (point.fpr, *key): point.tpr
        for key, result in statistics.items()
        for point in operating_points(result, FPRS)
    }


def trained_scores(
    arguments: argparse.Namespace, pool: CandidatePool, config: TrainConfig, keys: jax.Array
) -> tuple[Scores, Scores]:
    """Train shadows, in pairs of complementary training sets, and targets; return the scores of both."""
    num_pairs = arguments.shadows // 2
    masks = draw_membership(keys[0], pool.data.labels, num_models=num_pairs + arguments.targets)
    pairs = jnp.stack([masks.member[:num_pairs], ~masks.member[:num_pairs]], axis=1)
    member = jnp.concatenate([pairs.reshape(2 * num_pairs, -1), masks.member[num_pairs:]])
    masks = masks.replace(member=member, model_ids=jnp.arange(len(member), dtype=jnp.int32))
    everyone = score(train_ensemble(keys[1], pool.data, masks, HYPER, config), pool.data)
    log_odds, member = (
        np.split(everyone.log_odds, [2 * num_pairs]),
        np.split(everyone.member, [2 * num_pairs]),
    )
    return Scores(log_odds[0], member[0]), Scores(log_odds[1], member[1])


def leading_components(features: np.ndarray) -> np.ndarray:
    """Return the leading principal components of features, since the quantile attack takes time dim cubed."""
    left, scale, _ = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)
    return (left * scale)[:, :QUANTILE_DIM]


def with_shadows(
    attack: Callable[..., AttackResult],
    settings: dict[str, Any],
    targets: Scores,
    shadows: Scores,
    budget: int,
) -> AttackResult:
    """Return the statistic of an attack for every target, given `budget` shadows: [targets, examples]."""
    first_rows, populations, null = [], [], "unknown"
    for target in range(len(targets.member)):
        chosen = (target * budget + np.arange(budget)) % len(shadows.member)
        rows = Scores(
            np.vstack([targets.log_odds[target], shadows.log_odds[chosen]]),
            np.vstack([targets.member[target], shadows.member[chosen]]),
        )
        result = attack(rows, **settings)
        first_rows.append((result.statistic[0], result.member[0], result.defined[0]))
        null = result.null
        if result.population is not None:
            populations.append(result.population[0])
    statistic, member, defined = map(np.stack, zip(*first_rows, strict=True))
    population = np.array(populations) if populations else None
    return AttackResult(statistic, member, defined, null=null, population=population)


def summary(
    tprs: list[dict[tuple[float, str, int], float]],
) -> tuple[dict[tuple[float, str, int], float], dict[tuple[float, str, int], float]]:
    """Return mean and standard error over seeds by (FPR, attack, number of shadows)."""
    mean = {key: float(np.mean([tpr[key] for tpr in tprs])) for key in tprs[0]}
    if len(tprs) == 1:
        return mean, dict.fromkeys(mean, math.nan)
    scale = math.sqrt(len(tprs))
    return mean, {key: float(np.std([tpr[key] for tpr in tprs], ddof=1)) / scale for key in mean}


def table(
    budgets: list[int], mean: dict[tuple[float, str, int], float], error: dict[tuple[float, str, int], float]
) -> list[dict[str, Any]]:
    """Return one row per FPR and attack with a column per number of shadows, and a row with the best attack."""
    rows = []
    for fpr in FPRS:
        for name in (*SHADOW_ATTACKS, "threshold", "quantile"):
            row: dict[str, Any] = {"FPR": fpr, "attack": name}
            for budget in budgets:
                key = (fpr, name, budget)
                known = key in mean and not math.isnan(mean[key])
                row[f"K = {budget}"] = (mean[key], error[key]) if known else None
            rows.append(row)
        best: dict[str, Any] = {"FPR": fpr, "attack": "best"}
        for budget in budgets:
            resolved = {
                name: tpr
                for (f, name, k), tpr in mean.items()
                if (f, k) == (fpr, budget) and not math.isnan(tpr)
            }
            best[f"K = {budget}"] = max(resolved, key=resolved.__getitem__) if resolved else None
        rows.append(best)
    return rows


def draw(budgets: list[int], mean: dict[tuple[float, str, int], float], path: pathlib.Path) -> None:
    """Plot TPR against the number of shadows, one panel per FPR; values below FPR / 2 are not shown."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    for axes, fpr in zip(figure.subplots(1, len(FPRS)), FPRS, strict=True):
        for name, style in STYLES.items():
            values = [mean.get((fpr, name, budget), math.nan) for budget in budgets]
            axes.plot(budgets, np.maximum(values, fpr / 10), style, marker=".", linewidth=1.3, label=name)
        axes.set(xscale="log", yscale="log", ylim=(fpr / 2, 1), xlabel="shadows, K", ylabel="TPR")
        axes.set(title=f"FPR {fpr:g}")
        axes.set_xticks(budgets, [str(budget) for budget in budgets])
        axes.tick_params(axis="x", which="minor", bottom=False)
        axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90, metadata={"Software": None})


if __name__ == "__main__":
    main()
