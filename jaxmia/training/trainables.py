"""The kinds of models in an ensemble, behind one protocol: linear heads, networks from scratch, and adapters.

A kind defines how one model is initialised, trained and scored. jaxmia.training.chunks handles chunks, devices, memory
and keys for all kinds, and jaxmia.training.scoring handles scoring. To add a kind, write one more class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.normalization import in_span
from jaxmia.training.adapters.adapter import Adapter
from jaxmia.training.adapters.inputs import AdapterInputs, adapter_inputs, backbone_of
from jaxmia.training.adapters.plan import AdapterPlan, live_activations, plan_adapters
from jaxmia.training.adapters.train import initial_adapter, scored_at_once, scored_logits, train_adapter
from jaxmia.training.from_scratch import NetworkPlan, plan_networks, train_network
from jaxmia.training.heads import LinearHead, Params
from jaxmia.training.linear import apply_head, train_head
from jaxmia.training.network import Network
from jaxmia.training.persons import PersonRows, person_rows
from jaxmia.training.plan import HeadPlan, plan_heads
from jaxmia.training.settings import Hyperparams, TrainConfig
from jaxmia.training.size import EnsembleSize

PlanT = TypeVar("PlanT")
# Inputs of all examples; for clipping by person sorted by person, and with the persons; for adapters with weights.
Inputs = Array | tuple[Array, PersonRows] | AdapterInputs


class Trained(NamedTuple):
    """One trained model.

    Attributes:
        params: the model's parameters.
        clipped_squares: sums over the steps of squared clipped gradient norms, if TrainConfig.odometer is set; else
            None.
    """

    params: Params
    clipped_squares: Array | None = None


@runtime_checkable
class Plan(Protocol):
    """A plan for training an ensemble. Static and hashable, since it shapes the compiled program."""

    @property
    def examples(self) -> int:
        """Number of candidates that the program is compiled for; padding candidates are never members."""

    @property
    def batch(self) -> int | None:
        """Number of examples per step of a batch order, or None."""

    @property
    def shuffles(self) -> int:
        """Number of shuffles of the examples in a batch order."""

    @property
    def models(self) -> int:
        """Number of models trained at once on each device."""

    @property
    def work(self) -> float:
        """Work of a step per model and class, in arbitrary units; used to weigh progress."""


@runtime_checkable
class Trainable(Protocol[PlanT]):
    """A kind of model. Static and hashable; only the result of `prepared` handles an axis of models."""

    def plan(self, config: TrainConfig, memory: int | None, size: EnsembleSize) -> PlanT:
        """Return a plan for training an ensemble of this kind; raises InputError if it cannot be trained."""

    def inputs(self, pool: FeatureSet) -> Array | AdapterInputs:
        """Return the inputs of a model; the first axis has the examples."""

    def prepared(
        self, pool: FeatureSet, plan: PlanT
    ) -> tuple[np.ndarray | Array | AdapterInputs, Callable[[Params], Params]]:
        """Return the arrays to train on, and a function from models trained on them to models that take `inputs`."""

    def keys(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the keys of a model's training and of its own batch order, derived from the model's key."""

    def init(self, key: jax.Array, inputs: Any, *, num_classes: int) -> Params:
        """Return the initial parameters of one model."""

    def train(
        self,
        key: jax.Array,
        member: Bool[Array, "examples"],
        inputs: Inputs,
        labels: Int[Array, "examples"],
        order: Int[Array, "steps batch"] | None,
        *,
        plan: PlanT,
        num_classes: int,
        hyper: Hyperparams,
        config: TrainConfig,
        share: float | Array,
        expected_members: float | Array,
    ) -> Trained:
        """Train one model on its members.

        Args:
            key: random key of the training.
            member: True for the candidates that the model trains on.
            inputs: inputs of all candidates, from `prepared`.
            labels: labels of all candidates, 0 .. num_classes - 1.
            order: examples in each step's batch, or None.
            plan: the plan of the ensemble.
            num_classes: C.
            hyper: traced settings.
            config: static settings.
            share: share of the candidates in a batch of a shared order; else 1.
            expected_members: expected number of members of a model.
        """

    def logits(self, params: Params, inputs: Any) -> Float[Array, "classes examples"]:
        """Return the logits of one model."""

    def activations(self, pool: FeatureSet) -> int:
        """Return how many numbers per example, in addition to its logits, scoring one model holds."""


