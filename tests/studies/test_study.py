"""The simplified model through the whole pipeline, heads replaced by class means, against its closed form.

Simulated scores go through Scores, LiRA, the calibrated operating point and the per-example vulnerability, as the
scores of trained heads do. Bounds are standard errors of the quantities compared; each test is wrong by chance with a
probability of about 1e-4.
"""

import jax
import numpy as np
import pytest
import scipy.stats

from jaxmia import attacks
from jaxmia.data.feature_set import feature_set
from jaxmia.data.membership import draw_membership
from jaxmia.data.pool import candidate_pool
from jaxmia.laws.fit import fit_power_law
from jaxmia.scores import Scores
from jaxmia.stats.operating_points import tpr_at_fpr
from jaxmia.theory import (
    class_mean_heads,
    fresh_moments,
    pool_moments,
    simulate_class_mean_scores,
    simulated_features,
    threshold_tpr,
)
from jaxmia.vulnerability.curves import per_example_vulnerability

NOISE = 0.3
MODELS = 1500
TARGETS = 60
FPR = 0.1


def simulated(shots):
    simulation = simulate_class_mean_scores(
        jax.random.key(7), shots=shots, classes=TARGETS, dim=48, noise_scale=NOISE, num_models=MODELS
    )
    targets, means = (np.asarray(array, np.float64) for array in (simulation.targets, simulation.class_means))
    exact = fresh_moments(targets, means, shots=shots, covariance=NOISE**2)
    return Scores(simulation.scores, simulation.member), exact


@pytest.fixture(scope="module")
def study():
    return simulated(shots=20)


def separation(moments):
    return (moments.mu_in - moments.mu_out) / np.sqrt((moments.sigma_in**2 + moments.sigma_out**2) / 2)


def assert_standard_normal(z):
    """The sum of squares of independent standard normals is chi-square."""
    low, high = scipy.stats.chi2.ppf([5e-5, 1 - 5e-5], z.size)
    assert low < np.sum(z**2) < high


@pytest.mark.thorough
def test_every_example_has_the_separation_of_the_closed_form(study):
    scores, exact = study
    curve = per_example_vulnerability(scores, FPR)
    assert_standard_normal((curve.separation - separation(exact)) / curve.separation_error)


@pytest.mark.thorough
def test_average_vulnerability_is_that_of_the_closed_form(study):
    scores, exact = study
    curve = per_example_vulnerability(scores, FPR)
    expected = scipy.stats.norm.sf(scipy.stats.norm.isf(FPR) - separation(exact))
    error = np.sqrt(np.sum(curve.tpr_error**2)) / TARGETS
    assert abs(curve.tpr.mean() - expected.mean()) < 4 * error
    assert error < 0.01  # the test can tell 0.04 apart


def test_calibrated_lira_counts_what_the_closed_form_says(study):
    scores, exact = study
    result = attacks.lira(scores, calibrated=True)
    point = tpr_at_fpr(result, FPR, evaluation="calibrated")
    expected = threshold_tpr(exact, fpr=FPR)
    # Counting members, and a threshold estimated from about MODELS / 2 non-members of each example.
    z = scipy.stats.norm.isf(FPR)
    counting = np.sum(expected * (1 - expected)) / TARGETS / (TARGETS * MODELS / 2)
    threshold = (1 + z**2 / 2) / (MODELS / 2) * scipy.stats.norm.pdf(0) ** 2 / TARGETS
    assert abs(point.tpr - expected.mean()) < 4 * np.sqrt(counting + threshold)


def test_pool_halved_by_the_ordinary_masks_follows_the_finite_pool_form():
    """candidate_pool and draw_membership as a run uses them; only the training is replaced by class means."""
    shots, classes = 12, 8
    features, labels, _ = simulated_features(
        jax.random.key(3), classes=classes, per_class=30, dim=48, noise_scale=NOISE
    )
    data = feature_set(np.asarray(features), np.asarray(labels))
    pool = candidate_pool(data, classes=classes, shots=shots, key=jax.random.key(1)).data
    masks = draw_membership(jax.random.key(2), pool.labels, num_models=MODELS, design="fixed_size")
    heads = class_mean_heads(
        jax.numpy.asarray(pool.features),
        jax.numpy.asarray(pool.labels),
        member=masks.member,
        num_classes=classes,
    )
    scores = np.einsum("ed,med->me", pool.features, np.asarray(heads)[:, pool.labels])
    curve = per_example_vulnerability(Scores(scores, masks.member), FPR)
    exact = pool_moments(pool.features.astype(np.float64), pool.labels, shots=shots)
    z = (curve.separation - separation(exact)) / curve.separation_error
    # Halves of one pool: scores of one class are correlated, so each class gives one independent mean of z.
    class_means = np.array([z[pool.labels == label].mean() for label in range(classes)])
    assert abs(class_means.mean()) < 4 * class_means.std(ddof=1) / np.sqrt(classes)
    assert 0.8 < z.std() < 1.25


@pytest.mark.slow
def test_power_law_of_simulated_scores_is_that_of_the_closed_form():
    """The slope that a run would report, against the slope of exact values at the same S."""
    shots = np.array([20, 40, 80])
    measured, error, expected = np.empty((3, 3))
    for place, value in enumerate(shots):
        scores, exact = simulated(int(value))
        curve = per_example_vulnerability(scores, FPR)
        measured[place] = curve.tpr.mean() - FPR
        error[place] = np.sqrt(np.sum(curve.tpr_error**2)) / TARGETS
        expected[place] = scipy.stats.norm.sf(scipy.stats.norm.isf(FPR) - separation(exact)).mean() - FPR
    table = {"shots": shots, "classes": np.full(3, 2), "fpr": np.full(3, FPR)}
    law = fit_power_law(table | {"advantage": measured})[FPR]
    exact_law = fit_power_law(table | {"advantage": expected})[FPR]
    # The slope is linear in log10 of the advantages: its error follows from theirs.
    offset = np.log10(shots) - np.log10(shots).mean()
    slope_error = np.sqrt(np.sum((offset * error / expected / np.log(10)) ** 2)) / np.sum(offset**2)
    assert abs(law.slope_shots - exact_law.slope_shots) < 4 * slope_error
    assert slope_error < 0.02
    assert exact_law.slope_shots < -0.2
