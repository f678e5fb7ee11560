"""Attacks and records' vulnerability from paired scores, and means and deviations shrunk towards known ones."""

import dataclasses

import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxmia import attacks
from jaxmia._validate import InputError
from jaxmia.attacks.shrinkage import (
    jackknife,
    levels,
    mean_residuals,
    posterior,
    prior_error,
    residuals,
    shrunk,
    sums_of,
)
from jaxmia.scores import Scores
from jaxmia.vulnerability.curves import per_example_vulnerability

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


def planted_means(seed, *, targets, examples, number, error):
    """Means of so many standard Gaussian scores, about true means that lie about a prior of 0."""
    rng = np.random.default_rng(seed)
    truth = error * rng.normal(size=examples)
    return truth, truth + rng.normal(size=(targets, examples)) / np.sqrt(number)


@pytest.mark.parametrize("error", [0.0, 0.5])
def test_the_error_of_a_prior_mean_is_found(error):
    _, mean = planted_means(0, targets=2, examples=20_000, number=8, error=error)
    found = prior_error(
        sums_of(mean_residuals(np.full(mean.shape, 8), mean, np.zeros(20_000), np.ones(20_000)))
    )
    # Squares of Gaussians have a variance of twice their mean's square: four standard errors.
    np.testing.assert_allclose(found, error**2, atol=4 * np.sqrt(2 / 20_000) * (error**2 + 1 / 8))


def test_drawn_means_beat_both_the_samples_and_the_prior():
    truth, mean = planted_means(1, targets=1, examples=20_000, number=8, error=0.5)
    residual = mean_residuals(
        np.full(mean.shape, 8), 3 + 2 * mean, np.full(20_000, 3.0), np.full(20_000, 4.0)
    )
    found, variance = posterior(residual, prior_error(sums_of(residual)))
    errors = [np.mean((each - truth) ** 2) for each in (found[0], mean[0], np.zeros(20_000))]
    assert errors[0] < min(errors[1:])
    assert errors[0] == pytest.approx(variance.mean(), rel=4 * np.sqrt(2 / 20_000))
    assert errors[0] == pytest.approx(1 / (8 + 1 / 0.25), rel=4 * np.sqrt(2 / 20_000))


def with_prior(scores, *, wrong=0.0, seed=9):
    """Pairs with means and deviations of their sample, the means off by so many deviations."""
    member, examples = scores.member, scores.member.shape[1]
    sides = [np.where(side, scores.log_odds, scores.flipped_log_odds) for side in (member, ~member)]
    off = wrong * np.random.default_rng(seed).normal(size=(2, examples))
    means, variances = (np.stack([getattr(side, name)(axis=0) for side in sides]) for name in ("mean", "var"))
    return dataclasses.replace(scores, prior_mean=means + off * np.sqrt(variances), prior_variance=variances)


@pytest.mark.parametrize("pairs", [True, False])
def test_shrunk_means_are_those_of_a_slow_loop(pairs):
    scores = with_prior(paired(6), wrong=0.5)
    found = attacks.lira(scores, paired=pairs, location="shrunk", variance="global").statistic
    log_odds, member = scores.log_odds, scores.member
    for target in range(len(member)):
        others = np.delete(np.arange(len(member)), target)
        density = {}
        for row, side in ((0, True), (1, False)):
            values = [
                log_odds[others, x][member[others, x] == side]
                if not pairs
                else np.where(
                    member[others, x] == side, log_odds[others, x], scores.flipped_log_odds[others, x]
                )
                for x in range(member.shape[1])
            ]
            deviation = np.sqrt(scores.prior_variance[row])
            seen = [x for x, of_x in enumerate(values) if len(of_x)]
            offset = {x: (values[x].mean() - scores.prior_mean[row, x]) / deviation[x] for x in seen}
            error = max(np.mean([offset[x] ** 2 - 1 / len(values[x]) for x in seen]), 0.0)
            centre = scores.prior_mean[row].copy()
            for x in seen:
                centre[x] += deviation[x] * offset[x] * error / (error + 1 / len(values[x]))
            spread = np.sqrt(np.mean(np.concatenate([values[x] - values[x].mean() for x in seen]) ** 2))
            density[side] = scipy.stats.norm.logpdf(log_odds[target], centre, spread)
        np.testing.assert_allclose(found[target], density[True] - density[False], rtol=1e-9, atol=1e-9)


