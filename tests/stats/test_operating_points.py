import pathlib

import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.stats
from references_evaluation import gaussian_result, one_target, result_of

from jaxmia._validate import InputError
from jaxmia.stats.operating_points import operating_points, tpr_at_fpr
from jaxmia.stats.p_values import EVALUATIONS, calibrated_p_values
from jaxmia.stats.resolution import clopper_pearson, required_nonmembers, resolvable
from jaxmia.stats.result import AttackResult
from jaxmia.stats.roc import roc
from tests import references_evaluation as references

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "data" / "roc_conventions.npz", allow_pickle=False)
CASES = sorted({key.split("__")[0] for key in GOLDEN} - {"fprs"})


@pytest.mark.parametrize("digits", [16, 1, 0])
def test_roc_is_the_curve_of_all_threshold_rules(digits):
    result = gaussian_result(1, models=3, examples=40, digits=digits)
    members, nonmembers = result.statistic[result.member], result.statistic[~result.member]
    curve = roc(result)
    expected = np.array(references.roc_points(members, nonmembers))
    np.testing.assert_array_equal(np.stack([curve.fpr, curve.tpr, curve.threshold], axis=1), expected)
    assert (curve.num_members, curve.num_nonmembers) == (len(members), len(nonmembers))
    assert curve.auc == pytest.approx(references.auc(members, nonmembers), rel=1e-12)
    assert curve.balanced_accuracy == max((tpr + 1 - fpr) / 2 for fpr, tpr, _ in expected)


def test_gaussian_scores_reach_the_closed_form():
    # AUC = Phi(shift / sqrt 2); its standard error over 10^6 + 10^6 scores is below 0.5 / 1000 (the variance
    # of a Mann-Whitney AUC is at most A(1 - A) / min(members, nonmembers)).
    result = gaussian_result(2, models=20, examples=100_000)
    auc_bound = 4 * 0.5 / 1000
    assert roc(result).auc == pytest.approx(scipy.stats.norm.cdf(1.5 / np.sqrt(2)), abs=auc_bound)
    # TPR = Phi(Phi^-1(fpr) + shift); the threshold's own error moves it by slope * se(fpr).
    for point in tpr_at_fpr(result, [0.1, 0.01, 0.001]):
        quantile = scipy.stats.norm.ppf(point.fpr)
        tpr = scipy.stats.norm.cdf(quantile + 1.5)
        slope = scipy.stats.norm.pdf(quantile + 1.5) / scipy.stats.norm.pdf(quantile)
        variance = tpr * (1 - tpr) / point.num_members + slope**2 * point.fpr / point.num_nonmembers
        assert point.tpr == pytest.approx(tpr, abs=4 * np.sqrt(variance))


@pytest.mark.parametrize("digits", [16, 1, 0])
@pytest.mark.parametrize("fpr", [0.5, 0.1, 0.05])
def test_pooled_tpr_is_the_largest_over_admissible_thresholds(digits, fpr):
    result = gaussian_result(3, models=4, examples=120, digits=digits)
    members, nonmembers = result.statistic[result.member], result.statistic[~result.member]
    point = tpr_at_fpr(result, fpr)
    assert point.tpr == references.tpr_at_fpr(members, nonmembers, fpr)
    assert point.advantage == point.tpr - fpr
    assert point.fpr_realised == np.mean(nonmembers >= point.threshold) <= fpr
    assert point.tpr == np.mean(members >= point.threshold)
    assert point.true_positives == np.sum(members >= point.threshold)
    assert point.false_positives == np.sum(nonmembers >= point.threshold)
    assert (point.num_members, point.num_nonmembers) == (members.size, nonmembers.size)
    assert (point.tpr_low, point.tpr_high) == clopper_pearson(point.true_positives, point.num_members)
    assert (point.status, point.reason, point.evaluation) == ("ok", "", "pooled")


@pytest.mark.parametrize("num_nonmembers", [100, 130, 300, 1000])
@pytest.mark.parametrize("fpr", [0.1, 0.29, 0.3, 0.57, 1 / 3])
def test_fpr_that_is_a_whole_number_of_scores_is_reached_exactly(fpr, num_nonmembers):
    # 0.29 * 100 = 28.999999999999996 in floating point, yet 29 of 100 non-members are FPR 0.29.
    scores = np.arange(num_nonmembers, dtype=float)
    point = tpr_at_fpr(one_target(scores, scores), fpr)
    assert point.fpr_realised <= fpr < (point.false_positives + 1) / num_nonmembers


