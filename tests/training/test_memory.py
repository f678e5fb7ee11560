"""Budgets and devices: chunk sizes change only rounding, and memory stays below the budget."""

import itertools
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxmia.training.plan as plan_module
from jaxmia._text import parse_bytes
from jaxmia._validate import InputError
from jaxmia.data.feature_set import demo_features
from jaxmia.data.membership import draw_membership
from jaxmia.data.pool import candidate_pool
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.memory import Capacity, capacity
from jaxmia.training.scoring import score
from jaxmia.training.settings import Hyperparams, TrainConfig

KEY = jax.random.key(5)
PRIVATE = {"clipping_norm": 1.0, "noise_multiplier": 2.0}


@pytest.fixture(scope="module")
def pool():
    return candidate_pool(demo_features(), classes=3, shots=6, key=KEY).data


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8GiB", 8 * 2**30), ("500 MB", 500_000_000), ("1.5kib", 1536), ("17", 17), (17, 17)],
)
def test_sizes_are_read(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "8 GiX", "-1GiB", "8GiB free"])
def test_other_sizes_are_refused(text):
    with pytest.raises(InputError, match="as in 8GiB"):
        parse_bytes(text)


def test_a_plan_holds_no_more_than_its_budget_and_uses_it():
    """Counted again here from what a step holds: five arrays of logits, eight of heads."""
    sizes = itertools.product((2, 257), (40, 100_000), (None, 30), (2, 100), (8, 768), (2**24, 2**28, 2**33))
    planned = 0
    for models, examples, batch, classes, dim, budget in sizes:
        shape = {
            "num_models": models,
            "num_examples": examples,
            "batch": batch,
            "num_classes": classes,
            "dim": dim,
        }
        fixed = examples * (8 * dim + 4 * classes + models) + 4 * models * classes * (dim + 1)
        one = 4 * classes * (8 * (dim + 1) + 5)
        if budget < fixed + one:
            with pytest.raises(InputError, match=r"memory=.* must be at least"):
                capacity(budget, **shape)
            continue
        found = capacity(budget, **shape)
        planned += 1
        step = batch or examples
        assert 1 <= found.models <= models
        assert 1 <= found.block <= step
        held = fixed + found.models * 4 * classes * (8 * (dim + 1) + 5 * found.block)
        assert held <= budget
        if found != Capacity(models, step):  # at least half of the budget is used
            assert held + one * found.models + 20 * classes * step >= fixed + (budget - fixed) / 2
    assert planned > 20


