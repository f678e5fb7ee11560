import numpy as np
import pytest
import scipy.stats
from references_attacks import bavaria_prior

from jaxmia import attacks
from jaxmia.attacks.bavaria import _priors
from jaxmia.attacks.shadows import sides
from jaxmia.scores import Scores

both = pytest.mark.parametrize("attack", [attacks.bavaria_t, attacks.bavaria_n], ids=["t", "n"])


def planted(seed, *, models, examples, alpha=4.0, kappa=0.25, shift=2.0) -> Scores:
    """Variances inverse gamma(alpha, alpha - 1), of mean 1; means N(shift * member, variance / kappa)."""
    rng = np.random.default_rng(seed)
    member = rng.random((models, examples)) < 0.5
    scale = np.sqrt(scipy.stats.invgamma(alpha, scale=alpha - 1).rvs(examples, random_state=rng))
    mean = scale * rng.normal(size=examples) / np.sqrt(kappa)
    return Scores(mean + scale * rng.normal(size=member.shape) + shift * member, member)


def test_prior_finds_planted_parameters():
    # From 20 000 examples with about 16 shadows a side. alpha is read off a fourth moment, which is finite
    # and has a finite variance for alpha > 4 only: at alpha = 6 its relative error, from the eighth
    # moments, stays within 25%.
    scores = planted(1, models=33, examples=20_000, alpha=6.0, kappa=0.25)
    inside, outside = _priors(scores.log_odds, sides(scores))
    for prior, shift in ((inside, 2.0), (outside, 0.0)):
        np.testing.assert_allclose(prior.location, shift, atol=5 * 2 / np.sqrt(20_000))
        np.testing.assert_allclose(prior.beta / (prior.alpha - 1), 1.0, rtol=5 * 0.5 / np.sqrt(20_000) + 0.01)
        np.testing.assert_allclose(prior.kappa, 0.25, rtol=0.1)
        np.testing.assert_allclose(prior.alpha, 6.0, rtol=0.25)


def test_equal_variances_make_a_strong_prior():
    rng = np.random.default_rng(2)
    member = rng.random((17, 3000)) < 0.5
    log_odds = rng.normal(size=member.shape) + 3 * rng.normal(size=3000)
    inside, outside = _priors(log_odds, sides(Scores(log_odds, member)))
    assert min(inside.alpha.min(), outside.alpha.min()) > 10  # worth more than the 8 shadows of a side


@both
def test_many_shadows_reach_lira(attack):
    # n = 1000 shadows a side, within 3 deviations of both means: the t differs from the Gaussian by up to
    # z^4 / (4 n) = 0.02, the prior, worth 2 alpha_0 <= 10 scores of a variance up to 10 times as large, by
    # z^2 / 2 * 100 / n = 0.45 a side.
    scores = planted(3, models=2001, examples=30)
    near = np.ones(scores.member.shape, bool)
    for on_side in (scores.member, ~scores.member):
        deviation = scores.log_odds.std(axis=0, where=on_side)
        near &= np.abs(scores.log_odds - scores.log_odds.mean(axis=0, where=on_side)) < 3 * deviation
    difference = attack(scores).statistic - attacks.lira(scores).statistic
    assert np.abs(difference[near]).max() < 2 * (0.02 + 0.45)
    assert np.abs(difference[near]).mean() < 0.02


@both
def test_few_shadows_beat_lira(attack):
    # Five shadows: LiRA's own deviations of 2 scores are mostly noise. Standard error of either AUC, of
    # about 6 x 1000 scores a class with examples shared: below 0.5 / sqrt(1000) = 0.016.
    scores = planted(4, models=6, examples=2000)

    def auc(result):
        members = np.sort(result.statistic[result.member & result.defined])
        nonmembers = result.statistic[~result.member & result.defined]
        return 1 - np.searchsorted(members, nonmembers).mean() / len(members)

    assert auc(attack(scores)) > auc(attacks.lira(scores)) + 4 * 0.016


def test_prior_equals_the_moment_formulas_on_awkward_numbers_of_shadows():
    scores = planted(5, models=5, examples=40)
    member = np.array(scores.member)
    member[:, :6], member[1:, 6:9] = True, False
    inside, outside = _priors(scores.log_odds, sides(Scores(scores.log_odds, member)))
    for target in range(5):
        expected = bavaria_prior(scores.log_odds, member, target)
        for prior, values in zip((inside, outside), expected, strict=True):
            np.testing.assert_allclose([part[target, 0] for part in prior], values, rtol=1e-9)


def test_student_t_grows_with_the_log_of_an_outlying_score():
    # (alpha_n + 1/2) log(1 + distance^2 / spread) a side, where no prior makes alpha_n exceed 1002 + 11 /
    # 2; the Gaussian's square is of order 10^12.
    scores = planted(6, models=12, examples=60)
    log_odds = np.array(scores.log_odds)
    log_odds[0] += 1e6
    shifted = Scores(log_odds, scores.member)
    assert np.abs(attacks.bavaria_t(shifted).statistic[0]).max() < 2 * 1008 * np.log(1e12)
    assert np.abs(attacks.bavaria_n(shifted).statistic[0]).max() > 1e10
