"""Pooled residuals: estimates against planted laws, thresholds and calibrated FPRs on models that did not set them."""

import numpy as np
import pytest
import scipy.stats

from jaxmia import attacks
from jaxmia._validate import InputError
from jaxmia.scores import Scores
from jaxmia.stats.nulls import pooled_p_values
from jaxmia.stats.operating_points import operating_points, tpr_at_fpr
from jaxmia.stats.p_values import calibrated_p_values
from jaxmia.stats.result import AttackResult
from jaxmia.vulnerability.curves import per_example_vulnerability, vulnerability_curves
from jaxmia.vulnerability.residuals import drawn_together
from tests import references_evaluation as references

FPRS = (0.1, 0.01, 0.001)


def skewed(rng, shape):
    """Residuals as heads have them: mean 0, deviation 1, the upper tail lighter than the lower."""
    return 2 - rng.gamma(4.0, 0.5, shape)


def planted(seed, *, models, examples=300, law=skewed, shift=2.0, narrower=0.5):
    """Each record has moments of its own, members a deviation narrower than others; and each record's true TPR."""
    rng = np.random.default_rng(seed)
    spread = np.exp(0.3 * rng.normal(size=examples))
    shifts = shift * rng.gamma(2.0, 0.5, examples) * spread
    member = rng.random((models, examples)) < 0.5
    draws = law(rng, member.shape)
    log_odds = np.where(member, shifts + narrower * spread * draws, spread * draws)
    many = np.sort(law(rng, 2_000_000))
    rates = []
    for fpr in FPRS:
        t = (np.quantile(many, 1 - fpr) * spread - shifts) / (narrower * spread)
        rates.append(1 - np.searchsorted(many, t) / many.size)
    return Scores(log_odds, member), rates


@pytest.mark.parametrize("law", [skewed, lambda rng, shape: rng.normal(size=shape)])
def test_estimates_meet_planted_laws_and_one_deviation_does_not(law):
    scores, rates = planted(0, models=512, law=law)
    curves = vulnerability_curves(scores, FPRS)
    for curve, truth in zip(curves, rates, strict=True):
        # The mean over 300 records of errors that are independent but for the common laws of 77 000 residuals.
        in_common = 3 * np.sqrt(1 / (curve.fpr * 77_000)) * truth.mean()
        error = np.sqrt(np.mean(curve.tpr_error**2) / 300)
        assert abs(curve.tpr.mean() - truth.mean()) < 4 * error + in_common + 0.01 * truth.mean()
        covered = np.mean((curve.tpr_low <= truth) & (truth <= curve.tpr_high))
        assert covered >= scipy.stats.binom.ppf(1e-4, 300, 0.95) / 300
    gaussian = per_example_vulnerability(scores, 0.001, method="gaussian")
    assert abs(gaussian.tpr.mean() / rates[2].mean() - 1) > 0.15


@pytest.mark.parametrize("models", [32, 256])
def test_thresholds_keep_their_fpr_on_models_that_did_not_set_them(models):
    scores, _ = planted(1, models=models)
    rng = np.random.default_rng(2)
    spread = np.exp(0.3 * np.random.default_rng(1).normal(size=300))
    others = spread * skewed(rng, (4000, 300))
    for curve in vulnerability_curves(scores, FPRS):
        realised = np.mean(others > curve.threshold)
        # Thresholds come from so many residuals, which are not independent within a record: twice the binomial error.
        error = 2 * np.sqrt(curve.fpr / (models * 150)) + np.sqrt(curve.fpr / others.size)
        assert abs(realised - curve.fpr) < 4 * error + 2 / (models * 150)


def test_what_is_attained_is_what_fresh_models_show():
    scores, _ = planted(3, models=64)
    rng = np.random.default_rng(3)
    spread = np.exp(0.3 * rng.normal(size=300))
    shifts = 2.0 * rng.gamma(2.0, 0.5, 300) * spread
    members = shifts + 0.5 * spread * skewed(np.random.default_rng(4), (2000, 300))
    for curve in vulnerability_curves(scores, (0.1, 0.01)):
        attained = np.nanmean(curve.tpr_attained)
        assert abs(attained - np.mean(members > curve.threshold)) < 0.02  # 4 errors of 300 x 32 models' calls
        assert attained < curve.tpr.mean() + 0.01


