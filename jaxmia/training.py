"""Training of one head, a pure function. No function here has a model axis: jaxmia.ensemble adds it."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, cast

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from jaxmia._validate import InputError, check, check_at_least, check_choice
from jaxmia.converged import converged_head, one_vs_rest_head
from jaxmia.dpsgd import add_noise, clipped_gradient_sum, clipped_squares, poisson_sample, step_keys
from jaxmia.heads import (
    LinearHead,
    Params,
    SplitHead,
    gradient_sum,
    joined,
    logit_errors,
    moved,
    without_bias,
    zero_head,
)
from jaxmia.networks import Network

OPTIMIZERS = ("adam", "sgd", "newton")
SCHEDULES = ("constant", "cosine")
SAMPLINGS = ("shared", "independent", "poisson")
PRODUCTS = ("float32", "tensorfloat32", "bfloat16")
CLASS_WEIGHTS = ("none", "balanced")
LINKS = ("softmax", "one_vs_rest")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What shapes the compiled program; static.

    Attributes:
        optimizer: "adam", or "sgd" (with Hyperparams.momentum); or "newton": to the minimum of the objective with
            Hyperparams.ridge (jaxmia.converged), which takes the full batch and no learning rate.
        schedule: "constant", or "cosine" decay of the learning rate to zero over the steps.
        steps: T, optimiser steps; the most that "newton" takes.
        tolerance: of "newton": stationarity (jaxmia.converged) at which a head is done.
        class_weight: "none"; "balanced", members over (classes x members of the class), of every model's own members,
            as scikit-learn has it; or a weight for each class. A member's loss counts as often as its class's weight
            says: in the sum of "newton" as in scikit-learn's, in the mean of "sgd" and "adam" as in PyTorch's, which
            divides by the weights' sum.
        intercept: whether heads have a bias; without one it stays 0.
        link: "softmax", or of "newton" "one_vs_rest": a head of two classes for each class against the rest, whose
            sigmoids are normalised, as scikit-learn's OneVsRestClassifier does. With two classes they are the same.
        batch_size: members per step, or None for the full batch.
        sampling: "shared": the candidates of a batch are the same for all models, each of which uses those that are its
            members, batch_size on average; "independent": every model shuffles its own members, as separate trainings
            would, and a batch has exactly batch_size; or "poisson": at every step each model samples each of its own
            members independently with probability Hyperparams.sampling_rate, and batch_size is None.
        private: train by DP-SGD (jaxmia.dpsgd), on the full batch or by Poisson sampling.
        odometer: of private training on the full batch: also sum each member's squared clipped gradient norms over the
            steps, for jaxmia.accounting.individual_mu.
        products: dtype in which the two matrix products of a step multiply: "float32" on every device; "tensorfloat32",
            float32 with 10 bits where the device has such arithmetic; or "bfloat16". They accumulate in float32, and
            everything else is float32.
        network: what is trained from random parameters, by ordinary training in float32; None for a linear head from
            zero.
    """

    optimizer: str = "adam"
    schedule: str = "constant"
    steps: int = 100
    batch_size: int | None = None
    sampling: str = "shared"
    private: bool = False
    odometer: bool = False
    products: str = "float32"
    network: Network | None = None
    tolerance: float = 1e-7
    class_weight: str | tuple[float, ...] = "none"
    intercept: bool = True
    link: str = "softmax"

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
        if self.optimizer == "newton":
            rule = "be {!r} for optimizer='newton', which minimises the objective itself"
            for name in ("schedule", "batch_size", "sampling", "private", "products", "network"):
                default = type(self).__dataclass_fields__[name].default
                check(getattr(self, name) == default, name, getattr(self, name), rule.format(default))
            check(0 < self.tolerance < 1, "tolerance", self.tolerance, "lie strictly between 0 and 1")
        self._check_weighting()
        if self.network is not None:
            rule = "be {!r} for a network, which is not a linear head"
            for name, only in (("private", False), ("products", "float32")):
                check(getattr(self, name) == only, name, getattr(self, name), rule.format(only))
            check(self.sampling != "poisson", "sampling", "poisson", "be another for a network")

    def _check_weighting(self) -> None:
        if isinstance(self.class_weight, str):
            check_choice("class_weight", self.class_weight, CLASS_WEIGHTS)
        else:
            above = all(0 < each < math.inf for each in self.class_weight)
            check(above, "class_weight", self.class_weight, "be finite numbers above 0, one for each class")
        check_choice("link", self.link, LINKS)
        if self.link == "one_vs_rest":
            check(
                self.optimizer == "newton", "optimizer", self.optimizer, "be 'newton' for link='one_vs_rest'"
            )
            rule = "be 'none' or 'balanced' for link='one_vs_rest'"
            check(isinstance(self.class_weight, str), "class_weight", self.class_weight, rule)
        if self.private or self.network is not None:
            what = "private training" if self.private else "a network"
            check(self.class_weight == "none", "class_weight", self.class_weight, f"be 'none' for {what}")
            check(self.intercept, "intercept", self.intercept, f"be True for {what}")

    @property
    def plain(self) -> bool:
        """Whether heads are softmax heads with a bias whose members count alike: what attacks that know more take."""
        return self.class_weight == "none" and self.intercept and self.link == "softmax"

    @property
    def shares_order(self) -> bool:
        """Whether a step takes a batch of the candidates, the same for all models."""
        return self.batch_size is not None and self.sampling == "shared"

    @property
    def follows_span(self) -> bool:
        """Whether heads started at zero stay in the span of their examples, and turn with the features if these turn.

        So do gradient steps with momentum and decay. Adam scales coordinates one by one, noise has all directions, and
        bfloat16 rounds the turned features to others.
        """
        return self.optimizer in ("sgd", "newton") and not self.private and self.products == "float32"


