"""Ensembles of adapters: each model against a slow loop, whatever its chunk, batches and privacy."""

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references_adapters import small_bert, small_vit

from jaxmia._validate import InputError
from jaxmia.data.feature_set import FeatureSet, feature_set
from jaxmia.data.membership import draw_membership
from jaxmia.training.adapters.adapter import Adapter
from jaxmia.training.adapters.inputs import adapter_inputs, pooled_features
from jaxmia.training.ensemble import empty_heads, train_ensemble
from jaxmia.training.network import Network
from jaxmia.training.scoring import accuracy, gradient_norms, score
from jaxmia.training.settings import Hyperparams, TrainConfig
from jaxmia.training.trainables import Adapters, Trainable, trainable

KEY = jax.random.key(4)
EXAMPLES = 24
BERT, VIT = small_bert(dim=8, layers=2), small_vit(registers=1, layers=1)


def texts(count=EXAMPLES, seed=0):
    """Two classes of texts with words of their own among others, of several lengths."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % 2
    ids = rng.integers(5, 11, size=(count, 5))
    ids[:, :3] = (2 + labels)[:, None]
    ids[:, 3:] *= (np.arange(count) % 3 > 0)[:, None]
    return FeatureSet(ids.astype(np.float32), labels, ("a", "b"), (5,), backbone=BERT)


def images(count=EXAMPLES):
    rng = np.random.default_rng(1)
    labels = np.arange(count, dtype=np.int32) % 2
    pixels = rng.normal(size=(count, 6, 6, 3)) + labels[:, None, None, None]
    return FeatureSet(
        pixels.reshape(count, -1).astype(np.float16), labels, ("a", "b"), (6, 6, 3), backbone=VIT
    )


def trained(pool, adapter, hyper=None, models=3, memory=None, chunk_size=None, **config):
    masks = draw_membership(KEY, pool.labels, num_models=models)
    config = TrainConfig(**{"steps": 4, "network": adapter} | config)
    hyper = hyper or Hyperparams(0.05, weight_decay=0.01)
    return train_ensemble(KEY, pool, masks, hyper, config, memory=memory, chunk_size=chunk_size), masks


def loss(params, adapter, inputs, labels, rows):
    """Mean cross-entropy of these rows alone, and the penalty."""
    own = params["params"]
    features = pooled_features(inputs.of(inputs.rows[rows]), own["adapter"], scale=adapter.scale)
    logits = features @ own["kernel"].T + own["bias"]
    total = -jax.nn.log_softmax(logits)[jnp.arange(len(rows)), labels[rows]].sum()
    squares = sum(
        jnp.sum(leaf**2)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if path[-1].key in ("kernel", "weight", "lora_A", "lora_B")
    )
    return total / len(rows) + 0.5 * 0.01 * squares


def slow_training(adapter, pool, rows, model, steps=4, rate=0.05):
    """One model by optax, with the initial values that its id gives."""
    inputs = adapter_inputs(adapter, pool)
    kind = trainable(adapter)
    training_key, _ = kind.keys(jax.random.fold_in(KEY, model))
    params = kind.init(jax.random.split(training_key)[0], inputs, num_classes=2)
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    state, gradient = optimizer.init(params), jax.jit(jax.grad(loss), static_argnums=1)
    for _ in range(steps):
        found = gradient(params, adapter, inputs, jnp.asarray(pool.labels), jnp.asarray(rows))
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(found, state)
        params = optax.apply_updates(params, updates)
    return params


def same(a, b, atol=2e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def model_of(params, number):
    return jax.tree.map(lambda leaf: leaf[number], params)


@pytest.mark.parametrize(
    "kind", ["lora", *(pytest.param(kind, marks=pytest.mark.thorough) for kind in ("film", "bias", "blocks"))]
)
def test_every_model_is_that_of_a_slow_loop(kind):
    pool, adapter = texts(), Adapter(kind, blocks=1, rank=2)
    ensemble, masks = trained(pool, adapter, schedule="cosine")
    for model in (0, 2):
        rows = np.flatnonzero(np.asarray(masks.member[model]))
        slow = slow_training(adapter, pool, rows, model)
        moved = jax.tree.leaves(model_of(ensemble.params, model)["params"]["adapter"])
        assert max(float(jnp.abs(leaf).max()) for leaf in moved) > 1e-3
        # Adam divides by gradients' sizes, so that rounding moves parameters whose gradient is about 0.
        same(model_of(ensemble.params, model), slow, atol=5e-3)
        scores = score(ensemble, pool).log_odds[model]
        features = pooled_features(
            adapter_inputs(adapter, pool), slow["params"]["adapter"], scale=adapter.scale
        )
        logits = features @ slow["params"]["kernel"].T + slow["params"]["bias"]
        odds = np.asarray(logits[:, 1] - logits[:, 0]) * np.where(pool.labels == 1, 1, -1)
        np.testing.assert_allclose(scores, odds, atol=2e-3)


def test_images_are_trained_on_too():
    pool = images()
    ensemble, masks = trained(pool, Adapter("film"), steps=2)
    rows = np.flatnonzero(np.asarray(masks.member[1]))
    inputs = adapter_inputs(Adapter("film"), pool)
    start = trainable(Adapter("film")).init(KEY, inputs, num_classes=2)
    before = loss(start, Adapter("film"), inputs, jnp.asarray(pool.labels), rows)
    after = loss(model_of(ensemble.params, 1), Adapter("film"), inputs, jnp.asarray(pool.labels), rows)
    assert after < before


@pytest.mark.parametrize("kind", ["film", "lora"])
def test_chunks_and_memory_change_rounding_alone(kind):
    """Chunks of one, and so little memory that one model has one example at once."""
    pool, adapter = texts(), Adapter(kind, rank=2)
    plain = Hyperparams(0.05)
    whole, _ = trained(pool, adapter, plain, optimizer="sgd")
    alone, _ = trained(pool, adapter, plain, optimizer="sgd", chunk_size=1)
    with pytest.raises(
        InputError, match=r"memory=.* must be at least (\d+) MiB \(--memory\): 24 candidates of 5 tokens"
    ) as error:
        trained(pool, adapter, plain, memory=1)
    least = int(str(error.value).split("at least ")[1].split()[0])
    small, _ = trained(pool, adapter, plain, optimizer="sgd", memory=least * 2**20)
    same(whole.params, alone.params, atol=1e-6)
    same(whole.params, small.params, atol=1e-6)


def test_blocks_of_examples_add_up():
    pool, adapter = texts(), Adapter("film")
    whole, masks = trained(pool, adapter, Hyperparams(0.05), optimizer="sgd")
    inputs, kind, config = (
        adapter_inputs(adapter, pool),
        trainable(adapter),
        TrainConfig("sgd", steps=4, network=adapter),
    )
    from jaxmia.training.adapters.plan import plan_adapters
    from jaxmia.training.size import EnsembleSize

    size = EnsembleSize(
        num_models=3,
        num_examples=24,
        num_classes=2,
        dim=5,
        inclusion_rate=0.5,
        input_shape=(5,),
        backbone=BERT,
    )
    plan = dataclasses.replace(plan_adapters(adapter, config, None, size), block=5, rows=24)
    key = kind.keys(jax.random.fold_in(KEY, 1))[0]
    found = kind.train(
        key,
        masks.member[1],
        inputs,
        jnp.asarray(pool.labels),
        None,
        plan=plan,
        num_classes=2,
        hyper=Hyperparams(0.05, weight_decay=None),
        config=config,
        share=1.0,
        expected_members=12.0,
    )
    same(model_of(whole.params, 1), found.params, atol=1e-6)


@pytest.mark.parametrize("sampling", ["shared", "independent", "poisson"])
def test_minibatches_learn(sampling):
    pool, test = texts(64), texts(64, seed=9)
    poisson = sampling == "poisson"
    hyper = Hyperparams(0.05, sampling_rate=0.25) if poisson else Hyperparams(0.05)
    ensemble, masks = trained(
        pool, Adapter("film"), hyper, steps=40, sampling=sampling, batch_size=None if poisson else 8
    )
    # The class's word is in every text; chance is 1/2, within three standard errors of 64 texts.
    assert accuracy(ensemble, test).min() > 0.5 + 3 * math.sqrt(0.25 / 64)
    alone = train_ensemble(
        KEY,
        pool,
        dataclasses.replace(masks, member=masks.member[2:], model_ids=masks.model_ids[2:]),
        hyper,
        TrainConfig(steps=40, sampling=sampling, batch_size=None if poisson else 8, network=Adapter("film")),
    )
    np.testing.assert_allclose(
        score(alone, pool).log_odds[0], score(ensemble, pool).log_odds[2], atol=1e-2
    )  # the model of one id, whoever is trained beside it


def test_settings_for_each_model_are_its_own():
    pool, adapter = texts(), Adapter("bias")
    rates = jnp.array([0.0, 0.05, 0.05])
    ensemble, _ = trained(
        pool, adapter, Hyperparams(rates, steps=jnp.array([4, 4, 1], jnp.int32)), optimizer="sgd"
    )
    sizes = [
        max(float(jnp.abs(leaf[k]).max()) for leaf in jax.tree.leaves(ensemble.params)) for k in range(3)
    ]
    assert sizes[0] == 0 < sizes[2] < sizes[1]


def test_lower_precision_trains_nearly_the_same():
    pool = texts()
    exact, _ = trained(pool, Adapter("lora", rank=2), optimizer="sgd")
    rough, _ = trained(pool, Adapter("lora", rank=2), optimizer="sgd", matmul_dtype="bfloat16")
    gap = max(
        float(jnp.abs(a - b).max())
        for a, b in zip(jax.tree.leaves(exact.params), jax.tree.leaves(rough.params), strict=True)
    )
    assert 0 < gap < 0.02


def test_private_step_is_a_slow_loop_and_zero_noise():
    """Each example's gradient clipped over adapter and head together; some below the norm, some above."""
    pool, adapter, clip = texts(), Adapter("lora", blocks=1, rank=2), 1.6
    hyper = Hyperparams(0.5, clipping_norm=clip, noise_multiplier=0.0)
    ensemble, masks = trained(pool, adapter, hyper, steps=3, optimizer="sgd", private=True)
    inputs, kind = adapter_inputs(adapter, pool), trainable(adapter)
    for model in range(2):
        params = kind.init(
            jax.random.split(kind.keys(jax.random.fold_in(KEY, model))[0])[0], inputs, num_classes=2
        )
        norms = []

        def one(params, row):
            own = params["params"]
            features = pooled_features(inputs.of(inputs.rows[row][None]), own["adapter"], scale=adapter.scale)
            logits = own["kernel"] @ features[0] + own["bias"]
            return -jax.nn.log_softmax(logits)[jnp.asarray(pool.labels)[row]]

        gradient_of = jax.jit(jax.grad(one))
        for _ in range(3):
            total = jax.tree.map(jnp.zeros_like, params)
            for row in np.flatnonzero(np.asarray(masks.member[model])):
                gradient = gradient_of(params, int(row))
                norm = math.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradient)))
                norms.append(norm)
                total = jax.tree.map(lambda t, g, n=norm: t + g * min(1.0, clip / n), total, gradient)
            params = jax.tree.map(lambda p, t: p - 0.5 * t / (0.5 * EXAMPLES), params, total)
        assert min(norms) < clip < max(norms)
        same(model_of(ensemble.params, model), params, atol=1e-5)


