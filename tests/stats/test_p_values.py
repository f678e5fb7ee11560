import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.stats
from references_evaluation import gaussian_result, result_of

from jaxmia._validate import InputError
from jaxmia.stats.nulls import student_t_p_values
from jaxmia.stats.operating_points import tpr_at_fpr
from jaxmia.stats.p_values import calibrated_p_values
from jaxmia.stats.resolution import required_nonmembers
from jaxmia.stats.result import AttackResult
from tests import references_evaluation as references

METHODS = ["residuals", "empirical"]
STATISTICS = st.one_of(
    st.sampled_from([-np.inf, np.inf, 0.0, 1.0, 1.7e308, -1.7e308, 5e-324]), st.floats(allow_nan=False)
)


def p_values_of(result, method="student_t"):
    """As calibrated_p_values; with Student's t before residuals are pooled."""
    if method == "student_t":
        return np.where(
            result.defined,
            student_t_p_values(result.statistic, ~result.member & result.defined),
            1.0,
        )
    return calibrated_p_values(result, method=method)


def half_in(rng, shape):
    """Membership in which each example is in exactly half of the models."""
    return np.argsort(rng.random(shape), axis=0) < shape[0] // 2


def location_scale(seed, *, models, examples, separation):
    """Each example has its own mean and deviation; members stand separation deviations higher."""
    rng = np.random.default_rng(seed)
    member = half_in(rng, (models, examples))
    score = rng.normal(size=member.shape) + separation * member
    return result_of(rng.normal(scale=10, size=examples) + rng.gamma(2, size=examples) * score, member)


def likelihood_ratio(seed, *, models, separations):
    """LiRA's statistic at known equal variances: N(-D^2/2, D^2) on non-members, N(D^2/2, D^2) on members."""
    rng = np.random.default_rng(seed)
    member = half_in(rng, (models, len(separations)))
    score = rng.normal(size=member.shape) + separations * member
    return result_of(separations * score - separations**2 / 2, member)


@pytest.mark.parametrize("method", ["student_t", *METHODS])
@pytest.mark.parametrize(("models", "digits"), [(1, 16), (2, 16), (3, 1), (12, 16), (12, 1), (12, 0)])
def test_p_values_leave_the_target_out(method, models, digits):
    if method == "residuals" and models == 12:
        digits = 16  # what is equal only up to rounding is ordered by it
    result = gaussian_result(10, models=models, examples=30, digits=digits)
    defined = np.random.default_rng(11).random(result.member.shape) < 0.9
    result = result_of(result.statistic, result.member, defined)
    np.testing.assert_allclose(
        p_values_of(result, method), references.calibrated_p_values(result, method), rtol=1e-9
    )


@pytest.mark.parametrize("method", METHODS)
def test_blocks_of_examples_change_nothing(method, monkeypatch):
    result = gaussian_result(12, models=9, examples=31, digits=1)
    whole = calibrated_p_values(result, method=method)
    monkeypatch.setattr("jaxmia.stats.p_values.BLOCK_SIZE", 40)
    np.testing.assert_array_equal(calibrated_p_values(result, method=method), whole)


def test_an_outlier_does_not_spoil_the_nulls_it_is_not_in():
    # A sum of squares with the outlier's subtracted again would be off by 1e18 * 1e-16 in a variance of 1e-6.
    result = gaussian_result(13, models=20, examples=10)
    statistic = 0.001 * result.statistic
    statistic[4] = 1e9
    result = result_of(statistic, result.member)
    expected = references.calibrated_p_values(result, "student_t")
    np.testing.assert_allclose(p_values_of(result), expected, rtol=1e-6)


def test_a_far_location_does_not_spoil_the_deviation():
    result = gaussian_result(25, models=20, examples=10)
    result = result_of(1e9 + result.statistic, result.member)
    expected = references.calibrated_p_values(result, "student_t")
    np.testing.assert_allclose(p_values_of(result), expected, rtol=1e-6)


def test_an_infinite_statistic_makes_ranks_of_the_p_values_it_enters():
    # Others of the first model: 1, 2, 3. Of the others: one infinite.
    result = result_of([[np.inf], [1], [2], [3], [2.5]], [[False], [False], [False], [False], [True]])
    np.testing.assert_array_equal(p_values_of(result), [[1 / 4], [1], [3 / 4], [2 / 4], [3 / 5]])


def test_a_null_without_deviation_is_ranked():
    statistic = np.array([[0.1], [0.1], [0.1], [0.1], [0.3]])
    result = result_of(statistic, [[False], [False], [False], [True], [True]])
    np.testing.assert_array_equal(p_values_of(result), [[1], [1], [1], [1], [1 / 4]])


