"""How far are halves of one pool from the vulnerability that fresh draws of training sets would show?

Models that train on a share r of one fixed pool have scores that vary less, by sqrt(1 - r), than models that draw their
training sets afresh. Both experiments have the same targets: pools of 2, 4 and 8 times S examples per class (r = 1/2,
1/4, 1/8), and models that draw all other members afresh. Two kinds of models are measured:

(a) the simplified model of jaxmia.theory, where fresh draws have a closed form;
(b) linear heads on real features; a fresh draw takes its members from all other examples of the class.

Columns:

- D: mean of per_example_vulnerability, whose s pools both sides by their numbers of models;
- D=: the same with both sides weighted equally;
- estimated: its TPR by pooled residuals;
- parametric: its TPR by method="gaussian", with the s of D;
- two deviations: TPR of Gaussians with the deviation of each side;
- calibrated: LiRA's z with the same FPR for each record;
- pooled: LiRA with one threshold for all records;
- / fresh: median over targets of the ratio to fresh draws.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import _common
import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import norm

from jaxmia import attacks
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.membership import MembershipMasks, draw_membership
from jaxmia.data.pool import choose_classes
from jaxmia.scores import Scores
from jaxmia.stats.operating_points import operating_points
from jaxmia.theory import (
    ScoreMoments,
    class_mean_heads,
    fresh_moments,
    simulate_class_mean_scores,
    threshold_tpr,
)
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.scoring import score
from jaxmia.training.settings import Hyperparams, TrainConfig
from jaxmia.vulnerability.curves import per_example_vulnerability, vulnerability_curves

FPRS = (0.1, 0.01)
DIM, NOISE_SCALE = 64, 0.125  # of (a): noise of the size of the class means, D about sqrt(32 / S)
RECIPE, HYPER = TrainConfig("adam", "constant", 100, None), Hyperparams(0.1)


def main(argv: list[str] | None = None) -> None:
    options = _common.parser(__doc__)
    _common.add_features(options)
    options.add_argument("--shots", type=int, default=16, help="S, members per class")
    options.add_argument("--targets", type=int, default=8, help="targets per class")
    options.add_argument("--models", type=int, default=256, help="M, models of one replicate")
    options.add_argument("--replicates", type=int, default=4, help="pools, and groups of fresh models")
    options.add_argument("--multipliers", type=int, nargs="+", default=[2, 4, 8], help="pool sizes / S")
    options.add_argument("--designs", nargs="+", default=["bernoulli", "fixed_size"], help="designs of (b)")
    options.add_argument("--steps", type=int, default=RECIPE.steps, help="steps of (b)")
    arguments = options.parse_args(argv)
    data = _common.chosen_features(arguments)
    start = time.perf_counter()
    rows = simplified_rows(arguments)
    for design in arguments.designs:
        rows += real_rows(arguments, data, design)
    _common.report(
        f"S = {arguments.shots}, {arguments.classes} classes x {arguments.targets} targets, M = {arguments.models};"
        f" mean (standard error) over {arguments.replicates} pools or groups of fresh models",
        rows,
        dtype="float32 heads and scores, float64 statistics",
        facts={"seconds": time.perf_counter() - start},
        arguments=arguments,
    )


def simplified_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of (a): heads are class means of exactly S members per class."""
    shots, classes, num_targets = arguments.shots, arguments.classes, arguments.targets
    key, others_key = jax.random.split(jax.random.key(arguments.seed))
    fresh = simulate_class_mean_scores(
        key,
        shots=shots,
        classes=classes,
        dim=DIM,
        noise_scale=NOISE_SCALE,
        num_models=arguments.models * arguments.replicates,
        targets_per_class=num_targets,
    )
    own_means = fresh.class_means[fresh.labels]
    moments = fresh_moments(fresh.targets, own_means, shots=shots, covariance=NOISE_SCALE**2)
    scores = Scores(np.asarray(fresh.scores), np.asarray(fresh.member))

    def pool_scores(multiplier: int, replicate: int) -> Scores:
        keys = jax.random.split(jax.random.fold_in(others_key, 1000 * multiplier + replicate))
        labels = jnp.repeat(jnp.arange(classes), multiplier * shots - num_targets)
        noise = NOISE_SCALE * jax.random.normal(keys[0], (len(labels), DIM))
        features = jnp.concatenate([fresh.targets, fresh.class_means[labels] + noise])
        labels = jnp.concatenate([fresh.labels, labels])
        masks = draw_membership(
            keys[1],
            np.asarray(labels),
            num_models=arguments.models,
            design="fixed_size",
            inclusion_rate=1 / multiplier,
        )
        heads = class_mean_heads(features, labels, member=masks.member, num_classes=classes)
        log_odds = jnp.einsum("mnd,nd->mn", heads[:, fresh.labels], fresh.targets)
        return Scores(np.asarray(log_odds), np.asarray(masks.member[:, : len(fresh.labels)]))

    return [
        _exact_row("class means", moments),
        *_rows("class means", arguments, scores, moments, 0.0, pool_scores),
    ]