def test_private_adapters_move_and_learn():
    """A public report lost 45 GPU hours to private LoRA whose weights never moved."""
    pool, test = texts(128), texts(128, seed=9)
    hyper = Hyperparams(0.05, sampling_rate=0.5, clipping_norm=1.0, noise_multiplier=0.5)
    ensemble, _ = trained(
        pool, Adapter("lora", rank=2), hyper, models=2, steps=40, sampling="poisson", private=True
    )
    own = ensemble.params["params"]["adapter"]
    start = trainable(Adapter("lora", rank=2))
    assert all(float(jnp.abs(parts["lora_B"]).max()) > 0.01 for parts in own.values())
    first = start.init(KEY, adapter_inputs(Adapter("lora", rank=2), pool), num_classes=2)["params"]["adapter"]
    assert all(not np.allclose(own[name]["lora_A"][0], parts["lora_A"]) for name, parts in first.items())
    assert accuracy(ensemble, test).min() > 0.5 + 3 * math.sqrt(0.25 / 128)


def test_noise_has_its_size_and_is_each_models_own():
    """Without a gradient (clipped to nearly nothing) one step of sgd is noise of known deviation."""
    pool, adapter = texts(), Adapter("film")
    hyper = Hyperparams(1.0, clipping_norm=1e-6, noise_multiplier=1e6)
    ensemble, _ = trained(pool, adapter, hyper, steps=1, optimizer="sgd", private=True, models=8)
    values = np.concatenate(
        [np.asarray(leaf).reshape(8, -1) for leaf in jax.tree.leaves(ensemble.params)], axis=1
    )
    scaled = values * 0.5 * EXAMPLES  # noise of deviation 1, over the expected batch
    count = scaled.size
    assert abs(scaled.std() - 1) < 5 / math.sqrt(2 * count)
    assert abs(np.corrcoef(scaled[0], scaled[1])[0, 1]) < 5 / math.sqrt(scaled.shape[1])


