"""Recipes that were measured and not kept: the sensitivities and accounting of benchmarks/private_recipes.py."""

import importlib
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmia.data.feature_set import feature_set
from jaxmia.data.membership import MembershipMasks
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.settings import Hyperparams, TrainConfig

FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def recipes(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("private_recipes")


@pytest.mark.parametrize("ridge", [1.0, 10.0, 1000.0])
def test_minima_move_by_at_most_the_sensitivity_of_output_perturbation(ridge):
    """Adversarial pairs: unit records, each left out in turn, also where it contradicts all others."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(12, 4))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    features[1:6], labels = features[0], np.arange(12) % 3
    labels[:6] = [0, 1, 1, 1, 1, 1]
    data = feature_set(features, labels)
    member = ~np.eye(13, 12, k=-1, dtype=bool)  # the first model has all
    masks = MembershipMasks(jnp.asarray(member), jnp.arange(13), "bernoulli", 0.5)
    config = TrainConfig("newton", steps=50, intercept=False)
    hyper = Hyperparams(0.1, weight_decay=None, ridge=ridge)
    kernels = np.asarray(train_ensemble(0, data, masks, hyper, config).params["params"]["kernel"])
    moved = np.linalg.norm((kernels[1:] - kernels[0]).reshape(12, -1), axis=1) * ridge
    assert moved.max() <= np.sqrt(2)
    if ridge == 1000.0:  # then the minimum is one gradient step, of norm sqrt(1 - 1/C) for each record
        np.testing.assert_allclose(moved, np.sqrt(2 / 3), rtol=0.02)


def test_moments_and_sums_move_by_exactly_their_sensitivity():
    record = np.array([0.6, 0.8, 0.0])
    for weight in (1.0, 3.0):
        moved = np.concatenate([np.outer(record, record).ravel(), weight * record])
        assert np.linalg.norm(moved) == pytest.approx(np.sqrt(1 + weight**2))


def test_the_softmax_bends_by_at_most_a_half_in_one_rank_less_than_classes():
    rng = np.random.default_rng(0)
    for scale in (0.1, 1.0, 10.0):
        logits = scale * rng.normal(size=5)
        shares = np.exp(logits) / np.exp(logits).sum()
        spectrum = np.linalg.eigvalsh(np.diag(shares) - np.outer(shares, shares))
        assert spectrum[-1] <= 0.5 + 1e-12
        assert spectrum[0] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("epsilon", "ridge"), [(1.0, 50.0), (4.0, 5.0)])
def test_noise_of_objective_perturbation_meets_delta_by_simulation(recipes, monkeypatch, epsilon, ridge):
    monkeypatch.setattr(recipes, "DELTA", 1e-2)
    deviation = recipes.objective_loss_noise(epsilon, 4, ridge)
    rng = np.random.default_rng(0)
    chi = np.linalg.norm(rng.normal(size=(400_000, 3)), axis=1)
    losses = 3 * np.log1p(1 / (2 * ridge)) + 1 / deviation**2 + np.sqrt(2) * chi / deviation
    found = np.mean(np.maximum(0, 1 - np.exp(epsilon - losses)))
    assert found == pytest.approx(1e-2, rel=0.05)  # 400 000 draws: a standard error of about 1%
    assert found <= 1e-2 * 1.03


def test_too_small_a_ridge_allows_no_noise(recipes):
    assert recipes.objective_loss_noise(0.5, 10, 1.0) == np.inf