@flax.struct.dataclass
class Hyperparams:
    """What a sweep varies; traced, so that new values compile nothing.

    For train_ensemble a value may be an array [models], one for each model; here each is one head's.

    Attributes:
        learning_rate: peak step size.
        momentum: of sgd; adam ignores it.
        weight_decay: L2 coefficient: the objective is the mean member loss + weight_decay / 2 * ||kernel||^2, over the
            rows of all classes, also of two (scikit-learn's C is 1 / (weight_decay members), twice this for two). None
            is 0, and saves reading the kernel twice more at every step: train_ensemble puts it for 0.
        sampling_rate: q of Poisson sampling; 1 without it.
        clipping_norm: c of private training, the largest L2 norm of one example's gradient; else None.
        noise_multiplier: sigma of private training, the noise's standard deviation over clipping_norm; else None.
        ridge: lambda of "newton", above 0: the objective is the summed member loss + ridge / 2 * ||kernel||^2, with two
            classes + ridge / 2 * ||w_1 - w_0||^2: scikit-learn's with C = 1 / ridge; else None.
        steps: of this head, at most TrainConfig.steps; the cosine schedule decays over them. None is TrainConfig.steps.
    """

    learning_rate: float | Array
    momentum: float | Array = 0.0
    weight_decay: float | Array | None = 0.0
    sampling_rate: float | Array = 1.0
    clipping_norm: float | Array | None = None
    noise_multiplier: float | Array | None = None
    steps: int | Array | None = None
    ridge: float | Array | None = None


def check_hyperparams(hyper: Hyperparams, config: TrainConfig) -> None:
    """Refuse settings that training would ignore or that make private training void; on the host.

    Raises:
        InputError: for a learning rate or weight decay that is negative or not finite, or a momentum outside [0, 1);
            for networks with steps or a value for each model; for a sampling rate outside (0, 1] or without Poisson
            sampling; for a clipping norm or noise multiplier that is missing or out of range in private training, or
            given without it; for steps outside 1 .. config.steps; for "newton" without a ridge above 0 or with what
            it has no use for, and for a ridge without it.
    """
    _check_ranges(hyper)
    if config.network is not None:
        check(
            hyper.steps is None, "steps", hyper.steps, "be None for a network, which takes TrainConfig.steps"
        )
        for name in ("learning_rate", "momentum", "weight_decay"):
            value = getattr(hyper, name)
            check(np.ndim(value) == 0, name, value, "be one number: networks of an ensemble share it")
    newton, ridge = config.optimizer == "newton", hyper.ridge
    if newton:
        given = ridge is not None and all(0 < each < math.inf for each in _each(ridge))
        check(given, "ridge", ridge, "be a finite number above 0 for optimizer='newton'")
        decays = hyper.weight_decay is not None and np.any(hyper.weight_decay)
        check(
            not decays, "weight_decay", hyper.weight_decay, "be 0 for optimizer='newton', which has a ridge"
        )
        check(hyper.steps is None, "steps", hyper.steps, "be TrainConfig.steps for optimizer='newton'")
    else:
        check(ridge is None, "ridge", ridge, "be None unless optimizer='newton'")
    for rate in _each(hyper.sampling_rate):
        check(0 < rate <= 1, "sampling_rate", rate, "lie in (0, 1]")
        check(
            rate == 1 or config.sampling == "poisson", "sampling_rate", rate, "be 1 unless sampling='poisson'"
        )
    for steps in [] if hyper.steps is None else _each(hyper.steps):
        check(
            1 <= steps <= config.steps, "steps", steps, f"lie between 1 and TrainConfig.steps={config.steps}"
        )
    clip, noise = hyper.clipping_norm, hyper.noise_multiplier
    if config.private:
        clips = clip is not None and all(0 < each < math.inf for each in _each(clip))
        noisy = noise is not None and all(0 <= each < math.inf for each in _each(noise))
        check(clips, "clipping_norm", clip, "be a finite number above 0 when private=True")
        check(noisy, "noise_multiplier", noise, "be a finite number of at least 0 when private=True")
    else:
        check(clip is None, "clipping_norm", clip, "be None unless private=True")
        check(noise is None, "noise_multiplier", noise, "be None unless private=True")


