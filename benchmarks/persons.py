"""How much easier are persons to identify than records? In each head, all records of a person are members, or none.

Each person has K records of one class, drawn at random or near one another. Columns: TPR at each FPR for records (LiRA)
and for persons, pooled (one threshold) and calibrated (the same FPR for each record or person). Attacks on persons use
the joint likelihood ratio, the sum of the records' ratios (not calibrated), or LiRA on the sum of their log-odds.

With --analytic: the means over persons, and over their records, of D and TPR that are computed without shadows, beside
those of --models ridge heads; persons have 1 to 2 K - 1 records of any class. Predicted before measuring: D within 3%,
TPR within 5%.

With --speed: seconds of attacks on records and on persons, from the same scores, and their ratio.
"""

from __future__ import annotations

import argparse
import functools
import time
import timeit
from collections.abc import Callable, Iterator
from typing import Any

import _common
import jax
import numpy as np

from jaxmia import attacks
from jaxmia.attacks.by_person import attack_persons
from jaxmia.attacks.persons import joint_lira, person_scores, sum_by_person
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.membership import draw_membership
from jaxmia.data.pool import candidate_pool
from jaxmia.ridge.expected import analytic_vulnerability
from jaxmia.ridge.triage import ridge_heads, tails_of
from jaxmia.scores import Scores
from jaxmia.stats.operating_points import operating_points
from jaxmia.stats.result import AttackResult
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.scoring import score
from jaxmia.training.settings import Hyperparams, TrainConfig
from jaxmia.vulnerability.curves import vulnerability_curves

FPRS = (0.1, 0.01, 0.001)


def main(argv: list[str] | None = None) -> None:
    options = _common.parser(__doc__)
    _common.add_features(options)
    options.add_argument("--shots", type=int, default=160, help="S records per class; 2 S candidates")
    options.add_argument("--records", type=int, nargs="+", default=[2, 5], help="K, records per person")
    options.add_argument("--models", type=int, default=129, help="heads; each is the target once")
    options.add_argument("--near", action="store_true", help="give each person records near one another")
    options.add_argument(
        "--analytic", action="store_true", help="ridge heads without shadows, beside shadows"
    )
    options.add_argument("--ridge", type=float, default=1.0, help="of --analytic")
    options.add_argument("--speed", action="store_true", help="only time attacks, on --sizes")
    options.add_argument(
        "--sizes",
        type=int,
        nargs=3,
        default=[257, 20_000, 5_000],
        metavar=("MODELS", "RECORDS", "PERSONS"),
        help="sizes for --speed",
    )
    arguments = options.parse_args(argv)
    start = time.perf_counter()
    if arguments.speed:
        rows = speeds(*arguments.sizes, seed=arguments.seed)
        title = "seconds of attacks on {} models x {} records of {} persons".format(*arguments.sizes)
        _common.report(title, rows, dtype="float32", facts={}, arguments=arguments)
        return
    data = _common.chosen_features(arguments)
    key = jax.random.key(arguments.seed)
    pool = candidate_pool(data, classes=arguments.classes, shots=arguments.shots, key=key).data
    one = without_shadows if arguments.analytic else compare
    rows = [row for records in arguments.records for row in one(pool, records, arguments)]
    what = (
        "computed without shadows"
        if arguments.analytic
        else f"{'near' if arguments.near else 'random'} records"
    )
    _common.report(
        f"persons, {what}, S = {arguments.shots}",
        rows,
        dtype="float32",
        facts={"seconds": round(time.perf_counter() - start, 1)},
        arguments=arguments,
    )


