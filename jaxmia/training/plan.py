"""Plans for training an ensemble of linear heads fast: the products of each step, and the models held at once.

All plans of a recipe train the same heads up to rounding, and the choice depends on sizes alone.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import scipy.special
import scipy.stats

from jaxmia._buckets import bucket, smallest_in_bucket
from jaxmia._validate import check
from jaxmia.training.memory import capacity
from jaxmia.training.settings import TrainConfig
from jaxmia.training.size import EnsembleSize

# Products with gathered batches run at about a quarter of the speed of one product shared by all models.
_GATHERED_SHARE = 0.25
# Train in the span if its dimension is below this share: rotating features and heads costs a few steps.
_SPAN_SHARE = 0.75
_OVERFLOW = 2.0**-64  # probability per model and step that a Poisson sample exceeds its rows


@dataclasses.dataclass(frozen=True)
class HeadPlan:
    """How one ensemble of linear heads is trained.

    Attributes:
        examples: number of candidates that the program is compiled for; padding candidates are never members.
        dim: dimension of the features that the program is compiled for.
        span: whether to train on coordinates in the span of the examples.
        batch: number of candidates per step of a shared batch order, or of members per step of an independent one, else
            None.
        gathered: number of rows that every model gathers at each step, or None for products over shared examples.
        shuffles: number of shuffles in a batch order, else 0.
        models: number of models trained at once on each device.
        block: number of examples whose logits are held at once.
    """

    examples: int
    dim: int
    span: bool
    batch: int | None
    gathered: int | None
    shuffles: int
    models: int
    block: int

    def __str__(self) -> str:
        """Return the products of a step, in words."""
        if self.gathered is not None:
            what = f"each head's own batch, gathered into {self.gathered} rows"
        elif self.batch is None:
            what = "all candidates, shared by the heads"
        else:
            what = f"batches of {self.batch}, shared by the heads"
        where = f" in the {self.dim} dimensions that the examples span" if self.span else ""
        blocks = f", {self.block} examples at once" if self.block < self.rows else ""
        return f"products with {what}{where}; {self.models} heads at once{blocks}"

    @property
    def rows(self) -> int:
        """Return the number of examples whose logits a step needs."""
        shared = self.gathered is None
        return self.gathered or (self.batch if shared and self.batch is not None else self.examples)

    @property
    def work(self) -> float:
        """Return the work of a step per head and class, in arbitrary units; used to weigh progress."""
        return self.rows * self.dim / (1.0 if self.gathered is None else _GATHERED_SHARE)


def plan_heads(config: TrainConfig, memory: int | None, size: EnsembleSize) -> HeadPlan:
    """Choose how to train an ensemble of linear heads.

    Args:
        config: static settings of the recipe.
        memory: largest number of bytes to hold on each device, as in jaxmia.training.memory.capacity.
        size: sizes of the ensemble and its pool.

    Raises:
        InputError: if a batch exceeds the expected members, or not even one model fits into memory.
    """
    num_examples, examples = size.num_examples, bucket(size.num_examples)
    span = config.follows_span and examples <= _SPAN_SHARE * size.dim
    dim = examples if span else size.dim
    fewest, most = size.fewest_and_most()
    batch, gathered, shuffles, order = None, None, 0, 0
    if config.batch_size is not None:
        rule = f"be at most {size.expected_members:.0f}, the expected members of a model (or 'full')"
        check(config.batch_size <= size.expected_members, "batch_size", config.batch_size, rule)
        eligible = num_examples
        batch = max(1, round(config.batch_size / size.inclusion_rate))
        if config.sampling == "independent":
            batch, eligible = config.batch_size, fewest
            gathered = batch if batch <= _GATHERED_SHARE * examples else None
        # Bounds that depend on the masks are rounded up to buckets, so that other seeds of a small cell reuse programs.
        shuffles = -(-config.steps * batch // max(1, smallest_in_bucket(eligible)))
        order = 0 if config.shares_order else shuffles * examples + config.steps * batch
    elif config.sampling == "poisson":
        largest = bucket(
            poisson_bound(min(num_examples, bucket(most)), size.sampling_rate, size.records_per_person)
        )
        # Clipping by person gathers the products of persons' records too: measured, this halves the share that pays.
        share = _GATHERED_SHARE / (1 if size.records_per_person == 1 else 2)
        gathered = largest if largest <= share * examples else None
    held = capacity(
        memory,
        num_models=size.models_per_device,
        num_examples=num_examples,
        batch=batch if config.shares_order else gathered,
        num_classes=size.num_classes,
        dim=dim,
        gathered=gathered is not None,
        order=order,
    )
    return HeadPlan(examples, dim, span, batch, gathered, shuffles, held.models, held.block)


def poisson_bound(members: int, sampling_rate: float, records_per_person: int = 1) -> int:
    """Return a bound that a Poisson batch of a model with these members exceeds with probability at most 2^-64.

    Args:
        members: number of records that the model trains on.
        sampling_rate: q.
        records_per_person: largest number of records of a person, if persons are sampled. Chernoff's bound is then
            largest for persons of k records each: log(1 + q (e^(lk) - 1)) is convex in k, and 0 at k = 0.
    """
    if records_per_person == 1:
        tail = scipy.stats.binom.sf(np.arange(members + 1), members, sampling_rate)
        return int(np.argmax(tail <= _OVERFLOW))
    persons = -(-members // records_per_person)
    shares = np.arange(persons + 1) / persons
    beyond = persons * scipy.special.rel_entr(shares, sampling_rate)
    beyond += persons * scipy.special.rel_entr(1 - shares, 1 - sampling_rate)
    reached = (shares > sampling_rate) & (beyond >= -math.log(_OVERFLOW))
    largest = int(np.argmax(reached)) if reached.any() else persons
    return min(members, records_per_person * largest)
