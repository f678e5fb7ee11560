"""Membership: which candidates are in which model's training set, and the designs that draw it.

The design is a scientific choice: it decides for which adjacency of differential privacy a bound is valid.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxmia._buckets import bucket, in_float32, random_key
from jaxmia._shown import Shown
from jaxmia._validate import InputError, check, check_at_least, check_choice
from jaxmia.data.persons import checked_persons

DESIGNS = ("bernoulli", "fixed_size")


@flax.struct.dataclass
class MembershipMasks(Shown):
    """Training-set membership of every candidate under every model.

    Attributes:
        member: bool[models, examples], True if the model trains on the example.
        model_ids: int32[models]; all of a model's randomness is derived from the seed and this id.
        design: "bernoulli" (an add/remove game) or "fixed_size" (a replace-one game).
        inclusion_rate: r, the probability that a candidate is a member.
    """

    member: Bool[Array, "models examples"]
    model_ids: Int[Array, "models"]
    design: str = flax.struct.field(pytree_node=False)
    inclusion_rate: float = flax.struct.field(pytree_node=False)

    __repr__ = Shown.__repr__

    def headline(self) -> str:
        """Return one line with sizes and design."""
        models, examples = self.member.shape
        return (
            f"{models} models x {examples} candidates, {self.design}, inclusion rate {self.inclusion_rate:g}"
        )


@in_float32
def draw_membership(
    key: jax.Array | int,
    labels: Int[np.ndarray, "examples"],
    *,
    num_models: int,
    design: str = "bernoulli",
    inclusion_rate: float = 0.5,
    first_model: int = 0,
    person: np.ndarray | None = None,
) -> MembershipMasks:
    """Draw the training sets of models first_model .. first_model + num_models - 1.

    A model's row depends only on the key, its id, the labels and the design, never on other models.

    Args:
        key: random key, or a seed.
        labels: classes of the candidates.
        num_models: number of models M.
        design: "bernoulli" makes each candidate a member with probability r, independently; "fixed_size" takes exactly
            r times the candidates of each class.
        inclusion_rate: r.
        first_model: id of the first model.
        person: [examples], integers or strings, the person of each candidate. If given, persons are drawn, each with
            all records or none. "fixed_size" takes exactly r times the persons, whatever the classes of their records.

    Raises:
        InputError: for an unknown design, r outside (0, 1), a number of candidates of a class (or of persons) whose
            r-fold is not whole (fixed_size), or missing persons.
    """
    if person is not None:
        names, whose = np.unique(checked_persons(person, len(labels)), return_inverse=True)
        members = inclusion_rate * len(names)
        if design == "fixed_size" and not np.isclose(members, np.rint(members)):
            raise InputError(
                f"design='fixed_size' needs inclusion_rate x persons to be whole, got {inclusion_rate} x {len(names)}."
            )
        masks = draw_membership(
            key,
            np.zeros(len(names), np.int32),
            num_models=num_models,
            design=design,
            inclusion_rate=inclusion_rate,
            first_model=first_model,
        )
        return dataclasses.replace(masks, member=masks.member[:, whose])
    check_at_least("num_models", num_models, 1)
    check_at_least("first_model", first_model, 0)
    check_choice("design", design, DESIGNS)
    check(0 < inclusion_rate < 1, "inclusion_rate", inclusion_rate, "lie strictly between 0 and 1")
    model_ids = jnp.arange(first_model, first_model + num_models, dtype=jnp.int32)
    labels = np.asarray(labels)
    if design == "bernoulli":
        limit, rank_labels = jnp.full(labels.shape, inclusion_rate, jnp.float32), None
    else:
        limit, rank_labels = (
            jnp.asarray(_members_per_class(labels, inclusion_rate)[labels]),
            jnp.asarray(labels),
        )
    # Padding candidates have a class of their own and are never members.
    padding = (0, bucket(len(labels)) - len(labels))
    limit = jnp.pad(limit, padding)
    rank_labels = (
        None if rank_labels is None else jnp.pad(rank_labels, padding, constant_values=labels.max() + 1)
    )
    member = _draw(random_key(key), model_ids, limit, rank_labels)[:, : len(labels)]
    return MembershipMasks(member, model_ids, design, inclusion_rate)


def _members_per_class(labels: np.ndarray, inclusion_rate: float) -> Int[np.ndarray, "classes"]:
    counts = np.bincount(labels)
    members: np.ndarray = np.rint(inclusion_rate * counts)
    uneven = np.flatnonzero(~np.isclose(inclusion_rate * counts, members))
    if uneven.size:
        raise InputError(
            f"design='fixed_size' needs inclusion_rate x count to be whole, got {inclusion_rate} x {counts[uneven[0]]}"
            f" for class {uneven[0]}."
        )
    return members.astype(np.int32)


@jax.jit
def _draw(key: jax.Array, model_ids: Array, limit: Array, rank_labels: Array | None) -> Array:
    return jax.vmap(functools.partial(_draw_one, key, limit=limit, rank_labels=rank_labels))(model_ids)


def _draw_one(key: jax.Array, model_id: Array, *, limit: Array, rank_labels: Array | None) -> Array:
    uniform = jax.random.uniform(jax.random.fold_in(key, model_id), limit.shape)
    if rank_labels is None:
        return uniform < limit
    order = jnp.lexsort((uniform, rank_labels))  # sorted by class, in random order within a class
    sorted_labels = rank_labels[order]
    first_of_class = jnp.searchsorted(sorted_labels, sorted_labels, side="left")
    rank_in_class = (
        jnp.zeros_like(order).at[order].set(jnp.arange(order.size, dtype=order.dtype) - first_of_class)
    )
    return rank_in_class < limit
