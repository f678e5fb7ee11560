"""DP-SGD whose unit is the person: clipping and sampling against slow loops, jax_privacy and limits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import jax_privacy
import numpy as np
import optax
import pytest
import references_dpsgd
import scipy.stats

from jaxmia._validate import InputError
from jaxmia.data.feature_set import feature_set
from jaxmia.data.membership import draw_membership
from jaxmia.privacy.accounting import MOST_RECORDS, gdp_mu, individual_mu
from jaxmia.training.dpsgd import add_noise, clipped_gradient_sum, clipped_squares, poisson_sample, step_keys
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.heads import SplitHead, zero_head
from jaxmia.training.linear import apply_head, train_head
from jaxmia.training.persons import person_norms, person_rows, sorted_persons
from jaxmia.training.plan import poisson_bound
from jaxmia.training.settings import Hyperparams, TrainConfig

KEY = jax.random.key(41)
CLASSES, DIM, CLIP = 4, 7, 1.3
RECORDS = np.array([1, 2, 5, 3, 1, 4, 2, 2, 6, 1, 3])
WHOSE = np.repeat(np.arange(len(RECORDS)), RECORDS)


@pytest.fixture(scope="module")
def batch():
    """Persons whose gradients' norms lie on both sides of CLIP, with records that agree and that cancel, in float64."""
    rng = np.random.default_rng(7)
    features = rng.normal(size=(len(WHOSE), DIM)) * rng.uniform(0.05, 0.6, size=(len(WHOSE), 1))
    features[WHOSE == 2] = features[WHOSE == 2][0]  # one record five times,
    labels = rng.integers(0, CLASSES, len(WHOSE))
    labels[WHOSE == 2] = [0, 1, 2, 3, 0]  # of all classes
    kernel, bias = rng.normal(size=(CLASSES, DIM)), rng.normal(size=CLASSES)
    return kernel, bias, features, labels, (rng.random(len(RECORDS)) < 0.8)[WHOSE]


def errors_of(kernel, bias, features, labels):
    logits = kernel @ features.T + bias[:, None]
    return (jax.nn.softmax(logits, axis=0) - jax.nn.one_hot(labels, CLASSES, axis=0, dtype=logits.dtype))[:-1]


def flat(gradient):
    """A gradient or a parameter tree, kernel and bias side by side: [..., classes, dim + 1]."""
    if isinstance(gradient, SplitHead):
        leaves = {
            name: jnp.concatenate([gradient.rest[name], gradient.last[name][None]])
            for name in ("kernel", "bias")
        }
    else:
        leaves = gradient["params"]
    return np.concatenate([leaves["kernel"], np.asarray(leaves["bias"])[..., None]], axis=-1)


def clipped_sum(batch, *, dtype=np.float64, clipping_norm=CLIP, whose=WHOSE, **more):
    kernel, bias, features, labels, sampled = batch
    persons = person_rows(features.astype(dtype), whose, len(whose))
    kernel, bias, features = (jnp.asarray(array, dtype) for array in (kernel, bias, features))
    errors = errors_of(kernel, bias, features, labels)
    more = {"clipping_norm": clipping_norm, "persons": jax.tree.map(jnp.asarray, persons)} | more
    return flat(clipped_gradient_sum(errors, features, jnp.asarray(sampled), **more))


def rounding_allowed():
    """Each person's factor makes room for (rows + records + 4) half units of (sum of norms)^2 / norm^2 <= records."""
    most = RECORDS.max()
    return len(RECORDS) * CLIP * (CLASSES - 1 + most + 4 + 10) * most * 2**-24


def test_clipped_sum_is_the_slow_loop(batch):
    kernel, bias = references_dpsgd.clipped_gradient_sum(*batch, clipping_norm=CLIP, person=WHOSE)
    expected = np.column_stack([kernel, bias])
    with jax.enable_x64(True):
        np.testing.assert_allclose(clipped_sum(batch), expected, rtol=0, atol=1e-13)
    found = clipped_sum(batch, dtype=np.float32)
    np.testing.assert_allclose(found, expected, rtol=0, atol=rounding_allowed())


