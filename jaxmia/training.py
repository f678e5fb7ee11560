"""Training of one head, a pure function. No function here has a model axis: jaxmia.ensemble adds it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, cast

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from jaxmia._validate import InputError, check, check_at_least, check_choice
from jaxmia.dpsgd import (
    add_noise,
    clipped_gradient_sum,
    clipped_squares,
    gradient_sum,
    poisson_sample,
    step_keys,
)
from jaxmia.heads import LinearHead

OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("constant", "cosine")
SAMPLINGS = ("shared", "independent", "poisson")
PRODUCTS = ("float32", "bfloat16")
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
        sampling: "shared" batches as above; "independent": the same, but every model shuffles the candidates on its
            own, and each of its epochs ends with what is left of its shuffle; or "poisson": at every step each model
            samples each of its own members independently with probability Hyperparams.sampling_rate, and batch_size is
            None. Independent and Poisson batches mask the full batch, one product for all models: a step costs the
            same at every size.
        private: train by DP-SGD (jaxmia.dpsgd), on the full batch or by Poisson sampling.
        odometer: of private training on the full batch: also sum each member's squared clipped gradient norms over the
            steps, for jaxmia.accounting.individual_mu.
        products: dtype in which the two matrix products of a step multiply, "float32" or "bfloat16"; they accumulate in
            float32, and everything else is float32.
    """

    optimizer: str = "adam"
    schedule: str = "constant"
    steps: int = 100
    batch_size: int | None = None
    sampling: str = "shared"
    private: bool = False
    odometer: bool = False
    products: str = "float32"

    def __post_init__(self) -> None:
        """Refuse what no training run can have."""
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_at_least("steps", self.steps, 1)
        check_choice("sampling", self.sampling, SAMPLINGS)
        if self.sampling == "independent":
            check(self.batch_size is not None, "batch_size", None, "be given for sampling='independent'")
        check_choice("products", self.products, PRODUCTS)
        if self.batch_size is not None:
            check_at_least("batch_size", self.batch_size, 1)
            rule = "be None for sampling='poisson', whose batches follow from Hyperparams.sampling_rate"
            check(self.sampling != "poisson", "batch_size", self.batch_size, rule)
            rule = "be None for private training: shuffled batches are no Poisson sample of a model's members"
            check(not self.private, "batch_size", self.batch_size, rule)
        full = self.private and self.sampling == "shared"
        check(
            full or not self.odometer,
            "odometer",
            self.odometer,
            "be False but in full-batch private training",
        )

    @property
    def shares_order(self) -> bool:
        """Whether a step computes only its batch, the same for all models; other batches mask the full one."""
        return self.batch_size is not None and self.sampling == "shared"


@flax.struct.dataclass
class Hyperparams:
    """What a sweep varies; traced, so that new values compile nothing.

    Attributes:
        learning_rate: peak step size.
        momentum: of sgd; adam ignores it.
        weight_decay: L2 coefficient: the objective is the mean member loss + weight_decay / 2 * ||kernel||^2.
        sampling_rate: q of Poisson sampling; 1 without it.
        clipping_norm: c of private training, the largest L2 norm of one example's gradient; else None.
        noise_multiplier: sigma of private training, the noise's standard deviation over clipping_norm; else None.
    """

    learning_rate: float | Array
    momentum: float | Array = 0.0
    weight_decay: float | Array = 0.0
    sampling_rate: float | Array = 1.0
    clipping_norm: float | Array | None = None
    noise_multiplier: float | Array | None = None