@pytest.mark.parametrize("pairs", [400_000, pytest.param(6_400_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("models", [32, 64, 256])
def test_pure_noise_realises_the_nominal_fpr_and_tpr_is_fpr(models, pairs):
    """Each rate within 5%, or four counting errors where those of the quick variant are larger."""
    rng = np.random.default_rng(5)
    member = rng.random((models, pairs // models)) < 0.5
    scores = Scores(rng.normal(size=member.shape).astype(np.float32), member)
    points = operating_points(attacks.lira(scores, calibrated=True), FPRS, evaluation="calibrated")
    for point in points:
        bound = max(0.05, 4 / np.sqrt(point.fpr * pairs / 2))
        assert abs(point.fpr_realised / point.fpr - 1) < 0.05
        assert abs(point.tpr / point.fpr - 1) < bound


def test_pooled_p_values_are_the_loop_over_pairs():
    rng = np.random.default_rng(6)
    p_values, null = rng.random((7, 11)).round(2), rng.random((7, 11)) < 0.6
    np.testing.assert_allclose(pooled_p_values(p_values, null), references.pooled_p_values(p_values, null))


def test_a_result_knows_which_evaluations_hold():
    scores, _ = planted(7, models=40)
    with pytest.raises(InputError, match=r"lira\(scores, calibrated=True\)"):
        operating_points(attacks.lira(scores), (0.1,), evaluation="calibrated")
    with pytest.raises(InputError, match="calibrated_empirical"):
        calibrated_p_values(attacks.rmia(scores))
    point = tpr_at_fpr(attacks.lira(scores, calibrated=True), 0.1, evaluation="calibrated")
    # calls of one model go together: the error is over 40 models
    assert abs(point.fpr_realised - 0.1) < 4 * np.sqrt(0.09 / (40 * 150)) * 1.5


def test_a_rank_resolves_no_fpr_below_its_population():
    scores, _ = planted(8, models=40, examples=120)
    result = attacks.rmia(scores)
    assert result.population.tolist() == (~np.asarray(scores.member)).sum(axis=1).tolist()
    points = operating_points(result, (0.5, 0.1))
    assert [point.status for point in points] == ["ok", "unresolved"]
    assert "ranks among" in points[1].reason
    outside = np.random.default_rng(9).normal(size=(40, 200))
    wide = attacks.rmia(Scores(scores.log_odds, scores.member, population_log_odds=outside))
    assert operating_points(wide, (0.1,))[0].status == "ok"


def test_the_worst_record_of_equal_records_is_no_winner():
    """Records that are all alike: the interval of the worst covers, and its point is near the common TPR."""
    rng, covered, points = np.random.default_rng(10), 0, []
    truth = scipy.stats.norm.sf(scipy.stats.norm.isf(0.01) - 1.0)
    for _ in range(60):
        member = rng.random((128, 200)) < 0.5
        curve = per_example_vulnerability(Scores(rng.normal(size=member.shape) + member, member), 0.01)
        covered += curve.worst[0] <= truth <= curve.worst[1]
        points.append(np.nanmax(curve.tpr_drawn))
    assert covered >= scipy.stats.binom.ppf(1e-4, 60, 0.95)
    assert np.mean(points) < 1.5 * truth  # the largest of the estimates themselves is more than twice it


def test_values_spread_as_what_lies_behind_the_noise():
    rng = np.random.default_rng(11)
    truth, error = rng.normal(3.0, 2.0, 5000), 1.5
    drawn = drawn_together(truth + error * rng.normal(size=5000), np.full(5000, error))
    assert drawn.std() == pytest.approx(2.0, rel=4 * 1.6 / np.sqrt(10_000))
    alike = drawn_together(error * rng.normal(size=5000), np.full(5000, error))
    assert alike.std() < 0.4  # chance leaves a little of what is all noise
    few = rng.normal(size=5)
    np.testing.assert_array_equal(drawn_together(few, np.ones(5)), few)


def test_an_unknown_null_is_named():
    with pytest.raises(InputError, match="Did you mean 'gaussian'"):
        calibrated_p_values(
            AttackResult(np.zeros((3, 2)), np.eye(3, 2) > 0, np.ones((3, 2), bool), "gausian")
        )
