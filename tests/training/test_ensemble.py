"""Training of one head and of many: against a slow loop, and independent of the layout."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
import scipy.special
import scipy.stats

import jaxmia.training.chunks as chunks_module
import jaxmia.training.plan as plan_module
import jaxmia.training.trainables as trainables_module
from jaxmia._buckets import bucket, smallest_in_bucket
from jaxmia._validate import InputError
from jaxmia.data.feature_set import demo_features
from jaxmia.data.membership import draw_membership
from jaxmia.data.pool import candidate_pool
from jaxmia.training.ensemble import empty_heads, join_ensembles, train_ensemble
from jaxmia.training.heads import product
from jaxmia.training.linear import batch_order, train_head
from jaxmia.training.plan import plan_heads, poisson_bound
from jaxmia.training.scoring import score
from jaxmia.training.settings import Hyperparams, TrainConfig
from jaxmia.training.size import EnsembleSize

KEY = jax.random.key(11)


@pytest.fixture(scope="module")
def pool():
    return candidate_pool(demo_features(), classes=3, shots=6, key=KEY).data


@pytest.mark.parametrize(
    ("config", "hyper"),
    [
        pytest.param(TrainConfig("adam", steps=12), Hyperparams(0.1), marks=pytest.mark.thorough),
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
        everyone = jnp.ones(len(pool.labels), bool)
        order = batch_order(KEY, everyone, batch=10, steps=config.steps, shuffles=4)
    with jax.enable_x64(True):
        features = jax.numpy.asarray(pool.features.astype(np.float64))
        labels = jax.numpy.asarray(pool.labels)
        params, _ = train_head(
            KEY,
            member,
            features,
            labels,
            order,
            num_classes=3,
            hyper=hyper,
            config=config,
            share=1.0 if order is None else 10 / 36,
        )
    expected = references.train_head(
        np.asarray(member), pool.features, pool.labels, order, num_classes=3, hyper=hyper, config=config
    )
    # A gradient is rounded at about 1e-17 and Adam divides it by |g| + 1e-8: up to 1e-10 a step of rate 0.1.
    np.testing.assert_allclose(params["params"]["kernel"], expected[0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(params["params"]["bias"], expected[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("batch_size", [pytest.param(None, marks=pytest.mark.thorough), 4])
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


@pytest.mark.thorough
def test_products_in_bfloat16_change_scores_by_less_than_a_tenth_of_what_another_order_of_batches_does():
    """At three times the size of the fixture, where orders matter; on real features."""
    pool = candidate_pool(demo_features(), classes=5, shots=20, key=KEY).data
    masks = draw_membership(KEY, pool.labels, num_models=17)
    scores = {}
    for products in ("float32", "bfloat16"):
        config = TrainConfig(steps=100, batch_size=20, matmul_dtype=products)
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


@pytest.mark.thorough
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


@pytest.mark.thorough
def test_new_hyperparameters_compile_nothing(pool):
    masks = draw_membership(KEY, pool.labels, num_models=2)
    config = TrainConfig("sgd", "cosine", steps=3)
    train_ensemble(KEY, pool, masks, Hyperparams(0.1, 0.9, 0.01), config)
    compiled = chunks_module._train_chunk._cache_size()
    train_ensemble(KEY, pool, masks, Hyperparams(0.3, 0.1, 0.5), config)
    assert chunks_module._train_chunk._cache_size() == compiled
    train_ensemble(KEY, pool, masks, Hyperparams(0.3, 0.1, 0.5), TrainConfig("sgd", "cosine", steps=4))
    assert chunks_module._train_chunk._cache_size() == compiled + 1


OWN = {
    "plain": (TrainConfig("sgd", steps=12), {"momentum": [0.0, 0.5, 0.9], "weight_decay": [0.0, 0.1, 0.3]}),
    "steps": (TrainConfig("sgd", steps=12), {"steps": [1, 7, 12]}),
    "cosine": (TrainConfig("sgd", "cosine", steps=12), {"steps": [2, 12, 5]}),
    "order": (TrainConfig("sgd", steps=12, batch_size=5), {"steps": [2, 12, 5]}),
    "poisson": (TrainConfig("sgd", steps=12, sampling="poisson"), {"sampling_rate": [0.1, 1.0, 0.5]}),
    "private": (
        TrainConfig("sgd", steps=12, private=True),
        {"clipping_norm": [0.1, 1.0, 5.0], "noise_multiplier": [1.0, 0.0, 0.2], "steps": [12, 3, 8]},
    ),
}


@pytest.mark.parametrize(
    ("config", "own"),
    [
        pytest.param(*case, id=name, marks=[pytest.mark.thorough] * (name in ("steps", "cosine", "private")))
        for name, case in OWN.items()
    ],
)
def test_models_with_hyperparameters_of_their_own_are_those_trained_one_by_one(pool, config, own):
    """A head with fewer steps equals one whose program has that number. SGD, since Adam amplifies rounding."""
    masks = draw_membership(KEY, pool.labels, num_models=3)
    own = {"learning_rate": [0.5, 2.0, 1.0], **own}
    together = train_ensemble(
        KEY,
        pool,
        masks,
        Hyperparams(**{name: jnp.array(values) for name, values in own.items()}),
        config,
        chunk_size=2,
    )
    kernels = together.params["params"]["kernel"]
    assert not np.allclose(kernels[0], kernels[1], atol=0.01)
    for model in range(3):
        one = {name: values[model] for name, values in own.items()}
        alone = train_ensemble(
            KEY,
            pool,
            draw_membership(KEY, pool.labels, num_models=1, first_model=model),
            Hyperparams(**{name: value for name, value in one.items() if name != "steps"}),
            dataclasses.replace(config, steps=one.get("steps", config.steps)),
        )
        np.testing.assert_allclose(kernels[model], alone.params["params"]["kernel"][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("hyper", "message"),
    [
        ({"learning_rate": jnp.ones(4)}, r"hyper=.* must be one number or one for each of 3 models"),
        ({"learning_rate": 1.0, "steps": 13}, r"steps=13 must lie between 1 and TrainConfig.steps=12"),
        ({"learning_rate": 1.0, "steps": jnp.array([3, 0, 1])}, r"steps=0 must lie between 1"),
        ({"learning_rate": 1.0, "sampling_rate": jnp.array([1.0, 0.5, 1.0])}, r"sampling_rate=0.5 must be 1"),
    ],
)
def test_bad_hyperparameters_of_single_models_are_refused(pool, hyper, message):
    masks = draw_membership(KEY, pool.labels, num_models=3)
    with pytest.raises(InputError, match=message):
        train_ensemble(KEY, pool, masks, Hyperparams(**hyper), TrainConfig("sgd", steps=12))


@pytest.mark.thorough
@pytest.mark.parametrize("examples", [10, 5000])
def test_an_order_takes_each_eligible_example_once_before_any_again(examples):
    """With one word to sort by, and with two."""
    eligible = np.arange(examples) % 2 == 0
    half = examples // 2
    order = batch_order(KEY, jnp.asarray(eligible), batch=half // 5 * 2, steps=5, shuffles=2)
    assert order.shape == (5, half // 5 * 2)
    order = np.asarray(order).reshape(-1)
    for start in (0, half):
        assert sorted(order[start : start + half]) == list(np.flatnonzero(eligible))
    assert not np.array_equal(order[:half], order[half:])


@pytest.mark.parametrize("examples", [4, pytest.param(4100, marks=pytest.mark.thorough)])
def test_orders_are_uniform(examples):
    """Where each of four eligible examples stands in 4 000 shuffles: chi-squared over all 24 orders."""
    eligible = jnp.zeros(examples, bool).at[jnp.array([0, 1, examples - 2, examples - 1])].set(True)
    order = np.asarray(batch_order(KEY, eligible, batch=4, steps=4000, shuffles=4000))
    _, counts = np.unique(order, axis=0, return_counts=True)
    assert len(counts) == 24
    assert scipy.stats.chisquare(counts).pvalue > 1e-6


def sgd_by_loop(pool, member, batches, weights, rate):
    """A head by NumPy over given batches; examples that stand twice in a batch count twice."""
    one_hot, inputs = np.eye(3)[pool.labels], np.append(pool.features, np.ones((len(pool.labels), 1)), axis=1)
    heads = np.zeros((3, inputs.shape[1]))
    for batch, weight in zip(batches, weights, strict=True):
        rows = batch[member[batch]]
        logits = inputs[rows] @ heads.T
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        heads -= rate * weight * (odds / odds.sum(axis=1, keepdims=True) - one_hot[rows]).T @ inputs[rows]
    return heads


def flat(params):
    """Kernels and biases side by side: [models, classes, dim + 1]."""
    leaves = params["params"]
    return np.concatenate([leaves["kernel"], np.asarray(leaves["bias"])[..., None]], axis=-1)


@pytest.mark.parametrize("batch_size", [4, pytest.param(17, marks=pytest.mark.thorough)])
def test_independent_batches_are_the_slow_loop_over_each_models_own_members(pool, batch_size):
    """4 of 36 are gathered, 17 mask products over all; a batch of 17 straddles two shuffles of about 18."""
    masks = draw_membership(KEY, pool.labels, num_models=3)
    counts = np.asarray(masks.member).sum(axis=1)
    config = TrainConfig("sgd", steps=12, batch_size=batch_size, sampling="independent")
    chosen = planned(config, counts)
    assert (chosen.gathered is None) == (batch_size == 17)
    found = flat(train_ensemble(KEY, pool, masks, Hyperparams(1.0), config).params)
    batches = set()
    for model in range(3):
        member = jnp.pad(masks.member[model], (0, chosen.examples - 36))
        key = jax.random.fold_in(KEY, model)
        order = np.asarray(batch_order(key, member, batch=batch_size, steps=12, shuffles=chosen.shuffles))
        assert np.asarray(member)[order].all()
        batches |= {batch.tobytes() for batch in order}
        heads = sgd_by_loop(pool, np.asarray(member)[:36], order, [1 / batch_size] * 12, 1.0)
        np.testing.assert_allclose(found[model], heads, atol=1e-5)
    assert len(batches) == 36


def planned(config, counts, sampling_rate=1.0):
    """How train_ensemble trains the fixture's pool."""
    size = EnsembleSize(
        num_models=len(counts),
        num_examples=36,
        num_classes=3,
        dim=384,
        inclusion_rate=0.5,
        sampling_rate=sampling_rate,
        members=(int(counts.min()), int(counts.max())),
    )
    return plan_heads(config, None, size)