@dataclasses.dataclass(frozen=True)
class LinearHeads:
    """Linear heads from zero (jaxmia.training.linear).

    Attributes:
        by_person: True if the unit of private training is the person; the pool is then sorted by FeatureSet.person.
        intercept: whether heads have a bias; only clipping by person asks.
    """

    by_person: bool = False
    intercept: bool = True

    def plan(self, config: TrainConfig, memory: int | None, size: EnsembleSize) -> HeadPlan:
        """Plan from sizes alone: see jaxmia.training.plan."""
        return plan_heads(config, memory, size)

    def inputs(self, pool: FeatureSet) -> Array:
        """The features."""
        return jnp.asarray(pool.features)

    def prepared(self, pool: FeatureSet, plan: HeadPlan) -> tuple[Any, Callable[[Params], Params]]:
        """Return features, or coordinates in the span of the examples, padded with zeros to the compiled sizes.

        With by_person, return (features, PersonRows).
        """
        coordinates, directions = in_span(pool.features) if plan.span else (pool.features, None)
        padded = np.zeros((plan.examples, plan.dim), coordinates.dtype)
        padded[: len(coordinates), : coordinates.shape[1]] = coordinates
        if self.by_person:  # private training, which is not in the span
            whose = np.unique(cast(np.ndarray, pool.person), return_inverse=True)[1]
            persons = person_rows(pool.features, whose, plan.examples, intercept=self.intercept)
            return (padded, persons), lambda params: params
        if directions is None:
            return padded, lambda params: params

        def turned_back(params: Params) -> Params:
            kernel = params["params"]["kernel"][..., : len(directions)]
            back = jnp.einsum("mce,ed->mcd", kernel, directions, precision=jax.lax.Precision.HIGHEST)
            return {"params": {**params["params"], "kernel": back}}

        return padded, turned_back

    def keys(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the same key twice: private training uses the first and has no batch order."""
        return key, key

    def init(self, key: jax.Array, inputs: Array, *, num_classes: int) -> Params:
        """Zeros."""
        return LinearHead(num_classes).init(key, inputs)

    def train(
        self,
        key: jax.Array,
        member: Array,
        inputs: Inputs,
        labels: Array,
        order: Array | None,
        *,
        plan: HeadPlan,
        expected_members: float | Array,
        **settings: Any,
    ) -> Trained:
        """By train_head."""
        features, persons = inputs if isinstance(inputs, tuple) else (cast(Array, inputs), None)
        ways: dict[str, Any] = {"gathered": plan.gathered, "block": plan.block, "persons": persons}
        ways |= settings | {"expected_members": expected_members}
        return Trained(*train_head(key, member, features, labels, order, **ways))

    def logits(self, params: Params, inputs: Array) -> Array:
        """Return the logits of one head."""
        return apply_head(params, inputs)

    def activations(self, pool: FeatureSet) -> int:
        """None."""
        return 0


@dataclasses.dataclass(frozen=True)
class Networks:
    """Networks from random parameters (jaxmia.training.from_scratch)."""

    network: Network

    def plan(self, config: TrainConfig, memory: int | None, size: EnsembleSize) -> NetworkPlan:
        """Plan from sizes alone: see jaxmia.training.from_scratch."""
        return plan_networks(config, memory, size)

    def inputs(self, pool: FeatureSet) -> Array:
        """Return the features, or the patches of images."""
        return self.network.inputs(jnp.asarray(pool.features), pool.input_shape)

    def prepared(self, pool: FeatureSet, plan: NetworkPlan) -> tuple[Array, Callable[[Params], Params]]:
        """The inputs."""
        return self.inputs(pool), lambda params: params

    def keys(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return a split of the key; the first draws the initial parameters."""
        init_key, order_key = jax.random.split(key)
        return init_key, order_key

    def init(self, key: jax.Array, inputs: Array, *, num_classes: int) -> Params:
        """Random kernels."""
        return self.network.init(key, inputs, num_classes=num_classes)

    def train(
        self,
        key: jax.Array,
        member: Array,
        inputs: Inputs,
        labels: Array,
        order: Array | None,
        *,
        plan: NetworkPlan,
        expected_members: float | Array,
        **settings: Any,
    ) -> Trained:
        """By train_network."""
        del expected_members  # used by private training only
        gathered = plan.rows if plan.gathered else None
        return Trained(
            train_network(key, member, cast(Array, inputs), labels, order, gathered=gathered, **settings)
        )

    def logits(self, params: Params, inputs: Array) -> Array:
        """Return the logits of one network."""
        return self.network.apply(params, inputs)

    def activations(self, pool: FeatureSet) -> int:
        """Return the number of activations of the hidden layers and the logits."""
        return self.network.sizes(pool.features.shape[1], pool.input_shape, pool.num_classes).activations


@dataclasses.dataclass(frozen=True)
class Adapters:
    """Adapters inside a frozen transformer, each with a linear head from zero (jaxmia.training.adapters)."""

    adapter: Adapter

    def plan(self, config: TrainConfig, memory: int | None, size: EnsembleSize) -> AdapterPlan:
        """Plan from sizes alone: see jaxmia.training.adapters.plan."""
        return plan_adapters(self.adapter, config, memory, size)

    def inputs(self, pool: FeatureSet) -> AdapterInputs:
        """Return activations below the first adapted block, and the weights from there on."""
        return adapter_inputs(self.adapter, pool)

    def prepared(
        self, pool: FeatureSet, plan: AdapterPlan
    ) -> tuple[AdapterInputs, Callable[[Params], Params]]:
        """The inputs."""
        return self.inputs(pool), lambda params: params

    def keys(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return a split of the key; the first draws initial parameters, samples and noise."""
        training_key, order_key = jax.random.split(key)
        return training_key, order_key

    def init(self, key: jax.Array, inputs: AdapterInputs, *, num_classes: int) -> Params:
        """Parameters that leave the extractor as it is, and a head of zeros."""
        return initial_adapter(key, inputs, self.adapter, num_classes=num_classes)

    def train(
        self,
        key: jax.Array,
        member: Array,
        inputs: Inputs,
        labels: Array,
        order: Array | None,
        **settings: Any,
    ) -> Trained:
        """By train_adapter."""
        return Trained(train_adapter(key, member, cast(AdapterInputs, inputs), labels, order, **settings))

    def logits(self, params: Params, inputs: AdapterInputs) -> Array:
        """Return the logits of one model."""
        return scored_logits(params, inputs, self.adapter)

    def activations(self, pool: FeatureSet) -> int:
        """Return the activations of the examples that are scored at once, spread over all of them."""
        backbone = backbone_of(pool, self.adapter)
        live = live_activations(backbone, backbone.tokens(pool.input_shape), blocks=1)
        count = len(pool.labels)
        return -(-live * scored_at_once(count) // count)


def trainable(network: Network | Adapter | None) -> Trainable[Any]:
    """Return the kind of model that a recipe trains: networks, adapters, or linear heads if network is None."""
    if isinstance(network, Adapter):
        return Adapters(network)
    return LinearHeads() if network is None else Networks(network)
