import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxmia.data.feature_set import demo_features
from jaxmia.data.membership import draw_membership
from jaxmia.data.pool import candidate_pool
from jaxmia.scores import Scores, split_diverged
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.linear import apply_head
from jaxmia.training.scoring import accuracy, gradient_norms, log_odds, margins, right_decisions, score
from jaxmia.training.settings import Hyperparams, TrainConfig

KEY = jax.random.key(5)


@pytest.mark.thorough
def test_log_odds_are_log_p_over_one_minus_p():
    logits = np.random.default_rng(0).normal(size=(4, 50)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 4, 50).astype(np.int32)
    p = scipy.special.softmax(logits.astype(np.float64), axis=0)[labels, np.arange(50)]
    np.testing.assert_allclose(
        log_odds(jnp.asarray(logits), jnp.asarray(labels)), np.log(p / (1 - p)), atol=2e-6
    )


@pytest.mark.thorough
def test_log_odds_neither_overflow_nor_saturate():
    """log p/(1-p) by way of p stops near 103; the logsumexp form does not."""
    logits = jnp.array([[5000.0, -5000.0], [0.0, 0.0], [-5000.0, -1.0]])
    np.testing.assert_allclose(
        log_odds(logits, jnp.array([0, 0])), [5000.0, -5000.0 - np.log1p(np.exp(-1.0))], rtol=1e-6
    )


def test_score_and_accuracy_of_trained_heads():
    pool = candidate_pool(demo_features(), classes=4, shots=10, key=KEY)
    masks = draw_membership(KEY, pool.data.labels, num_models=6)
    ensemble = train_ensemble(KEY, pool.data, masks, Hyperparams(0.1), TrainConfig(steps=50))
    kernel, bias = (np.asarray(ensemble.params["params"][name], np.float64) for name in ("kernel", "bias"))
    scores = score(ensemble, pool.data)
    test_accuracy = accuracy(ensemble, pool.test)
    for model in range(6):
        logits = pool.data.features @ kernel[model].T + bias[model]
        p = scipy.special.softmax(logits, axis=1)[np.arange(80), pool.data.labels]
        np.testing.assert_allclose(scores.log_odds[model], np.log(p / (1 - p)), atol=1e-4)
        predicted = np.argmax(pool.test.features @ kernel[model].T + bias[model], axis=1)
        np.testing.assert_allclose(test_accuracy[model], np.mean(predicted == pool.test.labels), atol=1e-6)
    np.testing.assert_array_equal(scores.member, masks.member)
    # Heads see their members: members' scores are higher on average in every model.
    assert all(
        row[mask].mean() > row[~mask].mean() for row, mask in zip(scores.log_odds, scores.member, strict=True)
    )


def test_accuracy_of_an_empty_test_split_is_missing():
    pool = candidate_pool(demo_features(), classes=2, shots=3, key=KEY, test_per_class=0)
    masks = draw_membership(KEY, pool.data.labels, num_models=2)
    ensemble = train_ensemble(KEY, pool.data, masks, Hyperparams(0.1), TrainConfig(steps=1))
    assert np.isnan(accuracy(ensemble, pool.test)).all()


def test_diverged_models_are_told_apart():
    values = np.zeros((4, 3), np.float32)
    values[1, 2], values[3, 0] = np.nan, np.inf
    kept, diverged = split_diverged(Scores(values, np.eye(4, 3, dtype=bool)))
    np.testing.assert_array_equal(diverged, [1, 3])
    np.testing.assert_array_equal(kept.member, np.eye(4, 3, dtype=bool)[[0, 2]])
    assert np.isfinite(kept.log_odds).all()


def test_gradient_norms_are_those_of_automatic_differentiation():
    pool = candidate_pool(demo_features(), classes=4, shots=5, key=KEY).data
    masks = draw_membership(KEY, pool.labels, num_models=3)
    ensemble = train_ensemble(KEY, pool, masks, Hyperparams(0.1), TrainConfig(steps=30))

    def loss(params, features, label):
        return -jax.nn.log_softmax(apply_head(params, features[None])[:, 0])[label]

    def norm(params, features, label):
        leaves = jax.tree.leaves(jax.grad(loss)(params, features, label))
        return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in leaves))

    slow = jax.vmap(jax.vmap(norm, in_axes=(None, 0, 0)), in_axes=(0, None, None))(
        ensemble.params, pool.features, pool.labels
    )
    np.testing.assert_allclose(gradient_norms(ensemble, pool), slow, rtol=1e-3)


def test_decisions_are_those_of_numpy_on_the_same_copies():
    pool = candidate_pool(demo_features(), classes=4, shots=5, key=KEY).data
    masks = draw_membership(KEY, pool.labels, num_models=3)
    ensemble = train_ensemble(KEY, pool, masks, Hyperparams(0.1), TrainConfig(steps=30))
    kernel, bias = (np.asarray(ensemble.params["params"][name], np.float64) for name in ("kernel", "bias"))
    rows = np.arange(len(pool.labels))

    def slow(features):
        logits = np.einsum("nd,mcd->mnc", features, kernel) + bias[:, None]
        true = logits[:, rows, pool.labels]
        logits[:, rows, pool.labels] = -np.inf
        return true - logits.max(axis=2)

    found = margins(ensemble, pool)
    np.testing.assert_allclose(found, slow(pool.features), atol=1e-3)
    deviation, key, right = pool.features.std(axis=0), jax.random.key(1), slow(pool.features) > 0
    expected = right.astype(int)
    for copy, scale in enumerate((1 / 16, 1 / 2, 4)):
        noise = np.asarray(jax.random.normal(jax.random.fold_in(key, copy), pool.features.shape))
        expected += slow(pool.features + scale * deviation * noise) > 0
    counted = right_decisions(key, ensemble, pool, copies=3)
    assert np.mean(counted == expected) > 0.995  # but for margins of rounding error
    assert counted.max() <= 4
    assert counted.std() > 0.5