@pytest.mark.parametrize("batch_size", [None, 9])
@pytest.mark.parametrize("products", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("private", [False, True])
def test_blocks_of_examples_change_nothing_beyond_rounding(pool, monkeypatch, private, products, batch_size):
    masks = draw_membership(KEY, pool.labels, num_models=4)
    if private and batch_size:
        pytest.skip("private training has no shared batches")
    hyper = Hyperparams(0.5, weight_decay=0.1, **(PRIVATE if private else {}))
    config = TrainConfig(
        "sgd", steps=5, batch_size=batch_size, private=private, matmul_dtype=products, odometer=private
    )
    whole = train_ensemble(KEY, pool, masks, hyper, config)
    for block in (1, 7, 17):
        monkeypatch.setattr(plan_module, "capacity", lambda *_, block=block, **__: Capacity(4, block))
        parts = train_ensemble(KEY, pool, masks, hyper, config)
        # bfloat16 rounds sums of other blocks alike: each product is rounded before it is added.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), parts.params, whole.params)
        if private:
            np.testing.assert_allclose(parts.clipped_squares, whole.clipped_squares, rtol=1e-4)


@pytest.mark.thorough
def test_eight_devices_train_the_heads_that_one_trains():
    """On simulated devices of a process of its own; 11 models do not divide by 8."""
    program = """
import jax, json, numpy as np
from jaxmia.training.ensemble import train_ensemble
from jaxmia.data.feature_set import demo_features
from jaxmia.data.pool import candidate_pool
from jaxmia.data.membership import draw_membership
from jaxmia.training.network import Network
from jaxmia.training.scoring import score
from jaxmia.training.settings import Hyperparams, TrainConfig
key = jax.random.key(0)
pool = candidate_pool(demo_features(), classes=3, shots=6, key=key).data
masks = draw_membership(key, pool.labels, num_models=11)
report = {"devices": len(jax.devices())}
recipes = {
    "plain": (Hyperparams(0.5), {}),
    "private": (Hyperparams(0.5, sampling_rate=0.5, **PRIVATE), {"sampling": "poisson", "private": True}),
    "network": (Hyperparams(0.1), {"network": Network("mlp", (4,)), "batch_size": 6}),
}
for name, (hyper, settings) in recipes.items():
    config = TrainConfig("sgd", steps=20, **settings)
    counts = []
    many = train_ensemble(key, pool, masks, hyper, config, on_chunk=counts.append)
    one = train_ensemble(key, pool, masks, hyper, config, devices=jax.devices()[:1])
    difference = np.asarray(score(many, pool).log_odds) - np.asarray(score(one, pool).log_odds)
    report[name] = [float(np.abs(difference).max()), counts]
print(json.dumps(report))
""".replace("PRIVATE", repr(PRIVATE))
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["devices"] == 8
    for name in ("plain", "private", "network"):
        difference, counts = report[name]
        assert difference < 1e-5
        assert counts == [11]


@pytest.mark.thorough
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")
def test_peak_memory_stays_under_the_budget():
    """All at once these heads would hold 1.5 GiB of logits; the budget is 320 MiB."""
    program = """
import jax, json, numpy as np, resource
from jaxmia.training.ensemble import train_ensemble
from jaxmia.data.feature_set import feature_set
from jaxmia.data.membership import draw_membership
from jaxmia.training.settings import Hyperparams, TrainConfig
rng = np.random.default_rng(0)
labels = np.arange(20_000) % 50
pool = feature_set(rng.normal(size=(20_000, 64)).astype(np.float32) / 8, labels)
def train(models, budget):
    masks = draw_membership(jax.random.key(0), pool.labels, num_models=models)
    heads = train_ensemble(jax.random.key(0), pool, masks, Hyperparams(0.1), TrainConfig(steps=3), memory=budget)
    assert np.isfinite(heads.params["params"]["kernel"]).all()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = train(1, 2**26)  # compilers and libraries are loaded
print(json.dumps(train(80, 320 * 2**20) - before))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout.splitlines()[-1]) < 320 * 2**20


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")
def test_the_largest_cell_trains_scores_and_is_attacked_within_16_gib():
    """100 000 candidates, 100 classes, d = 768, 257 models, by the default budget; prints its peak."""
    program = """
import jax, json, numpy as np, resource
from jaxmia import attacks
from jaxmia.training.ensemble import train_ensemble
from jaxmia.data.feature_set import feature_set
from jaxmia.data.membership import draw_membership
from jaxmia.training.scoring import score
from jaxmia.training.settings import Hyperparams, TrainConfig
labels = np.arange(100_000) % 100
features = np.random.default_rng(0).standard_normal((100_000, 768), np.float32) / 28
pool = feature_set(features, labels)
masks = draw_membership(jax.random.key(0), pool.labels, num_models=257)
heads = train_ensemble(jax.random.key(0), pool, masks, Hyperparams(0.1), TrainConfig(steps=2))
statistic = attacks.lira(score(heads, pool)).statistic
assert statistic.shape == (257, 100_000) and np.isfinite(statistic).all()
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    peak = int(done.stdout.splitlines()[-1])
    print(f"peak {peak / 2**30:.2f} GiB")
    assert peak < 16 * 2**30


@pytest.mark.thorough
def test_scores_do_not_depend_on_the_budget(pool):
    masks = draw_membership(KEY, pool.labels, num_models=9)
    config, hyper = TrainConfig(steps=40), Hyperparams(0.1)
    shape = {"num_models": 9, "num_examples": 36, "batch": None, "num_classes": 3, "dim": 384}
    budget = 300_000
    assert capacity(budget, **shape).models < 9
    tight = score(train_ensemble(KEY, pool, masks, hyper, config, memory=budget), pool).log_odds
    ample = score(train_ensemble(KEY, pool, masks, hyper, config), pool).log_odds
    np.testing.assert_allclose(tight, ample, atol=2e-3)


def test_a_budget_that_holds_no_model_is_refused_before_training(pool):
    masks = draw_membership(KEY, pool.labels, num_models=3)
    with pytest.raises(
        InputError, match=r"memory='0.000954 MiB' must be at least .* 36 candidates of dimension 384"
    ):
        train_ensemble(KEY, pool, masks, Hyperparams(0.1), TrainConfig(), memory=1000)
