import numpy as np
import pytest
import scipy.stats
from published_attacks import PUBLISHED, TARGETS, cut_to, published_scores, without_pair

from jaxmia import attacks
from jaxmia._validate import InputError
from jaxmia.attacks.shadows import side_medians, side_moments
from jaxmia.scores import Scores

designs = pytest.mark.parametrize("design", ["paired", "bernoulli"])


@designs
@pytest.mark.parametrize("location", ["mean", "median"])
@pytest.mark.parametrize(("variance", "key"), [("per_example", "perex"), ("global", "fixvar")])
def test_online_equals_tensorflow_privacy(design, location, variance, key):
    # The published code adds 1e-30 to deviations of order 1, far below the rounding that the tolerance
    # allows.
    result = attacks.lira(published_scores(design), variance=variance, location=location)
    expected = -PUBLISHED[f"{design}/tfp_amia/k1_both_{key}_{location}_raw"]
    np.testing.assert_allclose(result.statistic[TARGETS], expected, rtol=1e-10, atol=1e-10)


@designs
def test_online_equals_the_original_code_on_its_cut_shadows(design):
    # For every example, mi_lira_2021 keeps as many IN and OUT shadows as the example with the fewest has.
    scores = published_scores(design)
    for target in range(4):
        others = np.arange(32) != target
        num_in, num_out = scores.member[others].sum(0).min(), (~scores.member[others]).sum(0).min()
        result = attacks.lira(cut_to(scores, target, num_in, num_out), location="median")
        expected = -PUBLISHED[f"{design}/tfp_plot/k1_online_raw"][target]
        np.testing.assert_allclose(result.statistic[0], expected, rtol=1e-10, atol=1e-10)


def test_pitfall_shadows_are_not_cut_to_the_smallest_count():
    # With Bernoulli membership the cut keeps 7 of about 16 shadows. Ours uses all of them, so the results must
    # differ.
    scores = published_scores("bernoulli")
    cut = -PUBLISHED["bernoulli/tfp_plot/k1_online_raw"]
    assert abs(attacks.lira(scores, location="median").statistic[TARGETS] - cut).min(axis=1).max() > 1e-6
    block = np.asarray(scores.log_odds, float)
    used = side_moments(block, scores.member).number
    np.testing.assert_array_equal(used, scores.member.sum(axis=0) - scores.member)


@designs
@pytest.mark.parametrize("side", ["in", "out"])
def test_medians_equal_the_published_offsets(design, side):
    scores = published_scores(design)
    medians = side_medians(scores.log_odds, scores.member == (side == "in"))
    expected = PUBLISHED[f"{design}/tfp_amia/k1_offset_{side}_median_higher_is_member"]
    np.testing.assert_allclose((scores.log_odds - medians)[TARGETS], expected, rtol=1e-12, atol=1e-12)


@designs
def test_leakpro_follows_from_our_means_and_its_raw_deviations(design):
    # LeakPro's "carlini" variant takes one standard deviation per side of the raw scores; only the means
    # are shared.
    scores = published_scores(design)
    for target in range(4):
        rest = without_pair(scores, target)
        log_odds, member = rest.log_odds, rest.member
        means = {side: side_moments(log_odds, member == side).mean[0] for side in (True, False)}
        raw = {side: np.std(log_odds[1:][member[1:] == side]) for side in (True, False)}
        z = {side: (log_odds[0] - means[side]) / raw[side] for side in (True, False)}
        online = scipy.stats.norm.logpdf(z[True]) - np.log(raw[True])
        online -= scipy.stats.norm.logpdf(z[False]) - np.log(raw[False])
        np.testing.assert_allclose(
            online, PUBLISHED[f"{design}/leakpro/lira_online_carlini"][target], rtol=1e-6
        )
        offline = scipy.stats.norm.logcdf(z[False])
        np.testing.assert_allclose(
            offline, PUBLISHED[f"{design}/leakpro/lira_offline_carlini"][target], rtol=1e-6
        )


def gaussian_scores(seed, models, examples, *, separation=1.5) -> Scores:
    """N(0, 1) without and N(separation, 1) with the example."""
    rng = np.random.default_rng(seed)
    member = rng.random((models, examples)) < 0.5
    return Scores(rng.normal(size=member.shape) + separation * member, member)


def test_many_shadows_reach_the_closed_form():
    # Equal unit variances: the log-likelihood ratio is D s - D^2 / 2, so N(-D^2 / 2, D^2) for non-members
    # (Jälkö et al. 2026). With n = 1000 shadows a side, each target's ratio at s is off by about sqrt((s -
    # mu)^2 / n + (s - mu)^4 / (2 n)) per side; for |s - mu| <= 6 that is 0.85, and 0.08 for |s - mu| <=
    # 1.5.
    scores = gaussian_scores(1, 2001, 20)
    statistic = attacks.lira(scores).statistic
    exact = 1.5 * scores.log_odds - 1.5**2 / 2
    near = np.abs(scores.log_odds - 0.75) < 0.75
    assert np.abs(statistic - exact)[near].max() < 5 * 0.08 * np.sqrt(2)
    nonmembers = statistic[~scores.member]
    assert nonmembers.mean() == pytest.approx(-(1.5**2) / 2, abs=4 * 1.5 / np.sqrt(nonmembers.size / 20) / 4)
    shared = attacks.lira(scores, variance="global").statistic
    np.testing.assert_allclose(shared, exact, atol=0.85)


