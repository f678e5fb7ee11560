"""Attacks and records' vulnerability from paired scores and shrunk deviations."""

import numpy as np
import pytest
import scipy.special

from jaxmia import attacks
from jaxmia._validate import InputError
from jaxmia.attacks._shrinkage import jackknife, levels, residuals, shrunk, sums_of
from jaxmia.scores import Scores
from jaxmia.vulnerability import per_example_vulnerability

OPTIONS = [
    ("lira", {}),
    ("lira", {"variance": "global"}),
    ("lira", {"location": "median"}),
    ("lira", {"offline": True}),
    ("lira", {"calibrated": True}),
    ("rmia", {}),
    ("rmia", {"offline": True, "a": 0.3}),
    ("base", {}),
    ("bavaria_t", {}),
    ("bavaria_n", {}),
]


def paired(seed, *, models=9, examples=40, shift=1.0, spread=None):
    """Pairs whose two scores share most of their noise."""
    rng = np.random.default_rng(seed)
    member = rng.random((models, examples)) < 0.5
    spread = rng.uniform(0.5, 1.5, examples) if spread is None else spread
    common = rng.normal(size=member.shape)
    outside = spread * (common + 0.1 * rng.normal(size=member.shape))
    inside = spread * (common + 0.1 * rng.normal(size=member.shape) + shift)
    return Scores(
        np.where(member, inside, outside), member, flipped_log_odds=np.where(member, outside, inside)
    )


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_pairs_are_two_shadows_of_every_model(name, options):
    # The other models once with every example and once without: twice as many ordinary shadows for each target.
    scores = paired(0)
    function = getattr(attacks, name)
    found = function(scores, paired=True, **options)
    log_odds, member = scores.log_odds, scores.member
    inside, outside = (np.where(side, log_odds, scores.flipped_log_odds) for side in (member, ~member))
    for target in range(len(member)):
        others = np.delete(np.arange(len(member)), target)
        doubled = Scores(
            np.concatenate([log_odds[[target]], inside[others], outside[others]]),
            np.concatenate([member[[target]], np.ones_like(member[others]), np.zeros_like(member[others])]),
        )
        np.testing.assert_allclose(
            found.statistic[target], function(doubled, **options).statistic[0], rtol=1e-9
        )
    assert found.defined.all()


def test_paired_separation_and_its_error_hold_what_they_promise():
    # 4 000 records with one planted D: the mean is off by the bias of 1 / s (3 / (4 nu) of D to first order), and the
    # stated errors are those that the records show.
    scores = paired(1, models=33, examples=4000, spread=np.ones(4000))
    curve = per_example_vulnerability(scores, 0.1, paired=True)
    planted = 1 / np.sqrt(1.01)
    spread = curve.separation.std()
    assert curve.separation.mean() == pytest.approx(
        planted * (1 + 3 / (4 * 32)), abs=4 * spread / np.sqrt(4000) + 0.005
    )
    assert np.sqrt(np.mean(curve.separation_error**2)) == pytest.approx(
        spread, rel=4 / np.sqrt(2 * 4000) + 0.05
    )
    plain = per_example_vulnerability(scores, 0.1)
    assert spread < plain.separation.std() / 2  # what pairs are for: the shift's error is a seventh


def planted_variances(seed, *, targets, examples, degrees, own, level=0.0):
    """Sample variances of Gaussians whose log-variances lie about a prior of 1."""
    rng = np.random.default_rng(seed)
    truth = np.exp(level + own * rng.normal(size=examples))
    return truth, truth * rng.chisquare(degrees, (targets, examples)) / degrees


@pytest.mark.parametrize("own", [0.0, 0.3])
def test_levels_find_the_planted_spread(own):
    _, variance = planted_variances(0, targets=2, examples=20_000, degrees=7, own=own, level=0.5)
    found = levels(sums_of(residuals(variance, np.full(variance.shape, 7), np.ones(20_000))), 0.0)
    total = own**2 + scipy.special.polygamma(1, 3.5)
    np.testing.assert_allclose(found.found, 0.5, atol=4 * np.sqrt(total / 20_000))
    # The log of a chi-square of 7 degrees has a kurtosis below 5: four standard errors of its variance.
    np.testing.assert_allclose(found.spread, own**2, atol=4 * 2 * total / np.sqrt(20_000))


def test_shrunk_variances_beat_both_the_samples_and_the_prior():
    truth, variance = planted_variances(1, targets=1, examples=20_000, degrees=7, own=0.3)
    degrees, prior = np.full(variance.shape, 7), np.ones(20_000)
    residual = residuals(variance, degrees, prior)
    level = levels(sums_of(residual), 0.0)
    found, log_variance = shrunk(residual, level, prior)
    errors = [np.mean((np.log(each) - np.log(truth)) ** 2) for each in (found[0], variance[0], prior)]
    assert errors[0] < min(errors[1:])
    # The posterior variance of a Gaussian prior and the log-variance's own error, which is only nearly Gaussian.
    assert errors[0] == pytest.approx(np.mean(log_variance), rel=0.1)


def test_a_level_is_believed_as_far_as_the_shadows_carry_it():
    _, variance = planted_variances(2, targets=1, examples=500, degrees=7, own=0.0, level=0.2)
    sums = sums_of(residuals(variance, np.full(variance.shape, 7), np.ones(500)))
    certain, uncertain = levels(sums, 0.0), levels(sums, 1.0)
    assert certain.kept == certain.found
    assert abs(uncertain.kept[0, 0]) < 0.01 * abs(certain.kept[0, 0])


def test_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=12)
    left_out = np.array([np.delete(values, k).mean() for k in range(12)])[:, None]
    assert jackknife(left_out) == pytest.approx(values.var(ddof=1) / 12)


def test_shrinking_needs_fewer_shadows():
    spread = np.random.default_rng(5).uniform(0.5, 1.5, 4000)
    scores = paired(3, models=6, examples=4000, spread=spread)
    known = scores.replace(prior_variance=np.tile(1.01 * spread**2, (2, 1)))
    planted = 1 / np.sqrt(1.01)
    own, drawn = (
        per_example_vulnerability(each, 0.1, paired=True, shrink=shrink).separation
        for each, shrink in ((scores, False), (known, True))
    )
    assert np.mean((drawn - planted) ** 2) < np.mean((own - planted) ** 2) / 10
    ratio = attacks.lira(known, paired=True, variance="shrunk").statistic
    assert np.median(ratio[scores.member]) > 0 > np.median(ratio[~scores.member])


def test_bad_input_is_refused():
    scores = paired(4)
    plain = Scores(scores.log_odds, scores.member)
    with pytest.raises(InputError, match=r"flipped_log_odds=None must be given for paired=True"):
        attacks.lira(plain, paired=True)
    with pytest.raises(InputError, match=r"flipped_log_odds.shape=\(2, 2\) must equal \(9, 40\)"):
        attacks.rmia(plain.replace(flipped_log_odds=np.zeros((2, 2))), paired=True)
    with pytest.raises(InputError, match=r"prior_variance=None must be given"):
        attacks.lira(plain, variance="shrunk")
    with pytest.raises(InputError, match=r"lowest prior_variance=0.0 must be positive"):
        attacks.lira(plain.replace(prior_variance=np.zeros((2, 40))), variance="shrunk")
    with pytest.raises(InputError, match=r"shrink=True must be False unless paired=True"):
        per_example_vulnerability(plain, 0.1, shrink=True)
