"""Training of one linear head by gradient steps, a pure function; jaxmia.training.chunks adds the axis of models."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxmia._validate import InputError
from jaxmia.training.dpsgd import add_noise, clipped_gradient_sum, clipped_squares, poisson_sample, step_keys
from jaxmia.training.heads import (
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
from jaxmia.training.newton import converged_head, one_vs_rest_head
from jaxmia.training.persons import PersonRows
from jaxmia.training.settings import Hyperparams, TrainConfig

_Carry = tuple[SplitHead, optax.OptState, Array | None]  # head, state of its optimiser, odometer
_Sums = tuple[SplitHead, Array | None]  # sum of gradients, and their squared norms for the odometer


def make_optimizer(hyper: Hyperparams, config: TrainConfig) -> optax.GradientTransformation:
    """Return the optax optimiser of a recipe; hyper may hold tracers."""
    rate: Any = hyper.learning_rate
    if config.schedule == "cosine" and hyper.steps is None:
        rate = optax.cosine_decay_schedule(hyper.learning_rate, decay_steps=config.steps)
    elif config.schedule == "cosine":  # optax's version takes no traced number of steps
        rate = functools.partial(_cosine_decay, peak=hyper.learning_rate, steps=cast(Any, hyper.steps))
    return optax.adam(rate) if config.optimizer == "adam" else optax.sgd(rate, momentum=hyper.momentum)


def _cosine_decay(count: Array, *, peak: float | Array, steps: int | Array) -> Array:
    share = jnp.asarray(count, jnp.float32) / jnp.asarray(steps, jnp.float32)
    return peak * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(share, 1)))


def apply_head(params: Params, features: Float[Array, "examples dim"]) -> Float[Array, "classes examples"]:
    """Return the logits of one head with these parameters."""
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
    persons: PersonRows | None = None,
) -> tuple[Params, Float[Array, "examples"] | None]:
    """Train one head on its members.

    Args:
        key: random key of this model.
        member: True for the candidates that this model trains on.
        features: features of all candidates.
        labels: labels of all candidates, 0 .. num_classes - 1.
        order: candidates in each step's shared or independent batch (batch_order); None for the full batch and for
            Poisson batches.
        num_classes: C.
        hyper: traced settings.
        config: static settings.
        expected_members: expected number of members of a model, which is public. Only private training needs it, and
            divides by it.
        share: share of the candidates in a batch of a shared order.
        gathered: number of rows gathered for an independent or Poisson batch, at least the size of any batch; None to
            mask the full batch instead, with products over all candidates.
        block: largest number of examples whose logits are held at once; None for no limit.
        persons: persons of the examples, which are sorted by person, for private training whose unit is the person.

        Returns: The head's parameters after all steps; the sums of squared clipped gradient norms if config.odometer is
        set, else None.
    """
    if config.optimizer == "newton":
        return _converged(member, features, labels, num_classes, cast(Any, hyper.ridge), config), None
    loss = dataclasses.replace(
        _loss(member, features, labels, num_classes, hyper, config, share), persons=persons
    )
    optimizer = make_optimizer(hyper, config)

    def step(carry: _Carry, at: tuple[Array, Array | None]) -> tuple[_Carry, None]:
        (head, state, squares), (index, ordered) = carry, at
        sampling_key, noise_key = step_keys(key, index)
        rows, counted = _batch(sampling_key, member, ordered, hyper, config, gathered, persons)
        gradient, more_squares = loss.gradient(head, rows, counted, block)
        if config.private:
            gradient = _with_noise(noise_key, gradient, hyper, expected_members)
        gradient = _with_penalty(gradient, head, hyper)
        if not config.intercept:
            gradient = without_bias(gradient)
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes float and int32
            updates, state = optimizer.update(gradient, state)
        squares = None if squares is None else squares + cast(Array, more_squares)
        return (moved(head, updates), state, squares), None

    start = zero_head(num_classes, features.shape[1], features.dtype)
    carry = (start, optimizer.init(start), loss.no_squares())
    head, _, squares = after_steps(step, carry, order, steps=hyper.steps, most=config.steps)
    return joined(head), squares


def after_steps(
    step: Callable[[Any, tuple[Array, Array | None]], tuple[Any, None]],
    start: Any,
    order: Int[Array, "steps batch"] | None,
    *,
    steps: int | Array | None,
    most: int,
) -> Any:
    """Return the carry after all steps of one model.

    Args:
        step: function from the carry and (index, batch) to (the next carry, None); batch is None for the full batch.
        start: the initial carry.
        order: batches of all steps, or None for the full batch.
        steps: number of steps of this model, at most `most`; None for `most`.
        most: number of steps of the program.
    """
    if steps is None:
        return jax.lax.scan(step, start, (jnp.arange(most), order))[0]

    def step_at(counted: tuple[Array, Any]) -> tuple[Array, Any]:
        index, carry = counted
        return index + 1, step(carry, (index, None if order is None else order[index]))[0]

    # Under vmap the loop runs until the last model is done; models that are done no longer change.
    return jax.lax.while_loop(lambda counted: counted[0] < steps, step_at, (jnp.int32(0), start))[1]


@dataclasses.dataclass(frozen=True)
class _Loss:
    """The loss of one head on all candidates, and the gradient sums of its steps.

    Attributes:
        inputs: features in the dtype of the products.
        one_hot: one-hot labels, without the row of the last class.
        weight: weight of an example in a step's mean: one number, or one for each candidate.
        precision: precision of products, as in jaxmia.training.heads.product.
        config: static settings.
        clipping_norm: of private training.
        persons: persons of the examples, if private training clips by person, else None.
    """

    inputs: Float[Array, "examples dim"]
    one_hot: Float[Array, "rest examples"]
    weight: float | Array
    precision: jax.lax.Precision | None
    config: TrainConfig
    clipping_norm: float | Array | None
    persons: PersonRows | None = None

    def no_squares(self) -> Float[Array, "examples"] | None:
        """Return the odometer's initial value, zeros; None without an odometer."""
        examples = self.one_hot.shape[1]
        return jnp.zeros(examples, self.one_hot.dtype) if self.config.odometer else None

    def gradient(
        self, head: SplitHead, rows: Int[Array, "rows"] | slice, counted: Array, block: int | None
    ) -> _Sums:
        """Return the weighted or clipped sum of these rows' gradients, and their squared norms for the odometer.

        Args:
            head: head at whose parameters to take gradients.
            rows: indices of the candidates.
            counted: how often each row counts.
            block: largest number of examples whose logits are held at once; None for no limit.
        """
        if block is None or block >= len(counted):
            return self._of_rows(head, rows, counted)
        everything = jnp.arange(self.inputs.shape[0]) if isinstance(rows, slice) else rows
        return self._in_blocks(head, *self._blocks(everything, counted, block))

    def _of_rows(self, head: SplitHead, rows: Int[Array, "rows"] | slice, counted: Array) -> _Sums:
        batch = self.inputs[rows]
        errors = logit_errors(head, batch, self.one_hot[:, rows], self.precision)
        if not self.config.private:
            own = jnp.asarray(self.weight)[rows] if jnp.ndim(self.weight) else self.weight
            return gradient_sum(errors * (counted.astype(errors.dtype) * own), batch, self.precision), None
        of_rows = jax.tree.map(lambda leaf: leaf[rows], self.persons)
        clip: dict[str, Any] = {"clipping_norm": cast(Any, self.clipping_norm), "persons": of_rows}
        clip["intercept"] = self.config.intercept
        squares = clipped_squares(errors, batch, counted, **clip) if self.config.odometer else None
        return clipped_gradient_sum(errors, batch, counted, **clip, precision=self.precision), squares

    def _blocks(self, rows: Int[Array, "rows"], counted: Array, size: int) -> tuple[Array, Array]:
        """Return the rows [blocks, size or more] of all blocks, and how often each counts.

        Where the unit is the person, a block has the persons whose first row lies in it, and as many rows beyond its
        end as its last person may need.
        """
        if self.persons is None:
            padding = (0, -len(rows) % size)
            return jnp.pad(rows, padding).reshape(-1, size), jnp.pad(counted, padding).reshape(-1, size)
        kind = self.persons.place.dtype
        starts = jnp.arange(0, len(rows), size, dtype=kind)[:, None]
        at = starts + jnp.arange(size + self.persons.products.shape[1] - 1, dtype=kind)
        taken = jnp.minimum(at, len(rows) - 1)
        first = at - self.persons.place[rows[taken]]
        own = (at < len(rows)) & (first >= starts) & (first < starts + size)
        return rows[taken], counted[taken] & own

    def _in_blocks(
        self, head: SplitHead, blocks: Int[Array, "blocks size"], counts: Shaped[Array, "blocks size"]
    ) -> _Sums:
        """Return the same sums, computed with the logits of one block at once."""

        def add(total: Any, block: tuple[Array, Array]) -> tuple[Any, None]:
            (gradient, squares), (taken, counts) = total, block
            more, more_squares = self._of_rows(head, taken, counts)
            squares = None if more_squares is None else squares.at[taken].add(more_squares)
            return (jax.tree.map(jnp.add, gradient, more), squares), None

        nothing = jax.tree.map(jnp.zeros_like, head)
        return cast(_Sums, jax.lax.scan(add, (nothing, self.no_squares()), (blocks, counts))[0])


