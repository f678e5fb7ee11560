"""Training of networks from scratch: one network, a pure function; and the one vmap over models, in chunks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from jaxmia._buckets import bucket
from jaxmia._validate import check
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.membership import MembershipMasks
from jaxmia.training.heads import Params
from jaxmia.training.linear import after_steps, batch_order, make_optimizer
from jaxmia.training.network import Network, is_kernel
from jaxmia.training.settings import Hyperparams, TrainConfig

_LIVE_PARAMETERS = 6  # parameters, gradient, two moments, updates, new parameters
_LIVE_ACTIVATIONS = 3  # forward, backward, and their product with the ReLU's derivative
_BUDGET = (
    2**30
)  # bytes beside the inputs, the same on every machine: what is held at once decides how sums round


@dataclasses.dataclass(frozen=True)
class NetworkPlan:
    """How one ensemble of networks is trained.

    Attributes:
        network: which.
        rows: examples of a step of one network.
        gathered: whether the full batch is each network's own members, gathered once, rather than all candidates with
            non-members at weight 0.
        batch: candidates of a shared order's step, or members of an independent order's; None for the full batch.
        shuffles: of the orders of batches.
        models: trained side by side.
        work: multiplications of a step of one network, per class: to share out progress.
    """

    network: Network
    rows: int
    gathered: bool
    batch: int | None
    shuffles: int
    models: int
    work: float

    def __str__(self) -> str:
        """What a step takes, in words."""
        what = f"batches of {self.batch}" if self.batch else "all candidates, shared by the networks"
        if self.gathered:
            what = f"each network's own members, gathered into {self.rows} rows"
        widths = " x ".join(map(str, self.network.widths))
        return f"{self.network.kind} {widths} from scratch, on {what}; {self.models} networks at once"


def plan_networks(
    config: TrainConfig,
    memory: int | None,
    *,
    num_models: int,
    num_examples: int,
    num_classes: int,
    dim: int,
    input_shape: tuple[int, ...],
    inclusion_rate: float,
    members: tuple[int, int] | None = None,
) -> NetworkPlan:
    """Choose how to train an ensemble of networks.

    The full batch of a conv net is gathered (half of the candidates are no members, and all layers but the first are
    products of each model's own); that of other networks is not, since their first layer is one product for all models.

    Args:
        config: static settings of the recipe, with a network.
        memory: bytes that training may hold; by default 1 GiB beside the inputs.
        num_models: M.
        num_examples: candidates.
        num_classes: C.
        dim: of the features.
        input_shape: as in FeatureSet.
        inclusion_rate: r.
        members: the fewest and the most that a model has; by default what is expected.

    Raises:
        InputError: if a batch is larger than the members expected, memory holds no model, or the network does not go
            with the inputs.
    """
    network = cast(Network, config.network)
    sizes = network.sizes(dim, input_shape, num_classes)
    expected = round(num_examples * inclusion_rate)
    fewest, most = members or (expected, expected)
    batch, shuffles, rows = None, 0, num_examples
    gathered = config.batch_size is None and network.kind == "conv"
    if gathered:
        rows = min(num_examples, bucket(most))
    elif config.batch_size is not None:
        rule = f"be at most {expected}, the expected members of a model (or 'full')"
        check(config.batch_size <= expected, "batch_size", config.batch_size, rule)
        own = config.sampling == "independent"
        rows = batch = config.batch_size if own else max(1, round(config.batch_size / inclusion_rate))
        shuffles = -(-config.steps * batch // max(1, fewest if own else num_examples))
    held = _LIVE_ACTIVATIONS * sizes.activations + (sizes.inputs if gathered or batch else 0)
    order = shuffles * num_examples + config.steps * (batch or 0)
    per_model = 4 * (_LIVE_PARAMETERS * sizes.parameters + rows * held + order)
    fixed = 4 * (2 * num_examples * sizes.inputs + num_models * sizes.parameters)
    budget = fixed + max(per_model, _BUDGET) if memory is None else memory
    least = fixed + per_model
    rule = f"be at least {least / 2**20:.0f} MiB: {num_examples} candidates and {num_models} networks"
    check(budget >= least, "memory", f"{budget / 2**20:.3g} MiB", rule)
    models = min(num_models, (budget - fixed) // per_model)
    return NetworkPlan(
        network, rows, gathered, batch, shuffles, int(models), rows * sizes.products / num_classes
    )


def train_network(
    key: jax.Array,
    member: Bool[Array, "examples"],
    inputs: Float[Array, "examples *places dim"],
    labels: Int[Array, "examples"],
    order: Int[Array, "steps batch"] | None,
    *,
    num_classes: int,
    hyper: Hyperparams,
    config: TrainConfig,
    share: float | Array = 1.0,
    gathered: int | None = None,
) -> Params:
    """Train one network on the candidates it has as members, from random parameters of its own.

    The objective is that of train_head: mean loss over the members of a batch + weight_decay / 2 * ||kernels||^2.

    Args:
        key: of the random parameters.
        member: which candidates this model trains on.
        inputs: of all candidates, as Network.inputs gives them.
        labels: of all candidates, 0 .. num_classes - 1.
        order: candidates of each step's batch, or None for the full batch.
        num_classes: C.
        hyper: traced settings.
        config: static settings, with a network.
        share: of the candidates, that a batch in a shared order has.
        gathered: rows that the full batch is gathered into, at least as many as there are members; None for all.

    Returns:
        The parameters after its steps.
    """
    network, optimizer = cast(Network, config.network), make_optimizer(hyper, config)
    weight: Any = 1 / (share * jnp.maximum(member.sum(), 1).astype(inputs.dtype))
    if config.sampling == "independent":
        weight = 1 / cast(int, config.batch_size)
    full = inputs, labels, member
    if gathered is not None:
        rows = jnp.nonzero(member, size=gathered, fill_value=0)[0]
        full = inputs[rows], labels[rows], jnp.arange(gathered) < member.sum()

    def objective(params: Params, batch: tuple[Array, Array, Array]) -> Array:
        some, classes, counted = batch
        logits = network.apply(params, some)
        losses = jax.nn.logsumexp(logits, axis=0) - jnp.take_along_axis(logits, classes[None], axis=0)[0]
        mean = weight * jnp.sum(jnp.where(counted, losses, 0.0))
        if hyper.weight_decay is None:
            return mean
        leaves = jax.tree_util.tree_leaves_with_path(params)
        squares = sum(jnp.sum(leaf**2) for path, leaf in leaves if is_kernel(path))
        return mean + 0.5 * hyper.weight_decay * squares

    def step(carry: tuple[Params, optax.OptState], at: tuple[Array, Array | None]) -> tuple[Any, None]:
        (params, state), (_, ordered) = carry, at
        batch = full if ordered is None else (inputs[ordered], labels[ordered], member[ordered])
        gradient = jax.grad(objective)(params, batch)
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes float and int32
            updates, state = optimizer.update(gradient, state)
        return (jax.tree.map(jnp.add, params, updates), state), None

    start = network.init(key, inputs, num_classes=num_classes)
    carry = (start, optimizer.init(start))
    return cast(Params, after_steps(step, carry, order, steps=hyper.steps, most=config.steps)[0])


def train_networks(
    key: jax.Array,
    pool: FeatureSet,
    masks: MembershipMasks,
    hyper: Hyperparams,
    config: TrainConfig,
    *,
    chunk_size: int | None,
    memory: int | None,
    on_chunk: Callable[[int], None],
) -> Params:
    """Train one network per row of masks, side by side on the first device; arguments as of train_ensemble.

    Model i's key is fold_in(key, i) with its id; random parameters and order of batches have halves of it.

    Returns:
        The parameter tree; every leaf has the models on its first axis.
    """
    check(str(jax.random.key_impl(key)) == "threefry2x32", "key", key, "be a threefry2x32 key")
    member = np.asarray(masks.member)
    num_models, num_examples = member.shape
    counts = member.sum(axis=1)
    plan = plan_networks(
        config,
        memory,
        num_models=num_models,
        num_examples=num_examples,
        num_classes=pool.num_classes,
        dim=pool.features.shape[1],
        input_shape=pool.input_shape,
        inclusion_rate=masks.inclusion_rate,
        members=(int(counts.min()), int(counts.max())),
    )
    num_chunks = -(-num_models // (chunk_size or plan.models))
    size = -(-num_models // num_chunks)  # even chunks: one compiled shape, little padding
    inputs = plan.network.inputs(jnp.asarray(pool.features), pool.input_shape)
    settings, layout = jax.tree.flatten(hyper)
    chunks = []
    for start in range(0, num_models, size):
        # The last chunk repeats its last model.
        rows = np.minimum(np.arange(start, start + size), num_models - 1)
        params = _train_chunk(
            key,
            masks.model_ids[rows],
            jnp.asarray(member[rows]),
            inputs,
            jnp.asarray(pool.labels),
            jax.tree.unflatten(layout, [value[rows] if np.ndim(value) else value for value in settings]),
            plan=dataclasses.replace(plan, models=size),
            num_classes=pool.num_classes,
            config=config,
        )
        kept = min(size, num_models - start)
        chunks.append(
            jax.tree.map(lambda leaf, kept=kept: np.asarray(leaf[:kept]), jax.block_until_ready(params))
        )
        on_chunk(kept)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *chunks)


@functools.partial(jax.jit, static_argnames=("plan", "num_classes", "config"))
def _train_chunk(
    key: jax.Array,
    model_ids: Array,
    member: Array,
    inputs: Array,
    labels: Array,
    hyper: Hyperparams,
    *,
    plan: NetworkPlan,
    num_classes: int,
    config: TrainConfig,
) -> Params:
    num_examples, batch, order = member.shape[1], plan.batch, None
    draw = functools.partial(batch_order, batch=batch or 0, steps=config.steps, shuffles=plan.shuffles)
    if config.shares_order:
        # 2^31 - 1 is no model's id: the shared order has a stream of its own.
        order = draw(jax.random.fold_in(key, np.iinfo(np.int32).max), jnp.ones(num_examples, bool))

    settings, layout = jax.tree.flatten(hyper)

    def one(model_id: Array, row: Array, own_settings: list[Array]) -> Params:
        init_key, order_key = jax.random.split(jax.random.fold_in(key, model_id))
        return train_network(
            init_key,
            row,
            inputs,
            labels,
            draw(order_key, row) if config.sampling == "independent" else order,
            num_classes=num_classes,
            hyper=jax.tree.unflatten(layout, own_settings),
            config=config,
            share=(batch or num_examples) / num_examples,
            gathered=plan.rows if plan.gathered else None,
        )

    axes = [0 if jnp.ndim(value) else None for value in settings]
    return jax.vmap(one, in_axes=(0, 0, axes))(model_ids, member, settings)
