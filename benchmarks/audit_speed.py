"""Time the whole audit against the steps of the published pipeline: train, score, LiRA on every target, TPR table.

Both sides audit halves of the same candidates with the same recipe: --models heads from zero, and --epochs of Adam on
batches of --batch-size members (jaxmia: on average). Both run online LiRA with medians and per-example deviations, on
every model as the target, and report TPR at each FPR. Every model has exactly half of the candidates, so that both
sides take the same number of steps. jaxmia does more: its attack also returns LiRA's z, and its table also has the
calibrated TPR, with intervals.

"published" takes the steps of the code published with LiRA, on linear heads:

- train: torch, one model after another, nn.Linear, Adam and a DataLoader;
- score: one model after another, softmax in float64, log p - log (1 - p);
- attack: for each target, gather all scores again in a loop over the examples, cut them to the fewest IN and OUT
  shadows of any example, and fit;
- table: scikit-learn's roc_curve over all targets, TPR at the last point below each FPR.

Its training and scoring run on --peer-heads heads, and its attack on --peer-targets targets of jaxmia's scores. Their
times are scaled to --models; its table is timed on all. Reading and writing files between the steps is left out.

Both sides run alternately. Seconds are medians over --repeats, totals are sums of medians, and ratio is published /
jaxmia. The first run of jaxmia is a separate row, since a user pays for its compilation. No median includes the first
run of either side. Both attacks must agree on the same scores, to 1e-6 once jaxmia is given the shadows that the
published code keeps.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import _common
import jax
import numpy as np
from attack_speed import published_half_loop
from train_speed import Heads, Recipe, mean_accuracy, member_loss, peer_version, train_published

from jaxmia import attacks
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.membership import MembershipMasks, draw_membership
from jaxmia.data.pool import candidate_pool
from jaxmia.scores import Scores
from jaxmia.stats.operating_points import OperatingPoint, operating_points
from jaxmia.stats.result import AttackResult
from jaxmia.training.ensemble import ShadowEnsemble, train_ensemble
from jaxmia.training.scoring import score
from jaxmia.training.settings import Hyperparams, TrainConfig

STAGES = ("train", "score", "attack", "table")
TOLERANCE = 1e-6
Seconds = dict[str, float]  # by stage
Result = TypeVar("Result")


class Audit(NamedTuple):
    """Results of jaxmia's audit."""

    ensemble: ShadowEnsemble
    scores: Scores
    ratio: AttackResult
    pooled: tuple[OperatingPoint, ...]
    calibrated: tuple[OperatingPoint, ...]


def main(argv: list[str] | None = None) -> None:
    options = _common.parser(__doc__)
    _common.add_features(options)
    options.add_argument("--shots", type=int, default=100, help="S, members per class; 2 S C candidates")
    options.add_argument("--models", type=int, default=257, help="M; each model is the target once")
    options.add_argument("--epochs", type=int, default=40)
    options.add_argument(
        "--batch-size", type=int, default=200, help="members per step; must divide all members"
    )
    options.add_argument("--learning-rate", type=float, default=0.1, help="learning rate of Adam")
    options.add_argument("--fprs", type=float, nargs="+", default=[0.1, 0.01, 0.001])
    options.add_argument("--peer-heads", type=int, default=5, help="heads that 'published' trains and scores")
    options.add_argument("--peer-targets", type=int, default=5, help="targets that 'published' attacks")
    options.add_argument("--threads", type=int, default=1, help="threads of torch; two are slower on heads")
    options.add_argument("--repeats", type=int, default=3, help="timed runs of each side")
    arguments = options.parse_args(argv)
    members = arguments.shots * arguments.classes
    if members % arguments.batch_size:
        options.error(f"--batch-size {arguments.batch_size} does not divide the {members} members")
    if max(arguments.peer_heads, arguments.peer_targets) > arguments.models:
        options.error(f"--peer-heads and --peer-targets are at most --models {arguments.models}")
    recipe = Recipe(arguments.learning_rate, arguments.batch_size, arguments.epochs, members)
    absent = [name for name in ("torch", "sklearn") if not importlib.util.find_spec(name)]
    if absent:
        print(f"published skipped: {' and '.join(absent)} absent")
    rows, facts = compare(arguments, recipe, with_published=not absent)
    _common.report(
        f"Audit of {arguments.models} heads, C = {arguments.classes}, S = {arguments.shots}, {recipe.steps} steps of"
        f" Adam, the median of {arguments.repeats}; published scaled from {arguments.peer_heads} heads and"
        f" {arguments.peer_targets} targets",
        rows,
        dtype="float32, published scores and all statistics float64",
        facts=facts | {name: peer_version(name) for name in ("torch", "scikit-learn")},
        arguments=arguments,
    )


