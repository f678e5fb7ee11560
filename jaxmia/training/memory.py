"""A memory budget, and how many models and examples training may hold at once under it."""

from __future__ import annotations

import dataclasses
import math

import jax

from jaxmia._buckets import bucket
from jaxmia._validate import check

# Logits, their softmax, its difference from the labels, and a margin: arrays [models, classes, examples] at once.
_LIVE_ARRAYS = 5
# Parameters, gradient, two moments, their updates and the new parameters: arrays [models, classes, dim] at once.
_LIVE_HEADS = 8
_ROWS = 256  # of the matrix products, models x classes: with fewer, they fall behind the processor
_CACHE = 3 * 2**20  # of gathered batches on a CPU: beyond it they are read from memory twice a step


@dataclasses.dataclass(frozen=True)
class Capacity:
    """What is held at once.

    Attributes:
        models: trained side by side.
        block: examples whose logits are held at once; each step adds up the gradients of its blocks.
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
    """Return how to train under a budget: all models at once if it allows, else fewer, else examples in blocks.

    Args:
        budget: bytes for the features, all trained heads, and what is held in a step. By default half of an
            accelerator's memory, and on a CPU 1 GiB beside features and heads: a number that is the same on every
            machine, since what is held at once decides how sums are rounded.
        num_models: M.
        num_examples: candidates.
        batch: examples whose logits a step needs, or None for all candidates.
        num_classes: C.
        dim: of the features.
        gathered: whether every model gathers the features of its own batch.
        order: entries of a model's own order of batches.

    Raises:
        InputError: if the budget does not hold the features, the heads and one example's logits.
    """
    compiled = bucket(num_examples)
    head, step = 4 * num_classes * (dim + 1), batch or compiled
    # The features once in float32, once more as a batch or in bfloat16; memberships; the heads that are done.
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
        models = min(models, max(1, _CACHE // (4 * dim * step)))
    if models >= wanted:
        return Capacity(models, step)
    models = max(1, min(wanted, room // (2 * per_model)))
    return Capacity(models, max(1, min(step, (room - models * per_model) // (models * per_pair))))
