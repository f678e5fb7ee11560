"""Training of one adapter with its linear head, a pure function; jaxmia.training.chunks adds the axis of models."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from jaxmia.training.adapters.adapter import Adapter, is_penalised
from jaxmia.training.adapters.inputs import AdapterInputs, pooled_features
from jaxmia.training.adapters.plan import AdapterPlan
from jaxmia.training.dpsgd import add_noise, clipped_tree, poisson_sample, step_keys
from jaxmia.training.heads import Params, product
from jaxmia.training.linear import after_steps, make_optimizer
from jaxmia.training.settings import Hyperparams, TrainConfig

_SCORED = 32  # examples whose activations are held at once for scores


def initial_adapter(key: jax.Array, inputs: AdapterInputs, adapter: Adapter, *, num_classes: int) -> Params:
    """Return the parameters of one model: a head of zeros on the extractor's own features.

    Args:
        key: random key of this model.
        inputs: inputs of some examples.
        adapter: what is trained.
        num_classes: C.
    """
    dim = inputs.backbone.width
    head = {"kernel": jnp.zeros((num_classes, dim)), "bias": jnp.zeros(num_classes)}
    return {"params": {**head, "adapter": adapter.init(key, inputs.backbone)}}


def adapter_logits(
    params: Params, inputs: AdapterInputs, adapter: Adapter, *, dtype: str = "float32"
) -> Float[Array, "classes examples"]:
    """Return the logits of one model, class-major as a head's.

    Args:
        params: its parameters.
        inputs: inputs of the examples.
        adapter: what was trained.
        dtype: dtype of the products, as in TrainConfig.matmul_dtype.
    """
    own = params["params"]
    features = pooled_features(inputs, own["adapter"], scale=adapter.scale, dtype=dtype)
    return product(own["kernel"], features.T) + own["bias"][:, None]


def scored_logits(
    params: Params, inputs: AdapterInputs, adapter: Adapter
) -> Float[Array, "classes examples"]:
    """Return the same, of a few examples at once, so that their activations need little memory."""
    count = len(inputs)
    rows = jnp.pad(inputs.rows, [(0, -count % _SCORED)] + [(0, 0)] * (inputs.rows.ndim - 1))
    blocks = rows.reshape(-1, min(_SCORED, len(rows)), *rows.shape[1:])
    found = jax.lax.map(lambda block: adapter_logits(params, inputs.of(block), adapter), blocks)
    return jnp.moveaxis(found, 1, 0).reshape(found.shape[1], -1)[:, :count]


def scored_at_once(count: int) -> int:
    """Return how many of so many examples scored_logits holds the activations of."""
    return min(_SCORED, count)


def train_adapter(
    key: jax.Array,
    member: Bool[Array, "examples"],
    inputs: AdapterInputs,
    labels: Int[Array, "examples"],
    order: Int[Array, "steps batch"] | None,
    *,
    plan: AdapterPlan,
    num_classes: int,
    hyper: Hyperparams,
    config: TrainConfig,
    share: float | Array = 1.0,
    expected_members: float | Array = 1.0,
) -> Params:
    """Train one adapter and its head on its members.

    The objective is the mean loss over the members of a batch + weight_decay / 2 * the squared norm of the head's
    kernel and of the weights' changes. Private training clips each example's gradient jointly over adapter and head.

    Args:
        key: random key of this model.
        member: True for the candidates that this model trains on.
        inputs: inputs of all candidates.
        labels: labels of all candidates, 0 .. num_classes - 1.
        order: candidates of each step's batch, or None for full and Poisson batches.
        plan: the plan of the ensemble.
        num_classes: C.
        hyper: traced settings.
        config: static settings, with the adapter as network.
        share: share of the candidates in a batch of a shared order.
        expected_members: expected number of members of a model, which is public; only private training divides by it.

    Returns:
        The parameters after all steps.
    """
    init_key, step_key = jax.random.split(key)
    optimizer, loss = make_optimizer(hyper, config), _Loss(inputs, labels, hyper, config, plan)
    weight: Any = 1 / (share * hyper.sampling_rate * jnp.maximum(member.sum(), 1).astype(jnp.float32))
    if config.sampling == "independent":
        weight = 1 / cast(int, config.batch_size)

    def step(carry: tuple[Params, optax.OptState], at: tuple[Array, Array | None]) -> tuple[Any, None]:
        (params, state), (index, ordered) = carry, at
        sampling_key, noise_key = step_keys(step_key, index)
        rows, counted = _batch(sampling_key, member, ordered, hyper, config, plan)
        gradient = loss.gradient_sum(params, rows, counted)
        if config.private:
            gradient = add_noise(
                noise_key,
                gradient,
                clipping_norm=cast(Any, hyper.clipping_norm),
                noise_multiplier=cast(Any, hyper.noise_multiplier),
                expected_batch=hyper.sampling_rate * expected_members,
            )
        else:
            gradient = jax.tree.map(lambda leaf: weight * leaf, gradient)
        gradient = _with_penalty(gradient, params, hyper)
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes float and int32
            updates, state = optimizer.update(gradient, state)
        return (jax.tree.map(jnp.add, params, updates), state), None

    start = initial_adapter(init_key, inputs, plan.adapter, num_classes=num_classes)
    carry = (start, optimizer.init(start))
    return cast(Params, after_steps(step, carry, order, steps=hyper.steps, most=config.steps)[0])


class _Loss:
    """The loss of one model on all candidates, and sums of its gradients over a step's rows."""

    def __init__(
        self, inputs: AdapterInputs, labels: Array, hyper: Hyperparams, config: TrainConfig, plan: AdapterPlan
    ) -> None:
        self.inputs, self.labels = inputs, labels
        self.hyper, self.config, self.plan = hyper, config, plan

    def of_rows(
        self, params: Params, rows: Int[Array, "rows"], counted: Bool[Array, "rows"]
    ) -> Float[Array, ""]:
        """Return the summed cross-entropy of the counted rows."""
        some = self.inputs.of(self.inputs.rows[rows])
        logits = adapter_logits(params, some, self.plan.adapter, dtype=self.config.matmul_dtype)
        losses = (
            jax.nn.logsumexp(logits, axis=0) - jnp.take_along_axis(logits, self.labels[rows][None], axis=0)[0]
        )
        return jnp.sum(jnp.where(counted, losses, 0.0))

    def clipped(self, params: Params, rows: Int[Array, "rows"], counted: Bool[Array, "rows"]) -> Params:
        """Return the sum of the counted rows' gradients, each clipped."""

        def one(row: Array, counts: Array) -> Params:
            gradient = jax.grad(self.of_rows)(params, row[None], jnp.ones(1, bool))
            return clipped_tree(gradient, counts, clipping_norm=cast(Any, self.hyper.clipping_norm))

        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), jax.vmap(one)(rows, counted))

    def gradient_sum(self, params: Params, rows: Int[Array, "rows"], counted: Bool[Array, "rows"]) -> Params:
        """Return the sum of the rows' gradients, computed in the plan's blocks."""
        of_block = self.clipped if self.config.private else jax.grad(self.of_rows)
        size = self.plan.block
        if size >= len(rows):
            return of_block(params, rows, counted)
        padding = (0, -len(rows) % size)
        blocks = jnp.pad(rows, padding).reshape(-1, size), jnp.pad(counted, padding).reshape(-1, size)

        def add(total: Params, block: tuple[Array, Array]) -> tuple[Params, None]:
            return jax.tree.map(jnp.add, total, of_block(params, *block)), None

        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), blocks)[0]


def _batch(
    key: jax.Array,
    member: Bool[Array, "examples"],
    ordered: Int[Array, "batch"] | None,
    hyper: Hyperparams,
    config: TrainConfig,
    plan: AdapterPlan,
) -> tuple[Int[Array, "rows"], Bool[Array, "rows"]]:
    """Return the rows of one step, and which of them count."""
    if ordered is not None:
        return ordered, member[ordered]
    sampled = poisson_sample(key, member, hyper.sampling_rate) if config.sampling == "poisson" else member
    rows = jnp.nonzero(sampled, size=plan.rows, fill_value=0)[0]
    return rows, jnp.arange(plan.rows) < sampled.sum()


def _with_penalty(gradient: Params, params: Params, hyper: Hyperparams) -> Params:
    """Add the gradient of weight decay, which depends on the parameters alone."""
    if hyper.weight_decay is None:
        return gradient
    return jax.tree_util.tree_map_with_path(
        lambda path, own, leaf: own + hyper.weight_decay * leaf if is_penalised(path) else own,
        gradient,
        params,
    )