def test_student_p_values_are_exactly_uniform_for_gaussian_nulls():
    # Three other models: T has two degrees of freedom. One target per example: the p-values are independent.
    result = location_scale(14, models=8, examples=100_000, separation=3.0)
    nonmember = ~result.member[0]
    p_values = p_values_of(result)[0, nonmember]
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 1e-3
    for fpr in (0.1, 0.01, 0.001):
        standard_error = np.sqrt(fpr * (1 - fpr) / p_values.size)
        assert abs(np.mean(p_values <= fpr) - fpr) < 4 * standard_error
        # The plug-in normal p-value from the same mean and deviation is far too small.
        plug_in = scipy.stats.norm.sf(scipy.stats.t.isf(p_values, 2) * np.sqrt(1 + 1 / 3))
        assert np.mean(plug_in <= fpr) - fpr > 20 * standard_error


@pytest.mark.parametrize("fpr", [0.05, 0.1, 0.3])
def test_ranks_reach_the_fpr_of_their_grid(fpr):
    # A non-member among n others: p is uniform on {1, ..., n + 1} / (n + 1).
    result = location_scale(15, models=30, examples=20_000, separation=1.0)
    p_values = calibrated_p_values(result, method="empirical")
    reached = np.floor(fpr * 15 + 1e-9) / 15
    # With every model a target in turn the count of each example is fixed, which proves no calibration:
    assert np.all(np.sum((p_values <= fpr) & ~result.member, axis=0) == round(reached * 15))
    # one target per example does.
    nonmember = ~result.member[0]
    standard_error = np.sqrt(reached * (1 - reached) / nonmember.sum())
    assert abs(np.mean(p_values[0, nonmember] <= fpr) - reached) <= 4 * standard_error


def test_calibrated_tpr_is_that_of_the_noncentral_t():
    # A member stands D deviations above n nulls: (t - mean) / (s sqrt(1 + 1/n)) is noncentral t.
    separation, number, examples, fpr = 2.0, 8, 20_000, 0.05
    result = location_scale(16, models=2 * number, examples=examples, separation=separation)
    point = tpr_at_fpr(result, fpr, evaluation="calibrated")
    quantile = scipy.stats.t.isf(fpr, number - 1)
    tpr = scipy.stats.nct.sf(quantile, number - 1, separation / np.sqrt(1 + 1 / number))
    # Targets of one example are dependent, examples are not: an example's mean varies at most as one target.
    assert abs(point.tpr - tpr) < 4 * np.sqrt(tpr * (1 - tpr) / examples)
    assert abs(point.fpr_realised - fpr) < 4 * np.sqrt(fpr * (1 - fpr) / examples)
    # The difference from the value at infinitely many shadows is visible at that precision.
    assert abs(tpr - scipy.stats.norm.sf(scipy.stats.norm.isf(fpr) - separation)) > 0.03


def test_calibrated_fixes_the_fpr_of_each_example_and_pooled_does_not():
    # Twenty kinds of examples, 4000 independent copies each, one target per copy: counts of false positives
    # are binomial, and their chi-square over kinds has 20 degrees of freedom under equal FPR.
    kinds, copies, fpr = 20, 4000, 0.05
    separations = np.linspace(0.25, 5, kinds)
    result = likelihood_ratio(17, models=16, separations=np.repeat(separations, copies))
    nonmember = ~result.member[0].reshape(kinds, copies)
    number = nonmember.sum(axis=1)

    def false_positives(called):
        return np.sum(called.reshape(kinds, copies) & nonmember, axis=1)

    def chi_square(count):
        return np.sum((count - number * fpr) ** 2 / (number * fpr * (1 - fpr)))

    calibrated = false_positives(p_values_of(result)[0] <= fpr)
    low, high = scipy.stats.chi2.ppf([1e-4, 1 - 1e-4], kinds)
    assert low < chi_square(calibrated) < high
    point = tpr_at_fpr(result, fpr)
    pooled = false_positives(result.statistic[0] >= point.threshold)
    assert chi_square(pooled) > scipy.stats.chi2.isf(1e-12, kinds)
    # What pooling gives each kind is known: its statistic is N(-D^2/2, D^2) on non-members.
    expected = scipy.stats.norm.sf((point.threshold + separations**2 / 2) / separations)
    assert np.all(pooled >= scipy.stats.binom.ppf(1e-5, number, expected))
    assert np.all(pooled <= scipy.stats.binom.isf(1e-5, number, expected))
    assert expected.max() > 50 * expected.min()


def test_labels_of_members_do_not_move_a_calibrated_threshold():
    result = location_scale(18, models=10, examples=50, separation=1.0)
    changed = result.statistic.copy()
    changed[result.member] += 100
    before = calibrated_p_values(result)[~result.member]
    np.testing.assert_array_equal(
        calibrated_p_values(result_of(changed, result.member))[~result.member] <= 0.1, before <= 0.1
    )