def _check_ranges(hyper: Hyperparams) -> None:
    for name in ("learning_rate", "weight_decay"):
        value = getattr(hyper, name)
        fits = value is None or all(0 <= each < math.inf for each in _each(value))
        check(fits, name, value, "be a finite number of at least 0")
    fits = all(0 <= each < 1 for each in _each(hyper.momentum))
    check(fits, "momentum", hyper.momentum, "be at least 0 and below 1")


def check_class_weights(class_weight: str | tuple[float, ...], num_classes: int) -> None:
    """Raise InputError unless there is a weight for each class, if weights are given one by one."""
    fits = isinstance(class_weight, str) or len(class_weight) == num_classes
    check(fits, "class_weight", class_weight, f"hold a weight for each of {num_classes} classes")


def _each(value: float | Array) -> list[float]:
    return list(np.asarray(value).ravel().tolist())


def make_optimizer(hyper: Hyperparams, config: TrainConfig) -> optax.GradientTransformation:
    """The optax optimiser of a recipe; hyper may hold tracers."""
    rate: Any = hyper.learning_rate
    if config.schedule == "cosine" and hyper.steps is None:
        rate = optax.cosine_decay_schedule(hyper.learning_rate, decay_steps=config.steps)
    elif (
        config.schedule == "cosine" and hyper.steps is not None
    ):  # optax's own refuses a traced number of steps
        rate = functools.partial(_cosine_decay, peak=hyper.learning_rate, steps=hyper.steps)
    return optax.adam(rate) if config.optimizer == "adam" else optax.sgd(rate, momentum=hyper.momentum)