def real_rows(arguments: argparse.Namespace, data: FeatureSet, design: str) -> list[dict[str, Any]]:
    """Return the rows of (b): linear heads on real features."""
    config = dataclasses.replace(RECIPE, steps=arguments.steps)
    rng = np.random.default_rng(arguments.seed)
    chosen = choose_classes(data, arguments.classes)
    by_class = [rng.permutation(np.flatnonzero(data.labels == label)) for label in chosen]
    targets = [rows[: arguments.targets] for rows in by_class]
    others = [rows[arguments.targets :] for rows in by_class]
    smallest = min(len(rows) for rows in others)
    fresh = fresh_scores(arguments, data, targets, others, rng=rng, design=design, config=config)

    def pool_scores(multiplier: int, replicate: int) -> Scores:
        size = multiplier * arguments.shots - arguments.targets
        drawn = [rng.choice(rows, size, replace=False) for rows in others]
        pool = _feature_set(data, [*targets, *drawn], chosen)
        masks = draw_membership(
            jax.random.fold_in(jax.random.key(arguments.seed), 1000 * multiplier + replicate),
            pool.labels,
            num_models=arguments.models,
            design=design,
            inclusion_rate=1 / multiplier,
        )
        everyone = score(train_ensemble(jax.random.key(0), pool, masks, HYPER, config), pool)
        columns = slice(arguments.targets * arguments.classes)
        return Scores(everyone.log_odds[:, columns], everyone.member[:, columns])

    curve = per_example_vulnerability(fresh, FPRS[0])
    moments = ScoreMoments(curve.mean_in, curve.std_in, curve.mean_out, curve.std_out)
    return _rows(f"heads, {design}", arguments, fresh, moments, arguments.shots / smallest, pool_scores)


def fresh_scores(
    arguments: argparse.Namespace,
    data: FeatureSet,
    targets: list[np.ndarray],
    others: list[np.ndarray],
    *,
    rng: np.random.Generator,
    design: str,
    config: TrainConfig,
) -> Scores:
    """Return scores of the targets under models that share members only by chance.

    One draw of the other members is used by as many heads as a class has targets. Each head gets one target of each
    class, with probability 1/2, so that the scores of a target in different rows come from independent draws. The
    members of a class are S - 1/2 others on average, and the target half of the time ("bernoulli"), or S in all.

    Returns:
        Scores [models x replicates, targets], targets by class.
    """
    shots, num_targets, num_classes = arguments.shots, arguments.targets, arguments.classes
    chosen = choose_classes(data, arguments.classes)
    width = math.ceil(shots + 6 * math.sqrt(shots))  # exceeded once in 10^7 draws
    audited = _feature_set(data, targets, chosen)
    shape = (arguments.models * arguments.replicates, num_classes, num_targets)
    log_odds, member = np.empty(shape, np.float32), rng.random(shape) < 0.5
    for model in range(len(log_odds)):
        drawn = [rng.choice(rows, width, replace=False) for rows in others]
        # head[c, t] is the head whose candidates include target t of class c.
        head = np.argsort(rng.random(shape[1:]), axis=1)
        number = np.full(shape[1:], shots) - member[model]
        if design == "bernoulli":
            counts = np.array([[len(rows)] for rows in others])
            number = np.minimum(rng.binomial(counts, (shots - 0.5) / counts, shape[1:]), width)
        classes, places = np.indices(shape[1:])
        with_target = np.zeros((num_targets, *shape[1:]), bool)
        with_target[head, classes, places] = member[model]
        with_others = np.empty((num_targets, num_classes, width), bool)
        with_others[head, classes] = np.arange(width) < number[:, :, None]
        masks = MembershipMasks(
            jnp.asarray(np.hstack([part.reshape(num_targets, -1) for part in (with_target, with_others)])),
            jnp.arange(num_targets, dtype=jnp.int32),
            design,
            0.5,
        )
        pool = _feature_set(data, [*targets, *drawn], chosen)
        heads = train_ensemble(jax.random.key(0), pool, masks, HYPER, config)
        values = score(heads, audited).log_odds.reshape(num_targets, *shape[1:])
        log_odds[model] = values[head, classes, places]
    return Scores(log_odds.reshape(len(log_odds), -1), member.reshape(len(member), -1))


def _feature_set(data: FeatureSet, rows: list[np.ndarray], chosen: tuple[int, ...]) -> FeatureSet:
    """Return the examples of several arrays of rows, with the chosen classes relabelled 0 .. C - 1."""
    joined = np.concatenate(rows)
    labels = np.searchsorted(chosen, data.labels[joined]).astype(np.int32)
    return FeatureSet(data.features[joined], labels, tuple(data.class_names[label] for label in chosen))


