"""Attacks on a file of scores: the folder holds what the library's functions return, and is complete or absent."""

import json

import numpy as np
import pandas as pd
import pytest

from jaxmia import attacks
from jaxmia._validate import InputError
from jaxmia.audit.attack_scores import attack_scores
from jaxmia.scores.reading import load_scores
from jaxmia.stats.operating_points import operating_points
from jaxmia.stats.result import AttackResult
from jaxmia.stats.roc import roc
from jaxmia.vulnerability.controls import permuted_control

MODELS, EXAMPLES, TARGET = 16, 300, 5


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    rng = np.random.default_rng(0)
    member = rng.random((MODELS, EXAMPLES)) < 0.5
    log_odds = rng.normal(2, 2, EXAMPLES) + rng.normal(size=member.shape) + 1.5 * member
    path = tmp_path_factory.mktemp("scores") / "scores.npz"
    np.savez(path, log_odds=log_odds.T, member=member, labels=rng.integers(3, size=EXAMPLES))
    return path


@pytest.fixture(scope="module")
def finished(source):
    return attack_scores(source, source.parent / "audit", fpr=(0.1, 0.01))


@pytest.fixture(scope="module")
def audited(source):
    return attack_scores(
        source, source.parent / "audit-5", attack=["lira", "threshold"], fpr=(0.1,), target=TARGET
    )


def test_every_attack_that_needs_no_features_runs(finished):
    assert set(finished.results["attack"]) == set(attacks.REGISTRY) - {"quantile", "whitebox", "analytic"}
    of_attack = finished.results.groupby("attack")["evaluation"].unique().map(set)
    assert of_attack.pop("lira") == {"pooled", "per_target", "calibrated"}
    assert all(names == {"pooled", "per_target", "calibrated_empirical"} for names in of_attack)
    assert len(finished.results) == 8 * 3 * 2
    assert set(finished.results["targets"]) == {"all"}


def test_rows_are_the_operating_points_of_the_stored_statistics(finished):
    results = pd.read_parquet(finished.path / "results.parquet")
    pd.testing.assert_frame_equal(results, finished.results)
    for name in ("lira", "rmia"):
        stored = AttackResult(**np.load(finished.path / "statistics" / f"{name}.npz"))
        np.testing.assert_array_equal(
            stored.statistic, attacks.REGISTRY[name](finished.read.scores).statistic
        )
        for evaluation in results["evaluation"][results["attack"] == name].unique():
            if evaluation == "calibrated":  # of LiRA's z, whose law is known, not of its likelihood ratio
                stored = attacks.lira(finished.read.scores, calibrated=True)
            rows = results.query("attack == @name and evaluation == @evaluation")
            for row, point in zip(
                rows.to_dict("records"),
                operating_points(stored, (0.1, 0.01), evaluation=evaluation),
                strict=True,
            ):
                assert row["status"] == point.status
                np.testing.assert_equal(
                    [row["tpr"], row["fpr_realised"], row["threshold"]],
                    [point.tpr, point.fpr_realised, point.threshold],
                )
            assert rows["auc"].iloc[0] == roc(stored, evaluation=evaluation).auc
    unresolved = results[results["status"] == "unresolved"]
    # 8 or so models without an example give it no FPR of its own below 1.25.
    assert set(zip(unresolved["evaluation"], unresolved["fpr"], strict=True)) == {
        ("pooled", 0.01),  # of RMIA, whose statistic is a rank among its target's 150 or so non-members
        ("per_target", 0.01),
        ("calibrated_empirical", 0.1),
        ("calibrated_empirical", 0.01),
    }
    assert unresolved["true_positives"].isna().all()
    assert set(unresolved["attack"][unresolved["evaluation"] == "pooled"]) == {"rmia"}
    per_target = unresolved[unresolved["evaluation"] == "per_target"]
    assert per_target["reason"].str.contains("needs at least 1000").all()


def test_every_attack_has_its_negative_control(finished):
    controls = pd.read_parquet(finished.path / "controls.parquet")
    assert list(controls["attack"]) == list(finished.results["attack"].unique())
    assert (controls["status"] == "ok").all()
    assert (controls["fpr"] == 0.1).all()
    again = permuted_control(attacks.bavaria_t, finished.read.scores, 0.1, seed=int(controls["seed"].iloc[0]))
    assert controls.set_index("attack").loc["bavaria_t", "advantage"] == again.advantage