def _loss(
    member: Bool[Array, "examples"],
    features: Float[Array, "examples dim"],
    labels: Int[Array, "examples"],
    num_classes: int,
    hyper: Hyperparams,
    config: TrainConfig,
    share: float | Array,
) -> _Loss:
    """Return the loss of one head from its members and settings; arguments as in train_head."""
    importance = example_weights(member, labels, num_classes, config.class_weight)
    # Divide by the expected number of members in a batch, since a realised count would weigh examples unevenly. An
    # independent batch always has the same number.
    members = jnp.maximum(member.sum(), 1).astype(features.dtype)
    weight: Any = 1 / (share * hyper.sampling_rate * members)
    if config.sampling == "independent" and config.batch_size:
        weight = 1 / config.batch_size
    if importance is not None:  # a weighted mean
        weight *= importance * (members / jnp.sum(member.astype(features.dtype) * importance))
    return _Loss(
        inputs=features.astype(jnp.bfloat16) if config.matmul_dtype == "bfloat16" else features,
        one_hot=jax.nn.one_hot(labels, num_classes, axis=0, dtype=features.dtype)[:-1],
        weight=weight,
        precision=jax.lax.Precision.HIGH if config.matmul_dtype == "tensorfloat32" else None,
        config=config,
        clipping_norm=hyper.clipping_norm,
    )


