"""DP-SGD: each part against a second derivation, the law of the noise, and that broken variants are caught."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import jax_privacy
import numpy as np
import optax
import pytest
import references_dpsgd
import scipy.special
import scipy.stats

import jaxmia.training.chunks as chunks_module
import jaxmia.training.heads as heads_module
import jaxmia.training.linear as linear_module
from jaxmia._validate import InputError
from jaxmia.data.feature_set import demo_features
from jaxmia.data.membership import MembershipMasks, draw_membership
from jaxmia.data.pool import candidate_pool
from jaxmia.privacy.accounting import gdp_mu, individual_mu
from jaxmia.training.dpsgd import (
    add_noise,
    clipped_gradient_sum,
    poisson_sample,
    step_keys,
)
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.heads import zero_head
from jaxmia.training.linear import apply_head, train_head
from jaxmia.training.settings import Hyperparams, TrainConfig

KEY = jax.random.key(23)
CLASSES, EXAMPLES, DIM = 4, 30, 7
CLIP = 1.1
ALPHA = 1e-6  # of every statistical test here; seeds are fixed, so a correct implementation always passes


@pytest.fixture(scope="module")
def pool():
    return candidate_pool(demo_features(), classes=3, shots=6, key=KEY).data


@pytest.fixture(scope="module")
def batch():
    """A trained-looking head and examples whose gradient norms lie on both sides of CLIP, in float64."""
    rng = np.random.default_rng(5)
    features = rng.normal(size=(EXAMPLES, DIM)) * rng.uniform(0.05, 1.0, size=(EXAMPLES, 1))
    labels = rng.integers(0, CLASSES, EXAMPLES)
    kernel, bias = rng.normal(size=(CLASSES, DIM)), rng.normal(size=CLASSES)
    return kernel, bias, features, labels, rng.random(EXAMPLES) < 0.7


def clipped_sum(batch, *, dtype=np.float64, clipping_norm=CLIP, rows=None):
    """The closed form on a batch, kernel and bias side by side: [classes, dim + 1]."""
    kernel, bias, features, labels, sampled = batch
    if rows is not None:
        features, labels, sampled = features[rows], labels[rows], sampled[rows]
    kernel, bias, features = (jnp.asarray(array, dtype) for array in (kernel, bias, features))
    errors = errors_of(kernel, bias, features, labels)
    return flat(
        split_to_whole(
            clipped_gradient_sum(errors, features, jnp.asarray(sampled), clipping_norm=clipping_norm)
        )
    )


def errors_of(kernel, bias, features, labels):
    """Predictions minus labels of all classes but the last, by the softmax over all of them."""
    logits = kernel @ features.T + bias[:, None]
    one_hot = jax.nn.one_hot(labels, CLASSES, axis=0, dtype=logits.dtype)
    return (jax.nn.softmax(logits, axis=0) - one_hot)[:-1]


def split_to_whole(gradient):
    """A gradient with its last class apart, as a parameter tree."""
    leaves = {
        name: jnp.concatenate([gradient.rest[name], gradient.last[name][None]]) for name in ("kernel", "bias")
    }
    return {"params": leaves}


def flat(params):
    """Kernel and bias side by side: [..., classes, dim + 1]."""
    leaves = params["params"]
    return np.concatenate([leaves["kernel"], np.asarray(leaves["bias"])[..., None]], axis=-1)


# ---- Clipping ----


def test_clipped_sum_is_the_slow_loop(batch):
    kernel, bias = references_dpsgd.clipped_gradient_sum(*batch, clipping_norm=CLIP)
    expected = np.column_stack([kernel, bias])
    with jax.enable_x64(True):
        np.testing.assert_allclose(clipped_sum(batch), expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(clipped_sum(batch, dtype=np.float32), expected, rtol=0, atol=2e-6)


def sum_by_jax_privacy(batch, dtype):
    kernel, bias, features, labels, sampled = batch

    def loss(params, example):
        x, y = example
        one_hot = jax.nn.one_hot(y, CLASSES, dtype=x.dtype)
        return optax.softmax_cross_entropy(apply_head(params, x[None])[:, 0], one_hot)

    params = {"params": {"kernel": jnp.asarray(kernel, dtype), "bias": jnp.asarray(bias, dtype)}}
    examples = (jnp.asarray(features, dtype), jnp.asarray(labels))
    gradient = jax_privacy.clipped_grad(loss, l2_clip_norm=CLIP, keep_batch_dim=False)
    return flat(gradient(params, examples, is_padding_example=~jnp.asarray(sampled)))


@pytest.mark.filterwarnings(
    "ignore:optax.global_norm is deprecated:DeprecationWarning"
)  # jax_privacy's own call
def test_closed_form_is_jax_privacy(batch):
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            clipped_sum(batch), sum_by_jax_privacy(batch, np.float64), rtol=0, atol=1e-13
        )
    single = sum_by_jax_privacy(batch, np.float32)
    # Some 20 summands of at most CLIP, each rounded a few times at 2^-24.
    np.testing.assert_allclose(clipped_sum(batch, dtype=np.float32), single, rtol=0, atol=20 * 4 * 2**-24)


def contribution_norms(batch, clipping_norm):
    """L2 norm of what each sampled example adds to the sum."""
    rows = np.flatnonzero(batch[-1])
    with jax.enable_x64(True):
        return np.array(
            [np.linalg.norm(clipped_sum(batch, rows=[row], clipping_norm=clipping_norm)) for row in rows]
        )


def test_no_example_contributes_more_than_the_clipping_norm(batch):
    raw = contribution_norms(batch, 1e9)
    assert np.mean(raw > CLIP) > 0.2  # without clipping the bound below fails, so the test can fail
    assert np.mean(raw < CLIP) > 0.2
    np.testing.assert_allclose(contribution_norms(batch, CLIP), np.minimum(raw, CLIP), rtol=1e-12)


def test_products_in_bfloat16_round_no_example_above_the_clipping_norm(batch):
    """With many heads, rounding goes both ways. Without the margin for it, half of the norms would be above."""
    _, bias, features, labels, _ = batch
    rounded = jnp.asarray(features, jnp.bfloat16)
    norms = []
    for seed in range(20):
        kernel = 3 * jax.random.normal(jax.random.key(seed), (CLASSES, DIM))
        errors = errors_of(kernel, jnp.asarray(bias, jnp.float32), rounded.astype(jnp.float32), labels)
        for row in range(EXAMPLES):
            alone = jnp.arange(EXAMPLES) == row
            total = clipped_gradient_sum(errors, rounded, alone, clipping_norm=0.01)
            norms.append(np.linalg.norm(flat(split_to_whole(total)).astype(np.float64)))
    assert max(norms) <= 0.01
    assert np.median(norms) > 0.01 * (1 - 4 * 2**-8)  # the margin is (1 + sqrt(3)) / 2 of these


def as_tf32(values, half):
    """The values with 10 bits of mantissa: the nearest, or, with half = 0, cut off."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(half)) & np.uint32(0xFFFFE000)).view(np.float32)


