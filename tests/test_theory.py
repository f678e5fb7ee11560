"""The closed forms against enumeration, simulation and each other; the simulation against the closed forms.

Gaussian scores of independent models make the checks exact: for each target the mean gives z ~ N(0, 1) and
the variance (n - 1) s² / sigma² ~ chi²(n - 1). Targets of different classes are independent, so sums over
targets are chi² of known degrees of freedom. A check fails a correct implementation with probability TAIL.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxmia._validate import InputError
from jaxmia.theory import (
    ScoreMoments,
    asymptotic_log_advantage,
    class_mean_heads,
    fresh_moments,
    pool_moments,
    simulate_class_mean_scores,
    simulated_features,
    threshold_tpr,
)

TAIL = 1e-4
NOISE = 0.3


def assert_within_chi2(value, degrees):
    low, high = stats.chi2.ppf([TAIL / 2, 1 - TAIL / 2], degrees)
    assert low <= value <= high


def assert_moments(scores, member, moments):
    """Scores [models, targets] of independent targets have the moments, on both sides."""
    for side, mu, sigma in [
        (member, moments.mu_in, moments.sigma_in),
        (~member, moments.mu_out, moments.sigma_out),
    ]:
        count = side.sum(axis=0)
        mean = np.sum(scores * side, axis=0) / count
        squares = np.sum(side * (scores - mean) ** 2, axis=0)
        assert_within_chi2(np.sum((mean - mu) ** 2 / (sigma**2 / count)), len(count))
        assert_within_chi2(np.sum(squares / sigma**2), np.sum(count - 1))


def calls(scores, moments, fpr):
    """Targets called members [models, targets] at their exact thresholds, on the side where members lie."""
    direction = np.sign(moments.mu_in - moments.mu_out)
    return direction * (scores - moments.mu_out) > moments.sigma_out * stats.norm.isf(fpr)


def standardised_count(called, side, rate):
    """(count - expected) / deviation of the calls on one side, each Bernoulli with the rate of its target."""
    expected = np.sum(side * rate)
    return (np.sum(called & side) - expected) / np.sqrt(np.sum(side * rate * (1 - rate)))


def gaussian_examples(count=20, dim=12, seed=0):
    """Examples of one class, its mean repeated, and a full covariance matrix."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((dim, dim)) / np.sqrt(dim)
    covariance = root @ root.T
    mean = rng.standard_normal(dim) / np.sqrt(dim)
    return mean + rng.standard_normal((count, dim)) @ root.T, np.tile(mean, (count, 1)), covariance


@pytest.fixture(scope="module")
def simulation():
    return simulate_class_mean_scores(
        jax.random.key(0), shots=8, classes=64, dim=32, noise_scale=NOISE, num_models=2000
    )


@pytest.fixture(scope="module")
def simulation_moments(simulation):
    return fresh_moments(simulation.targets, simulation.class_means, shots=8, covariance=NOISE**2)


def test_simulated_scores_have_the_moments_of_the_closed_form(simulation, simulation_moments):
    assert_moments(
        np.asarray(simulation.scores, dtype=float), np.asarray(simulation.member), simulation_moments
    )


@pytest.mark.parametrize("fpr", [0.1, 0.01])
def test_simulated_rates_at_the_exact_threshold(simulation, simulation_moments, fpr):
    """The standardised count of 64 000 independent calls is N(0, 1): over 600 are expected to succeed."""
    member = np.asarray(simulation.member)
    called = calls(np.asarray(simulation.scores, dtype=float), simulation_moments, fpr)
    tpr = threshold_tpr(simulation_moments, fpr=fpr)
    bound = stats.norm.isf(TAIL / 2)
    assert abs(standardised_count(called, member, tpr)) < bound
    assert abs(standardised_count(called, ~member, np.full_like(tpr, fpr))) < bound
    assert standardised_count(called, member, np.full_like(tpr, fpr)) > 10 * bound, (
        "the attack is far from chance"
    )