def test_templates_of_checkpoints_have_the_shapes_of_training():
    pool, adapter = texts(), Adapter("lora", rank=2)
    ensemble, _ = trained(pool, adapter, steps=1)
    template = empty_heads(pool, num_models=3, network=adapter)
    assert jax.tree.map(np.shape, template) == jax.tree.map(np.shape, ensemble.params)
    assert np.isnan(gradient_norms(ensemble, pool)).all()
    assert "3 lora adapters" in ensemble.headline()
    assert isinstance(trainable(adapter), Trainable)
    assert trainable(adapter) == Adapters(adapter) != Adapters(Adapter("lora"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": Adapter("film", blocks=3)}, "blocks=3 must be at most 2"),
        (
            {"network": Adapter("lora", targets=("qkv",))},
            r"targets=\['qkv'\] must name modules of the blocks: .*query",
        ),
        ({"network": None}, "network='linear' must be of an adapter"),
        ({"network": Network("mlp", (3,))}, "network='mlp' must be of an adapter"),
        (
            {"network": Adapter("film"), "private": True, "odometer": True},
            "odometer=True must be False for adapters",
        ),
        (
            {"network": Adapter("film"), "optimizer": "newton"},
            "network=.* must be None for optimizer='newton'",
        ),
        ({"network": Adapter("film"), "batch_size": 13}, "batch_size=13 must be at most 12"),
    ],
)
def test_what_does_not_go_together_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        trained(texts(), change.pop("network"), **change)