@pytest.mark.filterwarnings(
    "ignore:optax.global_norm is deprecated:DeprecationWarning"
)  # jax_privacy's own call
def test_closed_form_is_per_user_clipping_of_jax_privacy(batch):
    """Users of as many records as the largest has, the missing ones of weight 0."""
    kernel, bias, features, labels, sampled = batch
    most = RECORDS.max()
    places = np.cumsum(RECORDS) - RECORDS
    rows = np.minimum(places[:, None] + np.arange(most), len(WHOSE) - 1)
    weight = (np.arange(most) < RECORDS[:, None]).astype(float)

    def loss(params, user):
        x, y, counts = user
        one_hot = jax.nn.one_hot(y, CLASSES, dtype=x.dtype)
        return jnp.sum(counts * optax.softmax_cross_entropy(apply_head(params, x).T, one_hot))

    for x64, dtype, atol in ((True, np.float64, 1e-13), (False, np.float32, rounding_allowed())):
        with jax.enable_x64(x64):
            params = {"params": {"kernel": jnp.asarray(kernel, dtype), "bias": jnp.asarray(bias, dtype)}}
            users = (
                jnp.asarray(features[rows], dtype),
                jnp.asarray(labels[rows]),
                jnp.asarray(weight, dtype),
            )
            gradient = jax_privacy.clipped_grad(loss, l2_clip_norm=CLIP, keep_batch_dim=False)
            absent = jnp.asarray(~sampled[places])
            expected = flat(gradient(params, users, is_padding_example=absent))
            np.testing.assert_allclose(clipped_sum(batch, dtype=dtype), expected, rtol=0, atol=atol)


def test_persons_of_one_record_are_records(batch):
    kernel, bias, features, labels, sampled = batch
    with jax.enable_x64(True):
        errors = errors_of(*(jnp.asarray(array) for array in (kernel, bias, features)), labels)
        records = clipped_gradient_sum(
            errors, jnp.asarray(features), jnp.asarray(sampled), clipping_norm=CLIP
        )
        alone = clipped_sum(batch, whose=np.arange(len(WHOSE)))
        np.testing.assert_allclose(alone, flat(records), rtol=0, atol=1e-13)