NOISY = {"clipping_norm": 0.5, "noise_multiplier": 1.0}


@pytest.mark.parametrize(
    ("config", "hyper"),
    [
        pytest.param(
            TrainConfig("sgd", steps=30, sampling="poisson"),
            Hyperparams(1.0, sampling_rate=0.05),
            marks=pytest.mark.thorough,
        ),
        (
            TrainConfig("sgd", steps=30, sampling="poisson", private=True),
            Hyperparams(1.0, 0.5, 0.01, 0.05, **NOISY),
        ),
        (TrainConfig("sgd", steps=30, batch_size=5, sampling="independent"), Hyperparams(1.0, 0.5, 0.01)),
    ],
)
def test_gathered_batches_and_masks_train_the_same_heads(monkeypatch, config, hyper):
    """Of the same draws. A pool of 160: its Poisson samples of 4 on average are held in 28 rows."""
    pool = candidate_pool(demo_features(), classes=4, shots=20, key=KEY).data
    masks = draw_membership(KEY, pool.labels, num_models=5)
    chosen = []
    monkeypatch.setattr(
        trainables_module, "plan_heads", lambda *a: chosen.append(plan_heads(*a)) or chosen[-1]
    )
    gathered = flat(train_ensemble(KEY, pool, masks, hyper, config).params)
    monkeypatch.setattr(plan_module, "_GATHERED_SHARE", 0.0)
    masked = flat(train_ensemble(KEY, pool, masks, hyper, config).params)
    assert [way.gathered is None for way in chosen] == [False, True]
    assert np.abs(masked).max() > 0.1
    np.testing.assert_allclose(gathered, masked, atol=2e-5)