def check_hyperparams(hyper: Hyperparams, config: TrainConfig) -> None:
    """Refuse settings that training would ignore or that make private training void; on the host.

    Raises:
        InputError: for a sampling rate outside (0, 1] or without Poisson sampling; for a clipping norm or noise
            multiplier that is missing or out of range in private training, or given without it.
    """
    rate = float(hyper.sampling_rate)
    check(0 < rate <= 1, "sampling_rate", rate, "lie in (0, 1]")
    check(rate == 1 or config.sampling == "poisson", "sampling_rate", rate, "be 1 unless sampling='poisson'")
    clip, noise = hyper.clipping_norm, hyper.noise_multiplier
    if config.private:
        clips, noisy = clip is not None and 0 < clip < math.inf, noise is not None and 0 <= noise < math.inf
        check(bool(clips), "clipping_norm", clip, "be a finite number above 0 when private=True")
        check(bool(noisy), "noise_multiplier", noise, "be a finite number of at least 0 when private=True")
    else:
        check(clip is None, "clipping_norm", clip, "be None unless private=True")
        check(noise is None, "noise_multiplier", noise, "be None unless private=True")


def make_optimizer(hyper: Hyperparams, config: TrainConfig) -> optax.GradientTransformation:
    """The optax optimiser of a recipe; hyper may hold tracers."""
    rate = hyper.learning_rate
    if config.schedule == "cosine":
        rate = optax.cosine_decay_schedule(hyper.learning_rate, decay_steps=config.steps)
    return optax.adam(rate) if config.optimizer == "adam" else optax.sgd(rate, momentum=hyper.momentum)


