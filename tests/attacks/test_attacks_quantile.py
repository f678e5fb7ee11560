import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm
from references_attacks import folds_of

from jaxmia import attacks
from jaxmia._validate import InputError
from jaxmia.scores import Scores

methods = pytest.mark.parametrize("method", ["gaussian", "pinball"])


def linear_scores(seed, *, models=4, examples=2000, dim=3, shift=0.0):
    """(scores, features): N(2 x_1 - x_2, exp(x_1 / 2)^2), members shifted."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(examples, dim))
    member = rng.random((models, examples)) < 0.5
    noise = rng.normal(size=member.shape) * np.exp(features[:, 0] / 2)
    return Scores(2 * features[:, 0] - features[:, 1] + noise + shift * member, member), features


def test_gaussian_standardises_scores_of_unequal_spread():
    # z of a non-member is N(0, 1) at every x up to the error of the fit, of relative order sqrt(dim / 800)
    # = 6% in mu and sigma of a target; a third of the examples has 4 x 333 = 1300 scores, an error of 2% in
    # the deviation.
    scores, features = linear_scores(1)
    z = attacks.quantile(scores, features=features).statistic
    for low, high in ((-9, -0.43), (-0.43, 0.43), (0.43, 9)):
        third = ~scores.member & (features[:, 0] > low) & (features[:, 0] < high)
        assert z[third].std() == pytest.approx(1.0, abs=0.06 + 4 * 0.02)
        assert z[third].mean() == pytest.approx(0.0, abs=0.06 + 4 / np.sqrt(1300))


def test_pinball_has_its_fpr_on_examples_it_has_not_seen():
    # Four targets of 1000 non-members: standard error 0.3 / sqrt(4000) = 0.005; the fit of 4 coefficients
    # to 800 non-members exceeds the level by about 4 / 800.
    scores, features = linear_scores(2)
    statistic = attacks.quantile(scores, features=features, method="pinball", fpr=0.1).statistic
    assert np.mean(statistic[~scores.member] > 0) == pytest.approx(0.1, abs=4 * 0.005 + 0.005)


@pytest.mark.parametrize("fpr", [0.05, 0.5])
def test_pinball_reaches_the_optimum_of_statsmodels(fpr):
    # The simplex optimum of the same loss, on the same training examples, fold by fold.
    scores, features = linear_scores(3, models=2, examples=600)
    statistic = attacks.quantile(
        scores, features=features, method="pinball", fpr=fpr, ridge=0.0, steps=1000
    ).statistic
    fold = folds_of(features, 5)
    design = sm.add_constant(features)
    for target in range(2):
        predicted = scores.log_odds[target] - statistic[target]
        expected = np.empty(600)
        for number in range(5):
            known = (fold != number) & ~scores.member[target]
            fit = sm.QuantReg(scores.log_odds[target, known], design[known]).fit(q=1 - fpr, max_iter=5000)
            expected[fold == number] = design[fold == number] @ fit.params
        # Scores have a deviation of about 2.6; near a flat optimum the predictions agree to a few
        # hundredths of it.
        np.testing.assert_allclose(predicted, expected, atol=0.1)
        assert abs(predicted - expected).mean() < 0.02


@methods
def test_pitfall_known_nonmembers_are_not_scored_by_a_fit_that_saw_them(method):
    # Half as many features as non-members: a fit that had seen the audited non-members would follow them closely and
    # make members stand out. Without signal the AUC must stay at 1/2: variance (n + 1) / (12 a b) per target, as in
    # the contract.
    scores, _ = linear_scores(4, models=8, examples=300)
    features = np.random.default_rng(5).normal(size=(300, 75))
    result = attacks.quantile(scores, features=features, method=method, fpr=0.5, ridge=0.01)
    areas = []
    for statistic, member in zip(np.abs(result.statistic), result.member, strict=True):
        areas.append(scipy.stats.mannwhitneyu(statistic[member], statistic[~member]).statistic)
        areas[-1] /= member.sum() * (~member).sum()
    assert abs(np.mean(areas) - 0.5) < 4 * np.sqrt(301 / (12 * 140 * 160))


@methods
def test_features_that_explain_difficulty_beat_the_threshold(method):
    # D of the residual is about shift = 1.5 over a deviation of exp(x / 2), against 1.5 over sqrt(5) raw.
    # Standard error of an AUC of 4 x 1000 members and non-members: below 0.5 / sqrt(4000) = 0.008 each.
    scores, features = linear_scores(6, shift=1.5)

    def auc(result):
        members, nonmembers = result.statistic[result.member], result.statistic[~result.member]
        return scipy.stats.mannwhitneyu(members, nonmembers).statistic / (len(members) * len(nonmembers))

    regression = auc(attacks.quantile(scores, features=features, method=method, fpr=0.3))
    assert regression > auc(attacks.threshold(scores)) + 4 * 0.008 * np.sqrt(2)


@methods
def test_one_model_is_enough(method):
    scores, features = linear_scores(7, models=1, examples=100)
    result = attacks.quantile(scores, features=features, method=method)
    assert result.defined.all()
    assert np.isfinite(result.statistic).all()


@methods
def test_too_few_known_nonmembers_are_no_evidence(method):
    scores, features = linear_scores(8, models=2, examples=10)
    member = np.array(scores.member)
    member[0] = True
    member[0, 3] = False
    result = attacks.quantile(Scores(scores.log_odds, member), features=features, method=method)
    assert not result.defined[0].any()
    np.testing.assert_array_equal(result.statistic[0], 0)


@methods
def test_constant_and_repeated_features_are_harmless(method):
    scores, features = linear_scores(9, examples=200)
    plain = attacks.quantile(scores, features=features, method=method, fpr=0.2, ridge=0.0).statistic
    # Folds follow the order of the last column, which stays the last.
    wide = np.concatenate([np.full((200, 1), 7.0), features[:, :1], features], axis=1)
    result = attacks.quantile(scores, features=wide, method=method, fpr=0.2, ridge=0.0).statistic
    np.testing.assert_allclose(result, plain, atol=1e-5 if method == "gaussian" else 0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": np.zeros((9, 2))}, r"features.shape=\(9, 2\) must be \[10, dim\]"),
        ({"features": np.zeros(10)}, "features.shape"),
        ({"features": np.full((10, 1), np.nan)}, "finite"),
        ({"method": "pinbal"}, "Did you mean 'pinball'"),
        ({"fpr": 5}, "fpr=5 must lie strictly between 0 and 1"),
        ({"folds": 1}, "folds=1 must be an integer of at least 2"),
        ({"ridge": -1.0}, "ridge=-1.0"),
        ({"steps": 0}, "steps=0"),
    ],
)
def test_bad_options_are_refused(options, message):
    scores, features = linear_scores(10, models=2, examples=10)
    with pytest.raises(InputError, match=message):
        attacks.quantile(scores, **({"features": features} | options))
