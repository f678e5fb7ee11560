"""The table of actors: coarser releases and less knowledge never find more, and every gap says why."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from jaxmia import attacks
from jaxmia._validate import InputError
from jaxmia.scores import Scores
from jaxmia.scores.reading import scores_from_arrays
from jaxmia.stats.operating_points import decision_rule, operating_points
from jaxmia.stats.result import AttackResult
from jaxmia.studies.actors import Setting, actor_rows, blocks_for, worst_of
from jaxmia.studies.run import run_experiment
from jaxmia.studies.settings.actors import Knowledge, parse_knowledge
from jaxmia.studies.settings.attacks import AttackSettings
from jaxmia.studies.settings.toml import load_config
from jaxmia.tables.actors import actor_tables
from jaxmia.tables.table import Table

MODELS, RECORDS, CLASSES = 130, 150, 3
FPRS = (0.1, 0.01)
NAMES = ("lira", "threshold", "difficulty", "base")


def asked(*names):
    return [AttackSettings(name=name) for name in names]


@pytest.fixture(scope="module")
def scores():
    """Outputs of models whose members score higher, some records by far."""
    rng = np.random.default_rng(3)
    labels, member = rng.integers(CLASSES, size=RECORDS), rng.random((MODELS, RECORDS)) < 0.5
    logits = rng.normal(size=(MODELS, RECORDS, CLASSES))
    own = rng.normal(0.5, 1.5, RECORDS) + 2 * rng.gamma(1.0, 0.7, RECORDS) * member
    logits[:, np.arange(RECORDS), labels] += own
    return scores_from_arrays({"logits": logits, "labels": labels, "member": member})


@pytest.fixture(scope="module")
def rows(scores):
    return actor_rows(
        Setting(scores, asked(*NAMES), FPRS),
        release=["labels", "top1", "rounded:1", "rounded:3", "probabilities"],
        knowledge=["full", "population", "shadows:64", "shadows:8", "shadows:0"],
    )


def best(rows, release, knowledge, fpr):
    mine = rows[(rows["release"] == release) & (rows["knowledge"] == knowledge) & (rows["fpr"] == fpr)]
    return mine[mine["status"] == "ok"].nlargest(1, "tpr").iloc[0]


@pytest.mark.parametrize("fpr", FPRS)
@pytest.mark.parametrize(
    ("coarse", "fine"),
    [
        (("labels", "full"), ("rounded:1", "full")),
        (("rounded:1", "full"), ("rounded:3", "full")),
        (("rounded:3", "full"), ("probabilities", "full")),
        (("top1", "full"), ("probabilities", "full")),
        (("labels", "full"), ("top1", "full")),
        (("probabilities", "shadows:0"), ("probabilities", "shadows:8")),
        (("probabilities", "shadows:8"), ("probabilities", "shadows:64")),
        (("probabilities", "shadows:64"), ("probabilities", "full")),
        (("probabilities", "population"), ("probabilities", "full")),
        (("labels", "population"), ("labels", "full")),
    ],
)
def test_a_coarser_release_or_less_knowledge_never_finds_more(rows, coarse, fine, fpr):
    assert best(rows, *coarse, fpr)["tpr_low"] <= best(rows, *fine, fpr)["tpr_high"]


def test_the_order_is_not_one_of_equals(rows):
    assert (
        best(rows, "labels", "full", 0.01)["tpr_high"] < best(rows, "probabilities", "full", 0.01)["tpr_low"]
    )
    assert (
        best(rows, "probabilities", "shadows:0", 0.01)["tpr_high"]
        < best(rows, "probabilities", "full", 0.01)["tpr_low"]
    )


def test_decisions_that_are_right_on_everybody_tell_nothing(scores):
    member = np.asarray(scores.member)
    sure = dataclasses.replace(scores, margin=np.abs(np.asarray(scores.margin)) + 1, member=member)
    rows = actor_rows(
        Setting(sure, asked(*NAMES, "rmia"), (0.1,)), release=["labels"], knowledge=["full", "population"]
    )
    ran = rows[rows["status"] == "ok"]
    assert set(ran["attack"]) >= {"threshold", "label_ratio", "base"}
    assert (ran["tpr"] <= 0.1).all()


def test_full_knowledge_of_probabilities_is_the_plain_attack(scores, rows):
    plain = operating_points(attacks.lira(scores), FPRS)
    mine = rows.query("release == 'probabilities' and knowledge == 'full' and attack == 'lira'")
    assert [point.tpr for point in plain] == mine["tpr"].tolist()
    assert mine["shadows"].eq(MODELS - 1).all()


def test_few_shadows_are_blocks_of_models_each_attacked_with_the_others(scores, rows):
    of_block = []
    for first in range(0, MODELS - 8, 9):
        part = slice(first, first + 9)
        of_block.append(attacks.lira(Scores(scores.log_odds[part], scores.member[part])))
    statistic, member = (
        np.concatenate([getattr(each, name) for each in of_block]) for name in ("statistic", "member")
    )
    points = operating_points(AttackResult(statistic, member, np.ones(member.shape, bool)), FPRS)
    mine = rows.query("release == 'probabilities' and knowledge == 'shadows:8' and attack == 'lira'")
    assert [point.tpr for point in points] == mine["tpr"].tolist()
    assert mine["shadows"].eq(8).all()


def test_a_model_under_audit_meets_the_first_others():
    block = blocks_for(10, np.array([4]), 3)[0]
    assert (block.models.tolist(), block.targets.tolist()) == ([4, 0, 1, 2], [0])
    assert blocks_for(5, np.arange(5), 8) == []


def test_attacks_that_fall_out_say_why(scores):
    setting = Setting(scores, asked("lira", "whitebox", "analytic", "bavaria_t", "quantile"), (0.1,))
    rows = actor_rows(setting, release=["labels", "rounded:2"], knowledge=["population"])
    why = rows[rows["status"] == "not run"].set_index(["release", "attack"])["reason"].to_dict()
    assert why["labels", "lira"] == "decisions alone are seen, which have no law of numbers"
    assert why["rounded:2", "whitebox"] == "weights are not released"
    assert why["rounded:2", "analytic"] == "log-odds are not exact"
    assert why["rounded:2", "bavaria_t"] == "no shadow has trained on the records"
    assert why["rounded:2", "quantile"] == "the records' features are not at hand"
    text = next(block for block in actor_tables(rows) if isinstance(block, Table))
    assert "bavaria_t where no shadow has trained on the records" in text.note


def test_actors_who_cannot_be_had_say_why(scores):
    rows = actor_rows(
        Setting(scores, asked("lira"), (0.1,)),
        release=["labels:8", "weights"],
        knowledge=["shadows:512", "recipe:guessed", "releases:4"],
    )
    assert (rows["status"] == "not run").all()
    reasons = set(rows["reason"])
    assert any("noisy copies" in reason for reason in reasons)
    assert all(isinstance(block, str) for block in actor_tables(rows))
    one = actor_rows(Setting(scores, asked("lira"), (0.1,)), release=[], knowledge=["shadows:512"])
    assert one["reason"].tolist() == ["512 shadows need 513 models, there are 130"]


def test_the_worst_record_is_chosen_on_other_models_than_it_is_measured_on():
    # Under chance the largest of 400 records' TPRs lies far above 0.1; the honest one is a rate of fair coins.
    rng = np.random.default_rng(0)
    member = rng.random((64, 400)) < 0.5
    result = AttackResult(rng.normal(size=member.shape), member, np.ones(member.shape, bool))
    decide = decision_rule(result, "pooled")
    called = decide(0.1).called
    per_record = (called & member).sum(axis=0) / member.sum(axis=0)
    found = worst_of(result, 0.1, decide)
    assert per_record.max() > 0.25
    assert found["worst_tpr_low"] <= 0.1 <= found["worst_tpr_high"]


def test_a_planted_worst_record_is_found():
    rng = np.random.default_rng(1)
    member = rng.random((64, 400)) < 0.5
    statistic = rng.normal(size=member.shape)
    statistic[:, 17] += 10 * member[:, 17]
    result = AttackResult(statistic, member, np.ones(member.shape, bool))
    decide = decision_rule(result, "pooled")
    found, called = worst_of(result, 0.01, decide), decide(0.01).called[:, 17]
    alarms = called[~member[:, 17]].mean()  # of both halves, since it is chosen on both
    np.testing.assert_allclose((found["worst_tpr"], found["worst_fpr"]), (1.0, alarms), rtol=1e-12)
    few = AttackResult(statistic[:5], member[:5], np.ones((5, 400), bool))
    assert np.isnan(worst_of(few, 0.1, decision_rule(few, "pooled"))["worst_tpr"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("full", Knowledge()),
        ("population, shadows:64", Knowledge(candidates=False, shadows=64)),
        ("recipe:inferred", Knowledge(recipe="inferred")),
        ("shadows:0", Knowledge(shadows=0)),
        ("releases:4", Knowledge(releases=4)),
    ],
)
def test_knowledge_is_read(text, found):
    assert parse_knowledge(text) == found
    assert found.words


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("everything", "knowledge='everything' must be one of full, population"),
        ("shadows:8, shadows:64", "says shadows twice"),
        ("full, population", "says candidates twice"),
        ("shadows:1", "at least 2"),
        ("releases:1", "2 to 64 releases"),
        ("shadows:0, recipe:inferred", "must have shadows"),
    ],
)
def test_other_knowledge_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse_knowledge(text)


def test_nobody_is_asked_for_nothing(scores):
    assert isinstance(
        actor_rows(Setting(scores, asked("lira"), (0.1,)), release=[], knowledge=[]), pd.DataFrame
    )
    assert actor_rows(Setting(scores, asked("lira"), (0.1,)), release=[], knowledge=[]).empty


def test_a_run_has_its_table_of_actors(tmp_path):
    words = ["grid.shots=[8]", "train.steps=5", "fpr=[0.1]"]
    named = ['release=["labels","labels:2","probabilities"]', 'knowledge=["full","shadows:8"]']
    result = run_experiment(load_config("smoke", [*words, *named]), tmp_path / "run")
    rows = pd.read_parquet(tmp_path / "run" / "actors.parquet")
    plain = result.results.query("attack == 'lira' and evaluation == 'pooled'")["tpr"]
    mine = rows.query("attack == 'lira' and release == 'probabilities' and knowledge == 'full'")["tpr"]
    assert mine.tolist() == plain.tolist()
    assert set(rows["release"]) == {"labels", "labels:2", "probabilities"}
    assert rows.query("release == 'labels' and attack == 'label_ratio'")["status"].eq("ok").all()
    # Another question about the same heads trains none.
    again = load_config("smoke", [*words, 'release=["rounded:1"]'])
    assert run_experiment(again, tmp_path / "run").heads_trained == 0