@pytest.mark.parametrize("half", [0x1000, 0], ids=["nearest", "cut"])
def test_products_in_tensorfloat32_round_no_example_above_the_clipping_norm(batch, monkeypatch, half):
    """As above, with the product as recent GPUs have it, written out."""
    _, bias, features, labels, _ = batch
    bias, features = jnp.asarray(bias, jnp.float32), jnp.asarray(features, jnp.float32)

    def product(left, right, precision=None):
        return jnp.asarray(as_tf32(left, half).astype(np.float64) @ as_tf32(right, half), jnp.float32)

    monkeypatch.setattr(heads_module, "product", product)
    norms = {None: [], jax.lax.Precision.HIGH: []}
    for seed in range(20):
        kernel = 3 * jax.random.normal(jax.random.key(seed), (CLASSES, DIM))
        errors = errors_of(kernel, bias, features, labels)
        for row in range(EXAMPLES):
            alone = jnp.arange(EXAMPLES) == row
            for precision, found in norms.items():
                total = clipped_gradient_sum(errors, features, alone, clipping_norm=0.01, precision=precision)
                found.append(np.linalg.norm(flat(split_to_whole(total)).astype(np.float64)))
    without, room = norms.values()
    assert max(room) <= 0.01
    assert np.median(room) > 0.01 * (1 - 8 * 2**-10)  # the margin is 2 (1 + sqrt(3)) of these
    if half:  # truncation can only reduce
        assert np.mean(np.array(without) > 0.01 * (1 + 2**-14)) > 0.2