def test_no_person_contributes_more_than_the_clipping_norm(batch):
    *rest, _ = batch
    norms = {}
    for clip in (CLIP, 1e9):
        with jax.enable_x64(True):
            alone = [
                clipped_sum((*rest, person == WHOSE), clipping_norm=clip) for person in range(len(RECORDS))
            ]
        norms[clip] = np.array([np.linalg.norm(each) for each in alone])
    assert np.mean(norms[1e9] > CLIP) > 0.2
    assert np.mean(norms[1e9] < CLIP) > 0.2
    np.testing.assert_allclose(norms[CLIP], np.minimum(norms[1e9], CLIP), rtol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_records_that_nearly_cancel_stay_below_the_clipping_norm(scale):
    """Two records that differ by a share of 1e-2 to 1e-6, with opposite signs: much of the remainder is rounding."""
    rng = np.random.default_rng(2)
    persons = 200
    features = np.repeat(scale * rng.normal(size=(persons, 50)), 2, axis=0)
    features[1::2] *= 1 + 10.0 ** -rng.uniform(2, 6, size=(persons, 1))
    errors = np.repeat(rng.normal(size=(CLASSES - 1, persons)) / 3, 2, axis=1).astype(np.float32)
    errors[:, 1::2] *= -1
    whose = np.repeat(np.arange(persons), 2)
    rows = person_rows(features.astype(np.float32), whose, len(whose))
    clip = 1e-3 * scale
    norms = person_norms(jnp.asarray(errors), jnp.ones(len(whose), bool), jax.tree.map(jnp.asarray, rows))
    scales = np.minimum(1, clip / np.asarray(norms, np.float64))
    whole = np.concatenate([errors, -errors.sum(axis=0, keepdims=True, dtype=np.float64)]) * scales
    design = np.column_stack([features.astype(np.float32), np.ones(len(whose))]).astype(np.float64)
    exact = np.einsum("cpk,pkd->pcd", whole.reshape(CLASSES, persons, 2), design.reshape(persons, 2, 51))
    reached = np.linalg.norm(exact, axis=(1, 2))
    assert reached.max() <= clip * (1 + 1e-6)
    assert np.mean(np.asarray(norms)[::2] > clip) > 0.2  # of these some are clipped


@pytest.mark.parametrize("dtype", ["bfloat16", "tensorfloat32"])
def test_products_of_fewer_bits_round_no_person_above_the_clipping_norm(batch, dtype, monkeypatch):
    _, bias, features, labels, _ = batch
    bias = jnp.asarray(bias, jnp.float32)
    more = {}
    rounded = jnp.asarray(features, jnp.bfloat16 if dtype == "bfloat16" else jnp.float32)
    if dtype == "tensorfloat32":
        import jaxmia.training.heads as heads_module

        def as_tf32(values):
            return (
                (np.asarray(values, np.float32).view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
            ).view(np.float32)

        def product(left, right, precision=None):
            return jnp.asarray(as_tf32(left).astype(np.float64) @ as_tf32(right), jnp.float32)

        monkeypatch.setattr(heads_module, "product", product)
        more = {"precision": jax.lax.Precision.HIGH}
    norms = []
    for seed in range(12):
        kernel = 3 * jax.random.normal(jax.random.key(seed), (CLASSES, DIM))
        errors = errors_of(kernel, bias, jnp.asarray(features, jnp.float32), labels)
        persons = jax.tree.map(jnp.asarray, person_rows(features.astype(np.float32), WHOSE, len(WHOSE)))
        for person in range(len(RECORDS)):
            total = clipped_gradient_sum(
                errors, rounded, jnp.asarray(person == WHOSE), clipping_norm=0.01, persons=persons, **more
            )
            norms.append(np.linalg.norm(flat(total).astype(np.float64)))
    assert max(norms) <= 0.01
    assert np.median(norms) > 0.01 * (1 - 30 * (2**-8 if dtype == "bfloat16" else 2**-10))


@pytest.mark.parametrize("value", [1e25, 3e38])
def test_a_person_with_a_record_that_overflows_counts_as_nothing(batch, value):
    kernel, bias, features, labels, sampled = batch
    person = np.flatnonzero((np.bincount(WHOSE, sampled) > 0) & (RECORDS > 2))[0]
    without = sampled & (person != WHOSE)
    expected = clipped_sum((10 * kernel, bias, features, labels, without), dtype=np.float32)
    features = features.copy()
    features[np.flatnonzero(person == WHOSE)[1]] = value * np.array([1, -1, 1, -1, 1, -1, 1])
    for present in (sampled, without):
        found = clipped_sum((10 * kernel, bias, features, labels, present), dtype=np.float32)
        np.testing.assert_array_equal(found, expected)


def test_squares_are_of_the_person(batch):
    kernel, bias, features, labels, sampled = batch
    with jax.enable_x64(True):
        errors = errors_of(*(jnp.asarray(array) for array in (kernel, bias, features)), labels)
        persons = jax.tree.map(jnp.asarray, person_rows(features, WHOSE, len(WHOSE)))
        found = clipped_squares(
            errors, jnp.asarray(features), jnp.asarray(sampled), clipping_norm=CLIP, persons=persons
        )
    for person in range(len(RECORDS)):
        parts = references_dpsgd.clipped_gradient_sum(
            *batch[:4], sampled & (person == WHOSE), clipping_norm=CLIP, person=WHOSE
        )
        expected = sum(np.sum(part**2) for part in parts)
        np.testing.assert_allclose(found[person == WHOSE], expected, rtol=0, atol=1e-12)


# ---- Sampling ----


def test_poisson_batches_are_of_whole_persons_at_the_rate():
    rng = np.random.default_rng(1)
    whose = np.sort(rng.integers(0, 500, 1500))
    whose = np.unique(whose, return_inverse=True)[1]
    rows = jax.tree.map(jnp.asarray, person_rows(np.zeros((1500, 1), np.float32), whose, 1536))
    member = jnp.asarray(
        np.pad(rng.random(whose.max() + 1) < 0.5, (0, 1))[np.pad(whose, (0, 36), constant_values=-1)]
    )
    draw = jax.vmap(lambda step: poisson_sample(step_keys(KEY, step)[0], member, 0.3, rows))
    sampled = np.asarray(draw(jnp.arange(40)))[:, :1500]
    assert not sampled[:, ~np.asarray(member)[:1500]].any()
    counts = np.array([np.bincount(whose, row) for row in sampled])
    records = np.bincount(whose)
    assert np.isin(counts / records, [0, 1]).all()
    taken = (counts > 0)[:, np.asarray(member)[np.cumsum(records) - records]]
    low, high = scipy.stats.binom.ppf([1e-6, 1 - 1e-6], taken.size, 0.3)
    assert low <= taken.sum() <= high


@pytest.mark.parametrize(("most", "members", "rate"), [(2, 400, 0.1), (5, 400, 0.02), (5, 37, 0.5)])
def test_no_sample_of_persons_is_beyond_the_bound(most, members, rate):
    """The exact law of the rows sampled, by convolution, of persons of the most records and of mixed ones."""
    bound = poisson_bound(members, rate, most)
    for sizes in (
        [most] * (members // most) + [members % most] * (members % most > 0),
        [1, most] * (members // (most + 1)),
    ):
        law = np.ones(1)
        for size in sizes:
            law = np.append((1 - rate) * law, np.zeros(size)) + np.append(np.zeros(size), rate * law)
        assert law[bound + 1 :].sum() <= 2.0**-64
    assert bound == members or bound < members * min(1, 6 * rate + 0.4)


# ---- Whole heads ----


@pytest.fixture(scope="module")
def pool():
    """60 records of 22 persons of 1 to 5, in no order."""
    rng = np.random.default_rng(11)
    whose = np.repeat(np.arange(22), rng.permutation([1, 2, 3, 4, 5, 1, 2, 3, 4, 2, 3] * 2))[:60]
    order = rng.permutation(len(whose))
    labels = rng.integers(0, 3, len(whose))
    features = rng.normal(size=(len(whose), 16)) / 4 + np.eye(16)[labels]
    names = np.array([f"p{number:02}" for number in whose])
    return feature_set(features[order], labels[order], person=names[order])


def masks_of(pool, models=3):
    return draw_membership(KEY, pool.labels, num_models=models, person=pool.person)


@pytest.mark.parametrize(
    ("config", "hyper"),
    [
        (
            TrainConfig("sgd", "cosine", steps=9, sampling="poisson", private=True, privacy_unit="person"),
            Hyperparams(1.0, 0.5, 0.01, 0.4, 0.7, 0.3),
        ),
        pytest.param(
            TrainConfig("adam", steps=9, private=True, privacy_unit="person"),
            Hyperparams(0.1, 0.0, 0.3, 1.0, 0.5, 1.0),
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_a_private_head_is_the_slow_loop(pool, config, hyper):
    order, whose = sorted_persons(pool.person, np.asarray(masks_of(pool).member))
    features, labels = pool.features[order].astype(np.float64), pool.labels[order]
    member, whose = masks_of(pool).member[0][order], whose[order]
    with jax.enable_x64(True):
        persons = jax.tree.map(jnp.asarray, person_rows(features, whose, len(whose)))
        zeros = zero_head(3, features.shape[1], np.float64)
        keys = [step_keys(KEY, step) for step in range(config.steps)]
        draw = functools.partial(add_noise, clipping_norm=1.0, noise_multiplier=1.0, expected_batch=1.0)
        noises = [flat(draw(noise_key, zeros)) for _, noise_key in keys]
        samples = [np.asarray(member)] * config.steps
        if config.sampling == "poisson":
            samples = [
                np.asarray(poisson_sample(key, member, hyper.sampling_rate, persons)) for key, _ in keys
            ]
            assert 0 < sum(sample.sum() for sample in samples) < 9 * member.sum()
        params, _ = train_head(
            KEY,
            member,
            jnp.asarray(features),
            jnp.asarray(labels),
            None,
            num_classes=3,
            hyper=hyper,
            config=config,
            expected_members=30.0,
            persons=persons,
        )
    expected = references_dpsgd.train_head(
        samples,
        [(noise[:, :-1], noise[:, -1]) for noise in noises],
        features,
        labels,
        num_classes=3,
        expected_members=30.0,
        hyper=hyper,
        config=config,
        person=whose,
    )
    np.testing.assert_allclose(flat(params), np.column_stack(expected), rtol=0, atol=1e-9)


def test_the_order_of_examples_does_not_matter(pool):
    """Sampling and noise follow from persons' names and the models' keys; only sums are rounded in another order."""
    config = TrainConfig("sgd", steps=5, sampling="poisson", private=True, privacy_unit="person")
    hyper = Hyperparams(1.0, sampling_rate=0.5, clipping_norm=0.5, noise_multiplier=0.5)
    masks = masks_of(pool)
    heads = train_ensemble(KEY, pool, masks, hyper, config)
    order = np.random.default_rng(0).permutation(len(pool.labels))
    moved = dataclasses.replace(
        pool, features=pool.features[order], labels=pool.labels[order], person=pool.person[order]
    )
    again = train_ensemble(
        KEY, moved, dataclasses.replace(masks, member=masks.member[:, order]), hyper, config
    )
    np.testing.assert_allclose(flat(again.params), flat(heads.params), rtol=0, atol=2e-5)
    np.testing.assert_array_equal(heads.masks.member, masks.member)


@pytest.mark.parametrize("rate", [1.0, 0.05])
def test_blocks_and_gathered_batches_are_the_same_heads(pool, rate):
    """A batch gathered into few rows, and blocks in the middle of persons, against products over all candidates."""
    rng = np.random.default_rng(3)
    repeated = feature_set(
        rng.normal(size=(480, 8)) / 3, rng.integers(0, 3, 480), person=np.sort(rng.integers(0, 160, 480))
    )
    masks = draw_membership(KEY, repeated.labels, num_models=2, person=repeated.person)
    sampling = "shared" if rate == 1 else "poisson"
    config = TrainConfig("sgd", steps=6, sampling=sampling, private=True, privacy_unit="person")
    hyper = Hyperparams(1.0, sampling_rate=rate, clipping_norm=0.5, noise_multiplier=0.1)
    order, whose = sorted_persons(repeated.person, np.asarray(masks.member))
    rows = jax.tree.map(jnp.asarray, person_rows(repeated.features[order], whose[order], 480))
    found = []
    bound = poisson_bound(int(masks.member[1].sum()), rate, int(np.bincount(whose).max()))
    for gathered, block in ((None, None), (None, 37), *(((bound, None), (bound, 11)) if rate < 1 else ())):
        params, _ = train_head(
            jax.random.fold_in(KEY, 1),
            masks.member[1][order],
            jnp.asarray(repeated.features[order]),
            jnp.asarray(repeated.labels[order]),
            None,
            num_classes=3,
            hyper=hyper,
            config=config,
            expected_members=240.0,
            gathered=gathered,
            block=block,
            persons=rows,
        )
        found.append(flat(params))
    assert bound < 480 or rate == 1
    for each in found[1:]:
        np.testing.assert_allclose(each, found[0], rtol=0, atol=1e-5)
    whole = train_ensemble(KEY, repeated, masks, hyper, config)
    np.testing.assert_allclose(flat(whole.params)[1], found[0], rtol=0, atol=1e-5)


def test_each_person_has_a_mu_of_their_own(pool):
    config = TrainConfig("sgd", steps=4, private=True, privacy_unit="person", odometer=True)
    hyper = Hyperparams(1.0, clipping_norm=0.6, noise_multiplier=2.0)
    heads = train_ensemble(KEY, pool, masks_of(pool), hyper, config)
    mu = individual_mu(np.asarray(heads.clipped_squares), noise_multiplier=2.0, clipping_norm=0.6, steps=4)
    member = np.asarray(heads.masks.member)
    assert (mu[~member] == 0).all()
    assert mu.max() <= gdp_mu(noise_multiplier=2.0, steps=4)
    for person in np.unique(pool.person):
        own = mu[:, pool.person == person]
        np.testing.assert_array_equal(own, own[:, :1].repeat(own.shape[1], axis=1))


# ---- What is refused ----


def test_what_cannot_be_clipped_by_person_is_refused(pool):
    config = TrainConfig("sgd", steps=1, private=True, privacy_unit="person")
    hyper = Hyperparams(1.0, clipping_norm=1.0, noise_multiplier=1.0)
    by_record = draw_membership(KEY, pool.labels, num_models=3)
    with pytest.raises(InputError, match="has some records in a model's training set and others out of it"):
        train_ensemble(KEY, pool, by_record, hyper, config)
    with pytest.raises(InputError, match="needs the pool's person"):
        train_ensemble(KEY, dataclasses.replace(pool, person=None), by_record, hyper, config)
    many = feature_set(
        np.zeros((MOST_RECORDS + 3, 2)),
        np.arange(MOST_RECORDS + 3) % 2,
        person=np.repeat(["a", "b"], [MOST_RECORDS + 1, 2]),
    )
    with pytest.raises(
        InputError, match=rf"person='a' must have at most {MOST_RECORDS} records .* has {MOST_RECORDS + 1}"
    ):
        train_ensemble(KEY, many, masks_of(many), hyper, config)
    with pytest.raises(InputError, match="privacy_unit='person' must be 'record' without private training"):
        TrainConfig(privacy_unit="person")
