"""The table of actors: coarser releases and less knowledge never find more, and every gap says why."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from jaxmia import attacks
from jaxmia._validate import InputError
from jaxmia.attacks.recipes import against, nearest_recipes, tuned_alone
from jaxmia.scores import Scores
from jaxmia.scores.reading import scores_from_arrays
from jaxmia.stats.operating_points import decision_rule, operating_points
from jaxmia.stats.result import AttackResult
from jaxmia.studies.actors import Setting, actor_rows, blocks_for, worst_of
from jaxmia.studies.run import run_experiment
from jaxmia.studies.settings.actors import Knowledge, parse_knowledge
from jaxmia.studies.settings.attacks import AttackSettings
from jaxmia.studies.settings.toml import load_config
from jaxmia.studies.variants import Variants
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


def test_who_knows_the_records_may_attack_as_one_who_does_not(rows, scores):
    offline = operating_points(attacks.lira(scores, offline=True), FPRS)
    for knowledge, name in (("full", "lira(offline=True)"), ("population", "lira")):
        mine = rows[
            (rows["release"] == "probabilities") & (rows["knowledge"] == knowledge) & (rows["attack"] == name)
        ]
        assert [point.tpr for point in offline] == mine["tpr"].tolist()


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


def gaussian_kl(mean, variance, other_mean, other_variance):
    return (
        np.log(other_variance / variance) + (variance + (mean - other_mean) ** 2) / other_variance - 1
    ) / 2


def test_the_recipe_is_inferred_as_a_slow_loop_infers_it():
    rng = np.random.default_rng(5)
    member = rng.random((9, 60)) < 0.5
    targets = Scores(rng.normal(2, 1.5, (9, 60)) + member, member)
    sets = [
        Scores(rng.normal(mean, scale, (9, 60)) + member, member)
        for mean, scale in ((0, 1), (2, 1.4), (4, 3))
    ]
    chosen = []
    for target in range(9):
        distance = []
        for each in sets:
            terms = []
            for k in range(9):
                mine, theirs = targets.log_odds[target, member[k]], each.log_odds[k, member[k]]
                if k != target:
                    terms.append(gaussian_kl(mine.mean(), mine.var(), theirs.mean(), theirs.var()))
            distance.append(np.mean(terms))
        chosen.append(int(np.argmin(distance)))
    assert nearest_recipes(targets, sets).tolist() == chosen
    assert set(chosen) == {1}  # the planted one


def test_shadows_tuned_alone_take_their_most_accurate_recipe():
    member = np.arange(12).reshape(4, 3) % 2 == 0
    sets = [Scores(np.full((4, 3), float(place)), member) for place in range(3)]
    accuracy = np.array([[0.1, 0.9, 0.3, 0.3], [0.2, 0.1, np.nan, 0.2], [0.3, 0.2, 0.1, 0.2]])
    assert tuned_alone(sets, accuracy).log_odds[:, 0].tolist() == [2, 0, 0, 0]


def test_shadows_from_elsewhere_that_are_the_same_change_nothing(scores):
    few = Scores(scores.log_odds[:12], scores.member[:12])
    plain = attacks.lira(few)
    crossed = against(attacks.lira, few, lambda target: few)
    np.testing.assert_allclose(crossed.statistic, plain.statistic, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(crossed.member, plain.member)


def test_without_the_recipe_and_over_re_trainings(scores):
    rng = np.random.default_rng(6)
    few = dataclasses.replace(
        scores, log_odds=scores.log_odds[:34], member=scores.member[:34], margin=scores.margin[:34]
    )
    noise = [
        dataclasses.replace(few, log_odds=few.log_odds + rng.normal(size=few.log_odds.shape))
        for _ in range(3)
    ]
    noisy = dataclasses.replace(few, log_odds=few.log_odds + rng.normal(size=few.log_odds.shape))
    blurred = [dataclasses.replace(few, log_odds=0.3 * few.log_odds), few]
    variants = Variants(noise, blurred, np.array([[0.9] * 34, [0.5] * 34]))
    setting = Setting(noisy, asked("lira", "whitebox"), (0.1,), variants=variants)
    names = ["full", "recipe:inferred", "recipe:guessed", "releases:4", "releases:8"]
    rows = actor_rows(setting, release=["probabilities"], knowledge=names).query("attack in ('lira', '')")
    tpr = rows.set_index("knowledge")["tpr"]
    assert tpr["releases:4"] > tpr["full"]  # three quarters of the noise's variance are averaged away
    assert tpr["recipe:inferred"] > tpr["recipe:guessed"]
    assert rows.set_index("knowledge")["reason"]["releases:8"].startswith(
        "re-trainings on the same data are not at hand"
    )


@pytest.mark.thorough
def test_a_run_trains_what_its_actors_need(tmp_path):
    words = ["grid.shots=[8]", "train.steps=5", "fpr=[0.1]", 'attack=["lira"]', 'release=["probabilities"]']
    named = 'knowledge=["full","recipe:inferred","recipe:guessed","releases:2"]'
    run_experiment(load_config("smoke", [*words, named]), tmp_path / "run")
    rows = pd.read_parquet(tmp_path / "run" / "actors.parquet")
    assert rows["status"].eq("ok").all()
    of = rows.query("attack == 'lira'").set_index("knowledge")["tpr"]
    # Full batches from zero: training again gives the same head, so that several tell no more than one.
    assert of["releases:2"] == of["full"]


def test_with_few_shadows_one_deviation_for_all_finds_more(rows):
    of = rows[(rows["release"] == "probabilities") & (rows["fpr"] == 0.01) & (rows["status"] == "ok")]
    tpr = of.set_index(["knowledge", "attack"])["tpr"]
    assert tpr["shadows:8", "lira(variance=global)"] > tpr["shadows:8", "lira"]