def test_neighbouring_sums_differ_by_at_most_the_clipping_norm(batch):
    """Adding or removing any example changes the sum by at most c, even a mislabelled one of huge norm."""
    kernel, bias, features, labels, _ = batch
    features = features.copy()
    features[3] *= 1e6
    present = np.ones(EXAMPLES, bool)
    with jax.enable_x64(True):
        whole = clipped_sum((kernel, bias, features, labels, present))
        for example in range(EXAMPLES):
            absent = np.arange(EXAMPLES) != example
            rest = clipped_sum((kernel, bias, features, labels, absent))
            assert np.linalg.norm(whole - rest) <= CLIP * (1 + 1e-9)


@pytest.mark.parametrize("value", [1e25, 3e38])
def test_an_example_that_overflows_counts_as_nothing(batch, value):
    """At 1e25 the squared norm is infinite in float32, at 3e38 the logits are infinite, their softmax NaN."""
    kernel, bias, features, labels, sampled = batch
    example = np.flatnonzero(sampled)[0]
    without = sampled & (np.arange(EXAMPLES) != example)
    expected = clipped_sum((10 * kernel, bias, features, labels, without), dtype=np.float32)
    features = features.copy()
    features[example] = value * np.array([1, -1, 1, -1, 1, -1, 1])
    for present in (sampled, without):
        found = clipped_sum((10 * kernel, bias, features, labels, present), dtype=np.float32)
        np.testing.assert_array_equal(found, expected)


# ---- A whole head ----


