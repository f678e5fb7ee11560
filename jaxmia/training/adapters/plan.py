"""Plans for ensembles of adapters: the batches of a step, and the models and examples held at once."""

from __future__ import annotations

import dataclasses
import math

import jax

from jaxmia._buckets import bucket
from jaxmia._validate import InputError, check
from jaxmia.data.backbone import Backbone
from jaxmia.training.adapters.adapter import Adapter
from jaxmia.training.adapters.inputs import NO_BACKBONE
from jaxmia.training.memory import CACHE
from jaxmia.training.plan import poisson_bound
from jaxmia.training.settings import TrainConfig
from jaxmia.training.size import EnsembleSize

_LIVE_PARAMETERS = 8  # parameters, gradient, its sum over blocks, two moments, updates, new parameters, noise
_EXAMPLES = 32  # of a model at once; with more, products are no faster
_MODELS = 4  # at once on a CPU, if their widest activations fit into its cache; their frozen products are one
# Bytes in addition to inputs and frozen weights. The same on every machine: the number at once affects rounding.
_BUDGET = 2**30


@dataclasses.dataclass(frozen=True)
class AdapterPlan:
    """How one ensemble of adapters is trained.

    Attributes:
        adapter: what is trained.
        examples: number of candidates.
        rows: number of examples in a step of one model.
        batch: number of candidates per step of a shared batch order, or of members per step of an independent one; None
            for full and Poisson batches.
        shuffles: number of shuffles in a batch order.
        models: number of models trained at once on each device.
        block: number of a model's examples whose activations are held at once; gradients of blocks are added up.
        work: multiplications in a step of one model, per class; used to weigh progress.
    """

    adapter: Adapter
    examples: int
    rows: int
    batch: int | None
    shuffles: int
    models: int
    block: int
    work: float

    def __str__(self) -> str:
        """Return a step's batch, in words."""
        what = f"each model's own members, gathered into {self.rows} rows"
        if self.batch:
            what = f"batches of {self.batch}"
        blocks = f", {self.block} examples at once" if self.block < self.rows else ""
        return f"{self.adapter.kind} adapters on {what}; {self.models} models at once{blocks}"


def plan_adapters(
    adapter: Adapter, config: TrainConfig, memory: int | None, size: EnsembleSize
) -> AdapterPlan:
    """Choose how to train an ensemble of adapters: as many models at once as fit, with examples in blocks.

    Args:
        adapter: what is trained.
        config: static settings of the recipe.
        memory: largest number of bytes to hold on each device; by default 1 GiB in addition to inputs and weights.
        size: sizes of the ensemble and its pool.

    Raises:
        InputError: if the pool has no backbone or the adapter does not fit it, a batch exceeds the expected members, or
            one model with one example at once does not fit into memory.
    """
    if size.backbone is None:
        raise InputError(NO_BACKBONE.format(adapter.kind))
    backbone, num_examples = size.backbone, size.num_examples
    batch, shuffles, rows = _batches(config, size)
    tokens = backbone.tokens(size.input_shape)
    parameters = trainable_parameters(adapter, backbone, size.num_classes)
    live = live_activations(backbone, tokens, backbone.shape.layers - adapter.first(backbone))
    per_example = 4 * (live + (2 * parameters if config.private else 0))
    order = 0 if config.shares_order else shuffles * num_examples + config.steps * (batch or 0)
    per_model = 4 * (_LIVE_PARAMETERS * parameters + order)
    held = sum(tensor.size for tensor in backbone.weights.values())
    row = 2 * tokens * (1 + backbone.width) if adapter.first(backbone) else 4 * math.prod(size.input_shape)
    fixed = (
        4 * (2 * held + size.num_models * parameters) + num_examples * row
    )  # weights once more in the loop
    least = fixed + per_model + per_example
    budget = fixed + max(per_model + per_example, _BUDGET) if memory is None else memory
    needs = f"{num_examples} candidates of {tokens} tokens, and their network"
    rule = f"be at least {math.ceil(least / 2**20)} MiB (--memory): {needs}"
    check(budget >= least, "memory", f"{budget / 2**20:.3g} MiB", rule)
    block = min(rows, _EXAMPLES)
    while block > 1 and fixed + per_model + block * per_example > budget:
        block = -(-block // 2)
    in_cache = size.models_per_device * rows
    if jax.local_devices()[0].platform == "cpu":
        # Measured on two cores: twice as fast as with all models and 16 examples of each.
        in_cache = max(1, CACHE // (4 * tokens * backbone.hidden))
        block = min(block, max(1, in_cache // (1 if adapter.kind == "blocks" else _MODELS)))
    block = -(-rows // -(-rows // block))  # blocks of one size
    models = int(min(size.models_per_device, (budget - fixed) // (per_model + block * per_example)))
    models = min(models, max(1, in_cache // block))
    work = rows * tokens * backbone.width**2 / size.num_classes
    return AdapterPlan(adapter, num_examples, rows, batch, shuffles, max(1, models), block, work)


def _batches(config: TrainConfig, size: EnsembleSize) -> tuple[int | None, int, int]:
    """Return the batch of an order, its number of shuffles, and the rows of a step."""
    expected = round(size.expected_members)
    fewest, most = size.members or (expected, expected)
    if config.batch_size is None:
        rows = min(size.num_examples, bucket(most))
        if config.sampling == "poisson":
            rows = min(rows, bucket(poisson_bound(rows, size.sampling_rate)))
        return None, 0, max(1, rows)
    rule = f"be at most {expected}, the expected members of a model (or 'full')"
    check(config.batch_size <= expected, "batch_size", config.batch_size, rule)
    own = config.sampling == "independent"
    batch = config.batch_size if own else max(1, round(config.batch_size / size.inclusion_rate))
    return batch, -(-config.steps * batch // max(1, fewest if own else size.num_examples)), batch


def trainable_parameters(adapter: Adapter, backbone: Backbone, num_classes: int) -> int:
    """Return the number of parameters that are trained, the head's included."""
    inside = sum(math.prod(shape) for parts in adapter.trained(backbone).values() for shape in parts.values())
    return inside + num_classes * (backbone.width + 1)


def live_activations(backbone: Backbone, tokens: int, blocks: int) -> int:
    """Return the numbers that a backward pass holds for an example: inputs of all blocks, and one block's inside."""
    dim, wide, heads = backbone.width, backbone.hidden, backbone.shape.heads
    # Fitted to what XLA holds on a CPU, for 1 to 6 blocks of several widths and heads.
    return ((blocks + 13) * dim + 5 * wide) * tokens + 3 * heads * tokens**2