@pytest.mark.parametrize("fpr", [0.1, 0.01])
def test_every_simulated_example_has_its_own_tpr(simulation, simulation_moments, fpr):
    """Each of 64 binomial counts leaves its bounds with probability TAIL / 64 in a correct implementation."""
    member = np.asarray(simulation.member)
    called = calls(np.asarray(simulation.scores, dtype=float), simulation_moments, fpr)
    tpr = threshold_tpr(simulation_moments, fpr=fpr)
    counts, trials = np.sum(called & member, axis=0), member.sum(axis=0)
    low, high = (stats.binom.ppf(q, trials, tpr) for q in (TAIL / 128, 1 - TAIL / 128))
    assert ((low <= counts) & (counts <= high)).all()
    common = np.full_like(tpr, tpr.mean())
    spread = np.sum((counts - trials * common) ** 2 / (trials * common * (1 - common)))
    assert spread > stats.chi2.isf(TAIL, len(tpr)), "targets differ by more than their counts' noise"


def test_full_covariance_against_draws_with_numpy():
    """IN and OUT scores drawn member by member for each example on its own: independent, exactly Gaussian."""
    examples, means, covariance = gaussian_examples()
    shots, num_models = 4, 500
    rng = np.random.default_rng(3)
    member = rng.random((num_models, len(examples))) < 0.5
    scores = np.empty(member.shape)
    for model, i in np.ndindex(member.shape):
        drawn = rng.multivariate_normal(means[i], covariance, size=shots, method="cholesky")
        drawn[0] = examples[i] if member[model, i] else drawn[0]
        scores[model, i] = examples[i] @ drawn.mean(axis=0)
    assert_moments(scores, member, fresh_moments(examples, means, shots=shots, covariance=covariance))


def test_a_variance_means_an_isotropic_covariance():
    examples, means, _ = gaussian_examples()
    number = fresh_moments(examples, means, shots=5, covariance=0.09)
    matrix = fresh_moments(examples, means, shots=5, covariance=0.09 * np.eye(12))
    np.testing.assert_allclose(number, matrix, rtol=1e-12)
    np.testing.assert_allclose(number.sigma_out, 0.3 * np.linalg.norm(examples, axis=1) / np.sqrt(5))


def test_threshold_tpr_is_the_tail_beyond_the_threshold_on_either_side():
    above = ScoreMoments(*np.array([[1.0], [0.5], [0.2], [0.7]]))
    below = ScoreMoments(-above.mu_in, above.sigma_in, -above.mu_out, above.sigma_out)
    threshold = stats.norm.isf(0.05, above.mu_out, above.sigma_out)
    expected = stats.norm.sf(threshold, above.mu_in, above.sigma_in)
    np.testing.assert_allclose(threshold_tpr(above, fpr=0.05), expected, rtol=1e-12)
    np.testing.assert_allclose(threshold_tpr(below, fpr=0.05), expected, rtol=1e-12)


def test_threshold_tpr_reduces_to_the_location_scale_formula():
    shift, sigma, fpr = np.array([0.0, 0.3, 2.0]), 0.7, 0.01
    moments = ScoreMoments(shift, np.full(3, sigma), np.zeros(3), np.full(3, sigma))
    expected = 1 - stats.norm.cdf(stats.norm.ppf(1 - fpr) - shift / sigma)
    np.testing.assert_allclose(threshold_tpr(moments, fpr=fpr), expected, rtol=1e-9)


