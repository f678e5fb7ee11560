"""Does the audit of a scikit-learn head agree with scikit-learn's re-trainings, and with a study, about each record?

The truth is each record's D from the log-odds of heads that scikit-learn trains on random halves of the candidates. It
is compared with the audit of one of these heads, its recipe given or fitted, and with a study (`jaxmia run`) over the
same candidates with the same recipe. With --head, the first head is audited as a .skops file instead, with the recipe
in that file:

- logistic: a plain LogisticRegression;
- balanced: balanced class weights (every other class keeps a quarter of its records);
- no_intercept: no intercept;
- pipeline: a Pipeline whose StandardScaler every re-training fits anew;
- one_vs_rest: one-vs-rest.

Columns: the rank correlation of the records' D with the truth's; the same divided by what the noise of the truth
allows (the square root of its reliability, from its halves by the Spearman-Brown formula); the slope of the truth's D
on the other's, corrected for the other's noise in D; mean TPR over records, over the truth's. Below the table: how
often audits of the other heads call members and non-members at FPR 0.1, and what the records' own D predict.

Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import _common
import jax
import numpy as np
import pandas as pd
import scipy.special
import scipy.stats

from jaxmia import attacks
from jaxmia.audit.run import run_audit
from jaxmia.audit.settings import AuditConfig
from jaxmia.data.feature_set import FeatureSet, feature_set
from jaxmia.data.pool import candidate_pool
from jaxmia.scores import Scores
from jaxmia.scores.reading import scores_from_arrays
from jaxmia.stats.p_values import calibrated_p_values
from jaxmia.studies.folder.tables import load_table
from jaxmia.studies.run import run_experiment
from jaxmia.studies.settings.toml import load_config
from jaxmia.training.contrasts import objective_ridge
from jaxmia.vulnerability.curves import per_example_vulnerability

FPRS = (0.1, 0.01)
# Heads that are audited as .skops files, with the arguments of their LogisticRegression.
HEADS: dict[str, dict[str, Any]] = {
    "logistic": {},
    "balanced": {"class_weight": "balanced"},
    "no_intercept": {"fit_intercept": False},
    "pipeline": {},
    "one_vs_rest": {},
}
_TOLD = ("optimizer", "ridge", "class_weight", "intercept", "link")
STEPS = 300  # of Adam with a cosine schedule: reaches the ridge minimum as far as scores can show


def main(argv: list[str] | None = None) -> None:
    options = _common.parser(__doc__)
    _common.add_features(options)
    options.add_argument("--shots", type=int, default=64, help="S; 2 S candidates per class")
    options.add_argument("--ridge", type=float, default=1.0, help="1 / C of LogisticRegression")
    options.add_argument("--head", choices=("outputs", *HEADS), default="outputs", help="the head to audit")
    options.add_argument("--outside", type=int, default=128, help="heads that scikit-learn trains")
    options.add_argument("--models", type=int, default=256, help="shadows of the audit and of the study")
    arguments = options.parse_args(argv)
    data = _common.chosen_features(arguments)
    key = jax.random.key(arguments.seed)
    pool = candidate_pool(
        data, classes=arguments.classes, shots=arguments.shots, multiplier=2, test_per_class=0, key=key
    ).data
    if arguments.head == "balanced":
        pool = uneven(pool)
    logits, member, first = outside_heads(pool, arguments)
    truth = scores_from_arrays({"logits": logits, "labels": pool.labels, "member": member}).scores
    with tempfile.TemporaryDirectory() as folder:
        if arguments.head == "outputs":
            rows, facts = compare(pool, logits[0], truth, arguments, pathlib.Path(folder))
        else:
            rows, facts = of_the_file(pool, first, truth, arguments, pathlib.Path(folder))
    _common.report(
        f"Each record's vulnerability: {len(pool.labels)} records, ridge {arguments.ridge:g}",
        rows,
        dtype="float32 training and scores, float64 statistics; scikit-learn in float64",
        facts=facts,
        arguments=arguments,
    )


def uneven(pool: FeatureSet) -> FeatureSet:
    """Return the pool with only a quarter of the records of every other class."""
    place = np.zeros(len(pool.labels), int)
    for label in range(pool.num_classes):
        of_class = pool.labels == label
        place[of_class] = np.arange(of_class.sum())
    kept = (pool.labels % 2 == 0) | (place % 4 == 0)
    return feature_set(pool.features[kept], pool.labels[kept], pool.class_names)


def outside_heads(pool: FeatureSet, arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, Any]:
    """Return logits of scikit-learn's heads [heads, records, classes], their membership, and the first head."""
    rng = np.random.default_rng(arguments.seed)
    x, labels = pool.features.astype(np.float64), pool.labels
    member = rng.random((arguments.outside, len(labels))) < 0.5
    if (
        arguments.head != "outputs"
    ):  # shadows have as many members as the first head, the others half on average
        nearest = np.argsort(np.abs(member.sum(axis=1) - len(labels) / 2), kind="stable")
        member = member[nearest]
    models = [
        outside_head(arguments.head, arguments.ridge).fit(x[inside], labels[inside]) for inside in member
    ]
    return np.stack([logits_of(model, x) for model in models]), member, models[0]