def compare(pool: FeatureSet, records: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row for each attack, on records and on persons with K records."""
    rng = np.random.default_rng(arguments.seed)
    person = synthetic_persons(pool, records, rng, near=arguments.near)
    key = jax.random.key(arguments.seed)
    masks = draw_membership(key, pool.labels, num_models=arguments.models, person=person)
    heads = train_ensemble(key, pool, masks, Hyperparams(0.1), TrainConfig("adam", steps=100))
    scores = score(heads, pool)
    sums = person_scores(scores, person).scores
    return [
        row("records", records, attacks.lira(scores), attacks.lira(scores, calibrated=True)),
        row("joint", records, joint_lira(scores, person), joint_lira(scores, person, calibrated=True)),
        row("sum of ratios", records, sum_by_person(attacks.lira(scores), person), None),
        row("LiRA on sums", records, attacks.lira(sums), attacks.lira(sums, calibrated=True)),
    ]


def without_shadows(
    pool: FeatureSet, records: int, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yield a row for persons and one for their records: D and TPR, computed and measured."""
    rng = np.random.default_rng(arguments.seed)
    sizes = rng.integers(1, 2 * records, len(pool.labels))
    person = np.empty(len(pool.labels), np.int64)
    person[rng.permutation(len(pool.labels))] = np.repeat(np.arange(len(sizes)), sizes)[: len(pool.labels)]
    key, ridge = jax.random.key(arguments.seed), arguments.ridge
    masks = draw_membership(key, pool.labels, num_models=arguments.models, person=person)
    hyper = Hyperparams(0.1, weight_decay=None, ridge=ridge)
    heads = train_ensemble(key, pool, masks, hyper, TrainConfig("newton", steps=200, tolerance=1e-4))
    scores = score(heads, pool)
    found = analytic_vulnerability(pool, ridge=ridge, person=person)
    few = score(ridge_heads(pool, found, min(FPRS), jax.random.fold_in(key, 1)), pool)
    for name, moments, seen in (
        ("persons", found, found.of_units),
        ("their records", found.records(), lambda scores: scores),
    ):
        measured = seen(scores)
        tails = tails_of(seen(few), moments)
        curves = vulnerability_curves(measured, FPRS)
        own = np.corrcoef(moments.separation, curves[0].separation)[0, 1]
        yield {
            "K": records,
            "of": name,
            "D, computed": float(moments.separation.mean()),
            "D, measured": float(curves[0].separation.mean()),
            "correlation": float(own),
            **{
                f"TPR {curve.fpr:g}, computed": float(moments.tpr(curve.fpr, tails).mean())
                for curve in curves
            },
            **{f"TPR {curve.fpr:g}, measured": float(curve.tpr.mean()) for curve in curves},
        }


def speeds(models: int, records: int, persons: int, *, seed: int) -> list[dict[str, Any]]:
    """Return one row for each attack: best of three times on records and on persons, and their ratio."""
    rng = np.random.default_rng(seed)
    person = np.concatenate([np.arange(persons), rng.integers(0, persons, records - persons)])
    member = (rng.random((models, persons)) < 0.5)[:, person]
    scores = Scores((rng.normal(size=member.shape) + member).astype(np.float32), member)
    timed: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        name: (
            functools.partial(attacks.REGISTRY[name], scores),
            functools.partial(attack_persons, name, scores, person),
        )
        for name in ("lira", "rmia", "bavaria_t", "threshold")
    }
    timed["lira, calibrated"] = (
        functools.partial(attacks.lira, scores, calibrated=True),
        functools.partial(joint_lira, scores, person, calibrated=True),
    )
    rows = []
    for name, both in timed.items():
        seconds = [min(timeit.repeat(each, number=1, repeat=3)) for each in both]
        found = {"records": round(seconds[0], 4), "persons": round(seconds[1], 4)}
        rows.append({"attack": name, **found, "ratio": round(seconds[1] / seconds[0], 2)})
    total = [sum(row[side] for row in rows) for side in ("records", "persons")]
    found = {"records": round(total[0], 4), "persons": round(total[1], 4)}
    return [*rows, {"attack": "all", **found, "ratio": round(total[1] / total[0], 2)}]


def row(name: str, records: int, pooled: AttackResult, calibrated: AttackResult | None) -> dict[str, Any]:
    """Return the TPR of an attack, pooled and calibrated."""
    cells: dict[str, Any] = {"K": records, "attack": name}
    for evaluation, result in (("pooled", pooled), ("calibrated", calibrated)):
        points = operating_points(result, FPRS, evaluation=evaluation) if result is not None else ()
        found = {point.fpr: round(point.tpr, 3) for point in points}
        cells |= {f"{evaluation} {fpr:g}": found.get(fpr) for fpr in FPRS}
    return cells


def synthetic_persons(pool: FeatureSet, records: int, rng: np.random.Generator, *, near: bool) -> np.ndarray:
    """Return int64[examples]: persons with K records of one class, random or the nearest that are left."""
    person, persons = np.full(len(pool.labels), -1), 0
    for label in range(pool.num_classes):
        left = list(rng.permutation(np.flatnonzero(pool.labels == label)))
        while left:
            first = left[0]
            if near:
                distance = np.square(pool.features[left] - pool.features[first]).sum(axis=1)
                chosen = [left[place] for place in np.argsort(distance, kind="stable")[:records]]
            else:
                chosen = left[:records]
            person[chosen] = persons
            persons += 1
            left = [each for each in left if person[each] < 0]
    return person


if __name__ == "__main__":
    main()
