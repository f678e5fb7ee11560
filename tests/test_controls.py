"""The negative control passes honest attacks, and fails those that were told what they are asked."""

import dataclasses
import inspect

import numpy as np
import pandas as pd
import pytest

from jaxmia import attacks
from jaxmia._validate import InputError
from jaxmia.cli.tables import control_lines
from jaxmia.scores import Scores
from jaxmia.stats.result import AttackResult
from jaxmia.vulnerability.controls import chance_check, permuted, permuted_control

HONEST = [
    name
    for name, attack in attacks.REGISTRY.items()
    if "features" not in inspect.signature(attack).parameters
    and name not in attacks.READS_WEIGHTS | attacks.READS_PRIOR
]


def planted(seed, *, models=16, examples=1000, shift=1.5):
    """Log-odds with a difficulty of each example and each model; members stand shift higher."""
    rng = np.random.default_rng(seed)
    member = rng.random((models, examples)) < 0.5
    level = rng.normal(2, 2, examples) + rng.normal(size=(models, 1))
    return Scores(level + rng.normal(size=member.shape) + shift * member, member)


def lira_without_leave_one_out(scores):
    """LiRA whose shadows include the target: its own score pulls the fit of its own side."""
    statistic = np.zeros(scores.log_odds.shape)
    for sign, side in ((1, scores.member), (-1, ~scores.member)):
        mean = np.mean(scores.log_odds, axis=0, where=side)
        deviation = np.std(scores.log_odds, axis=0, where=side) + 0.01
        statistic += sign * (-(((scores.log_odds - mean) / deviation) ** 2) / 2 - np.log(deviation))
    return AttackResult(statistic, scores.member, np.ones(statistic.shape, bool))


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("fpr", [0.1, 0.01])
def test_honest_attacks_pass_on_scores_full_of_signal(name, fpr):
    scores = planted(1, shift=3.0)
    control = permuted_control(attacks.REGISTRY[name], scores, fpr, seed=2)
    assert control.status == "ok"
    assert chance_check(attacks.REGISTRY[name](scores), 0.1).status == "failed"  # the signal is there


def test_planted_leak_of_the_targets_own_score_fails():
    assert permuted_control(lira_without_leave_one_out, planted(3), 0.1, seed=4).status == "failed"


def test_planted_leak_of_labels_that_were_not_permuted_fails():
    scores = planted(5)
    stale = attacks.lira(scores)  # as from a cache that takes no notice of the labels
    assert permuted_control(lambda _: stale, scores, 0.1, seed=6).status == "failed"


def test_planted_leak_of_the_number_of_shadows_fails():
    """With labels permuted within examples, the number of a target's shadows gives its label away."""

    def count_shadows(scores):
        number = scores.member.sum(axis=0) - scores.member
        return AttackResult(-number.astype(float), scores.member, np.ones(number.shape, bool))

    scores = planted(7)
    assert permuted_control(count_shadows, scores, 0.1, seed=8).status == "ok"
    halves = np.random.default_rng(9).permuted(np.arange(16)[:, None] % 2 == np.zeros(1000), axis=0)
    assert chance_check(count_shadows(Scores(scores.log_odds, halves)), 0.1).status == "failed"


def test_numbers_are_those_of_the_definition():
    rng = np.random.default_rng(10)
    member, statistic = rng.random((5, 40)) < 0.4, rng.normal(size=(5, 40)).round(1)
    control = chance_check(AttackResult(statistic, member, np.ones(member.shape, bool)), 0.2)
    threshold = sorted(statistic.ravel(), reverse=True)[round(0.2 * 200) - 1]
    called = statistic >= threshold
    assert control.tpr == pytest.approx(called[member].mean())
    assert control.fpr_realised == pytest.approx(called[~member].mean())
    assert control.advantage == pytest.approx(control.tpr - control.fpr_realised)
    terms = [
        sum((member[k, i] - member.mean()) * (called[k, i] - called.mean()) for k in range(5))
        for i in range(40)
    ]
    variance = sum(term**2 for term in terms)
    scale = member.size * member.mean() * (1 - member.mean())
    assert control.standard_error == pytest.approx(np.sqrt(variance) / scale)
    assert control.limit == pytest.approx(4 * control.standard_error)


@pytest.mark.parametrize("attack", [attacks.lira, attacks.threshold, attacks.base])
def test_advantage_over_its_standard_error_is_standard_normal(attack):
    """Over R = 200 permutations the mean has deviation 1/sqrt(R) and the standard deviation 1/sqrt(2R)."""
    scores = planted(11, models=17, examples=400)
    controls = [permuted_control(attack, scores, 0.1, seed=seed) for seed in range(200)]
    ratios = [control.advantage / control.standard_error for control in controls]
    assert abs(np.mean(ratios)) < 4 / np.sqrt(200)
    assert abs(np.std(ratios) - 1) < 4 / np.sqrt(2 * 200)


def test_rmia_with_few_examples_is_at_chance():
    """Were a non-member in its own population, members would be ahead by 0.9 / 21, ten standard errors."""
    scores = planted(12, models=129, examples=40)
    controls = [permuted_control(attacks.rmia, scores, 0.1, seed=seed) for seed in range(10)]
    assert {control.status for control in controls} == {"ok"}
    error = np.sqrt(np.mean([control.standard_error**2 for control in controls]) / 10)
    assert abs(np.mean([control.advantage for control in controls])) < 4 * error
    assert 8 * error < 0.9 / 21


def test_labels_are_permuted_by_seed_and_nothing_else_changes():
    scores = planted(13)
    one, same, other = (permuted(scores, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.member, same.member)
    assert (one.member != other.member).any()
    assert one.member.sum() == scores.member.sum()
    # Labels agree with the true ones as often as independent ones: mean and deviation of a hypergeometric law.
    assert abs(np.mean(one.member == scores.member) - 0.5) < 4 * 0.5 / np.sqrt(16_000)
    assert one.log_odds is scores.log_odds


def test_an_attack_that_says_nothing_is_at_chance():
    member = planted(14).member
    constant = AttackResult(np.zeros(member.shape), member, np.ones(member.shape, bool))
    assert chance_check(constant, 0.1).status == "ok"


@pytest.mark.parametrize(("fpr", "seed", "message"), [(0.1, -1, "seed=-1"), (1.5, 0, "fpr=1.5")])
def test_bad_requests_are_refused(fpr, seed, message):
    with pytest.raises(InputError, match=message):
        permuted_control(attacks.threshold, planted(15), fpr, seed=seed)


def test_the_terminal_names_what_failed():
    honest = dataclasses.asdict(permuted_control(attacks.lira, planted(16), 0.1, seed=1))
    leak = dataclasses.asdict(permuted_control(lira_without_leave_one_out, planted(16), 0.1, seed=1))
    rows = [
        {"attack": "lira", **honest},
        {"attack": "leaky", "classes": 3, "shots": 8, "seed": 0, "epsilon": np.inf, **leak},
    ]
    summary, failure = control_lines(pd.DataFrame(rows))
    assert "1 of 2 attacks at chance" in summary
    assert "FAILED: leaky at C=3" in failure
    assert "not possible" in control_lines(pd.DataFrame([{"attack": "lira", "status": "unresolved"}]))[0]
