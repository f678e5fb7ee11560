"""RMIA and BASE, which share the ratio of a probability to its expected value."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
from published_attacks import (
    PUBLISHED,
    cut_to,
    models_without_pair,
    published_scores,
    without_pair,
)

from jaxmia import attacks
from jaxmia._validate import InputError
from jaxmia.attacks.ratios import count_below, offline_log_reference, tuned_offline_a
from jaxmia.attacks.shadows import Side, side_log_means, sides
from jaxmia.scores import Scores

designs = pytest.mark.parametrize("design", ["paired", "bernoulli"])
gammas = pytest.mark.parametrize("gamma", [1.0, 2.0])


def random_scores(seed, models=9, examples=30) -> Scores:
    rng = np.random.default_rng(seed)
    member = rng.random((models, examples)) < 0.5
    return Scores(rng.normal(2, 2, examples) + rng.normal(size=member.shape) + member, member)


@designs
@gammas
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_equals_the_papers_code_on_its_shadows(design, gamma, mode):
    # It keeps the first h IN and h OUT shadows of an example, h one less than the smallest count of any
    # example and side among all models. Its shares are float32: exact to 6e-8.
    scores = published_scores(design)
    kept = min(scores.member.sum(0).min(), (~scores.member).sum(0).min()) - 1
    options = {"offline": True, "a": 0.3} if mode == "offline" else {}
    for target in range(4):
        result = attacks.rmia(cut_to(scores, target, kept, kept), gamma=gamma, **options)
        expected = PUBLISHED[f"{design}/pm2024_derived/rmia_{mode}_gamma{gamma}_trim0.0"][target]
        outside = ~scores.member[target]  # a non-member is among its own population there
        shares = result.statistic[0] * (outside.sum() - outside) / outside.sum()
        np.testing.assert_allclose(shares, expected, rtol=0, atol=1e-6)


@designs
@gammas
def test_equals_leakpro(design, gamma):
    # LeakPro compares with the audited examples themselves as if no model had trained on them: online with
    # p̄ the mean over all shadows for x and z, which is our form for a target and shadows that contain
    # nothing, at a = 1. It adds 1e-6 to p̄, which may swap two of the 200 examples that are within a
    # relative 1e-4: 1 / 200 of share.
    scores = published_scores(design)
    for target in range(4):
        rest = without_pair(scores, target)
        nothing = Scores(rest.log_odds, np.zeros_like(rest.member))
        online = attacks.rmia(nothing, gamma=gamma, offline=True, a=1.0).statistic[0]
        expected = PUBLISHED[f"{design}/leakpro/rmia_online_T1.0_gamma{gamma}"][target]
        np.testing.assert_allclose(online * 199 / 200, expected, rtol=0, atol=1.01 / 200)
        public = Scores(rest.log_odds, rest.member, rest.log_odds)
        offline = attacks.rmia(public, gamma=gamma, offline=True, a=0.33).statistic[0]
        expected = PUBLISHED[f"{design}/leakpro/rmia_offline_T1.0_gamma{gamma}"][target]
        np.testing.assert_allclose(offline, expected, rtol=0, atol=1.01 / 200)


@gammas
def test_online_equals_leakpro_where_the_sides_balance(gamma):
    # Without the pair every example of the paired design has 15 shadows a side: the two means of p̄ agree.
    for target in range(4):
        rest = without_pair(published_scores("paired"), target)
        public = Scores(rest.log_odds, rest.member, rest.log_odds)
        expected = PUBLISHED[f"paired/leakpro/rmia_online_T1.0_gamma{gamma}"][target]
        result = attacks.rmia(public, gamma=gamma)
        np.testing.assert_allclose(result.statistic[0], expected, rtol=0, atol=1.01 / 200)


@pytest.mark.parametrize("a", [0.3, 1.0])
def test_equals_privacy_meter_on_its_population(a):
    # It takes p̄(z) from the 15 largest of 30 shadows: each of them twice in ours.
    scores = published_scores("paired")
    population = scipy.special.logit(PUBLISHED["paired/z_p_true"])
    for target in range(4):
        models = models_without_pair(scores, target)
        largest = np.sort(population[models[1:]], axis=0)[15:]
        population_log_odds = np.concatenate([population[[target]], largest, largest])
        result = attacks.rmia(
            Scores(scores.log_odds[models], scores.member[models], population_log_odds), offline=True, a=a
        )
        expected = PUBLISHED[f"paired/privacy_meter/modules_rmia_a{a}"][target]
        np.testing.assert_array_equal(result.statistic[0], expected)


@designs
def test_threshold_orders_as_the_published_population_attack(design):
    # attack_P is the share of non-members z with a smaller loss than x: lower for members, float32.
    scores = published_scores(design)
    loss = -attacks.threshold(scores).statistic
    for target in range(4):
        smaller = loss[target, ~scores.member[target]][:, None] < loss[target]
        expected = PUBLISHED[f"{design}/pm2024/attack_P_raw"][target]
        np.testing.assert_allclose(smaller.mean(axis=0), expected, atol=1e-6)


def test_base_is_leakpros_formula_where_the_sides_balance():
    # log p - (logsumexp of the shadows' log p - log of their number), at temperature 1.
    for target in range(4):
        rest = without_pair(published_scores("paired"), target)
        log_p = scipy.stats.logistic.logcdf(rest.log_odds)
        expected = log_p[0] - (scipy.special.logsumexp(log_p[1:], axis=0) - np.log(30))
        np.testing.assert_allclose(attacks.base(rest).statistic[0], expected, atol=1e-11)


@pytest.mark.parametrize("options", [{}, {"offline": True, "a": 0.4}])
def test_population_and_gamma_only_regrade_the_examples_of_a_target(options):
    # The share is a nondecreasing function of the ratio, whatever it is compared with: BASE without its
    # population. A non-member's own population has one example fewer than a member's, which for gamma other than 1
    # may swap the two where they differ by less than that example.
    scores = random_scores(1, examples=200)
    ratios = attacks.base(scores, **options).statistic
    population = np.random.default_rng(2).normal(2, 2, (9, 50))
    for gamma in (0.5, 1.0, 3.0):
        for outside in (None, population):
            result = attacks.rmia(Scores(scores.log_odds, scores.member, outside), gamma=gamma, **options)
            ordered = np.take_along_axis(result.statistic, np.argsort(ratios, axis=1), axis=1)
            fewest = np.sum(~scores.member, axis=1).min() - 1
            assert (np.diff(ordered, axis=1) >= (-1 / fewest if outside is None and gamma != 1 else 0)).all()
            assert result.statistic.min() >= 0
            assert 0 < result.statistic.max() <= 1


@pytest.mark.parametrize("offline", [False, True])
def test_population_statistic_equals_a_loop(offline):
    scores = random_scores(3)
    outside = np.random.default_rng(4).normal(1, 2, (9, 40))
    options = {"offline": True, "a": 0.6} if offline else {}
    result = attacks.rmia(Scores(scores.log_odds, scores.member, outside), **options)
    ratios = attacks.base(scores, **options).statistic
    p = scipy.special.expit(outside)
    for target in range(9):
        expected = np.delete(p, target, axis=0).mean(axis=0)
        expected = (1.6 * expected + 0.4) / 2 if offline else expected
        for example in range(30):
            share = np.mean(np.exp(ratios[target, example]) > p[target] / expected)
            assert result.statistic[target, example] == share


def test_pitfall_offline_correction_keeps_p_bar_between_p_out_and_one():
    log_out = np.log(np.linspace(1e-6, 1, 50))[None]
    values = np.exp([offline_log_reference(log_out, a)[0] for a in np.linspace(0, 1, 11)])
    assert (values >= np.exp(log_out) - 1e-12).all()
    assert (values <= 1 + 1e-12).all()
    assert (np.diff(values, axis=0) <= 1e-12).all()
    np.testing.assert_allclose(values[0], (1 + np.exp(log_out[0])) / 2, rtol=1e-12)
    np.testing.assert_allclose(values[-1], np.exp(log_out[0]), rtol=1e-12)


def test_pitfall_p_bar_is_the_mean_of_all_out_shadows_not_of_the_largest():
    scores = random_scores(5)
    p = scipy.special.expit(scores.log_odds)
    statistic = attacks.base(scores, offline=True, a=1.0).statistic
    for target, example in ((0, 0), (4, 7), (8, 29)):
        outside = [p[k, example] for k in range(9) if k != target and not scores.member[k, example]]
        assert np.exp(-statistic[target, example]) * p[target, example] == pytest.approx(
            np.mean(outside), rel=1e-10
        )


def test_pitfall_a_is_not_tuned_on_the_targets_labels():
    scores = random_scores(6, examples=300)
    before = tuned_offline_a(scores.log_odds, scores.member, sides(scores).outside)
    for target in range(9):
        member = np.array(scores.member)
        member[target] = np.random.default_rng(target).random(300) < 0.5
        after = tuned_offline_a(scores.log_odds, member, Side(scores.log_odds, ~member))
        assert after[target] == before[target]
    assert len(np.unique(before)) > 1


def test_tuned_a_finds_the_planted_relation():
    # p_in = a p_out + 1 - a is what the offline form supposes (their eq. 10). With p = p_in or p_out up to
    # noise, the ratio orders members above non-members exactly only for the planted a: easy members of
    # p_out near 1 against non-members that are lucky. The test must distinguish 0.3 from 0.8.
    rng = np.random.default_rng(7)
    p_out = rng.uniform(0.02, 0.98, 4000)
    member = rng.random((16, 4000)) < 0.5
    found = []
    for a in (0.3, 0.8):
        p = np.where(member, a * p_out + 1 - a, p_out)
        log_odds = scipy.special.logit(p) + rng.normal(0, 0.5, member.shape)
        found.append(tuned_offline_a(log_odds, member, Side(log_odds, ~member)).mean())
    assert found[0] == pytest.approx(0.3, abs=0.2)
    assert found[1] == pytest.approx(0.8, abs=0.2)


@pytest.mark.parametrize("leave_out", [1, 2])
def test_log_means_are_exact_at_any_size(leave_out):
    rng = np.random.default_rng(8)
    log_p = -np.abs(rng.normal(size=(7, 40))) * 10.0 ** rng.integers(-6, 5, (7, 40))
    on_side = rng.random((7, 40)) < 0.5
    number, log_mean = side_log_means(log_p, on_side, leave_out=leave_out)
    for gap, example in np.ndindex(8 - leave_out, 40):
        rest = [log_p[k, example] for k in range(7) if on_side[k, example] and not gap <= k < gap + leave_out]
        assert number[gap, example] == len(rest)
        expected = scipy.special.logsumexp(rest) - np.log(len(rest)) if rest else 0.0
        assert log_mean[gap, example] == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_huge_and_tiny_ratios_stay_in_log_space():
    log_odds = np.array([[-1e4], [1e4], [-2e4], [1e4], [-2e4]])
    member = np.array([[False], [True], [False], [True], [False]])
    # log p is -1e4, 0, -2e4, 0, -2e4; p̄ of model 0 is 1/2 of the IN mean, 1.
    statistic = attacks.base(Scores(log_odds, member)).statistic[:, 0]
    np.testing.assert_allclose(statistic, np.array([-1e4, 0, -2e4, 0, -2e4]) + np.log(2), atol=1e-9)
    offline = attacks.base(Scores(log_odds, member), offline=True, a=1.0).statistic[:, 0]
    np.testing.assert_allclose(offline[0], 1e4, rtol=1e-12)
    np.testing.assert_allclose(offline[2], -2e4 + 1e4 + np.log(2), rtol=1e-12)


def test_counts_below_equal_the_definition():
    rng = np.random.default_rng(9)
    values, population = rng.integers(0, 6, (3, 20)).astype(float), rng.integers(0, 6, (3, 15)).astype(float)
    population[0, :5] = np.inf
    expected = np.sum(population[:, None, :] < values[:, :, None], axis=2)
    np.testing.assert_array_equal(count_below(values, population), expected)


def test_constant_scores_say_nothing():
    member = np.random.default_rng(10).random((8, 40)) < 0.5
    scores = Scores(np.full(member.shape, 0.3), member)
    np.testing.assert_array_equal(attacks.base(scores).statistic, 0)
    np.testing.assert_array_equal(attacks.rmia(scores).statistic, 0)


def test_a_target_without_population_is_undefined_at_one_half():
    scores = random_scores(11, models=20)
    member = np.array(scores.member)
    member[2] = True
    result = attacks.rmia(Scores(scores.log_odds, member))
    np.testing.assert_array_equal(result.statistic[2], 0.5)
    assert not result.defined[2].any()
    assert np.delete(result.defined, 2, axis=0).all()


def test_an_example_without_shadows_is_treated_as_expected():
    scores = random_scores(12, examples=50)
    member = np.array(scores.member)
    member[:, 4] = True
    scores = Scores(scores.log_odds, member)
    result, ratios = attacks.rmia(scores), attacks.base(scores)
    assert not result.defined[:, 4].any()
    np.testing.assert_array_equal(ratios.statistic[:, 4], 0)
    for target in range(9):
        others = ratios.statistic[target, ~member[target]]
        assert result.statistic[target, 4] == np.mean(others < 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 0.0}, "gamma=0.0 must be positive"),
        ({"a": 0.3}, "a=0.3 must be left out unless offline=True"),
        ({"a": 1.3, "offline": True}, r"a=1.3 must lie in \[0, 1\]"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        attacks.rmia(random_scores(13), **options)


@pytest.mark.parametrize(
    "population", [np.zeros((8, 3)), np.zeros((9, 0)), np.zeros(9), np.full((9, 3), np.nan)]
)
def test_bad_populations_are_refused(population):
    scores = random_scores(14)
    with pytest.raises(InputError, match="population_log_odds"):
        attacks.rmia(Scores(scores.log_odds, scores.member, population))
