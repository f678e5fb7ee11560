"""Training of one head, a pure function. No function here has a model axis: jaxmia.ensemble adds it."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from jaxmia._validate import check_at_least, check_choice
from jaxmia.heads import LinearHead

OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("constant", "cosine")
Params = Any  # a flax parameter tree: {"params": {"kernel": [classes, dim], "bias": [classes]}}


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What shapes the compiled program; static.

    Attributes:
        optimizer: "adam", or "sgd" (with Hyperparams.momentum).
        schedule: "constant", or "cosine" decay of the learning rate to zero over the steps.
        steps: T, optimiser steps.
        batch_size: expected members per step, or None for the full batch. The pool candidates of a batch are the same
            for all models; each model uses those that are its members.
    """

    optimizer: str = "adam"
    schedule: str = "constant"
    steps: int = 100
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no training run can have."""
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_at_least("steps", self.steps, 1)
        if self.batch_size is not None:
            check_at_least("batch_size", self.batch_size, 1)


@flax.struct.dataclass
class Hyperparams:
    """What a sweep varies; traced, so that new values compile nothing.

    Attributes:
        learning_rate: peak step size.
        momentum: of sgd; adam ignores it.
        weight_decay: L2 coefficient: the objective is the mean member loss + weight_decay / 2 * ||kernel||^2.
    """

    learning_rate: float | Array
    momentum: float | Array = 0.0
    weight_decay: float | Array = 0.0


def make_optimizer(hyper: Hyperparams, config: TrainConfig) -> optax.GradientTransformation:
    """The optax optimiser of a recipe; hyper may hold tracers."""
    rate = hyper.learning_rate
    if config.schedule == "cosine":
        rate = optax.cosine_decay_schedule(hyper.learning_rate, decay_steps=config.steps)
    return optax.adam(rate) if config.optimizer == "adam" else optax.sgd(rate, momentum=hyper.momentum)


def apply_head(params: Params, features: Float[Array, "examples dim"]) -> Float[Array, "classes examples"]:
    """Logits of one head with these parameters."""
    return cast(Array, LinearHead(params["params"]["bias"].shape[0]).apply(params, features))


def cross_entropy(
    logits: Float[Array, "classes examples"], one_hot: Float[Array, "classes examples"]
) -> Float[Array, "examples"]:
    """Negative log-likelihood of the true class, in nats."""
    return jax.nn.logsumexp(logits, axis=0) - jnp.sum(logits * one_hot, axis=0)


def train_head(
    key: jax.Array,
    member: Bool[Array, "examples"],
    features: Float[Array, "examples dim"],
    labels: Int[Array, "examples"],
    order: Int[Array, "steps batch"] | None,
    *,
    num_classes: int,
    hyper: Hyperparams,
    config: TrainConfig,
) -> Params:
    """Train one head on the candidates it has as members.

    Args:
        key: the model's own random key.
        member: which candidates this model trains on.
        features: of all candidates.
        labels: of all candidates, 0 .. num_classes - 1.
        order: candidates of each step's batch, or None for the full batch at every step.
        num_classes: C.
        hyper: traced settings.
        config: static settings.

    Returns:
        The head's parameters after config.steps steps.
    """
    head = LinearHead(num_classes)
    share = member.astype(features.dtype) / jnp.maximum(member.sum(), 1).astype(features.dtype)
    optimizer = make_optimizer(hyper, config)

    def objective(params: Params, batch: Int[Array, "batch"] | None) -> Array:
        rows = slice(None) if batch is None else batch
        one_hot = jax.nn.one_hot(labels[rows], num_classes, axis=0)
        losses = cross_entropy(apply_head(params, features[rows]), one_hot)
        # Divided by the expected number of members in the batch: a realised count would weigh examples unevenly.
        scale = 1.0 if batch is None else features.shape[0] / batch.shape[0]
        penalty = 0.5 * hyper.weight_decay * jnp.sum(params["params"]["kernel"] ** 2)
        return scale * jnp.sum(share[rows] * losses) + penalty

    def step(carry: tuple[Params, optax.OptState], batch: Int[Array, "batch"] | None) -> tuple[Any, None]:
        params, state = carry
        gradient = jax.grad(objective)(params, batch)
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes float and int32
            updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = head.init(key, features[:1])
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), order, length=config.steps)
    return params


def shared_order(key: jax.Array, *, num_examples: int, batch: int, steps: int) -> Int[Array, "steps batch"]:
    """Batches of one stream of shuffles of the candidates: each candidate comes once before any comes again.

    A batch that straddles two shuffles may hold an example twice; nothing is dropped at the end of an epoch.
    """
    shuffles = -(-steps * batch // num_examples)
    keys = jax.random.split(key, shuffles)
    stream = jax.vmap(lambda k: jax.random.permutation(k, num_examples))(keys).reshape(-1)
    return stream[: steps * batch].reshape(steps, batch)