def test_inputs_of_another_network_are_refused():
    plain = feature_set(np.ones((24, 5), np.float32), np.arange(24) % 2)
    with pytest.raises(InputError, match="network='film' needs activations"):
        trained(plain, Adapter("film"))
    long = FeatureSet(np.ones((24, 10), np.float32), texts().labels, ("a", "b"), (10,), backbone=BERT)
    with pytest.raises(InputError, match="tokens=10 must be at most 9, the positions of small"):
        trained(long, Adapter("film"))
    high = dataclasses.replace(texts(), features=texts().features + 9)
    with pytest.raises(InputError, match="largest token id=19 must be below 11"):
        trained(high, Adapter("film"))
    with pytest.raises(InputError, match=r"shape of an example=\(6, 6, 3\) must be \(tokens,\)"):
        trained(dataclasses.replace(images(), backbone=BERT), Adapter("film"))


@pytest.mark.thorough
def test_eight_devices_train_the_adapters_that_one_trains():
    """On simulated devices of a process of its own; 11 models do not divide by 8."""
    program = """
import jax, json, numpy as np
from test_adapters import texts
from jaxmia.training.adapters.adapter import Adapter
from jaxmia.training.ensemble import train_ensemble
from jaxmia.data.membership import draw_membership
from jaxmia.training.scoring import score
from jaxmia.training.settings import Hyperparams, TrainConfig
key, pool = jax.random.key(0), texts()
masks = draw_membership(key, pool.labels, num_models=11)
config, hyper = TrainConfig("sgd", steps=5, network=Adapter("lora", rank=2), batch_size=6), Hyperparams(0.1)
many = train_ensemble(key, pool, masks, hyper, config)
one = train_ensemble(key, pool, masks, hyper, config, devices=jax.devices()[:1])
difference = np.asarray(score(many, pool).log_odds) - np.asarray(score(one, pool).log_odds)
print(json.dumps([len(jax.devices()), float(np.abs(difference).max())]))
"""
    tests = pathlib.Path(__file__).parent
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    devices, difference = json.loads(done.stdout.splitlines()[-1])
    assert devices == 8
    assert difference < 1e-4
