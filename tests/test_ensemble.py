"""Training of one head and of many: against a slow loop, and free of the layout's influence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

import jaxmia.ensemble as ensemble_module
import jaxmia.training as training_module
from jaxmia._validate import InputError
from jaxmia.ensemble import empty_heads, join_ensembles, train_ensemble
from jaxmia.features import candidate_pool, demo_features
from jaxmia.heads import product
from jaxmia.membership import draw_membership
from jaxmia.scores import score
from jaxmia.training import Hyperparams, TrainConfig, shared_order, train_head

KEY = jax.random.key(11)


@pytest.fixture(scope="module")
def pool():
    return candidate_pool(demo_features(), classes=3, shots=6, key=KEY).data


@pytest.mark.parametrize(
    ("config", "hyper"),
    [
        (TrainConfig("adam", steps=12), Hyperparams(0.1)),
        (TrainConfig("adam", "cosine", steps=12), Hyperparams(0.1, weight_decay=0.3)),
        (TrainConfig("sgd", steps=12), Hyperparams(2.0, momentum=0.9)),
        (TrainConfig("sgd", "cosine", steps=12, batch_size=5), Hyperparams(1.0, 0.5, 0.01)),
    ],
)
def test_a_head_is_the_slow_loop(pool, config, hyper):
    """In float64, since Adam's first steps are g / |g|: rounding decides the sign where g is near 0."""
    member = draw_membership(KEY, pool.labels, num_models=1).member[0]
    order = None
    if config.batch_size is not None:
        order = shared_order(KEY, num_examples=len(pool.labels), batch=10, steps=config.steps)
    with jax.enable_x64(True):
        features = jax.numpy.asarray(pool.features.astype(np.float64))
        labels = jax.numpy.asarray(pool.labels)
        params, _ = train_head(
            KEY, member, features, labels, order, num_classes=3, hyper=hyper, config=config
        )
    expected = references.train_head(
        np.asarray(member), pool.features, pool.labels, order, num_classes=3, hyper=hyper, config=config
    )
    # A gradient is rounded at about 1e-17 and Adam divides it by |g| + 1e-8: up to 1e-10 a step of rate 0.1.
    np.testing.assert_allclose(params["params"]["kernel"], expected[0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(params["params"]["bias"], expected[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("batch_size", [None, 4])
def test_chunks_change_no_score_beyond_rounding(pool, batch_size):
    masks = draw_membership(KEY, pool.labels, num_models=11)
    config, hyper = TrainConfig(steps=40, batch_size=batch_size), Hyperparams(0.1)
    whole = score(train_ensemble(KEY, pool, masks, hyper, config, chunk_size=11), pool).log_odds
    for chunk_size in (1, 4, 7):
        counted = []
        ensemble = train_ensemble(
            KEY, pool, masks, hyper, config, chunk_size=chunk_size, on_chunk=counted.append
        )
        np.testing.assert_allclose(score(ensemble, pool).log_odds, whole, atol=1e-5, rtol=1e-5)
        assert sum(counted) == 11


def test_products_in_bfloat16_change_scores_by_less_than_a_tenth_of_what_another_order_of_batches_does():
    """At three times the size of the fixture, where orders matter; on real features."""
    pool = candidate_pool(demo_features(), classes=5, shots=20, key=KEY).data
    masks = draw_membership(KEY, pool.labels, num_models=17)
    scores = {}
    for products in ("float32", "bfloat16"):
        config = TrainConfig(steps=100, batch_size=20, products=products)
        for seed in range(3):
            heads = train_ensemble(jax.random.key(seed), pool, masks, Hyperparams(0.1), config)
            scores[products, seed] = np.asarray(score(heads, pool).log_odds, np.float64)
    spread = np.sqrt(np.mean(np.var([scores["float32", seed] for seed in range(3)], axis=0, ddof=1)))
    for seed in range(3):
        error = np.sqrt(np.mean((scores["bfloat16", seed] - scores["float32", seed]) ** 2))
        assert 0 < error < spread / 10


def test_a_product_multiplies_in_the_dtype_of_features_and_accumulates_in_float32():
    rng = np.random.default_rng(0)
    left, right = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((3, 5000), (5000, 4)))
    rounded = [
        np.asarray(array.astype(jnp.bfloat16).astype(jnp.float32), np.float64) for array in (left, right)
    ]
    found = product(left, right.astype(jnp.bfloat16))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(
        found, rounded[0] @ rounded[1], atol=1e-2
    )  # in bfloat16 the sums would be off by 0.5
    np.testing.assert_allclose(product(left, right), np.asarray(left) @ np.asarray(right), atol=1e-3)


def test_same_seed_same_bits(pool):
    masks = draw_membership(KEY, pool.labels, num_models=5)
    config, hyper = TrainConfig(steps=30, batch_size=6), Hyperparams(0.1)
    runs = [
        np.asarray(score(train_ensemble(KEY, pool, masks, hyper, config), pool).log_odds) for _ in range(2)
    ]
    np.testing.assert_array_equal(*runs)
    other = score(train_ensemble(jax.random.key(12), pool, masks, hyper, config), pool).log_odds
    assert np.abs(other - runs[0]).max() > 1e-3  # the shared order follows the key


def test_models_added_later_are_the_models_trained_at_once(pool):
    config, hyper = TrainConfig(steps=20), Hyperparams(0.1)
    masks = draw_membership(KEY, pool.labels, num_models=6)
    parts = [
        draw_membership(KEY, pool.labels, num_models=count, first_model=first)
        for first, count in ((0, 2), (2, 4))
    ]
    joined = join_ensembles([train_ensemble(KEY, pool, part, hyper, config) for part in parts])
    whole = train_ensemble(KEY, pool, masks, hyper, config)
    np.testing.assert_array_equal(joined.masks.member, whole.masks.member)
    np.testing.assert_allclose(
        score(joined, pool).log_odds, score(whole, pool).log_odds, atol=1e-5, rtol=1e-5
    )


def test_new_hyperparameters_compile_nothing(pool):
    masks = draw_membership(KEY, pool.labels, num_models=2)
    config = TrainConfig("sgd", "cosine", steps=3)
    train_ensemble(KEY, pool, masks, Hyperparams(0.1, 0.9, 0.01), config)
    compiled = ensemble_module._train_chunk._cache_size()
    train_ensemble(KEY, pool, masks, Hyperparams(0.3, 0.1, 0.5), config)
    assert ensemble_module._train_chunk._cache_size() == compiled
    train_ensemble(KEY, pool, masks, Hyperparams(0.3, 0.1, 0.5), TrainConfig("sgd", "cosine", steps=4))
    assert ensemble_module._train_chunk._cache_size() == compiled + 1


def test_shared_order_takes_each_candidate_once_before_any_again():
    order = np.asarray(shared_order(KEY, num_examples=10, batch=4, steps=6)).reshape(-1)
    for start in (0, 10):
        assert sorted(order[start : start + 10]) == list(range(10))
    assert not np.array_equal(order[:10], order[10:20])


def test_independent_batches_are_the_slow_loop_over_each_models_own_shuffles(pool):
    """12 candidates of 36 a step and what is left of each shuffle: here 5 batches of 8 in an epoch, the last of 4."""
    masks = draw_membership(KEY, pool.labels, num_models=3)
    config = TrainConfig("sgd", steps=12, batch_size=4, sampling="independent")
    found = train_ensemble(KEY, pool, masks, Hyperparams(1.0), config)
    one_hot, inputs = np.eye(3)[pool.labels], np.append(pool.features, np.ones((36, 1)), axis=1)
    batches = set()
    for model in range(3):
        model_key = jax.random.fold_in(KEY, model)
        member, heads = np.asarray(masks.member[model]), np.zeros((3, inputs.shape[1]))
        for step in range(12):
            places = np.asarray(jax.random.permutation(jax.random.fold_in(model_key, step // 5), 36))
            batch = np.flatnonzero(member & (places // 8 == step % 5))
            batches.add(batch.tobytes())
            logits = inputs[batch] @ heads.T
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            error = odds / odds.sum(axis=1, keepdims=True) - one_hot[batch]
            heads -= error.T @ inputs[batch] / (member.sum() * 8 / 36)
        np.testing.assert_allclose(found.params["params"]["kernel"][model], heads[:, :-1], atol=1e-5)
        np.testing.assert_allclose(found.params["params"]["bias"][model], heads[:, -1], atol=1e-5)
    assert len(batches) == 36


def test_a_shuffle_gives_each_candidate_one_place_and_each_epoch_another():
    places = np.asarray(training_module._shuffled_places(KEY, jnp.int32(0), 36))
    assert sorted(places) == list(range(36))
    other = np.asarray(training_module._shuffled_places(KEY, jnp.int32(1), 36))
    assert (places != other).any()


def test_empty_heads_have_the_shapes_of_trained_ones(pool):
    masks = draw_membership(KEY, pool.labels, num_models=2)
    trained = train_ensemble(KEY, pool, masks, Hyperparams(0.1), TrainConfig(steps=1)).params
    empty = empty_heads(pool, num_models=2)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), trained) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), empty
    )


def test_bad_settings_are_refused_before_training(pool):
    masks = draw_membership(KEY, pool.labels, num_models=2)
    with pytest.raises(InputError, match="batch_size=19 must be at most 18"):
        train_ensemble(KEY, pool, masks, Hyperparams(0.1), TrainConfig(batch_size=19))
    other = candidate_pool(demo_features(), classes=3, shots=10, key=KEY).data
    with pytest.raises(InputError, match=r"masks.member.shape\[1\]=36 must equal the pool's 60"):
        train_ensemble(KEY, other, masks, Hyperparams(0.1), TrainConfig())
    for options in ({"optimizer": "lbfgs"}, {"schedule": "linear"}, {"steps": 0}, {"batch_size": 0}):
        with pytest.raises(InputError):
            TrainConfig(**options)