def _cosine_decay(count: Array, *, peak: float | Array, steps: int | Array) -> Array:
    share = jnp.asarray(count, jnp.float32) / jnp.asarray(steps, jnp.float32)
    return peak * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(share, 1)))


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
    share: float | Array = 1.0,
    gathered: int | None = None,
    block: int | None = None,
) -> tuple[Params, Float[Array, "examples"] | None]:
    """Train one head on the candidates it has as members.

    Args:
        key: the model's own random key.
        member: which candidates this model trains on.
        features: of all candidates.
        labels: of all candidates, 0 .. num_classes - 1.
        order: candidates of each step's shared or independent batch (batch_order); None for the full batch and for
            Poisson batches.
        num_classes: C.
        hyper: traced settings.
        config: static settings.
        expected_members: how many members a model has on average, public; private training divides by it, and only
            private training needs it.
        share: of the candidates, that a batch in a shared order has.
        gathered: rows that an independent or Poisson batch gathers, at least as many as a batch ever has; None to mask
            the full batch instead, with products over all candidates.
        block: logits of at most this many examples are held at once; None for no limit.

    Returns:
        The head's parameters after its steps; the sums of squared clipped gradient norms if config.odometer is
        set, else None.
    """
    if config.optimizer == "newton":
        return _converged(member, features, labels, num_classes, cast(Any, hyper.ridge), config), None
    importance = example_weights(member, labels, num_classes, config.class_weight)
    one_hot = jax.nn.one_hot(labels, num_classes, axis=0, dtype=features.dtype)[:-1]
    optimizer = make_optimizer(hyper, config)
    inputs = features.astype(jnp.bfloat16) if config.products == "bfloat16" else features
    precision = jax.lax.Precision.HIGH if config.products == "tensorfloat32" else None
    num_examples = features.shape[0]
    # The expected number of members in a batch: a realised count would weigh examples unevenly. An independent batch
    # has always the same.
    members = jnp.maximum(member.sum(), 1).astype(features.dtype)
    expected = share * hyper.sampling_rate * members
    weight: Any = (
        1 / config.batch_size if config.sampling == "independent" and config.batch_size else 1 / expected
    )
    if importance is not None:  # a mean by weights
        weight *= importance * (members / jnp.sum(member.astype(features.dtype) * importance))
    no_squares = jnp.zeros(num_examples, features.dtype) if config.odometer else None

    def contribution(
        head: SplitHead, rows: Int[Array, "rows"] | slice, counted: Array
    ) -> tuple[SplitHead, Array | None]:
        """Weighted or clipped sum of the gradients of these rows, and their squared norms for the odometer."""
        batch = inputs[rows]
        errors = logit_errors(head, batch, one_hot[:, rows], precision)
        if not config.private:
            own = weight if importance is None else weight[rows]
            return gradient_sum(errors * (counted.astype(errors.dtype) * own), batch, precision), None
        clip = {"clipping_norm": cast(Any, hyper.clipping_norm)}
        squares = clipped_squares(errors, batch, counted, **clip) if config.odometer else None
        return clipped_gradient_sum(errors, batch, counted, **clip, precision=precision), squares

    def in_blocks(
        head: SplitHead, rows: Int[Array, "rows"], counted: Array, size: int
    ) -> tuple[SplitHead, Array | None]:
        """The same of all rows, with the logits of only so many at once."""
        padding = -len(rows) % size
        blocks, counts = (jnp.pad(array, (0, padding)).reshape(-1, size) for array in (rows, counted))

        def add(total: Any, block: tuple[Array, Array]) -> tuple[Any, None]:
            (gradient, squares), (taken, counts) = total, block
            more, more_squares = contribution(head, taken, counts)
            squares = None if more_squares is None else squares.at[taken].add(more_squares)
            return (jax.tree.map(jnp.add, gradient, more), squares), None

        nothing = jax.tree.map(jnp.zeros_like, head)
        return cast(Any, jax.lax.scan(add, (nothing, no_squares), (blocks, counts))[0])

    def step(
        carry: tuple[SplitHead, optax.OptState, Any], at: tuple[Array, Array | None]
    ) -> tuple[Any, None]:
        (head, state, squares), (index, ordered) = carry, at
        sampling_key, noise_key = step_keys(key, index)
        rows, counted = _batch(sampling_key, member, ordered, hyper, config, gathered)
        if block is not None and block < len(counted):
            everything = jnp.arange(num_examples) if isinstance(rows, slice) else rows
            gradient, more_squares = in_blocks(head, everything, counted, block)
        else:
            gradient, more_squares = contribution(head, rows, counted)
        if config.private:
            gradient = _with_noise(noise_key, gradient, hyper, expected_members)
        # The penalty depends on the parameters alone: private training may add it without clipping or noise.
        if hyper.weight_decay is not None:
            last = head.last["kernel"]
            gradient.rest["kernel"] += hyper.weight_decay * (head.rest["kernel"] + last)
            gradient.last["kernel"] += hyper.weight_decay * last
        if not config.intercept:
            gradient = without_bias(gradient)
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes float and int32
            updates, state = optimizer.update(gradient, state)
        squares = None if squares is None else squares + more_squares
        return (moved(head, updates), state, squares), None

    start = zero_head(num_classes, features.shape[1], features.dtype)
    carry = (start, optimizer.init(start), no_squares)
    if hyper.steps is None:
        (head, _, squares), _ = jax.lax.scan(step, carry, (jnp.arange(config.steps), order))
        return joined(head), squares

    def step_at(counted: tuple[Array, Any]) -> tuple[Array, Any]:
        index, carry = counted
        return index + 1, step(carry, (index, None if order is None else order[index]))[0]

    # Under vmap, heads that are through stand still until the last one is.
    _, (head, _, squares) = jax.lax.while_loop(
        lambda counted: counted[0] < hyper.steps, step_at, (jnp.int32(0), carry)
    )
    return joined(head), squares


def _converged(
    member: Bool[Array, "examples"],
    features: Float[Array, "examples dim"],
    labels: Int[Array, "examples"],
    num_classes: int,
    ridge: float | Array,
    config: TrainConfig,
) -> Params:
    """The head of optimizer="newton"."""
    options: dict[str, Any] = {
        "ridge": ridge,
        "steps": config.steps,
        "tolerance": config.tolerance,
        "intercept": config.intercept,
    }
    if config.link == "one_vs_rest" and num_classes > 2:

        def of_class(label: Array) -> Array:
            is_class = (labels == label).astype(labels.dtype)
            return cast(Array, example_weights(member, is_class, 2, config.class_weight))

        classes = jnp.arange(num_classes, dtype=labels.dtype)
        weights = None if config.class_weight == "none" else jax.vmap(of_class)(classes)
        return one_vs_rest_head(member, weights, features, labels, num_classes=num_classes, **options)
    importance = example_weights(member, labels, num_classes, config.class_weight)
    counted = member if importance is None else member.astype(features.dtype) * importance
    return converged_head(counted, features, labels, num_classes=num_classes, **options)