@pytest.mark.parametrize("fpr", [0.1, 0.001])
def test_exact_advantage_approaches_the_asymptotic_law_at_its_rate(fpr):
    """Expanding the exact TPR: exact / asymptotic = 1 + S^-1/2 z (D - 1/D) / 2 + O(1/S).

    Here z = Phi^-1(1 - fpr) and D = |<x, x - m>| / sqrt(xᵀ Sigma x); the -1/D is due to sigma_in < sigma_out.
    """
    examples, means, covariance = gaussian_examples()
    shift = np.abs(np.sum(examples * (examples - means), axis=1))
    scaled = shift / np.sqrt(np.sum((examples @ covariance) * examples, axis=1))
    first_order = stats.norm.isf(fpr) * (scaled - 1 / scaled) / 2

    def relative_excess(shots):
        law = {"shots": shots, "covariance": covariance}
        exact = threshold_tpr(fresh_moments(examples, means, **law), fpr=fpr) - fpr
        return exact / np.exp(asymptotic_log_advantage(examples, means, fpr=fpr, **law)) - 1

    def remainder(shots):
        return np.max(np.abs(np.sqrt(shots) * relative_excess(shots) - first_order) / (1 + first_order**2))

    assert remainder(10**6) < 1e-2
    assert remainder(10**4) / remainder(10**6) == pytest.approx(10, rel=0.1), "the remainder falls as S^-1/2"


@pytest.mark.parametrize("fpr", [0.1, 0.01])
def test_average_advantage_has_slope_minus_one_half(fpr):
    """The local slope of the mean over x is -1/2 + O(S^-1/2): at a hundredfold S, a tenth of the excess."""
    examples, means, covariance = gaussian_examples(count=200)

    def average(shots):
        moments = fresh_moments(examples, means, shots=shots, covariance=covariance)
        return np.mean(threshold_tpr(moments, fpr=fpr) - fpr)

    def excess_slope(shots):
        return np.log(average(4 * shots) / average(shots)) / np.log(4) + 0.5

    assert abs(excess_slope(10**8)) < 1e-3
    assert excess_slope(10**6) / excess_slope(10**8) == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize(("pool", "shots"), [(8, 4), (9, 3), (6, 2)])
def test_pool_moments_by_enumeration_of_every_subset(pool, shots):
    """All S-subsets of a class are equally likely. Two interleaved classes, to test the grouping too."""
    rng = np.random.default_rng(4)
    features = rng.standard_normal((2 * pool, 5))
    labels = np.tile([1, 0], pool)
    moments = pool_moments(features, labels, shots=shots)
    for label in (0, 1):
        rows = np.flatnonzero(labels == label)
        subsets = [np.array(subset) for subset in itertools.combinations(rows, shots)]
        heads = np.stack([features[subset].mean(axis=0) for subset in subsets])
        for i in rows:
            scores = heads @ features[i]
            inside = np.array([i in subset for subset in subsets])
            expected = (
                scores[inside].mean(),
                scores[inside].std(),
                scores[~inside].mean(),
                scores[~inside].std(),
            )
            np.testing.assert_allclose([m[i] for m in moments], expected, rtol=1e-10)


@pytest.mark.parametrize("multiplier", [2, 4])
def test_a_fixed_pool_is_less_variable_than_fresh_draws_by_sqrt_one_minus_r(multiplier):
    """Given x, the variance over the others is (xᵀ Sigma x) chi²(n - 2) / (n - 2). One example of each of 100 pools."""
    shots, pools, pool = 16, 100, 16 * multiplier
    features, labels, means = (
        np.asarray(array, dtype=float)
        for array in simulated_features(
            jax.random.key(5), classes=pools, per_class=pool, dim=24, noise_scale=NOISE
        )
    )
    in_pool = pool_moments(features, labels, shots=shots)
    fresh = fresh_moments(features, means[labels.astype(int)], shots=shots, covariance=NOISE**2)
    first = slice(None, None, pool)
    others = pool - 1
    for found, ideal, left in [
        (in_pool.sigma_out, fresh.sigma_out, 1 - shots / others),
        (in_pool.sigma_in, fresh.sigma_in, 1 - (shots - 1) / others),
    ]:
        ratio = (found[first] / ideal[first]) ** 2
        assert_within_chi2(np.sum(ratio / left) * (others - 1), pools * (others - 1))
        assert left == pytest.approx(1 - 1 / multiplier, rel=1 / shots), "which is 1 - r for many shots"