def test_undefined_statistics_join_no_null_and_are_never_called():
    result = gaussian_result(19, models=30, examples=40)
    defined = np.random.default_rng(20).random(result.member.shape) < 0.8
    with_holes = result_of(np.where(defined, result.statistic, 0.0), result.member, defined)
    with_others = result_of(np.where(defined, result.statistic, 50.0), result.member, defined)
    for method in METHODS:
        found = calibrated_p_values(with_holes, method=method)
        np.testing.assert_array_equal(found[~defined], 1)
        np.testing.assert_array_equal(found, calibrated_p_values(with_others, method=method))


@pytest.mark.parametrize(
    ("evaluation", "method"), [("calibrated", METHODS[0]), ("calibrated_empirical", METHODS[1])]
)
def test_points_count_p_values_up_to_the_fpr(evaluation, method):
    result = gaussian_result(21, models=90, examples=50)
    p_values = references.calibrated_p_values(result, method)
    point = tpr_at_fpr(result, 0.5, evaluation=evaluation)
    called = p_values <= 0.5
    assert point.true_positives == np.sum(called & result.member)
    assert point.false_positives == np.sum(called & ~result.member)
    assert point.tpr == np.mean(called[result.member])
    assert point.fpr_realised == np.mean(called[~result.member])
    assert (point.evaluation, point.status, point.reason) == (evaluation, "ok", "")
    assert np.isnan(point.threshold)


def test_examples_with_too_small_a_null_are_left_out_and_said_so():
    member = np.zeros((40, 50), bool)
    member[:10] = True  # 30 non-members: 29 others
    member[10:21, 0] = True  # 19 non-members: 18 others
    result = result_of(np.random.default_rng(22).normal(size=member.shape), member)
    point = tpr_at_fpr(result, 0.5, evaluation="calibrated_empirical")
    assert (point.status, point.reason) == ("ok", "1 of 50 examples left out: null too small.")
    assert (point.num_members, point.num_nonmembers) == (49 * 10, 49 * 30)
    with pytest.raises(
        InputError, match=r"fpr=0\.1 needs at least 100 other models without the example, got 29"
    ):
        tpr_at_fpr(result, 0.1, evaluation="calibrated_empirical")
    assert tpr_at_fpr(result, 0.1, evaluation="calibrated").reason == ""
    with pytest.raises(InputError, match="needs at least 10000 non-member scores with a null, got 1489"):
        tpr_at_fpr(result, 0.001, evaluation="calibrated")


def test_a_resolved_fpr_without_members_is_unresolved():
    member = np.zeros((40, 2), bool)
    member[:39, 1] = True
    result = result_of(np.random.default_rng(23).normal(size=member.shape), member)
    with pytest.raises(InputError, match="resolved for no member score"):
        tpr_at_fpr(result, 0.5, evaluation="calibrated_empirical")


def test_unknown_method_is_refused():
    with pytest.raises(InputError, match="Did you mean 'residuals'"):
        calibrated_p_values(gaussian_result(24), method="residual")


@st.composite
def results(draw):
    """Any statistics under random membership with at least one member and one non-member."""
    shape = draw(st.tuples(st.integers(1, 20), st.integers(2, 20)))
    statistic = draw(hypothesis.extra.numpy.arrays(np.float64, shape, elements=STATISTICS))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    member = rng.random(shape) < draw(st.sampled_from([0.02, 0.3, 0.9]))
    member.flat[:2] = [True, False]
    return AttackResult(statistic, member, rng.random(shape) < 0.9, "location_scale")


def is_resolved(result, fpr, evaluation):
    """The resolution rules, written out."""
    number = required_nonmembers(fpr)
    if evaluation == "per_target":
        return np.sum(~result.member, axis=1).min() >= number
    null = ~result.member & result.defined
    null_sizes = null.sum(axis=0) - 1
    if evaluation == "calibrated" and min(null.sum() - null.sum(axis=1)) < number:
        return False
    counted = result.member[:, null_sizes >= (2 if evaluation == "calibrated" else number)]
    return np.sum(~counted) >= number and counted.any()


@hypothesis.given(results())
def test_any_statistic_has_p_values(result):
    for method in METHODS:
        p_values = calibrated_p_values(result, method=method)
        assert np.all((p_values >= 0) & (p_values <= 1))
        assert np.all(p_values[~result.defined] == 1)
    np.testing.assert_array_equal(p_values, references.calibrated_p_values(result, "empirical"))


@pytest.mark.parametrize("evaluation", ["per_target", "calibrated", "calibrated_empirical"])
@hypothesis.given(results())
def test_any_statistic_gives_numbers_or_unresolved(evaluation, result):
    if is_resolved(result, 0.9, evaluation):
        point = tpr_at_fpr(result, 0.9, evaluation=evaluation)
        assert point.status == "ok"
        assert 0 <= point.tpr_low <= point.tpr <= point.tpr_high <= 1
        assert 0 <= point.fpr_realised <= 1
    else:
        with pytest.raises(InputError, match=r"fpr=0\.9 (needs at least 12|is resolved for no member score)"):
            tpr_at_fpr(result, 0.9, evaluation=evaluation)
