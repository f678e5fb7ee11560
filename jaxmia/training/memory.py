"""How many models and examples training may hold at once under a memory budget."""

from __future__ import annotations

import dataclasses
import math

import jax

from jaxmia._buckets import bucket
from jaxmia._validate import check

# Arrays [models, classes, examples] held at once: logits, softmax, its difference from the labels, and a margin.
_LIVE_ARRAYS = 5
# Arrays [models, classes, dim] held at once: parameters, gradient, two moments, updates and new parameters.
_LIVE_HEADS = 8
# Rows (models x classes) of a matrix product; with fewer, products do not use the processor fully.
_ROWS = 256
# Bytes of gathered batches on a CPU: larger ones leave the cache and are read from memory twice a step.
CACHE = 3 * 2**20


@dataclasses.dataclass(frozen=True)
class Capacity:
    """The numbers of models and examples held at once.

    Attributes:
        models: number of models trained at once.
        block: number of examples whose logits are held at once; each step adds up the gradients of its blocks.
    """

    models: int
    block: int


def capacity(
    budget: int | None,
    *,
    num_models: int,
    num_examples: int,
    batch: int | None,
    num_classes: int,
    dim: int,
    gathered: bool = False,
    order: int = 0,
) -> Capacity:
    """Return the capacity under a budget: all models at once if they fit, else fewer models, else examples in blocks.

    Args:
        budget: bytes for the features, all trained heads, and the arrays of a step. By default half of an accelerator's
            memory; on a CPU 1 GiB in addition to features and heads, the same on every machine, because the capacity
            affects how sums are rounded.
        num_models: number of models M.
        num_examples: number of candidates.
        batch: number of examples whose logits a step needs, or None for all candidates.
        num_classes: C.
        dim: dimension of the features.
        gathered: whether every model gathers the features of its own batch.
        order: number of entries in a model's own batch order.

    Raises:
        InputError: if the features, the heads and one example's logits do not fit into the budget.
    """
    compiled = bucket(num_examples)
    head, step = 4 * num_classes * (dim + 1), batch or compiled
    # The features in float32, once more as a batch or in bfloat16; memberships; the trained heads.
    fixed = 8 * compiled * dim + 4 * num_classes * compiled + num_models * (compiled + head)
    per_model = _LIVE_HEADS * head + 4 * order
    per_pair = 4 * _LIVE_ARRAYS * num_classes + (4 * dim if gathered else 0)
    least = fixed + per_model + per_pair
    if budget is None:
        stats = jax.local_devices()[0].memory_stats() or {}
        budget = stats["bytes_limit"] // 2 if "bytes_limit" in stats else fixed + per_model + 2**30
    mebibytes = math.ceil(100 * least / 2**20) / 100
    needs = f"{num_examples} candidates of dimension {dim} and {num_models} heads"
    rule = f"be at least {mebibytes:g} MiB (--memory): {needs}"
    check(budget >= least, "memory", f"{budget / 2**20:.3g} MiB", rule)
    room = budget - fixed
    models = min(num_models, room // (per_model + per_pair * step))
    wanted = min(num_models, 1 if gathered else -(-_ROWS // num_classes))
    if gathered and jax.local_devices()[0].platform == "cpu":
        models = min(models, max(1, CACHE // (4 * dim * step)))
    if models >= wanted:
        return Capacity(models, step)
    models = max(1, min(wanted, room // (2 * per_model)))
    return Capacity(models, max(1, min(step, (room - models * per_model) // (models * per_pair))))
