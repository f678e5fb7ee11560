"""The kinds of models that an ensemble can have, behind one protocol: linear heads, and networks from scratch.

A kind says how one model is initialised, trained and scored. Chunks, devices, memory and keys are written once, in
jaxmia.training.chunks; scoring, once, in jaxmia.training.scoring. Another kind, such as adapters, is one more class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.normalization import in_span
from jaxmia.training.from_scratch import NetworkPlan, plan_networks, train_network
from jaxmia.training.heads import LinearHead, Params
from jaxmia.training.linear import apply_head, train_head
from jaxmia.training.network import Network
from jaxmia.training.plan import HeadPlan, plan_heads
from jaxmia.training.settings import Hyperparams, TrainConfig
from jaxmia.training.size import EnsembleSize

PlanT = TypeVar("PlanT")


class Trained(NamedTuple):
    """One trained model.

    Attributes:
        params: its parameters.
        clipped_squares: sums over the steps of squared clipped gradient norms, if TrainConfig.odometer asked for them.
    """

    params: Params
    clipped_squares: Array | None = None


@runtime_checkable
class Plan(Protocol):
    """How an ensemble is trained. Static and hashable: it shapes the compiled program."""

    @property
    def examples(self) -> int:
        """Candidates that the program is compiled for; those beyond the pool's are nobody's members."""

    @property
    def batch(self) -> int | None:
        """Examples of a step in a batch order, or None."""

    @property
    def shuffles(self) -> int:
        """Of the examples, that a batch order is made of."""

    @property
    def models(self) -> int:
        """Trained side by side on each device."""

    @property
    def work(self) -> float:
        """Arithmetic of a step of one model and class, in a unit of its own: to share out progress."""


@runtime_checkable
class Trainable(Protocol[PlanT]):
    """A kind of model. Static and hashable; except in prepared, nothing has an axis of models."""

    def plan(self, config: TrainConfig, memory: int | None, size: EnsembleSize) -> PlanT:
        """How an ensemble of this kind is best trained; InputError if it cannot be."""

    def inputs(self, pool: FeatureSet) -> Array:
        """What a model reads of the examples, which are on the first axis."""

    def prepared(
        self, pool: FeatureSet, plan: PlanT
    ) -> tuple[np.ndarray | Array, Callable[[Params], Params]]:
        """What a model is trained on, and what turns models trained on it into models that read inputs."""

    def keys(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """From a model's own key, that of its training and that of its own batch order."""

    def init(self, key: jax.Array, inputs: Array, *, num_classes: int) -> Params:
        """The parameters of one model before training."""

    def train(
        self,
        key: jax.Array,
        member: Bool[Array, "examples"],
        inputs: Array,
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
        """Train one model on the candidates it has as members.

        Args:
            key: of its training.
            member: which candidates it trains on.
            inputs: of all candidates, as prepared.
            labels: of all candidates, 0 .. num_classes - 1.
            order: examples of each step's batch, or None.
            plan: how.
            num_classes: C.
            hyper: traced settings.
            config: static settings.
            share: of the candidates, that a step has of a batch order that all models share; else 1.
            expected_members: how many members a model has on average.
        """

    def logits(self, params: Params, inputs: Array) -> Float[Array, "classes examples"]:
        """Logits of one model."""

    def activations(self, pool: FeatureSet) -> int:
        """Numbers held for an example beside its logits while one model is scored."""


@dataclasses.dataclass(frozen=True)
class LinearHeads:
    """Linear heads from zero (jaxmia.training.linear)."""

    def plan(self, config: TrainConfig, memory: int | None, size: EnsembleSize) -> HeadPlan:
        """By sizes alone: jaxmia.training.plan."""
        return plan_heads(config, memory, size)

    def inputs(self, pool: FeatureSet) -> Array:
        """The features."""
        return jnp.asarray(pool.features)

    def prepared(self, pool: FeatureSet, plan: HeadPlan) -> tuple[np.ndarray, Callable[[Params], Params]]:
        """Features, or their coordinates in the span of the examples; zeros up to the sizes compiled for."""
        coordinates, directions = in_span(pool.features) if plan.span else (pool.features, None)
        padded = np.zeros((plan.examples, plan.dim), coordinates.dtype)
        padded[: len(coordinates), : coordinates.shape[1]] = coordinates
        if directions is None:
            return padded, lambda params: params

        def turned_back(params: Params) -> Params:
            kernel = params["params"]["kernel"][..., : len(directions)]
            back = jnp.einsum("mce,ed->mcd", kernel, directions, precision=jax.lax.Precision.HIGHEST)
            return {"params": {**params["params"], "kernel": back}}

        return padded, turned_back

    def keys(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """One for both: private training, which draws by the first, has no batch order."""
        return key, key

    def init(self, key: jax.Array, inputs: Array, *, num_classes: int) -> Params:
        """Zeros."""
        return LinearHead(num_classes).init(key, inputs)

    def train(
        self,
        key: jax.Array,
        member: Array,
        inputs: Array,
        labels: Array,
        order: Array | None,
        *,
        plan: HeadPlan,
        expected_members: float | Array,
        **settings: Any,
    ) -> Trained:
        """By train_head."""
        ways: dict[str, Any] = {"gathered": plan.gathered, "block": plan.block}
        ways |= settings | {"expected_members": expected_members}
        return Trained(*train_head(key, member, inputs, labels, order, **ways))

    def logits(self, params: Params, inputs: Array) -> Array:
        """Of one head."""
        return apply_head(params, inputs)

    def activations(self, pool: FeatureSet) -> int:
        """None."""
        return 0


@dataclasses.dataclass(frozen=True)
class Networks:
    """Networks from random parameters (jaxmia.training.from_scratch)."""

    network: Network

    def plan(self, config: TrainConfig, memory: int | None, size: EnsembleSize) -> NetworkPlan:
        """By sizes alone: jaxmia.training.from_scratch."""
        return plan_networks(config, memory, size)

    def inputs(self, pool: FeatureSet) -> Array:
        """Features, or the patches of images."""
        return self.network.inputs(jnp.asarray(pool.features), pool.input_shape)

    def prepared(self, pool: FeatureSet, plan: NetworkPlan) -> tuple[Array, Callable[[Params], Params]]:
        """The inputs."""
        return self.inputs(pool), lambda params: params

    def keys(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Halves of it: the first draws the parameters to start from."""
        init_key, order_key = jax.random.split(key)
        return init_key, order_key

    def init(self, key: jax.Array, inputs: Array, *, num_classes: int) -> Params:
        """Random kernels."""
        return self.network.init(key, inputs, num_classes=num_classes)

    def train(
        self,
        key: jax.Array,
        member: Array,
        inputs: Array,
        labels: Array,
        order: Array | None,
        *,
        plan: NetworkPlan,
        expected_members: float | Array,
        **settings: Any,
    ) -> Trained:
        """By train_network."""
        del expected_members  # of private training alone
        gathered = plan.rows if plan.gathered else None
        return Trained(train_network(key, member, inputs, labels, order, gathered=gathered, **settings))

    def logits(self, params: Params, inputs: Array) -> Array:
        """Of one network."""
        return self.network.apply(params, inputs)

    def activations(self, pool: FeatureSet) -> int:
        """Of the hidden layers and the logits."""
        return self.network.sizes(pool.features.shape[1], pool.input_shape, pool.num_classes).activations


def trainable(network: Network | None) -> Trainable[Any]:
    """The kind of model that a recipe trains: networks, or linear heads if it names none."""
    return LinearHeads() if network is None else Networks(network)