def apply_head(params: Params, features: Float[Array, "examples dim"]) -> Float[Array, "classes examples"]:
    """Logits of one head with these parameters."""
    return cast(Array, LinearHead(params["params"]["bias"].shape[0]).apply(params, features))


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
    expected_members: float | Array | None = None,
    batch_candidates: int | None = None,
    block: int | None = None,
) -> tuple[Params, Float[Array, "examples"] | None]:
    """Train one head on the candidates it has as members.

    Args:
        key: the model's own random key.
        member: which candidates this model trains on.
        features: of all candidates.
        labels: of all candidates, 0 .. num_classes - 1.
        order: candidates of each step's batch, or None where batches mask the full one.
        num_classes: C.
        hyper: traced settings.
        config: static settings.
        expected_members: how many members a model has on average, public; private training divides by it, and only
            private training needs it.
        batch_candidates: candidates per step of independent batches.
        block: logits of at most this many examples are held at once; None for no limit.

    Returns:
        The head's parameters after config.steps steps; the sums of squared clipped gradient norms if config.odometer is
        set, else None.
    """
    one_hot = jax.nn.one_hot(labels, num_classes, axis=0)
    num_members = jnp.maximum(member.sum(), 1).astype(features.dtype)
    optimizer = make_optimizer(hyper, config)
    inputs = features if config.products == "float32" else features.astype(config.products)

    num_examples = features.shape[0]
    candidates = order.shape[1] if order is not None else batch_candidates or num_examples
    share = candidates / num_examples
    # Divided by the expected number of members in the batch: a realised count would weigh examples unevenly.
    weight = 1 / (share * hyper.sampling_rate * num_members)

    no_squares = jnp.zeros(num_examples, features.dtype) if config.odometer else None

    def contribution(
        params: Params, rows: Int[Array, "rows"] | slice, counted: Bool[Array, "rows"]
    ) -> tuple[Params, Array | None]:
        """Weighted or clipped sum of the gradients of these rows, and their squared norms for the odometer."""
        batch, labels_of_batch = inputs[rows], one_hot[:, rows]
        logits = apply_head(params, batch)
        if not config.private:
            error = jax.nn.softmax(logits, axis=0) - labels_of_batch
            return gradient_sum(error * jnp.where(counted, weight, 0.0), batch), None
        clip = {"clipping_norm": cast(Any, hyper.clipping_norm)}
        squares = (
            clipped_squares(logits, labels_of_batch, batch, counted, **clip) if config.odometer else None
        )
        return clipped_gradient_sum(logits, labels_of_batch, batch, counted, **clip), squares

    def in_blocks(
        params: Params, rows: Int[Array, "rows"], sampled: Bool[Array, "examples"], size: int
    ) -> tuple[Params, Array | None]:
        """The same of all rows, with the logits of only so many at once."""
        padding = -len(rows) % size
        real = (jnp.arange(len(rows) + padding) < len(rows)).reshape(-1, size)
        blocks = jnp.pad(rows, (0, padding)).reshape(-1, size)

        def add(total: Any, block: tuple[Array, Array]) -> tuple[Any, None]:
            (gradient, squares), (taken, is_real) = total, block
            more, more_squares = contribution(params, taken, sampled[taken] & is_real)
            squares = None if more_squares is None else squares.at[taken].add(more_squares)
            return (jax.tree.map(jnp.add, gradient, more), squares), None

        nothing = jax.tree.map(jnp.zeros_like, params)
        return cast(Any, jax.lax.scan(add, (nothing, no_squares), (blocks, real))[0])

    def step(
        carry: tuple[Params, optax.OptState, Any, Any], at: tuple[Array, Array | None]
    ) -> tuple[Any, None]:
        (params, state, squares, places), (index, batch) = carry, at
        sampling_key, noise_key = step_keys(key, index)
        sampled = member
        if config.sampling == "poisson":
            sampled = poisson_sample(sampling_key, member, hyper.sampling_rate)
        if config.sampling == "independent":
            epoch, turn = jnp.divmod(index, -(-num_examples // candidates))
            # The step is the same for all models, so that under vmap this stays a branch: one shuffle an epoch.
            places = jax.lax.cond(
                turn == 0, lambda: _shuffled_places(key, epoch, num_examples), lambda: places
            )
            sampled = member & (places // candidates == turn)
        size = num_examples if batch is None else len(batch)
        if block is not None and block < size:
            rows = jnp.arange(size) if batch is None else batch
            gradient, more_squares = in_blocks(params, rows, sampled, block)
        else:
            everything = slice(None) if batch is None else batch
            gradient, more_squares = contribution(params, everything, sampled[everything])
        if config.private:
            gradient = _with_noise(noise_key, gradient, hyper, expected_members)
        # The penalty depends on the parameters alone: private training may add it without clipping or noise.
        gradient["params"]["kernel"] += hyper.weight_decay * params["params"]["kernel"]
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes float and int32
            updates, state = optimizer.update(gradient, state, params)
        squares = None if squares is None else squares + more_squares
        return (optax.apply_updates(params, updates), state, squares, places), None

    params = LinearHead(num_classes).init(key, features[:1])
    steps = (jnp.arange(config.steps), order)
    places = jnp.zeros(num_examples, jnp.int32) if config.sampling == "independent" else None
    (params, _, squares, _), _ = jax.lax.scan(
        step, (params, optimizer.init(params), no_squares, places), steps
    )
    return params, squares


def _shuffled_places(key: jax.Array, epoch: Array, num_examples: int) -> Int[Array, "examples"]:
    """The place of every candidate in a model's shuffle of one epoch."""
    return jax.random.permutation(jax.random.fold_in(key, epoch), num_examples).astype(jnp.int32)


def _with_noise(
    key: jax.Array, gradient: Params, hyper: Hyperparams, expected_members: float | Array | None
) -> Params:
    if hyper.clipping_norm is None or hyper.noise_multiplier is None or expected_members is None:
        raise InputError("private=True needs clipping_norm, noise_multiplier and expected_members.")
    return add_noise(
        key,
        gradient,
        clipping_norm=hyper.clipping_norm,
        noise_multiplier=hyper.noise_multiplier,
        expected_batch=hyper.sampling_rate * expected_members,
    )


def shared_order(key: jax.Array, *, num_examples: int, batch: int, steps: int) -> Int[Array, "steps batch"]:
    """Batches of one stream of shuffles of the candidates: each candidate comes once before any comes again.

    A batch that straddles two shuffles may hold an example twice; nothing is dropped at the end of an epoch.
    """
    shuffles = -(-steps * batch // num_examples)
    keys = jax.random.split(key, shuffles)
    stream = jax.vmap(lambda k: jax.random.permutation(k, num_examples))(keys).reshape(-1)
    return stream[: steps * batch].reshape(steps, batch)