def example_weights(
    member: Bool[Array, "examples"],
    labels: Int[Array, "examples"],
    num_classes: int,
    class_weight: str | tuple[float, ...],
) -> Float[Array, "examples"] | None:
    """The weight of every candidate's class, by one model's members where they are to be balanced; None if all is 1."""
    if class_weight == "none":
        return None
    if isinstance(class_weight, tuple):
        return jnp.asarray(class_weight, jnp.float32)[labels]
    counts = jnp.zeros(num_classes, jnp.float32).at[labels].add(member.astype(jnp.float32))
    present = jnp.maximum(jnp.count_nonzero(counts), 1).astype(jnp.float32)
    return (counts.sum() / (present * jnp.maximum(counts, 1.0)))[labels]


def _batch(
    key: jax.Array,
    member: Bool[Array, "examples"],
    ordered: Int[Array, "batch"] | None,
    hyper: Hyperparams,
    config: TrainConfig,
    gathered: int | None,
) -> tuple[Int[Array, "rows"] | slice, Bool[Array, "rows"] | Int[Array, "rows"]]:
    """The rows of one step, and how often each counts."""
    if config.sampling == "poisson":
        sampled = poisson_sample(key, member, hyper.sampling_rate)
        if gathered is None:
            return slice(None), sampled
        rows = jnp.nonzero(sampled, size=gathered, fill_value=0)[0]
        return rows, jnp.arange(gathered) < sampled.sum()
    if ordered is None:
        return slice(None), member
    if config.sampling == "independent" and gathered is None:
        times = jnp.zeros(member.shape, jnp.int32).at[ordered].add(1)
        return slice(None), jnp.where(member, times, 0)
    return ordered, member[ordered]


def _with_noise(
    key: jax.Array, gradient: SplitHead, hyper: Hyperparams, expected_members: float | Array | None
) -> SplitHead:
    if hyper.clipping_norm is None or hyper.noise_multiplier is None or expected_members is None:
        raise InputError("private=True needs clipping_norm, noise_multiplier and expected_members.")
    return add_noise(
        key,
        gradient,
        clipping_norm=hyper.clipping_norm,
        noise_multiplier=hyper.noise_multiplier,
        expected_batch=hyper.sampling_rate * expected_members,
    )


def batch_order(
    key: jax.Array, eligible: Bool[Array, "examples"], *, batch: int, steps: int, shuffles: int
) -> Int[Array, "steps batch"]:
    """Batches of one stream of shuffles of the eligible examples: each comes once before any comes again.

    A batch that straddles two shuffles may hold an example twice; nothing is dropped at the end of an epoch.

    Args:
        key: of the stream.
        eligible: all candidates, for a shared order, or a model's members.
        batch: examples of a step.
        steps: T.
        shuffles: how many are drawn, at least steps * batch / (eligible examples).
    """
    num_examples = eligible.shape[0]
    index_bits = (num_examples - 1).bit_length()

    def shuffle(epoch: Array) -> Array:
        """Eligible examples first, in random order.

        Sorts one word of random bits above an example's place: several times faster than an argsort. Two equal draws
        keep their order, so that the bits left for them decide how often a round is needed: it is left to chance for
        each pair of examples but with probability 2^-19 at most.
        """
        order = jnp.arange(num_examples, dtype=jnp.uint32)
        for salt in range(1 if index_bits <= 12 else 2):
            draws = jax.random.bits(
                jax.random.fold_in(jax.random.fold_in(key, epoch), salt), order.shape, "uint32"
            )
            last = jnp.where(eligible[order], jnp.uint32(0), jnp.uint32(2**31))
            word = (
                last | (draws >> (index_bits + 1) << index_bits) | jnp.arange(num_examples, dtype=jnp.uint32)
            )
            order = order[jnp.sort(word, stable=False) & jnp.uint32(2**index_bits - 1)]
        return order

    shuffled = jax.vmap(shuffle)(jnp.arange(shuffles)).astype(jnp.int32)
    places = jnp.arange(steps * batch)
    epochs, turns = jnp.divmod(places, jnp.maximum(eligible.sum(), 1))
    return shuffled[epochs, turns].reshape(steps, batch)
