"""Training of one network from scratch, a pure function, and plans for ensembles of networks."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from jaxmia._buckets import bucket
from jaxmia._validate import check
from jaxmia.training.heads import Params
from jaxmia.training.linear import after_steps, make_optimizer
from jaxmia.training.network import Network, is_kernel
from jaxmia.training.settings import Hyperparams, TrainConfig
from jaxmia.training.size import EnsembleSize

_LIVE_PARAMETERS = 6  # parameters, gradient, two moments, updates, new parameters
_LIVE_ACTIVATIONS = 3  # forward, backward, and their product with the ReLU's derivative
# Bytes in addition to the inputs. The same on every machine, because the number of models at once affects rounding.
_BUDGET = 2**30


@dataclasses.dataclass(frozen=True)
class NetworkPlan:
    """How one ensemble of networks is trained.

    Attributes:
        network: architecture of the networks.
        examples: number of candidates.
        rows: number of examples in a step of one network.
        gathered: if True, the full batch consists of each network's own members, gathered once; if False, of all
            candidates, with weight 0 for non-members.
        batch: number of candidates per step of a shared batch order, or of members per step of an independent one; None
            for the full batch.
        shuffles: number of shuffles in a batch order.
        models: number of networks trained at once on each device.
        work: number of multiplications in a step of one network, per class; used to weigh progress.
    """

    network: Network
    examples: int
    rows: int
    gathered: bool
    batch: int | None
    shuffles: int
    models: int
    work: float

    def __str__(self) -> str:
        """Return a step's batch, in words."""
        what = f"batches of {self.batch}" if self.batch else "all candidates, shared by the networks"
        if self.gathered:
            what = f"each network's own members, gathered into {self.rows} rows"
        widths = " x ".join(map(str, self.network.widths))
        return f"{self.network.kind} {widths} from scratch, on {what}; {self.models} networks at once"


def plan_networks(config: TrainConfig, memory: int | None, size: EnsembleSize) -> NetworkPlan:
    """Choose how to train an ensemble of networks.

    The full batch of a conv net is gathered, because half of the candidates are non-members and all layers but the
    first are separate products for each model. The full batch of other networks is not gathered, so that their first
    layer is one product for all models.

    Args:
        config: static settings of the recipe, with a network.
        memory: largest number of bytes to hold on each device; by default 1 GiB in addition to the inputs.
        size: sizes of the ensemble and its pool.

    Raises:
        InputError: if a batch exceeds the expected members, not even one model fits into memory, or the network does
            not fit the inputs.
    """
    network, num_examples = cast(Network, config.network), size.num_examples
    sizes = network.sizes(size.dim, size.input_shape, size.num_classes)
    expected = round(size.expected_members)
    fewest, most = size.members or (expected, expected)
    batch, shuffles, rows = None, 0, num_examples
    gathered = config.batch_size is None and network.kind == "conv"
    if gathered:
        rows = min(num_examples, bucket(most))
    elif config.batch_size is not None:
        rule = f"be at most {expected}, the expected members of a model (or 'full')"
        check(config.batch_size <= expected, "batch_size", config.batch_size, rule)
        own = config.sampling == "independent"
        rows = batch = config.batch_size if own else max(1, round(config.batch_size / size.inclusion_rate))
        shuffles = -(-config.steps * batch // max(1, fewest if own else num_examples))
    held = _LIVE_ACTIVATIONS * sizes.activations + (sizes.inputs if gathered or batch else 0)
    order = shuffles * num_examples + config.steps * (batch or 0)
    per_model = 4 * (_LIVE_PARAMETERS * sizes.parameters + rows * held + order)
    fixed = 4 * (2 * num_examples * sizes.inputs + size.num_models * sizes.parameters)
    budget = fixed + max(per_model, _BUDGET) if memory is None else memory
    least = fixed + per_model
    rule = f"be at least {least / 2**20:.0f} MiB: {num_examples} candidates and {size.num_models} networks"
    check(budget >= least, "memory", f"{budget / 2**20:.3g} MiB", rule)
    models = int(min(size.models_per_device, (budget - fixed) // per_model))
    work = rows * sizes.products / size.num_classes
    return NetworkPlan(network, num_examples, rows, gathered, batch, shuffles, models, work)


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
    """Train one network on its members, from its own random parameters.

    The objective is the same as in train_head: mean loss over the members of a batch + weight_decay / 2 *
    ||kernels||^2.

    Args:
        key: random key of the initial parameters.
        member: True for the candidates that this model trains on.
        inputs: inputs of all candidates, from Network.inputs.
        labels: labels of all candidates, 0 .. num_classes - 1.
        order: candidates of each step's batch, or None for the full batch.
        num_classes: C.
        hyper: traced settings.
        config: static settings, with a network.
        share: share of the candidates in a batch of a shared order.
        gathered: number of rows that the full batch is gathered into, at least the number of members; None to use all
            candidates.

    Returns:
        The parameters after all steps.
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