@pytest.mark.parametrize("fpr", [0.1, 0.01])
def test_calibrated_has_the_fpr_of_its_student_t(fpr):
    # 24 OUT shadows per example: z > q has probability T_23(-q sqrt(23 / 25)) for a non-member, whatever
    # the example. The scores of one example are shared by its targets, so the error is bounded by that of
    # independent examples.
    rng = np.random.default_rng(2)
    member = np.zeros((33, 4000), bool)
    member[25:] = True
    scores = Scores(rng.normal(size=member.shape) + 4 * member, member)
    z = attacks.lira(scores, calibrated=True).statistic[:25]
    q = scipy.stats.norm.isf(fpr)
    expected = scipy.stats.t.sf(q * np.sqrt(23 / 25), 23)
    assert (z > q).mean() == pytest.approx(expected, abs=4 * np.sqrt(expected / 4000))
    assert expected > fpr


def test_calibrated_follows_members_that_score_lower():
    scores = gaussian_scores(3, 100, 50, separation=-3.0)
    z = attacks.lira(scores, calibrated=True).statistic
    assert z[scores.member].mean() > 2 > 0.5 > z[~scores.member].mean()


def test_pitfall_global_variance_is_not_that_of_raw_scores():
    # Difficulty spreads the raw scores far beyond any example's own deviation of 1; the ratio must use the
    # latter. Per target about 16 x 500 residuals: relative error of the variance sqrt(2 / 8000) = 0.016
    # plus 1/16 for ddof 0.
    scores = gaussian_scores(4, 33, 500, separation=4.0)
    spread = Scores(scores.log_odds + np.random.default_rng(5).normal(0, 10, 500), scores.member)
    statistic = attacks.lira(spread, variance="global").statistic
    slope = np.polyfit(scores.log_odds.ravel(), statistic.ravel(), 1)[0]
    assert slope == pytest.approx(4.0 * 16 / 15, rel=0.05)


def test_pitfall_offline_is_one_sided():
    scores = gaussian_scores(6, 40, 3, separation=0.0)
    log_odds = np.array(scores.log_odds)
    log_odds[0] = [-8.0, 0.0, 8.0]
    low, middle, high = attacks.lira(Scores(log_odds, scores.member), offline=True).statistic[0]
    assert low < middle < high


def test_offline_ignores_scores_of_shadows_that_contain_the_example():
    scores = gaussian_scores(7, 20, 30)
    moved = np.where(scores.member, scores.log_odds + 100, scores.log_odds)
    before = attacks.lira(scores, offline=True).statistic
    after = attacks.lira(Scores(moved, scores.member), offline=True).statistic
    np.testing.assert_array_equal(after[~scores.member], before[~scores.member])


def test_an_outlying_target_leaves_the_shadows_moments_exact():
    # The sum of squares of model 0 is 10^24 times that of the rest: a plain difference of sums would have
    # no digit left.
    rng = np.random.default_rng(8)
    log_odds = rng.normal(size=(12, 5))
    log_odds[0] = 1e12
    member = np.arange(12)[:, None] < np.full(5, 6)
    moments = side_moments(log_odds, member)
    np.testing.assert_allclose(moments.mean[0], log_odds[1:6].mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance[0], log_odds[1:6].var(axis=0), rtol=1e-12)


def test_equal_scores_have_deviation_zero_and_fall_back_to_other_examples():
    rng = np.random.default_rng(9)
    log_odds, member = rng.normal(size=(20, 40)), rng.random((20, 40)) < 0.5
    log_odds[:, 0] = np.where(member[:, 0], 0.1, 0.3)
    np.testing.assert_array_equal(side_moments(log_odds, member).variance[:, 0], 0)
    statistic = attacks.lira(Scores(log_odds, member)).statistic[:, 0]
    assert statistic[member[:, 0]].min() > statistic[~member[:, 0]].max()
    assert np.abs(statistic).max() < 1  # 0.2 nats apart at deviations of about 1, not infinitely far


def test_deterministic_scores_still_tell_members():
    member = np.random.default_rng(10).random((8, 30)) < 0.5
    result = attacks.lira(Scores(np.where(member, 2.0, -1.0), member))
    assert (result.statistic[result.member & result.defined] == 9 / 2).all()  # 3 nats at a deviation of 1 nat
    assert (result.statistic[~result.member & result.defined] == -9 / 2).all()
    constant = attacks.lira(Scores(np.full(member.shape, 1.0), member))
    np.testing.assert_array_equal(constant.statistic, 0)


def test_no_shadow_on_a_side_is_no_evidence():
    scores = gaussian_scores(11, 8, 30)
    member = np.array(scores.member)
    member[:, 0], member[:, 1], member[:, 2] = True, False, np.arange(8) == 3
    result = attacks.lira(Scores(scores.log_odds, member))
    np.testing.assert_array_equal(result.defined[:, 0], False)
    np.testing.assert_array_equal(result.defined[:, 1], False)
    np.testing.assert_array_equal(result.defined[:, 2], np.arange(8) != 3)
    np.testing.assert_array_equal(result.statistic[~result.defined], 0)
    offline = attacks.lira(Scores(scores.log_odds, member), offline=True)
    np.testing.assert_array_equal(offline.defined[:, 0], False)
    np.testing.assert_array_equal(offline.statistic[:, 0], np.log(0.5))
    assert offline.defined[:, 1:].all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variance": "globl"}, "Did you mean 'global'"),
        ({"location": "mode"}, "location='mode' must be one of mean, median"),
        ({"offline": True, "calibrated": True}, "calibrated=True"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        attacks.lira(gaussian_scores(12, 5, 5), **options)
