"""The chunk loop with a kind of model defined here: what it guarantees to every new kind."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmia.data.feature_set import feature_set
from jaxmia.data.membership import draw_membership
from jaxmia.training.chunks import train_in_chunks
from jaxmia.training.network import Network
from jaxmia.training.settings import Hyperparams, TrainConfig
from jaxmia.training.trainables import LinearHeads, Networks, Trainable, Trained, trainable

KEY = jax.random.key(4)


@dataclasses.dataclass(frozen=True)
class FixedPlan:
    """Two models at once, on candidates padded to 16."""

    examples: int = 16
    batch: int | None = None
    shuffles: int = 0
    models: int = 2
    work: float = 1.0


@dataclasses.dataclass(frozen=True)
class ClassMeans:
    """A model whose parameters are its members' class means times the learning rate, plus a draw from its key."""

    def plan(self, config, memory, size):
        return FixedPlan()

    def inputs(self, pool):
        return jnp.asarray(pool.features)

    def prepared(self, pool, plan):
        padded = np.zeros((plan.examples, pool.features.shape[1]), np.float32)
        padded[: len(pool.features)] = pool.features
        return padded, lambda params: {**params, "finished": jnp.ones(len(params["draw"]))}

    def keys(self, key):
        return key, key

    def init(self, key, inputs, *, num_classes):
        return {"means": jnp.zeros((num_classes, inputs.shape[1])), "draw": jnp.zeros(())}

    def train(self, key, member, inputs, labels, order, *, plan, num_classes, hyper, **settings):
        counted = jax.nn.one_hot(labels, num_classes, axis=0) * member.astype(jnp.float32)
        means = counted @ inputs / jnp.maximum(counted.sum(axis=1, keepdims=True), 1.0)
        draw = jax.random.normal(key)
        return Trained({"means": hyper.learning_rate * means, "draw": draw}, member.astype(jnp.float32))

    def logits(self, params, inputs):
        return params["means"] @ inputs.T

    def activations(self, pool):
        return 0


@pytest.fixture(scope="module")
def pool():
    return feature_set(np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32), np.arange(12) % 2)


def trained(pool, rates, **options):
    masks = draw_membership(KEY, pool.labels, num_models=5)
    counts, kind = [], ClassMeans()
    options = {"chunk_size": None, "devices": jax.local_devices()[:1], "on_chunk": counts.append} | options
    plan = kind.plan(TrainConfig(), None, None)
    found = train_in_chunks(kind, KEY, pool, masks, Hyperparams(rates), TrainConfig(), plan, **options)
    return found, np.asarray(masks.member), counts


def test_any_kind_of_model_is_trained_on_its_own_members_by_its_own_settings(pool):
    rates = jnp.arange(1.0, 6.0)
    found, member, counts = trained(pool, rates)
    assert counts == [2, 2, 1]
    for model in range(5):
        for label in range(2):
            rows = pool.features[member[model] & (pool.labels == label)]
            mean = rows.mean(axis=0) if len(rows) else np.zeros(3)
            np.testing.assert_allclose(found.params["means"][model, label], rates[model] * mean, rtol=1e-5)
        draw = jax.random.normal(jax.random.fold_in(KEY, model))
        np.testing.assert_array_equal(found.params["draw"][model], draw)
    assert found.params["finished"].shape == (5,)
    np.testing.assert_array_equal(found.clipped_squares, member)  # the padding is cut off


@pytest.mark.parametrize(("chunk_size", "counts"), [(1, [1] * 5), (3, [3, 2]), (4, [3, 2]), (9, [5])])
def test_chunks_are_even_and_change_nothing(pool, chunk_size, counts):
    whole, _, _ = trained(pool, 0.5)
    parts, _, found = trained(pool, 0.5, chunk_size=chunk_size)
    assert found == counts
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), whole, parts)


def test_kinds_are_equal_by_what_they_train():
    """They are static arguments of compiled programs: equal ones share a program."""
    network = Network("mlp", (4,))
    assert trainable(None) == LinearHeads()
    assert trainable(network) == Networks(network) != Networks(Network("mlp", (5,)))
    assert len({trainable(network), Networks(network), trainable(None)}) == 2
    for kind in (LinearHeads(), Networks(network), ClassMeans()):
        assert isinstance(kind, Trainable)