def outside_head(kind: str, ridge: float) -> Any:
    """Return one unfitted model of HEADS."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    head = LogisticRegression(C=1 / ridge, max_iter=2000, tol=1e-6, **HEADS.get(kind, {}))
    wrappers = {"pipeline": lambda: make_pipeline(StandardScaler(), head)}
    wrappers["one_vs_rest"] = lambda: OneVsRestClassifier(head)
    return wrappers[kind]() if kind in wrappers else head


def logits_of(model: Any, x: np.ndarray) -> np.ndarray:
    """Return logits [records, classes] whose softmax is the model's predict_proba."""
    logits = model.decision_function(x)
    if logits.ndim == 1:
        return np.stack([np.zeros_like(logits), logits], axis=1)
    return scipy.special.log_expit(logits) if type(model).__name__ == "OneVsRestClassifier" else logits


def of_the_file(
    pool: FeatureSet, model: Any, truth: Scores, arguments: argparse.Namespace, folder: pathlib.Path
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Do the same as compare for the audit of a .skops file, with the recipe in the file only."""
    import skops.io

    features = {"features": pool.features, "labels": pool.labels, "class_names": np.array(pool.class_names)}
    np.savez(folder / "pool.npz", **features, member=np.asarray(truth.member)[0])
    skops.io.dump(model, folder / "head.skops")
    settings = {
        "fpr": list(FPRS),
        "attack": ["lira"],
        "seed": arguments.seed,
        "data": {"features": str(folder / "pool.npz")},
        "head": {"file": str(folder / "head.skops")},
        "shadows": {"models": arguments.models},
    }
    audit = run_audit(AuditConfig.model_validate(settings), folder / "audit")
    records = audit.records.assign(row=audit.records["id"].astype(int)).set_index("row").sort_index()
    trained = ", ".join(f"{name} = {value}" for name, value in audit.match.recipe().items() if name in _TOLD)
    row = row_of("audit, recipe of the file", records, truth)
    return [row], {"trained with": trained} | calls(truth, np.load(folder / "audit" / "scores.npz"), records)


def compare(
    pool: FeatureSet, released: np.ndarray, truth: Scores, arguments: argparse.Namespace, folder: pathlib.Path
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the rows of the table and the facts below it."""
    member = np.asarray(truth.member)
    features = {"features": pool.features, "labels": pool.labels, "class_names": np.array(pool.class_names)}
    np.savez(folder / "pool.npz", **features, member=member[0])
    np.savez(folder / "head.npz", logits=released)
    recipe = {
        "steps": STEPS,
        "schedule": "cosine",
        "weight_decay": 2 * objective_ridge(arguments.ridge, pool.num_classes) / len(pool.labels),
    }
    found: dict[str, pd.DataFrame] = {}
    for name, train in (("audit, recipe given", recipe), ("audit, recipe fitted", {"match": True})):
        config = AuditConfig.model_validate(
            {
                "fpr": list(FPRS),
                "attack": ["lira"],
                "seed": arguments.seed,
                "data": {"features": str(folder / "pool.npz")},
                "head": {"file": str(folder / "head.npz")},
                "train": train,
                "shadows": {"models": arguments.models},
            }
        )
        audit = run_audit(config, folder / name)
        records = audit.records.assign(row=audit.records["id"].astype(int))
        found[name] = records.set_index("row").sort_index()
    found["study"] = study(pool, recipe, arguments, folder)
    rows = [row_of(name, table, truth) for name, table in found.items()]
    shadows = np.load(folder / "audit, recipe given" / "scores.npz")
    return rows, calls(truth, shadows, found["audit, recipe given"])


def study(
    pool: FeatureSet, recipe: dict[str, Any], arguments: argparse.Namespace, folder: pathlib.Path
) -> pd.DataFrame:
    """Return the records of a run over the same candidates, indexed by row."""
    train = [f"train.{name}={value}" for name, value in recipe.items()]
    sizes = [
        f"grid.classes=[{pool.num_classes}]",
        f"grid.shots=[{arguments.shots}]",
        f"grid.seeds=[{arguments.seed + 1}]",
    ]
    data = [
        f"data.features={folder / 'pool.npz'}",
        "data.test_per_class=0",
        f"shadows.models={arguments.models + 1}",
    ]
    config = load_config(
        "demo", [*train, "train.batch_size=full", *sizes, *data, f"fpr={list(FPRS)}", "attack=['lira']"]
    )
    run_experiment(config, folder / "study")
    table = load_table(folder / "study", "per_example")
    wide = table[table["fpr"] == FPRS[0]].set_index("record")[["separation", "separation_error"]]
    for fpr in FPRS:
        wide[f"tpr_{fpr:g}"] = table[table["fpr"] == fpr].set_index("record")["tpr"]
    return wide.sort_index()


def row_of(name: str, table: pd.DataFrame, truth: Scores) -> dict[str, Any]:
    """Compare one source of D with the truth."""
    curves = {fpr: per_example_vulnerability(truth, fpr) for fpr in FPRS}
    true, other = curves[FPRS[0]].separation, table["separation"].to_numpy()
    correlation = float(scipy.stats.spearmanr(true, other)[0])
    covariance = np.cov(true, other)
    noise = float(np.mean(table["separation_error"].to_numpy() ** 2))
    row = {
        "against the truth": name,
        "rank correlation": correlation,
        "of what it could be": correlation / reach(truth),
        "slope": covariance[0, 1] / (covariance[1, 1] - noise),
    }
    for fpr, curve in curves.items():
        row[f"mean TPR at {fpr:g} / truth"] = table[f"tpr_{fpr:g}"].mean() / curve.tpr.mean()
    return row


def reach(truth: Scores) -> float:
    """Return the rank correlation that the truth's D would have with D without noise."""
    log_odds, member = np.asarray(truth.log_odds), np.asarray(truth.member)
    halves = [
        per_example_vulnerability(Scores(log_odds[some], member[some]), FPRS[0]).separation
        for some in (slice(0, None, 2), slice(1, None, 2))
    ]
    agreement = float(scipy.stats.spearmanr(*halves)[0])
    return float(np.sqrt(2 * agreement / (1 + agreement)))


def calls(truth: Scores, shadows: Mapping[str, np.ndarray], records: pd.DataFrame) -> dict[str, Any]:
    """Return the rates of calls at FPRS, by the audit's shadows, on every head that it did not audit."""
    facts: dict[str, Any] = {}
    p_values = []
    for own, mine in zip(np.asarray(truth.log_odds)[1:], np.asarray(truth.member)[1:], strict=True):
        stacked = Scores(
            np.concatenate([own[None], shadows["log_odds"][1:]]),
            np.concatenate([mine[None], shadows["member"][1:]]),
        )
        p_values.append(calibrated_p_values(attacks.lira(stacked, calibrated=True))[0])
    called, member = np.stack(p_values), np.asarray(truth.member)[1:]
    for fpr in FPRS:
        predicted = np.broadcast_to(records[f"tpr_{fpr:g}"].to_numpy(), member.shape)[member].mean()
        facts[f"called at FPR {fpr:g}, of {np.count_nonzero(~member)} non-members"] = np.mean(
            called[~member] <= fpr
        )
        facts[f"called at FPR {fpr:g}, of {np.count_nonzero(member)} members"] = np.mean(
            called[member] <= fpr
        )
        facts[f"mean TPR of these members by the audit, FPR {fpr:g}"] = predicted
    return facts


if __name__ == "__main__":
    main()