@pytest.mark.parametrize("case", CASES)
def test_curve_and_auc_agree_with_published_implementations(case):
    curve = roc(one_target(GOLDEN[f"{case}__in"], GOLDEN[f"{case}__out"]))
    # scikit-learn leaves out points between two others on a straight line.
    theirs = set(zip(GOLDEN[f"{case}__sklearn_fpr"], GOLDEN[f"{case}__sklearn_tpr"], strict=True))
    assert theirs <= set(zip(curve.fpr, curve.tpr, strict=True))
    distance = curve.fpr + curve.tpr  # strictly increasing along a ROC: interpolates vertical parts too
    their_points = np.array(sorted(theirs))
    np.testing.assert_allclose(
        np.interp(distance, their_points.sum(axis=1), their_points[:, 1]), curve.tpr, atol=1e-12
    )
    assert curve.auc == pytest.approx(float(GOLDEN[f"{case}__pm_auc"]), rel=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_tpr_at_fpr_agrees_with_privacy_meter(case):
    members, nonmembers = GOLDEN[f"{case}__in"], GOLDEN[f"{case}__out"]
    curve = roc(one_target(members, nonmembers))
    for key, fprs in (
        ("pm_tpr_at_0_0.001_0.01", [0, 1e-3, 1e-2]),
        ("pm2024_tpr_at_0_1e-4_1e-3_1e-2", [0, 1e-4, 1e-3, 1e-2]),
    ):
        ours = [curve.tpr[curve.fpr <= fpr].max() for fpr in fprs]
        np.testing.assert_allclose(ours, GOLDEN[f"{case}__{key}"], atol=1e-12)
    if len(nonmembers) >= 1000:
        assert tpr_at_fpr(one_target(members, nonmembers), 0.01).tpr == pytest.approx(ours[-1], abs=1e-12)


def test_other_conventions_differ_where_documented():
    # FPR 0.001 of 1000 non-members is exactly one false positive: "FPR < f" gives it away.
    strict, step, hull = 0.050, 0.054, 0.0585
    case = "normal_1000x1000"
    curve = roc(one_target(GOLDEN[f"{case}__in"], GOLDEN[f"{case}__out"]))
    assert GOLDEN["fprs"][2] == 0.001
    assert GOLDEN[f"{case}__tfp_plot_tpr_strictlt"][2] == strict == curve.tpr[curve.fpr < 0.001].max()
    assert curve.tpr[curve.fpr <= 0.001].max() == step
    assert GOLDEN[f"{case}__jaxprivacy_tpr_hull"][2] == pytest.approx(hull)
    # With ties, interpolation credits the attack with thresholds that do not exist: at FPR 0.01 the eleven
    # levels have no rule but "call nothing".
    case = "rmia_like_11levels"
    curve = roc(one_target(GOLDEN[f"{case}__in"], GOLDEN[f"{case}__out"]))
    assert curve.tpr[curve.fpr <= 0.01].max() == 0
    interpolated = np.interp(GOLDEN["fprs"], curve.fpr, curve.tpr)
    np.testing.assert_allclose(interpolated, GOLDEN[f"{case}__mia_hpo_tpr_interp"], atol=1e-12)
    assert interpolated[3] > 0.028


@pytest.mark.parametrize(
    ("fpr", "number"),
    [
        (0.1, 100),
        (0.01, 1000),
        (0.001, 10_000),
        (1e-5, 1_000_000),
        (1e-6, 10_000_000),
        (0.07, 143),
        (1 / 3, 30),
    ],
)
def test_resolution_needs_ten_false_positives(fpr, number):
    assert required_nonmembers(fpr) == number
    assert resolvable(fpr, number)
    assert not resolvable(fpr, number - 1)
    assert not resolvable(fpr, 0)


def test_unresolved_points_are_marked_and_never_numbers():
    scores = np.arange(999.0)
    ok, unresolved = tpr_at_fpr(one_target(scores, scores), [0.1, 0.01])
    assert (ok.status, unresolved.status) == ("ok", "unresolved")
    assert unresolved.reason == "fpr=0.01 needs at least 1000 non-member scores, got 999."
    for name in ("fpr_realised", "tpr", "tpr_low", "tpr_high", "advantage", "threshold"):
        assert np.isnan(getattr(unresolved, name))
    assert unresolved.true_positives is unresolved.false_positives is None
    with pytest.raises(InputError, match="needs at least 1000 non-member scores, got 999"):
        tpr_at_fpr(one_target(scores, scores), 0.01)
    with pytest.raises(InputError, match=r"needs at least 1000 .* needs at least 10000 "):
        tpr_at_fpr(one_target(scores, scores), [0.01, 0.001])


def test_clopper_pearson_ends_have_the_tails_that_define_them():
    trials = np.array([1, 10, 10, 257, 100_000])
    successes = np.array([1, 3, 9, 1, 120])
    low, high = clopper_pearson(successes, trials, confidence=0.9)
    np.testing.assert_allclose(scipy.stats.binom.sf(successes - 1, trials, low), 0.05, rtol=1e-8)
    below_all = successes < trials
    np.testing.assert_allclose(scipy.stats.binom.cdf(successes, trials, high)[below_all], 0.05, rtol=1e-8)
    np.testing.assert_array_equal(high[~below_all], 1)
    # No success in n trials: the upper end solves (1 - p)^n = tail.
    assert clopper_pearson(0, 50) == (0, pytest.approx(1 - 0.025 ** (1 / 50), rel=1e-12))


@pytest.mark.parametrize(
    ("successes", "trials", "confidence"), [(3, 2, 0.95), (-1, 2, 0.95), (0, 0, 0.95), (1, 2, 1.0)]
)
def test_clopper_pearson_refuses_impossible_counts(successes, trials, confidence):
    with pytest.raises(InputError):
        clopper_pearson(successes, trials, confidence=confidence)


@pytest.mark.parametrize("fpr", [0.0, 1.0, -0.1, 10.0, np.nan, [0.1, 1.0], []])
def test_impossible_fpr_is_refused(fpr):
    with pytest.raises(InputError, match=r"fpr|FPR"):
        tpr_at_fpr(gaussian_result(4), fpr)


def test_broken_results_are_refused():
    good = gaussian_result(5, models=2, examples=10)
    holed = good.statistic.copy()
    holed[1, 3] = np.nan
    ones = np.ones_like(good.member)
    for broken, message in (
        (AttackResult(holed, good.member, good.defined), "number of NaN in statistic=1 must be 0"),
        (AttackResult(good.statistic, ones, ones), "number of non-members=0"),
        (AttackResult(good.statistic, ~ones, ones), "number of members=0"),
        (AttackResult(good.statistic, good.member[:, :5], ones), r"member.shape=\(2, 5\)"),
        (AttackResult(good.statistic, good.member.astype(int), ones), "member.dtype='int64'"),
        (AttackResult(good.statistic[0], good.member[0], ones[0]), r"statistic.shape=\(10,\)"),
    ):
        for function in (roc, lambda result: tpr_at_fpr(result, 0.1)):
            with pytest.raises(InputError, match=message):
                function(broken)
    with pytest.raises(InputError, match=r"must be one of pooled, .* Did you mean 'pooled'"):
        tpr_at_fpr(good, 0.1, evaluation="poled")


STATISTICS = st.one_of(
    st.sampled_from([-np.inf, np.inf, 0.0, 1.0, 1.7e308, -1.7e308, 5e-324]), st.floats(allow_nan=False)
)


@st.composite
def results(draw):
    """Any statistics and membership with at least one member and one non-member."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(2, 40)))
    statistic = draw(hypothesis.extra.numpy.arrays(np.float64, shape, elements=STATISTICS))
    member = draw(hypothesis.extra.numpy.arrays(np.bool_, shape))
    member.flat[:2] = [True, False]
    return AttackResult(statistic, member, draw(hypothesis.extra.numpy.arrays(np.bool_, shape)))


@hypothesis.given(results())
def test_any_statistic_gives_a_proper_curve(result):
    curve = roc(result)
    for axis in (curve.fpr, curve.tpr):
        assert (axis[0], axis[-1]) == (0, 1)
        assert np.all(np.diff(axis) >= 0)
    assert np.all(curve.threshold[1:-1] > curve.threshold[2:])
    assert 0 <= curve.auc <= 1
    assert 0.5 <= curve.balanced_accuracy <= 1
    swapped = roc(AttackResult(-result.statistic, result.member, result.defined))
    assert curve.auc + swapped.auc == pytest.approx(1)


@hypothesis.given(results(), st.sampled_from([0.9, 0.5, 0.3]))
def test_any_statistic_gives_numbers_or_unresolved(result, fpr):
    num_nonmembers = int(np.sum(~result.member))
    if num_nonmembers < required_nonmembers(fpr):
        with pytest.raises(InputError, match="non-member scores"):
            tpr_at_fpr(result, fpr)
        return
    point = tpr_at_fpr(result, fpr)
    assert point.status == "ok"
    assert 0 <= point.tpr_low <= point.tpr <= point.tpr_high <= 1
    assert point.fpr_realised <= fpr
    assert point.tpr == references.tpr_at_fpr(
        result.statistic[result.member], result.statistic[~result.member], fpr
    )


@pytest.mark.parametrize("digits", [16, 1, 0])
def test_per_target_has_a_threshold_for_each_model(digits):
    result = gaussian_result(6, models=5, examples=120, digits=digits)
    fpr = 0.3
    true_positives = false_positives = 0
    for statistic, member in zip(result.statistic, result.member, strict=True):
        own = tpr_at_fpr(result_of(statistic, member), fpr)
        assert own.tpr == references.tpr_at_fpr(statistic[member], statistic[~member], fpr)
        true_positives += own.true_positives
        false_positives += own.false_positives
    point = tpr_at_fpr(result, fpr, evaluation="per_target")
    assert (point.true_positives, point.false_positives) == (true_positives, false_positives)
    assert point.tpr == true_positives / np.sum(result.member)
    assert point.fpr_realised == false_positives / np.sum(~result.member) <= fpr
    assert np.isnan(point.threshold)


def test_per_target_is_unmoved_by_shifts_between_models_and_pooled_is_not():
    result = gaussian_result(7)
    shift = np.random.default_rng(8).normal(scale=5, size=(len(result.member), 1))
    moved = result_of(result.statistic + shift, result.member)
    assert (
        tpr_at_fpr(moved, 0.1, evaluation="per_target").tpr
        == tpr_at_fpr(result, 0.1, evaluation="per_target").tpr
    )
    assert tpr_at_fpr(moved, 0.1).tpr < 0.5 * tpr_at_fpr(result, 0.1).tpr


def test_per_target_resolution_is_that_of_the_smallest_roc():
    member = np.zeros((3, 150), bool)
    member[:, :50] = True
    member[1, :51] = True
    result = result_of(np.random.default_rng(9).normal(size=member.shape), member)
    assert tpr_at_fpr(result, 0.1).status == "ok"
    with pytest.raises(InputError, match="needs at least 100 non-member scores of each target, got 99"):
        tpr_at_fpr(result, 0.1, evaluation="per_target")


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_permuted_membership_is_at_chance(evaluation):
    # The members' hits have the variance f(1 - f) / 50 000, and a threshold from as many non-members adds at
    # most as much: those of a target (200 each, 250 targets) or of an example (125 each, 400 examples).
    rng = np.random.default_rng(10)
    models, examples, fpr = 250, 400, 0.1
    member = rng.random((models, examples)) < 0.5
    statistic = rng.normal(scale=3, size=(1, examples)) + rng.normal(size=member.shape)
    point = tpr_at_fpr(result_of(statistic, member), fpr, evaluation=evaluation)
    bound = 4 * np.sqrt(2 * fpr * (1 - fpr) / (models * examples / 2))
    # A rank among n others reaches the FPR only to 1 / n, and n is at least 10 / fpr.
    grid = fpr / 10 if evaluation == "calibrated_empirical" else 0
    assert abs(point.tpr - point.fpr_realised) < bound + grid


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_the_curve_of_an_evaluation_passes_through_its_operating_points(evaluation):
    result = gaussian_result(31, models=70, examples=60, digits=1)
    curve = roc(result, evaluation=evaluation)
    for point in operating_points(result, [0.5, 0.6], evaluation=evaluation):
        assert (point.status, point.reason) == ("ok", "")
        assert (point.fpr_realised, point.tpr) in set(zip(curve.fpr, curve.tpr, strict=True))
    assert curve.tpr[-1] == curve.fpr[-1] == 1


def test_per_target_curve_ranks_pairs_by_the_fpr_that_calls_them():
    result = gaussian_result(32, models=3, examples=20, digits=0)
    curve = roc(result, evaluation="per_target")
    for fpr in curve.fpr:
        calls = [
            values >= min((t for t in values if np.mean(values[~members] >= t) <= fpr + 1e-9), default=np.inf)
            for values, members in zip(result.statistic, result.member, strict=True)
        ]
        at = np.searchsorted(-curve.threshold, fpr + 1e-9, side="right") - 1
        assert curve.tpr[at] == np.mean(np.array(calls)[result.member])


@pytest.mark.parametrize("evaluation", ["pooled", "per_target"])
def test_targets_are_evaluated_as_if_alone(evaluation):
    result = gaussian_result(33, models=5, examples=100)
    alone = AttackResult(*(array[[3, 1]] for array in (result.statistic, result.member, result.defined)))
    points = operating_points(result, [0.25], evaluation=evaluation, targets=[3, 1])
    assert points == operating_points(alone, [0.25], evaluation=evaluation)
    assert roc(result, evaluation=evaluation, targets=[3, 1]).auc == roc(alone, evaluation=evaluation).auc


def test_a_calibrated_target_keeps_the_null_of_all_other_models():
    result = gaussian_result(34, models=30, examples=200)
    p_values = calibrated_p_values(result)[7]
    point = operating_points(result, [0.2], evaluation="calibrated", targets=[7])[0]
    assert point.tpr == np.mean(p_values[result.member[7]] <= 0.2)
    assert point.fpr_realised == np.mean(p_values[~result.member[7]] <= 0.2)
    assert point.num_members == result.member[7].sum()


@pytest.mark.parametrize(
    ("targets", "message"), [([], "at least 1"), ([5], "target=5 must"), ([-1], "0 to 4")]
)
def test_targets_must_be_models(targets, message):
    with pytest.raises(InputError, match=message):
        operating_points(gaussian_result(35, models=5), [0.2], targets=targets)