@pytest.fixture(scope="module")
def pool_simulation():
    """Scores and membership [models, pools] of one example from each of 64 pools, and its moments."""
    shots, pools, pool, num_models = 64, 64, 128, 500
    features, labels, means = simulated_features(
        jax.random.key(6), classes=pools, per_class=pool, dim=16, noise_scale=NOISE
    )
    rng = np.random.default_rng(7)
    scores, member = np.empty((num_models, pools)), np.empty((num_models, pools), dtype=bool)
    for c, rows in enumerate(np.arange(pools * pool).reshape(pools, pool)):
        masks = rng.random((num_models, pool)).argsort(axis=1) < shots
        heads = class_mean_heads(features[rows], labels[rows] - c, member=jnp.asarray(masks), num_classes=1)
        scores[:, c] = np.asarray(heads[:, 0, :] @ features[rows[0]])
        member[:, c] = masks[:, 0]
    first = slice(None, None, pool)
    in_pool = ScoreMoments(*(m[first] for m in pool_moments(features, labels, shots=shots)))
    fresh = fresh_moments(features[first], means, shots=shots, covariance=NOISE**2)
    return scores, member, in_pool, fresh


def test_scores_from_fixed_pools_have_the_moments_of_the_closed_form(pool_simulation):
    """Means over 250 models are Gaussian; a finite population has less kurtosis: variances vary less."""
    scores, member, in_pool, _ = pool_simulation
    assert_moments(scores, member, in_pool)


@pytest.mark.parametrize("fpr", [0.1, 0.05])
def test_rates_from_fixed_pools_follow_the_pool_not_fresh_draws(pool_simulation, fpr):
    """Scores are not quite Gaussian: their excess kurtosis is near -6 r / S = -3/64 (r = 1/2, S = 64).

    By Edgeworth a rate is off by at most |kurtosis| / 24 max |(z³ - 3z) phi(z)| = 0.047 / 24 * 0.55 = 0.0011;
    skewness averages out over pools. Rates of 64 x 250 scores have deviations of 0.0017 (FPR 0.05) to 0.004.
    """
    scores, member, in_pool, fresh = pool_simulation
    called = calls(scores, in_pool, fpr)
    bound = stats.norm.isf(TAIL / 2)
    assert abs(standardised_count(called, member, threshold_tpr(in_pool, fpr=fpr))) < bound
    assert abs(standardised_count(called, ~member, np.full(member.shape[1], fpr))) < bound
    assert standardised_count(called, member, threshold_tpr(fresh, fpr=fpr)) > bound, (
        "the bias of the pool shows"
    )


def test_class_mean_heads_agree_with_a_loop():
    rng = np.random.default_rng(8)
    features = rng.standard_normal((30, 4)).astype(np.float32)
    labels = rng.integers(0, 3, 30)
    member = rng.random((6, 30)) < 0.5
    member[2, labels == 1] = False
    heads = class_mean_heads(
        jnp.asarray(features), jnp.asarray(labels), member=jnp.asarray(member), num_classes=3
    )
    assert heads.shape == (6, 3, 4)
    for model, label in np.ndindex(6, 3):
        rows = member[model] & (labels == label)
        expected = features[rows].mean(axis=0) if rows.any() else np.zeros(4)
        np.testing.assert_allclose(heads[model, label], expected, atol=1e-6)


def test_simulated_features_follow_the_model():
    features, labels, means = simulated_features(
        jax.random.key(9), classes=5, per_class=200, dim=8, noise_scale=NOISE
    )
    assert features.shape == (1000, 8)
    np.testing.assert_array_equal(labels, np.repeat(np.arange(5), 200))
    np.testing.assert_allclose(np.linalg.norm(means, axis=1), 1, rtol=1e-6)
    residuals = np.asarray(features - means[labels], dtype=float).reshape(5, 200, 8)
    assert_within_chi2(np.sum(residuals**2) / NOISE**2, residuals.size)
    assert_within_chi2(np.sum(residuals.mean(axis=1) ** 2) / (NOISE**2 / 200), 5 * 8)