def _converged(
    member: Bool[Array, "examples"],
    features: Float[Array, "examples dim"],
    labels: Int[Array, "examples"],
    num_classes: int,
    ridge: float | Array,
    config: TrainConfig,
) -> Params:
    """Train a head with optimizer="newton"."""
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
    """Return the class weight of every candidate, from this model's members if "balanced"; None if all are 1."""
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
    persons: PersonRows | None,
) -> tuple[Int[Array, "rows"] | slice, Bool[Array, "rows"] | Int[Array, "rows"]]:
    """Return the rows of one step, and how often each row counts."""
    if config.sampling == "poisson":
        sampled = poisson_sample(key, member, hyper.sampling_rate, persons)
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


def _with_penalty(gradient: SplitHead, head: SplitHead, hyper: Hyperparams) -> SplitHead:
    """Add the gradient of weight decay, which depends on the parameters alone and so needs no clipping or noise."""
    if hyper.weight_decay is not None:
        last = head.last["kernel"]
        gradient.rest["kernel"] += hyper.weight_decay * (head.rest["kernel"] + last)
        gradient.last["kernel"] += hyper.weight_decay * last
    return gradient


def batch_order(
    key: jax.Array, eligible: Bool[Array, "examples"], *, batch: int, steps: int, shuffles: int
) -> Int[Array, "steps batch"]:
    """Return a batch order: a stream of shuffles of the eligible examples, cut into batches.

    Every example is used once before any is used again. A batch across two shuffles may hold an example twice, and no
    examples are dropped at the end of an epoch.

    Args:
        key: random key of the stream.
        eligible: all candidates for a shared order; a model's members for an independent one.
        batch: number of examples per step.
        steps: number of steps T.
        shuffles: number of shuffles to draw, at least steps * batch / (eligible examples).
    """
    num_examples = eligible.shape[0]
    index_bits = (num_examples - 1).bit_length()

    def shuffle(epoch: Array) -> Array:
        """Return all examples in random order, eligible ones first.

        Sorts words with random bits above the bits of the example's index, which is several times faster than an
        argsort. Examples with equal random bits keep their order; extra rounds make the probability of this at most
        2^-19 for each pair of examples.
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