def _rows(
    setting: str,
    arguments: argparse.Namespace,
    fresh: Scores,
    truth: ScoreMoments,
    fresh_rate: float,
    pool_scores: Callable[[int, int], Scores],
) -> list[dict[str, Any]]:
    """Return the rows of one setting: fresh draws, then each pool size without and with the correction.

    Args:
        setting: its name.
        arguments: those of the command line.
        fresh: scores of all fresh models [models x replicates, targets].
        truth: moments of the fresh scores, exact or from all fresh models.
        fresh_rate: share of the population that a fresh draw takes.
        pool_scores: scores of the targets [models, targets] given pool multiplier and number of the pool.
    """
    groups = [
        Scores(fresh.log_odds[group], fresh.member[group])
        for group in np.split(np.arange(len(fresh.member)), arguments.replicates)
    ]
    rows = [_row(setting, "fresh", "none", 1.0, [_measure(group, truth) for group in groups])]
    for multiplier in arguments.multipliers:
        rate = 1 / multiplier
        pools = [pool_scores(multiplier, replicate) for replicate in range(arguments.replicates)]
        for correction, left in (("none", 1 - rate), ("finite_pool", 1.0)):
            measured = [_measure(pool, truth, correction=correction, rate=rate) for pool in pools]
            predicted = math.sqrt(left / (1 - fresh_rate))
            rows.append(_row(setting, f"1/{multiplier}", correction, predicted, measured))
    return rows


def _measure(
    scores: Scores, truth: ScoreMoments, *, correction: str = "none", rate: float | None = None
) -> dict[str, float]:
    """Return the figures of one ensemble."""
    options: dict[str, Any] = {"correction": correction, "inclusion_rate": rate}
    curves = vulnerability_curves(scores, FPRS, method="gaussian", **options)
    curve = curves[0]
    scale = 1.0 if rate is None or correction == "none" else math.sqrt(1 - rate)
    moments = ScoreMoments(curve.mean_in, curve.std_in / scale, curve.mean_out, curve.std_out / scale)
    shifts = (moments.mu_in - moments.mu_out) / (truth.mu_in - truth.mu_out)
    figures = {
        "D": float(np.mean(curve.separation)),
        "D / fresh": float(np.median(curve.separation / _separation(truth))),
        "D= / fresh": float(np.nanmedian(_separation(moments) / _separation(truth))),
        "shift / fresh": float(np.median(shifts)),
        "s_in / fresh": float(np.nanmedian(moments.sigma_in / truth.sigma_in)),
        "s_out / fresh": float(np.nanmedian(moments.sigma_out / truth.sigma_out)),
        "s_in / s_out": float(np.nanmedian(moments.sigma_in / moments.sigma_out)),
    }
    estimates = vulnerability_curves(scores, FPRS, **options)
    for fpr, estimate, at_fpr in zip(FPRS, estimates, curves, strict=True):
        figures[f"estimated {fpr:g}"] = float(np.nanmean(estimate.tpr))
        figures[f"parametric {fpr:g}"] = float(np.mean(at_fpr.tpr))
        figures[f"two deviations {fpr:g}"] = float(np.nanmean(threshold_tpr(moments, fpr=fpr)))
    if correction == "none":  # ranks have no correction
        kinds = {"calibrated": attacks.lira(scores, calibrated=True), "pooled": attacks.lira(scores)}
        for evaluation, result in kinds.items():
            points = operating_points(result, FPRS, evaluation=evaluation)
            figures |= {f"{evaluation} {point.fpr:g}": point.tpr for point in points if point.status == "ok"}
    return figures


def _row(
    setting: str, rate: str, correction: str, predicted: float, measured: list[dict[str, float]]
) -> dict[str, Any]:
    """Return one row: (mean, standard error) over replicates of every figure."""
    row: dict[str, Any] = {"setting": setting, "r": rate, "correction": correction}
    row["predicted s / fresh"] = predicted
    names = ["D", "D / fresh", "D= / fresh", "shift / fresh", "s_in / fresh", "s_out / fresh", "s_in / s_out"]
    kinds = ("estimated", "parametric", "two deviations", "calibrated", "pooled")
    names += [f"{kind} {fpr:g}" for kind in kinds for fpr in FPRS]
    for name in names:
        values = [figures[name] for figures in measured if name in figures]
        error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        row[name] = (float(np.mean(values)), float(error)) if values else None
    return row


def _exact_row(setting: str, moments: ScoreMoments) -> dict[str, Any]:
    """Return the row of the closed form."""
    separation = _separation(moments)
    figures = {
        "D": float(separation.mean()),
        "s_in / s_out": float(np.median(moments.sigma_in / moments.sigma_out)),
    }
    for fpr in FPRS:
        figures[f"parametric {fpr:g}"] = float(np.mean(norm.cdf(norm.ppf(fpr) + separation)))
        figures[f"two deviations {fpr:g}"] = float(np.mean(threshold_tpr(moments, fpr=fpr)))
    return _row(setting, "fresh, exact", "none", 1.0, [figures])


def _separation(moments: ScoreMoments) -> np.ndarray:
    """Return D with both sides weighted equally, whatever their numbers of models."""
    deviation = np.sqrt((moments.sigma_in**2 + moments.sigma_out**2) / 2)
    return (moments.mu_in - moments.mu_out) / deviation


if __name__ == "__main__":
    main()