def small_simulation(**changes):
    settings = {
        "shots": 3,
        "classes": 4,
        "dim": 5,
        "noise_scale": NOISE,
        "num_models": 20,
        "targets_per_class": 2,
    }
    return simulate_class_mean_scores(jax.random.key(10), **{**settings, **changes})


def test_a_simulated_model_depends_on_its_index_only():
    whole = small_simulation()
    other = small_simulation(num_models=13, models_per_chunk=5)
    np.testing.assert_array_equal(other.member, whole.member[:13])
    np.testing.assert_allclose(other.scores, whole.scores[:13], rtol=1e-5)
    assert len({row.tobytes() for row in np.asarray(whole.scores)}) == 20


def test_simulated_targets_are_sorted_by_class_and_members_half_of_the_time():
    simulation = small_simulation(num_models=400)
    np.testing.assert_array_equal(simulation.labels, np.repeat(np.arange(4), 2))
    assert simulation.scores.shape == simulation.member.shape == (400, 8)
    assert simulation.targets.shape == (8, 5)
    low, high = stats.binom.ppf([TAIL / 2, 1 - TAIL / 2], 3200, 0.5)
    assert low <= np.sum(np.asarray(simulation.member)) <= high


def test_targets_of_one_class_do_not_enter_each_others_heads():
    """With tiny noise about the class mean, OUT scores are <x, m> and IN scores are fixed by x alone."""
    simulation = small_simulation(noise_scale=1e-4)
    moments = fresh_moments(
        simulation.targets, simulation.class_means[simulation.labels], shots=3, covariance=1e-8
    )
    expected = np.where(simulation.member, moments.mu_in, moments.mu_out)
    np.testing.assert_allclose(simulation.scores, expected, atol=7 * np.max(moments.sigma_out))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"shots": 1}, "shots=1"),
        ({"classes": 0}, "classes=0"),
        ({"dim": 0}, "dim=0"),
        ({"noise_scale": 0.0}, "noise_scale=0.0"),
        ({"num_models": 0}, "num_models=0"),
        ({"targets_per_class": 0}, "per_class=0"),
        ({"models_per_chunk": 0}, "models_per_chunk=0"),
    ],
)
def test_simulation_refuses_bad_arguments(bad, message):
    with pytest.raises(InputError, match=message):
        small_simulation(**bad)


def test_closed_forms_refuse_bad_arguments():
    examples, means, covariance = gaussian_examples()
    with pytest.raises(InputError, match=r"own_means\.shape"):
        fresh_moments(examples, means[0], shots=4, covariance=covariance)
    with pytest.raises(InputError, match=r"examples\.shape"):
        fresh_moments(examples[0], means[0], shots=4, covariance=covariance)
    with pytest.raises(InputError, match=r"covariance\.shape"):
        fresh_moments(examples, means, shots=4, covariance=covariance[0])
    with pytest.raises(InputError, match="must be positive"):
        fresh_moments(examples, means, shots=4, covariance=0.0)
    with pytest.raises(InputError, match="shots=1"):
        fresh_moments(examples, means, shots=1, covariance=covariance)
    with pytest.raises(InputError, match="logarithm"):
        asymptotic_log_advantage(means, means, shots=4, covariance=covariance, fpr=0.1)
    with pytest.raises(InputError, match="fpr=1"):
        threshold_tpr(fresh_moments(examples, means, shots=4, covariance=covariance), fpr=1.0)
    labels = np.zeros(20, dtype=int)
    with pytest.raises(InputError, match="more than 20 examples"):
        pool_moments(examples, labels, shots=19)
    with pytest.raises(InputError, match=r"labels\.shape"):
        pool_moments(examples, labels[:3], shots=4)