@pytest.mark.parametrize(
    ("config", "hyper"),
    [
        pytest.param(
            TrainConfig("sgd", steps=9, private=True),
            Hyperparams(2.0, 0.9, 0.1, 1.0, 0.5, 1.5),
            marks=pytest.mark.thorough,
        ),
        (
            TrainConfig("sgd", "cosine", steps=9, sampling="poisson", private=True),
            Hyperparams(1.0, 0.5, 0.01, 0.4, 0.7, 0.3),
        ),
        (
            TrainConfig("adam", "cosine", steps=9, sampling="poisson", private=True),
            Hyperparams(0.1, 0.0, 0.3, 0.6, 0.5, 1.0),
        ),
    ],
)
def test_a_private_head_is_the_slow_loop(pool, config, hyper):
    member = draw_membership(KEY, pool.labels, num_models=1).member[0]
    with jax.enable_x64(True):
        zeros = zero_head(3, pool.features.shape[1], np.float64)
        keys = [step_keys(KEY, step) for step in range(config.steps)]
        draw = functools.partial(add_noise, clipping_norm=1.0, noise_multiplier=1.0, expected_batch=1.0)
        noises = [split_to_whole(draw(noise_key, zeros))["params"] for _, noise_key in keys]
        samples = [np.asarray(member)] * config.steps
        if config.sampling == "poisson":
            samples = [np.asarray(poisson_sample(key, member, hyper.sampling_rate)) for key, _ in keys]
        features = jnp.asarray(pool.features.astype(np.float64))
        params, _ = train_head(
            KEY,
            member,
            features,
            jnp.asarray(pool.labels),
            None,
            num_classes=3,
            hyper=hyper,
            config=config,
            expected_members=18.0,
        )
    expected = references_dpsgd.train_head(
        samples,
        [(np.asarray(noise["kernel"]), np.asarray(noise["bias"])) for noise in noises],
        pool.features,
        pool.labels,
        num_classes=3,
        expected_members=18.0,
        hyper=hyper,
        config=config,
    )
    np.testing.assert_allclose(flat(params), np.column_stack(expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("sampling", [pytest.param("shared", marks=pytest.mark.thorough), "poisson"])
@pytest.mark.parametrize(
    ("optimizer", "hyper"),
    [("sgd", Hyperparams(2.0, 0.9, 0.05)), ("adam", Hyperparams(0.01, weight_decay=0.05))],
)
def test_huge_clip_and_no_noise_is_ordinary_training(pool, sampling, optimizer, hyper):
    """Under the fixed-size design, where the realised number of members is the expected one; q = 1.

    In float64, since Adam's first steps are g / |g|: rounding decides the sign where g is near 0.
    """
    member = draw_membership(KEY, pool.labels, num_models=1, design="fixed_size").member[0]
    ordinary = TrainConfig(optimizer, "cosine", steps=20)
    private = TrainConfig(optimizer, "cosine", steps=20, sampling=sampling, private=True)
    limit = dataclasses.replace(hyper, clipping_norm=1e9, noise_multiplier=0.0)
    for x64, atol in ((True, 1e-9), (False, 1e-6)):
        if optimizer == "adam" and not x64:
            continue
        with jax.enable_x64(x64):
            features = jnp.asarray(pool.features.astype(np.float64 if x64 else np.float32))
            train = functools.partial(
                train_head, KEY, member, features, jnp.asarray(pool.labels), None, num_classes=3
            )
            expected = flat(train(hyper=hyper, config=ordinary)[0])
            found = flat(train(hyper=limit, config=private, expected_members=18.0)[0])
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def test_poisson_sampling_without_privacy_divides_by_the_expected_batch(pool):
    """One SGD step from zero at rate 1 is minus the gradient: the mean over members, as if all had been sampled."""
    masks = draw_membership(KEY, pool.labels, num_models=2)
    config, hyper = TrainConfig("sgd", steps=1, sampling="poisson"), Hyperparams(1.0, sampling_rate=0.3)
    found = flat(train_ensemble(KEY, pool, masks, hyper, config).params)
    for model in range(2):
        member = masks.member[model]
        sampled = np.asarray(poisson_sample(step_keys(jax.random.fold_in(KEY, model), 0)[0], member, 0.3))
        assert 0 < sampled.sum() < member.sum()
        zeros = (np.zeros((3, pool.features.shape[1])), np.zeros(3))
        sums = references_dpsgd.clipped_gradient_sum(
            *zeros, pool.features, pool.labels, sampled, clipping_norm=np.inf
        )
        expected = -np.column_stack(sums) / (0.3 * float(member.sum()))
        np.testing.assert_allclose(found[model], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_private_steps_divide_by_the_public_expected_batch(pool, rate):
    """Models of 12, 18 and 30 members of 36: every sum is divided by rate x 18, whatever a model happens to have."""
    member = np.arange(36) < np.array([[12], [18], [30]])
    masks = MembershipMasks(jnp.asarray(member), jnp.arange(3, dtype=jnp.int32), "bernoulli", 0.5)
    sampling = "shared" if rate == 1 else "poisson"
    config = TrainConfig("sgd", steps=1, sampling=sampling, private=True)
    hyper = Hyperparams(1.0, sampling_rate=rate, clipping_norm=0.4, noise_multiplier=0.0)
    found = flat(train_ensemble(KEY, pool, masks, hyper, config).params)
    for model in range(3):
        sampling_key, _ = step_keys(jax.random.fold_in(KEY, model), 0)
        sampled = np.asarray(poisson_sample(sampling_key, masks.member[model], rate))
        zeros = (np.zeros((3, pool.features.shape[1])), np.zeros(3))
        sums = references_dpsgd.clipped_gradient_sum(
            *zeros, pool.features, pool.labels, sampled, clipping_norm=0.4
        )
        np.testing.assert_allclose(found[model], -np.column_stack(sums) / (rate * 18), rtol=0, atol=1e-6)


# ---- Noise ----


def pure_noise(pool, *, models, steps=1, sigma=1.3, **options):
    """The sum of the steps' noise, over its standard deviation at a sigma of 1.3: float64[models, classes * (dim + 1)].

    Heads without members, after SGD at rate 1 without momentum: their parameters are minus that sum. 140 heads or more,
    whose program the tests share.
    """
    number = models if options else max(models, 140)
    member = jnp.zeros((number, len(pool.labels)), bool)
    masks = MembershipMasks(member, jnp.arange(number, dtype=jnp.int32), "bernoulli", 0.5)
    config = TrainConfig("sgd", steps=steps, private=True)
    hyper = Hyperparams(1.0, clipping_norm=CLIP, noise_multiplier=sigma)
    params = train_ensemble(KEY, pool, masks, hyper, config, **options).params
    values = flat(params).astype(np.float64).reshape(number, -1)[:models]
    return -values * (0.5 * len(pool.labels)) / (1.3 * CLIP)


def rejects(draws):
    """Whether a Kolmogorov-Smirnov test rejects standard normal draws."""
    return scipy.stats.kstest(draws.ravel(), "norm").pvalue < ALPHA


def test_noise_has_the_stated_deviation(pool):
    """A deviation wrong by 5% moves the distribution function by 0.05 phi(1) = 0.0121; the test rejects beyond
    sqrt(log(2 / ALPHA) / 2N) = 0.0067 for the N = 161 700 draws here, so that it misses it with probability below
    exp(-2N (0.0121 - 0.0067)^2) = 1e-4.
    """
    draws = pure_noise(pool, models=140)
    assert draws.size == 140 * 3 * 385
    assert not rejects(draws)
    assert rejects(1.05 * draws)
    assert rejects(0.95 * draws)
    np.testing.assert_allclose(
        draws.std(), 1.0, rtol=4.9 / np.sqrt(2 * draws.size)
    )  # 4.9 standard errors: ALPHA


def test_the_law_of_the_noise_catches_a_halved_noise(pool):
    assert rejects(pure_noise(pool, models=140, sigma=0.65))


def test_adam_acts_on_the_noisy_gradient(pool):
    """Its first step is -rate g / (|g| + 1e-8) in every coordinate of the privatised gradient g."""
    member = jnp.zeros((2, len(pool.labels)), bool)
    masks = MembershipMasks(member, jnp.arange(2, dtype=jnp.int32), "bernoulli", 0.5)
    hyper = Hyperparams(0.1, clipping_norm=CLIP, noise_multiplier=1.3)
    params = train_ensemble(KEY, pool, masks, hyper, TrainConfig("adam", steps=1, private=True)).params
    gradient = pure_noise(pool, models=2) * 1.3 * CLIP / 18
    expected = -0.1 * gradient / (np.abs(gradient) + 1e-8)
    np.testing.assert_allclose(flat(params).reshape(2, -1), expected, rtol=1e-4)  # 1 - 0.999 in float32: 5e-5


def largest_correlation(rows):
    """Over all pairs of rows, and the bound that independent normal rows exceed with probability ALPHA (Bonferroni)."""
    correlation = np.corrcoef(rows)
    pairs = list(itertools.combinations(range(len(rows)), 2))
    bound = scipy.stats.norm.isf(ALPHA / (2 * len(pairs))) / np.sqrt(rows.shape[1])
    return max(abs(correlation[pair]) for pair in pairs), bound


def noise_of_models_and_steps(pool):
    """The noise of 6 models at 2 steps: [12, classes * (dim + 1)]."""
    first, both = (pure_noise(pool, models=6, steps=steps) for steps in (1, 2))
    return np.concatenate([first, both - first])


@pytest.mark.thorough
def test_noise_is_independent_across_models_and_steps(pool):
    largest, bound = largest_correlation(noise_of_models_and_steps(pool))
    assert largest < bound < 0.2
    largest, bound = largest_correlation(pure_noise(pool, models=400)[:, ::37].T)
    assert largest < bound < 0.4  # 32 coordinates of a model, over 400 models


@pytest.mark.slow
def test_the_test_of_independence_catches_noise_shared_by_steps(pool, monkeypatch):
    monkeypatch.setattr(linear_module, "step_keys", lambda key, step: step_keys(key, 0))
    chunks_module._train_chunk.clear_cache()
    largest, bound = largest_correlation(noise_of_models_and_steps(pool))
    chunks_module._train_chunk.clear_cache()
    assert largest > 0.99 > bound


def test_the_test_of_independence_catches_noise_shared_by_models(pool):
    shared = np.repeat(pure_noise(pool, models=1), 2, axis=0)
    largest, bound = largest_correlation(shared)
    assert largest > 0.99 > bound


def test_noise_and_samples_differ_by_purpose():
    sampling_key, noise_key = step_keys(KEY, 3)
    assert not np.array_equal(jax.random.key_data(sampling_key), jax.random.key_data(noise_key))


@pytest.mark.parametrize(
    "chunk_size",
    [
        pytest.param(1, marks=pytest.mark.slow),
        4,
        *(pytest.param(size, marks=pytest.mark.thorough) for size in (3, 11)),
    ],
)
def test_chunks_and_padding_change_no_bit_of_the_noise(pool, chunk_size):
    """11 models in chunks of 4 are padded to 12. Its sum over steps and classes is rounded where it is added up."""
    zeros = zero_head(3, 384, jnp.float32)
    keys = jax.vmap(lambda model: jax.random.fold_in(KEY, model))(jnp.arange(11))
    draw = jax.jit(
        jax.vmap(
            lambda key: add_noise(key, zeros, clipping_norm=1.0, noise_multiplier=1.3, expected_batch=2.0)
        )
    )
    whole = draw(keys)
    parts = [draw(keys[start : start + chunk_size]) for start in range(0, 11, chunk_size)]
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    jax.tree.map(np.testing.assert_array_equal, joined, whole)
    trained = pure_noise(pool, models=11, steps=2)
    np.testing.assert_allclose(
        pure_noise(pool, models=11, steps=2, chunk_size=chunk_size), trained, atol=1e-5
    )


@pytest.mark.parametrize("sampling_rate", [pytest.param(1.0, marks=pytest.mark.thorough), 0.5])
def test_chunks_change_no_private_head_beyond_rounding(pool, sampling_rate):
    masks = draw_membership(KEY, pool.labels, num_models=7)
    config = TrainConfig("sgd", steps=15, sampling="poisson", private=True)
    hyper = Hyperparams(1.0, 0.9, 0.01, sampling_rate, 0.5, 1.0)
    whole = flat(train_ensemble(KEY, pool, masks, hyper, config).params)
    parts = flat(train_ensemble(KEY, pool, masks, hyper, config, chunk_size=3).params)
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-5)


# ---- Poisson sampling ----


def test_poisson_samples_are_binomial_and_independent():
    """600 steps of 8 models of 200 members of 300: counts, their variance, and each member's own frequency."""
    steps, models, rate = 600, 8, 0.2
    member = jnp.arange(300) < 200

    def sample(model, step):
        return poisson_sample(step_keys(jax.random.fold_in(KEY, model), step)[0], member, rate)

    grid = jax.vmap(lambda model: jax.vmap(lambda step: sample(model, step))(jnp.arange(steps)))
    sampled = np.asarray(jax.jit(grid)(jnp.arange(models)))
    assert not sampled[..., 200:].any()  # only members
    counts = sampled.sum(axis=-1).ravel()
    assert scipy.stats.binomtest(int(counts.sum()), counts.size * 200, rate).pvalue > ALPHA
    variance = (
        (counts - 200 * rate) ** 2 / (200 * rate * (1 - rate))
    ).sum()  # chi-squared, counts being near normal
    low, high = scipy.stats.chi2(counts.size).ppf([ALPHA, 1 - ALPHA])
    assert low < variance < high
    of_each_member = sampled[..., :200].sum(axis=(0, 1))
    z = (of_each_member - counts.size * rate) / np.sqrt(counts.size * rate * (1 - rate))
    assert np.abs(z).max() < scipy.stats.norm.isf(ALPHA / 400)
    largest, bound = largest_correlation(sampled[:, :4, :200].reshape(32, -1).astype(float))
    assert largest < bound


def test_a_rate_of_one_takes_every_member():
    member = jnp.arange(5000) % 3 == 0
    np.testing.assert_array_equal(poisson_sample(KEY, member, 1.0), member)


# ---- One program, one pair of matrix products ----


def test_a_grid_over_clip_noise_and_rate_compiles_once(pool):
    masks = draw_membership(KEY, pool.labels, num_models=2)
    config = TrainConfig("sgd", steps=3, sampling="poisson", private=True)
    train_ensemble(KEY, pool, masks, Hyperparams(0.1, 0.9, 0.01, 0.5, 1.0, 1.0), config)
    compiled = chunks_module._train_chunk._cache_size()
    for rate, clip, noise in itertools.product((0.1, 1.0), (0.5, 2.0), (0.0, 3.0)):
        hyper = Hyperparams(0.2, 0.5, 0.1, rate, clip, noise)
        train_ensemble(KEY, pool, masks, hyper, config)
    assert chunks_module._train_chunk._cache_size() == compiled


@pytest.mark.parametrize(
    ("private", "products"), [(True, "float32"), (False, "float32"), (True, "bfloat16"), (False, "bfloat16")]
)
def test_all_models_share_two_products_with_the_features(pool, private, products):
    """No product has a batch axis: the features stand once for all models. All accumulate in float32.

    One class of three needs no product.
    """
    config = TrainConfig("sgd", steps=3, sampling="poisson", private=private, matmul_dtype=products)
    noise = (1.0, 1.0) if private else ()
    train = functools.partial(
        train_head,
        features=jnp.asarray(pool.features),
        labels=jnp.asarray(pool.labels),
        order=None,
        num_classes=3,
        hyper=Hyperparams(0.1, 0.0, 0.0, 0.5, *noise),
        config=config,
        expected_members=18.0,
    )
    member = draw_membership(KEY, pool.labels, num_models=5).member
    program = jax.jit(jax.vmap(train)).lower(jax.random.split(KEY, 5), member).as_text()
    dots = [line for line in program.splitlines() if "dot_general" in line]
    assert len(dots) == 2
    assert not any("batching_dims" in dot for dot in dots)
    assert all("tensor<10x" in dot or "tensor<5x2x" in dot for dot in dots)
    for dot in dots:
        assert dot.count("xbf16>") == (2 if products == "bfloat16" else 0)
        assert "-> tensor" in dot
        assert dot.rsplit("-> tensor", 1)[1].count("xf32>") == 1


# ---- Bad input ----


@pytest.mark.parametrize(
    ("config", "hyper", "message"),
    [
        ({"private": True}, {"noise_multiplier": 1.0}, "clipping_norm=None must be a finite number above 0"),
        ({"private": True}, {"clipping_norm": 1.0}, "noise_multiplier=None must be a finite number"),
        ({"private": True}, {"clipping_norm": 0.0, "noise_multiplier": 1.0}, "clipping_norm=0.0"),
        ({"private": True}, {"clipping_norm": np.inf, "noise_multiplier": 1.0}, "clipping_norm=inf"),
        ({"private": True}, {"clipping_norm": 1.0, "noise_multiplier": -1.0}, "noise_multiplier=-1.0"),
        ({}, {"noise_multiplier": 1.0}, "noise_multiplier=1.0 must be None unless private=True"),
        ({}, {"clipping_norm": 1.0}, "clipping_norm=1.0 must be None unless private=True"),
        ({}, {"sampling_rate": 0.5}, "sampling_rate=0.5 must be 1 unless sampling='poisson'"),
        ({"sampling": "poisson"}, {"sampling_rate": 0.0}, r"sampling_rate=0.0 must lie in \(0, 1\]"),
        ({"sampling": "poisson"}, {"sampling_rate": 1.5}, "sampling_rate=1.5"),
    ],
)
def test_settings_that_void_privacy_are_refused(pool, config, hyper, message):
    masks = draw_membership(KEY, pool.labels, num_models=2)
    with pytest.raises(InputError, match=message):
        train_ensemble(KEY, pool, masks, Hyperparams(0.1, **hyper), TrainConfig(**config))


def test_static_settings_that_void_privacy_are_refused():
    with pytest.raises(InputError, match="batch_size=5 must be None for private training"):
        TrainConfig(batch_size=5, private=True)
    with pytest.raises(InputError, match="batch_size=5 must be None for sampling='poisson'"):
        TrainConfig(batch_size=5, sampling="poisson")
    with pytest.raises(InputError, match="sampling='poison' must be one of shared, independent, poisson"):
        TrainConfig(sampling="poison")


# ---- Individual accounting ----


@pytest.mark.thorough
def test_odometer_is_the_sum_over_the_steps_of_heads_trained_one_step_further(pool):
    """Of SGD with noise: each step's norms from the head that the run had then, by the slow loop."""
    hyper = Hyperparams(0.5, clipping_norm=CLIP, noise_multiplier=1.0)
    masks = draw_membership(KEY, pool.labels, num_models=3)
    expected = np.zeros(masks.member.shape)
    kernels = [np.zeros((3, 3, pool.features.shape[1] + 1))]
    for steps in (1, 2):
        kernels.append(
            flat(
                train_ensemble(KEY, pool, masks, hyper, TrainConfig("sgd", steps=steps, private=True)).params
            )
        )
    inputs = np.append(pool.features, np.ones((len(pool.labels), 1)), axis=1)
    for heads, (model, example) in itertools.product(kernels, np.ndindex(*expected.shape)):
        if masks.member[model, example]:
            error = scipy.special.softmax(heads[model] @ inputs[example]) - np.eye(3)[pool.labels[example]]
            expected[model, example] += min(np.linalg.norm(np.outer(error, inputs[example])), CLIP) ** 2
    found = train_ensemble(KEY, pool, masks, hyper, TrainConfig("sgd", steps=3, private=True, odometer=True))
    np.testing.assert_allclose(found.clipped_squares, expected, rtol=2e-5)
    assert (
        0 < np.mean(np.isclose(expected[np.asarray(masks.member)], 3 * CLIP**2)) < 1
    )  # clipped and unclipped


def test_individual_mu_of_a_run_is_at_most_that_of_the_recipe_and_reaches_it_where_all_is_clipped(pool):
    masks = draw_membership(KEY, pool.labels, num_models=3)
    config = TrainConfig("sgd", steps=5, private=True, odometer=True)
    member = np.asarray(masks.member)
    for clip, reaches in ((1e-3, True), (1.0, False)):
        hyper = Hyperparams(0.5, clipping_norm=clip, noise_multiplier=2.0)
        squares = np.asarray(train_ensemble(KEY, pool, masks, hyper, config, chunk_size=2).clipped_squares)
        mu = individual_mu(squares, noise_multiplier=2.0, clipping_norm=clip, steps=5)
        largest = gdp_mu(noise_multiplier=2.0, steps=5)
        assert (mu[~member] == 0).all()
        assert (mu[member] > 0).all()
        assert (mu <= largest).all()
        assert np.allclose(mu[member], largest, rtol=1e-5) == reaches


def test_an_odometer_without_full_batches_is_refused():
    for settings in ({}, {"private": True, "sampling": "poisson"}):
        with pytest.raises(
            InputError, match="odometer=True must be False but in full-batch private training"
        ):
            TrainConfig(odometer=True, **settings)


def test_a_generator_that_depends_on_batching_is_refused(pool):
    masks = draw_membership(KEY, pool.labels, num_models=2)
    hyper = Hyperparams(0.1, clipping_norm=1.0, noise_multiplier=1.0)
    with pytest.raises(InputError, match="must be a threefry2x32 key"):
        train_ensemble(jax.random.key(0, impl="rbg"), pool, masks, hyper, TrainConfig(private=True))


def test_a_head_trained_by_itself_needs_the_expected_number_of_members(pool):
    with pytest.raises(InputError, match="expected_members"):
        train_head(
            KEY,
            jnp.ones(36, bool),
            jnp.asarray(pool.features),
            jnp.asarray(pool.labels),
            None,
            num_classes=3,
            hyper=Hyperparams(0.1, clipping_norm=1.0, noise_multiplier=1.0),
            config=TrainConfig(private=True),
        )