def compare(
    arguments: argparse.Namespace, recipe: Recipe, *, with_published: bool
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run both sides alternately; return the rows of the table and the results of both."""
    data = _common.chosen_features(arguments)
    key = jax.random.key(arguments.seed)
    pool = candidate_pool(
        data, classes=arguments.classes, shots=arguments.shots, key=jax.random.fold_in(key, 0)
    ).data
    first, audit = run_jaxmia(arguments, pool, recipe, key)
    facts = found(audit) | agreement(audit.scores, arguments.peer_targets, arguments.fprs)
    ours, theirs = [], []
    if with_published:
        _, heads = run_published(arguments, pool, recipe, audit)  # imports torch; not timed
        facts |= same_heads(pool, audit, heads)
    for _ in range(arguments.repeats):
        ours.append(run_jaxmia(arguments, pool, recipe, key)[0])
        if with_published:
            theirs.append(run_published(arguments, pool, recipe, audit)[0])
    return table_rows(first, ours, theirs), facts


def table_rows(first: Seconds, ours: Sequence[Seconds], theirs: Sequence[Seconds]) -> list[dict[str, Any]]:
    """Return one row per stage, the totals, and jaxmia's first run against the published total."""
    jaxmia, published = with_total(medians(ours)), with_total(medians(theirs)) if theirs else {}
    first_total = with_total(first)["total"]
    pairs = [(stage, jaxmia[stage], published.get(stage)) for stage in (*STAGES, "total")]
    pairs.append(("total, first run with compilation", first_total, published.get("total")))
    return [
        {
            "stage": stage,
            "jaxmia, s": mine,
            "published, s (scaled)": other,
            "ratio": None if other is None else other / mine,
        }
        for stage, mine, other in pairs
    ]


def medians(turns: Sequence[Seconds]) -> Seconds:
    """Return the median of each stage over the runs."""
    return {stage: float(np.median([seconds[stage] for seconds in turns])) for stage in STAGES}


def with_total(seconds: Seconds) -> Seconds:
    """Return the same with their sum."""
    return seconds | {"total": sum(seconds[stage] for stage in STAGES)}


def timed(seconds: Seconds, stage: str, run: Callable[..., Result], *inputs: Any, scale: float = 1) -> Result:
    """Return the result of run, and record its seconds times scale."""
    start = time.perf_counter()
    result = run(*inputs)
    seconds[stage] = scale * (time.perf_counter() - start)
    return result


def run_jaxmia(
    arguments: argparse.Namespace, pool: FeatureSet, recipe: Recipe, key: jax.Array
) -> tuple[Seconds, Audit]:
    """Run the whole audit, with every model as the target."""
    seconds: Seconds = {}

    def train() -> ShadowEnsemble:
        masks = draw_masks(jax.random.fold_in(key, 1), pool, arguments.models)
        config = TrainConfig("adam", steps=recipe.steps, batch_size=recipe.batch)
        return train_ensemble(jax.random.fold_in(key, 2), pool, masks, Hyperparams(recipe.rate), config)

    def attack(scores: Scores) -> tuple[AttackResult, AttackResult]:
        return attacks.lira(scores, location="median"), attacks.lira(scores, calibrated=True)

    def table(ratio: AttackResult, z: AttackResult) -> tuple[tuple[OperatingPoint, ...], ...]:
        pooled = operating_points(ratio, arguments.fprs)
        return pooled, operating_points(z, arguments.fprs, evaluation="calibrated")

    ensemble = timed(seconds, "train", train)
    scores = timed(seconds, "score", score, ensemble, pool)
    ratio, z = timed(seconds, "attack", attack, scores)
    pooled, calibrated = timed(seconds, "table", table, ratio, z)
    return seconds, Audit(ensemble, scores, ratio, pooled, calibrated)


def draw_masks(key: jax.Array, pool: FeatureSet, models: int) -> MembershipMasks:
    """Draw exactly half of the candidates of each class for every model."""
    return draw_membership(key, pool.labels, num_models=models, design="fixed_size")


def run_published(
    arguments: argparse.Namespace, pool: FeatureSet, recipe: Recipe, audit: Audit
) -> tuple[Seconds, Heads]:
    """Run the published steps on a few heads and targets, with their seconds scaled to all."""
    seconds: Seconds = {}
    log_odds, member = score_arrays(audit.scores)
    few = member[: arguments.peer_heads]
    of_heads, of_targets = len(member) / len(few), len(member) / arguments.peer_targets

    def train() -> Heads:
        return train_published(pool, few, recipe, seed=arguments.seed, threads=arguments.threads)

    def attack() -> list[np.ndarray]:
        return [published_half_loop(log_odds, member, target) for target in range(arguments.peer_targets)]

    heads = timed(seconds, "train", train, scale=of_heads)
    timed(seconds, "score", published_scores, heads, pool, scale=of_heads)
    timed(seconds, "attack", attack, scale=of_targets)
    timed(seconds, "table", published_tprs, audit.ratio.statistic, member, arguments.fprs)
    return seconds, heads


def published_scores(heads: Heads, pool: FeatureSet) -> np.ndarray:
    """Return log p - log (1 - p) of the true class [models, examples], from float64 probabilities, model by model."""
    rows = np.arange(len(pool.labels))
    scores = []
    for kernel, bias in zip(*heads, strict=True):
        logits = pool.features @ kernel.T + bias
        probabilities = np.exp((logits - logits.max(axis=1, keepdims=True)).astype(np.float64))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        right = probabilities[rows, pool.labels]
        probabilities[rows, pool.labels] = 0
        scores.append(np.log(right + 1e-45) - np.log(probabilities.sum(axis=1) + 1e-45))
    return np.array(scores)


def published_tprs(statistic: np.ndarray, member: np.ndarray, fprs: Sequence[float]) -> list[float]:
    """Return TPR pooled over all targets, at the last point of scikit-learn's curve below each FPR."""
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve(member.ravel(), statistic.ravel())
    return [float(tpr[np.flatnonzero(fpr < limit)[-1]]) for limit in fprs]


def score_arrays(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Return log-odds in float64, as the published scores are, and membership."""
    return np.asarray(scores.log_odds, np.float64), np.asarray(scores.member)


def agreement(scores: Scores, targets: int, fprs: Sequence[float]) -> dict[str, Any]:
    """Compare both attacks on the same scores, by statistic and then by TPR; exit with an error if they differ.

    TPRs are those of the first targets, pooled in the same way. jaxmia's use all shadows and have an interval.
    """
    log_odds, member = score_arrays(scores)
    fewest = min(member.sum(axis=0).min(), (~member).sum(axis=0).min()) - 1  # the target is not one of them
    if fewest < 2:
        sys.exit(
            f"the published code keeps as few as {fewest} shadows, which have no deviation: more --models"
        )
    published = np.array([published_half_loop(log_odds, member, target) for target in range(targets)])
    same = np.array([lira_on_kept_shadows(log_odds, member, target) for target in range(targets)])
    difference = float(np.max(np.abs(published - same) / np.maximum(1, np.abs(same))))
    if not difference <= TOLERANCE:
        sys.exit(f"the attacks disagree: their statistics differ by up to {difference:.2g} of themselves")
    facts: dict[str, Any] = {"largest relative difference of the statistics": difference}
    everywhere = np.ones(published.shape, bool)
    theirs = operating_points(AttackResult(published, member[:targets], everywhere), fprs)
    ours = operating_points(attacks.lira(scores, location="median"), fprs, targets=range(targets))
    for point, other in zip(ours, theirs, strict=True):
        tprs = f"{other.tpr:.3f} and {point.tpr:.3f} ({point.tpr_low:.3f}-{point.tpr_high:.3f})"
        name = f"TPR at FPR {point.fpr:g} of {targets} targets, published and jaxmia"
        facts[name] = tprs if point.status == "ok" else point.status
    return facts


def lira_on_kept_shadows(log_odds: np.ndarray, member: np.ndarray, target: int) -> np.ndarray:
    """Return jaxmia's statistic of one target from the shadows that the published code keeps.

    For every example that is the first IN and OUT shadows, as many as the example with the fewest has.
    """
    others = np.delete(np.arange(len(log_odds)), target)
    rows, sides = [log_odds[target]], [member[target]]
    for side in (True, False):
        on_side = member[others] == side
        order = np.argsort(~on_side, axis=0, kind="stable")[: on_side.sum(axis=0).min()]
        rows.extend(np.take_along_axis(log_odds[others], order, axis=0))
        sides.extend(np.full(order.shape, side))
    return attacks.lira(Scores(np.array(rows), np.array(sides)), location="median").statistic[0]


def found(audit: Audit) -> dict[str, Any]:
    """Return the figures of jaxmia's tables, one line each."""
    return {
        f"jaxmia's TPR, {points[0].evaluation}": ", ".join(
            f"{point.tpr:.3f} at FPR {point.fpr:g}" for point in points
        )
        for points in (audit.pooled, audit.calibrated)
    }


def same_heads(pool: FeatureSet, audit: Audit, published: Heads) -> dict[str, Any]:
    """Return members' loss and accuracy on the candidates, for the same heads on both sides."""
    params = audit.ensemble.params["params"]
    few = np.asarray(audit.scores.member)[: len(published[0])]
    ours = np.asarray(params["kernel"])[: len(few)], np.asarray(params["bias"])[: len(few)]
    return {
        f"loss and accuracy of {len(few)} heads, {name}": (
            f"{member_loss(pool, few, heads):.4f}, {mean_accuracy(pool, heads, len(few)):.3f}"
        )
        for name, heads in (("published", published), ("jaxmia", ours))
    }


if __name__ == "__main__":
    main()
