"""Programs as GPUs and TPUs would get them, lowered here without one: float32 products, no float64, no way back."""

import re

import jax
import numpy as np
import pytest

from jaxmia.data.feature_set import feature_set
from jaxmia.data.membership import draw_membership
from jaxmia.ridge import paired as paired_module
from jaxmia.ridge.paired import paired_scores
from jaxmia.training import chunks, scoring
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.memory import capacity
from jaxmia.training.network import Network
from jaxmia.training.settings import Hyperparams, TrainConfig
from jaxmia.training.trainables import trainable

PLATFORMS = ("cuda", "tpu")
PRIVATE = {"clipping_norm": 1.0, "noise_multiplier": 1.0}
RECIPES = {
    "full batch": (TrainConfig("adam", steps=3), Hyperparams(0.1)),
    "shared order": (TrainConfig("sgd", steps=3, batch_size=8), Hyperparams(0.1, momentum=0.9)),
    "own order": (TrainConfig("adam", steps=3, batch_size=8, sampling="independent"), Hyperparams(0.1)),
    "Poisson": (TrainConfig("sgd", steps=3, sampling="poisson"), Hyperparams(0.1, sampling_rate=0.2)),
    "private": (
        TrainConfig("sgd", steps=3, sampling="poisson", private=True),
        Hyperparams(0.1, sampling_rate=0.2, **PRIVATE),
    ),
    "private persons": (
        TrainConfig("sgd", steps=3, private=True, privacy_unit="person"),
        Hyperparams(0.1, **PRIVATE),
    ),
    "minimum": (TrainConfig("newton", steps=5), Hyperparams(0.0, weight_decay=None, ridge=1.0)),
    "network": (TrainConfig("adam", steps=3, network=Network("mlp", (5,))), Hyperparams(0.1)),
}


def lowered(name, function, *args, **settings):
    """Names and texts of a program as GPUs and TPUs would get it."""
    leaves, layout = jax.tree.flatten((args, settings))
    traced = [place for place, leaf in enumerate(leaves) if isinstance(leaf, (jax.Array, np.ndarray, float))]

    def flat(*values):
        every = list(leaves)
        for place, value in zip(traced, values, strict=True):
            every[place] = value
        positional, named = jax.tree.unflatten(layout, every)
        return jax.tree.leaves(function(*positional, **named))

    shapes = [jax.typeof(leaves[place]) for place in traced]
    return [
        (
            f"{name} on {platform}",
            jax.export.export(jax.jit(flat), platforms=[platform])(*shapes).mlir_module(),
        )
        for platform in PLATFORMS
    ]


@pytest.fixture
def programs(monkeypatch):
    """The programs of training and of paired scores that run, lowered."""
    found = []

    def watch(module, name):
        own = getattr(module, name)

        def and_lower(*args, **settings):
            found.extend(lowered(name, own, *args, **settings))
            return own(*args, **settings)

        monkeypatch.setattr(module, name, and_lower)

    watch(chunks, "_train_chunk")
    watch(paired_module, "_flipped")
    return found


def trained(config, hyper):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 7)).astype(np.float32)
    pool = feature_set(features, np.arange(40) % 3, person=np.arange(40) // 2)
    masks = draw_membership(jax.random.key(0), pool.labels, num_models=3)
    if config.privacy_unit == "person":
        masks = masks.replace(member=masks.member[:, pool.person * 2])
    return pool, train_ensemble(0, pool, masks, hyper, config)


@pytest.mark.parametrize("recipe", RECIPES)
def test_programs_hold_float32_products_in_full_and_nothing_of_the_host(recipe, programs):
    pool, heads = trained(*RECIPES[recipe])
    kind = trainable(heads.network)
    for function in (scoring._log_odds_of_models, scoring._error_norms_of_models):
        programs += lowered(function.__name__, function, heads.params, kind.inputs(pool), pool.labels, kind)
    if recipe == "minimum":
        paired_scores(heads, pool, ridge=1.0)
    assert len({name for name, _ in programs}) == (8 if recipe == "minimum" else 6)
    for name, text in programs:
        assert "f64" not in text, name
        products = re.findall(r"stablehlo\.(?:dot_general|convolution).*", text)
        assert products, name
        for product in products:
            assert "HIGHEST, HIGHEST" in product or "HIGHEST>, #stablehlo<precision HIGHEST" in product, name


def test_the_test_sees_products_in_fewer_bits(programs):
    trained(TrainConfig("adam", steps=3, matmul_dtype="tensorfloat32"), Hyperparams(0.1))
    products = [line for _, text in programs for line in re.findall(r"stablehlo\.dot_general.*", text)]
    assert products
    assert all("[HIGH, HIGH]" in line for line in products)


def test_a_way_back_to_the_host_would_not_be_lowered():
    def told(x):
        jax.debug.print("{}", x)
        return x

    with pytest.raises(ValueError, match="platform"):
        lowered("told", told, np.ones(2, np.float32))


def test_memory_is_planned_from_what_the_device_says(monkeypatch):
    gibibyte = 2**30
    size = {"num_models": 100_000, "num_examples": 2_000, "batch": None, "num_classes": 10, "dim": 512}

    class Device:
        def __init__(self, gibibytes):
            self.limit = gibibytes * gibibyte

        def memory_stats(self):
            return {"bytes_limit": self.limit, "bytes_in_use": 0}

    planned = {}
    for gibibytes in (16, 80):
        monkeypatch.setattr(jax, "local_devices", lambda gibibytes=gibibytes: [Device(gibibytes)])
        planned[gibibytes] = capacity(None, **size).models
        assert planned[gibibytes] == capacity(gibibytes * gibibyte // 2, **size).models
    assert planned[80] > 5 * planned[16]  # what features and all heads take is taken off both