@pytest.mark.parametrize(("members", "rate"), [(10, 1.0), (10, 0.5), (18, 0.05), (1000, 0.2), (60_000, 0.01)])
def test_rows_for_a_poisson_sample_overflow_with_probability_2_to_minus_64(members, rate):
    """By the binomial terms themselves, added up in logarithms."""
    bound = poisson_bound(members, rate)
    counts = np.arange(members + 1)
    with np.errstate(divide="ignore"):
        terms = scipy.special.gammaln(members + 1) - scipy.special.gammaln(counts + 1)
        terms += -scipy.special.gammaln(members - counts + 1) + scipy.special.xlogy(counts, rate)
        terms += scipy.special.xlog1py(members - counts, -rate)
    tail = [
        scipy.special.logsumexp(terms[first + 1 :]) if first < members else -np.inf
        for first in (bound - 1, bound)
    ]
    assert tail[1] <= -64 * np.log(2) < tail[0]


@pytest.mark.parametrize(
    ("config", "hyper"),
    [
        (TrainConfig("sgd", "cosine", steps=30), Hyperparams(2.0, 0.9, 0.05)),
        pytest.param(
            TrainConfig("sgd", steps=30, batch_size=6), Hyperparams(1.0), marks=pytest.mark.thorough
        ),
        pytest.param(
            TrainConfig("sgd", steps=30, sampling="poisson"),
            Hyperparams(1.0, sampling_rate=0.1),
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_training_in_the_span_of_the_examples_changes_no_head(pool, monkeypatch, config, hyper):
    """36 candidates of 384 dimensions. The parameters agree, so scores on any other features agree too."""
    masks = draw_membership(KEY, pool.labels, num_models=5)
    assert planned(config, np.asarray(masks.member).sum(axis=1), float(hyper.sampling_rate)).span
    inside = flat(train_ensemble(KEY, pool, masks, hyper, config).params)
    monkeypatch.setattr(plan_module, "_SPAN_SHARE", 0.0)
    whole = flat(train_ensemble(KEY, pool, masks, hyper, config).params)
    assert np.abs(whole).max() > 0.3
    np.testing.assert_allclose(inside, whole, atol=2e-5)


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig("adam"),
        TrainConfig("sgd", private=True),
        TrainConfig("sgd", matmul_dtype="bfloat16"),
    ],
)
def test_recipes_that_leave_the_span_are_not_trained_in_it(config):
    assert not planned(config, np.array([18])).span


@pytest.mark.thorough
def test_a_grid_over_shots_compiles_a_program_for_each_bucket(monkeypatch):
    """12 pools of 66 to 132 candidates, in shared batches, whose order is that of the pool's own size: 5 programs."""
    config, hyper = TrainConfig(steps=3, batch_size=4), Hyperparams(0.1)
    before = chunks_module._train_chunk._cache_size()
    for shots in range(11, 23):
        grid_pool = candidate_pool(demo_features(), classes=3, shots=shots, key=KEY).data
        masks = draw_membership(KEY, grid_pool.labels, num_models=2)
        train_ensemble(KEY, grid_pool, masks, hyper, config)
    assert chunks_module._train_chunk._cache_size() - before == len({80, 96, 112, 128, 160})


def test_sizes_are_rounded_up_by_a_quarter_at_most():
    buckets = [bucket(size) for size in range(1, 3000)]
    for size, rounded in enumerate(buckets, start=1):
        assert size <= rounded <= 1.25 * size
        assert buckets[smallest_in_bucket(size) - 1] == rounded
        assert smallest_in_bucket(size) == 1 or buckets[smallest_in_bucket(size) - 2] < rounded
    assert len(set(buckets[:1024])) == 3 + 8 * 4 + 1  # octaves from 4 to 512
    assert all(bucket(classes * 2**k) == classes * 2**k for classes in (2, 5, 10, 24) for k in range(8))


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