def test_shadows_overrule_a_bad_prior_and_a_good_one_stands_in_for_them():
    # A prior off by 1e4 deviations has a weight of 1e-8 beside 8 shadows.
    scores = paired(7, examples=400)
    plain = attacks.lira(scores, paired=True, variance="global").statistic
    bad = with_prior(scores, wrong=1e4)
    found = attacks.lira(bad, paired=True, variance="global", location="shrunk").statistic
    np.testing.assert_allclose(found, plain, atol=1e-2)
    # A prior equal to the sample shows no error beyond sampling, and is used as it is.
    good = with_prior(scores)
    found = attacks.lira(good, paired=True, variance="global", location="shrunk", calibrated=True).statistic
    nats = attacks.analytic(good, calibrated=True).statistic * np.sqrt(good.prior_variance[1])
    deviation = nats / found  # one for every target
    np.testing.assert_allclose(deviation, np.broadcast_to(deviation[:, :1], deviation.shape), rtol=1e-9)


def test_a_known_mean_needs_no_shadow():
    scores = paired(8)
    lonely = dataclasses.replace(
        scores, member=np.concatenate([np.ones((9, 1), bool), scores.member[:, 1:]], axis=1)
    )
    assert not attacks.lira(lonely).defined[:, 0].any()
    found = attacks.lira(with_prior(lonely), location="shrunk", variance="shrunk")
    assert found.defined.all()
    assert np.isfinite(found.statistic).all()


def test_a_drawn_separation_holds_its_stated_error():
    # The prior's shift is off by a tenth of a deviation from record to record: no better than the pairs'.
    rng = np.random.default_rng(11)
    scores = paired(12, models=9, examples=20_000, spread=np.ones(20_000))
    mean_in = 1 + 0.1 * rng.normal(size=20_000)
    known = dataclasses.replace(
        scores, prior_mean=np.stack([mean_in, np.zeros(20_000)]), prior_variance=np.full((2, 20_000), 1.01)
    )
    curve = per_example_vulnerability(known, 0.1, paired=True, shrink=True)
    planted = 1 / np.sqrt(1.01)
    error = np.sqrt(np.mean((curve.separation - planted) ** 2))
    own = per_example_vulnerability(scores, 0.1, paired=True).separation
    assert error < min(np.sqrt(np.mean((each - planted) ** 2)) for each in (own, mean_in / np.sqrt(1.01)))
    assert np.sqrt(np.mean(curve.separation_error**2)) == pytest.approx(error, rel=0.1)


def test_shrinking_needs_fewer_shadows():
    spread = np.random.default_rng(5).uniform(0.5, 1.5, 4000)
    scores = paired(3, models=6, examples=4000, spread=spread)
    known = dataclasses.replace(
        scores,
        prior_mean=np.stack([spread, np.zeros(4000)]),
        prior_variance=np.tile(1.01 * spread**2, (2, 1)),
    )
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
        attacks.rmia(dataclasses.replace(plain, flipped_log_odds=np.zeros((2, 2))), paired=True)
    with pytest.raises(InputError, match=r"prior_variance=None must be given"):
        attacks.lira(plain, variance="shrunk")
    with pytest.raises(InputError, match=r"prior_mean=None must be given"):
        attacks.lira(plain, location="shrunk")
    with pytest.raises(InputError, match=r"lowest prior_variance=0.0 must be positive"):
        attacks.lira(dataclasses.replace(plain, prior_variance=np.zeros((2, 40))), variance="shrunk")
    with pytest.raises(InputError, match=r"shrink=True must be False unless paired=True"):
        per_example_vulnerability(plain, 0.1, shrink=True)