def test_files_say_what_they_are_from(finished, source):
    manifest = json.loads((finished.path / "manifest.json").read_text())
    assert (manifest["models"], manifest["examples"], manifest["target"]) == (MODELS, EXAMPLES, None)
    assert len(manifest["sha256"]) == 64
    assert manifest["notes"] == ["log_odds of shape (300, 16) is read as [examples, models]: transposed."]
    examples = pd.read_parquet(finished.path / "per_example.parquet")
    assert len(examples) == 2 * EXAMPLES
    np.testing.assert_array_equal(examples["label"][:EXAMPLES], load_scores(source).labels)
    assert {path.name for path in (finished.path / "plots").iterdir()} == {
        f"roc-all-{evaluation}.{suffix}"
        for evaluation in ("pooled", "per_target", "calibrated", "calibrated_empirical")
        for suffix in ("png", "svg")
    }


def test_a_target_is_reported_apart_from_the_others(audited):
    results = audited.results
    groups = set(zip(results["targets"], results["evaluation"], strict=True))
    assert groups == {
        *(("row 5", name) for name in ("per_target", "calibrated", "calibrated_empirical")),
        *(("others", name) for name in ("pooled", "per_target", "calibrated", "calibrated_empirical")),
    }
    lira = {"per_target": attacks.lira(audited.read.scores)}
    lira["calibrated"] = attacks.lira(audited.read.scores, calibrated=True)
    member = lira["calibrated"].member
    others = [row for row in range(MODELS) if row != TARGET]
    of = results.set_index(["attack", "targets", "evaluation"])
    for targets, rows in (("row 5", [TARGET]), ("others", others)):
        for evaluation, result in lira.items():
            row = of.loc["lira", targets, evaluation]
            point = operating_points(result, [0.1], evaluation=evaluation, targets=rows)[0]
            assert row["true_positives"] == point.true_positives
            assert row["num_nonmembers"] == point.num_nonmembers
    assert of.loc["lira", "row 5", "per_target"]["num_nonmembers"] == np.count_nonzero(~member[TARGET])


@pytest.mark.thorough
def test_the_target_may_be_named_in_the_file(source, tmp_path, audited):
    np.savez(tmp_path / "scores.npz", target=TARGET, **np.load(source))
    run = attack_scores(tmp_path / "scores.npz", tmp_path / "audit", attack=["lira", "threshold"], fpr=(0.1,))
    pd.testing.assert_frame_equal(run.results, audited.results)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": ["lirra"]}, "attack='lirra' must be one of .* Did you mean 'lira'"),
        (
            {"attack": ["lira", "quantile"]},
            "attack='quantile' must be an attack that needs scores only: this one needs features",
        ),
        (
            {"attack": ["whitebox"]},
            "white_box=.* must hold the statistic 'mahalanobis' .* cannot be computed from scores",
        ),
        ({"fpr": [1e-6]}, "1e-06 needs 10000000 non-member scores, the audit has"),
        ({"fpr": [0.01], "target": 0}, "0.01 needs 1000 non-member scores, row 0 has"),
        ({"fpr": [2.0]}, "fpr=2.0"),
        (
            {"fpr": [0.1, 0.01, 0.1]},
            r"fpr=\[0.1, 0.01, 0.1\] must hold different values, but 0.1 is given 2 times",
        ),
        ({"attack": ["lira", "lira"]}, "must hold different values, but 'lira' is given 2 times"),
        ({"fpr": []}, "at least one FPR"),
        ({"target": 16}, r"target=16 must be the row of a model, 0\.\.15"),
    ],
)
def test_bad_requests_leave_nothing(source, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        attack_scores(source, tmp_path / "audit", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.thorough
def test_an_existing_folder_is_left_alone(source, tmp_path):
    (tmp_path / "audit").mkdir()
    attack_scores(source, tmp_path / "audit", attack=["threshold"], fpr=(0.1,))
    before = {path: path.read_bytes() for path in (tmp_path / "audit").rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="must be a new or an empty folder"):
        attack_scores(source, tmp_path / "audit", attack=["lira"])
    assert {path: path.read_bytes() for path in (tmp_path / "audit").rglob("*") if path.is_file()} == before
