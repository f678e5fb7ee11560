"""The effect of one record, or of one person's records, on a ridge head: blocks of the inverse Hessian, and logits.

A unit is what is added or removed together: a record, or all k records of a person. All logits are those of one model,
in contrast coordinates (jaxmia.training.contrasts). For a unit with inputs X [k, inputs] let B = (X ⊗ I) H⁻¹ (X ⊗ I)ᵀ,
where H is the Hessian of the objective without the unit, and let g(u) hold Qᵀ(softmax(Q u_j) - e_{y_j}) of every record
j. The unit's logits u [k (classes - 1)] under a head trained with it and a head trained without it satisfy u_out = u_in
+ B g(u_in). This is exact if the rest of the objective is quadratic between the two heads. Removing a unit is one
evaluation; adding one solves a small convex problem.

Units have groups of one number of places each (jaxmia.ridge.units), and unused places hold zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmia._validate import check
from jaxmia.training.contrasts import curvature, errors

_MEMORY = 8 * 2**30
_SEEN_AT_ONCE = 32  # number of records for which the effects of all others are held at once
_BATCH = 4096  # number of records whose small systems are solved at once
_NEWTON_STEPS = 50  # largest number: each step is at most _LONGEST, and no record moves its logits by 100
_LONGEST = 2.0  # largest Newton step, in logits: the softmax's quadratic model fails beyond it
_EXACT = 1e-6  # change of the logits at which the iteration stops


def check_size(
    num_classes: int, num_inputs: int, units: int | Sequence[tuple[int, int]], memory: int | None = None
) -> None:
    """Raise InputError unless the Hessian and the arrays over units fit into memory (8 GiB by default).

    Args:
        num_classes: C.
        num_inputs: of a record, the bias's with them.
        units: number of records, or number and places of the units of every group.
        memory: largest number of bytes.
    """
    size, rest = (num_classes - 1) * num_inputs, num_classes - 1
    groups = [(units, 1)] if isinstance(units, int) else units
    needed = bytes_held(rest, num_inputs, groups)
    budget = _MEMORY if memory is None else memory
    number, most = sum(number for number, _ in groups), rest * max(places for _, places in groups)
    what = "records" if most == rest else "persons up to"
    rule = (
        f"be at least {needed / 2**30:.3g} GiB: the Hessian has {size} rows, and each of {number} {what}"
        f" {most} x {most} blocks (--memory SIZE, memory=)"
    )
    check(needed <= budget, "memory", f"{budget / 2**30:.3g} GiB", rule)


def bytes_held(rest: int, num_inputs: int, groups: Sequence[tuple[int, int]]) -> int:
    """Return an upper bound of the bytes that the largest step holds, for heads with rest + 1 classes.

    Args:
        rest: C - 1.
        num_inputs: of a record.
        groups: number and places of the units of every group.
    """
    size = rest * num_inputs
    hessian = 3 * size**2  # the matrix, its factor, its inverse
    units = sum(number for number, _ in groups)
    held = hessian + 2 * units * size  # and effects of every unit on the head, before and after the inverse
    for number, places in groups:
        # A, B, weights, covariances and copies, and the small systems solved at once.
        held += (6 * number + 4 * min(number, at_once(_BATCH, places))) * (rest * places) ** 2
        held += 2 * number * places * num_inputs
        # These effects on the logits of some units.
        held += 2 * at_once(_SEEN_AT_ONCE, places) * units * rest * places
    return 4 * held


def at_once(records: int, places: int) -> int:
    """Return the number of units that take the memory of so many single records, whose blocks are places² as large."""
    return max(1, records // places**2)


def seen_at_once(places: int) -> int:
    """Return the number of units for which the effects of all others are held at once."""
    return at_once(_SEEN_AT_ONCE, places)


def each(function: Callable[..., Any], *arrays: Array, places: int = 1) -> Any:
    """Map a function over the units of a group, in blocks.

    All blocks have the same size; the last one is padded. lax.map would run the remainder concurrently with the blocks,
    and two concurrent batched solves deadlock if XLA has two threads (jaxlib 0.10).
    """
    number = len(arrays[0])
    blocks = -(-number // at_once(_BATCH, places))
    size = -(-number // blocks)

    def filled(array: Array) -> Array:
        padding = [(0, blocks * size - number)] + [(0, 0)] * (array.ndim - 1)
        return jnp.pad(array, padding, mode="edge")

    found = jax.lax.map(lambda unit: function(*unit), tuple(map(filled, arrays)), batch_size=size)
    return jax.tree.map(lambda array: array[:number], found)


def unit_errors(
    contrasts: Float[Array, "logits"],
    one_hot: Float[Array, "places classes"],
    directions: Float[Array, "classes rest"],
) -> Float[Array, "logits"]:
    """Return g(u) of one unit, 0 in unused places, where one_hot is 0."""
    logits = contrasts.reshape(len(one_hot), -1)
    found = jax.vmap(errors, in_axes=(0, 0, None))(logits, one_hot, directions)
    return (found * one_hot.sum(axis=1, keepdims=True)).reshape(-1)


def unit_curvature(
    contrasts: Float[Array, "logits"],
    one_hot: Float[Array, "places classes"],
    directions: Float[Array, "classes rest"],
) -> Float[Array, "logits logits"]:
    """Return the derivative of g(u): a block of each record on the diagonal, 0 in unused places."""
    places = len(one_hot)
    found = jax.vmap(curvature, in_axes=(0, None))(contrasts.reshape(places, -1), directions)
    found = found * one_hot.sum(axis=1)[:, None, None]
    apart = jnp.eye(places, dtype=found.dtype)[:, None, :, None]
    return (found[:, :, None, :] * apart).reshape(len(contrasts), len(contrasts))


def inverse_hessian(
    weights: Sequence[Array], inputs: Sequence[Array], penalty: Float[Array, "inputs"]
) -> Float[Array, "rest inputs rest inputs"]:
    """Return the inverse of sum (X ⊗ I)ᵀ W (X ⊗ I) + diag(penalty) ⊗ I; NaN if float32 cannot factorise it.

    Args:
        weights: W of every group, [units, logits, logits]: of a head, the curvature times membership.
        inputs: X of every group, [units, places, inputs], with an appended 1.
        penalty: ridge penalty of every input.
    """
    size = len(penalty)
    rest = weights[0].shape[1] // inputs[0].shape[1]
    rows, columns = np.triu_indices(rest)

    def block(pair: Array) -> Array:
        total = jnp.zeros((size, size), inputs[0].dtype)
        for weight, record in zip(weights, inputs, strict=True):
            own = by_place(weight, record.shape[1])[:, :, pair[0], :, pair[1]]
            weighed = jnp.sum(own[..., None] * record[:, None], axis=2)
            total += record.reshape(-1, size).T @ weighed.reshape(-1, size)
        return total

    blocks = jax.lax.map(block, jnp.asarray(np.stack([rows, columns], axis=1)))
    hessian = _both_triangles(blocks, rest).transpose(0, 2, 1, 3).reshape(rest * size, rest * size)
    hessian += jnp.diag(jnp.tile(penalty, rest))
    factor = jnp.linalg.cholesky(hessian)
    inverse = jax.scipy.linalg.cho_solve((factor, True), jnp.eye(rest * size, dtype=penalty.dtype))
    return inverse.reshape(rest, size, rest, size)


def blocks_of_units(
    inverse: Float[Array, "rest inputs rest inputs"], inputs: Float[Array, "units places inputs"]
) -> Float[Array, "units logits logits"]:
    """Return A = (X ⊗ I) H⁻¹ (X ⊗ I)ᵀ for every unit of a group."""
    rest, (units, places, size) = inverse.shape[0], inputs.shape
    pairs = np.stack(np.triu_indices(rest), axis=1)

    def entry(pair: Array) -> Array:
        seen = (inputs.reshape(-1, size) @ inverse[pair[0], :, pair[1]]).reshape(inputs.shape)
        return jnp.sum(seen[:, :, None] * inputs[:, None], axis=-1).transpose(1, 2, 0)

    entries = _both_triangles(jax.lax.map(entry, jnp.asarray(pairs)), rest)
    return entries.transpose(4, 2, 0, 3, 1).reshape(units, places * rest, places * rest)


def by_place(weights: Array, places: int) -> Array:
    """Return [units, places, rest, places, rest] of [units, logits, logits]."""
    units, logits, _ = weights.shape
    return weights.reshape(units, places, logits // places, places, logits // places)


def _both_triangles(upper: Array, rest: int) -> Array:
    """Return [rest, rest, x, y, ...] from [pairs, x, y, ...] of the upper triangle: (b, a) is (a, b) transposed."""
    rows, columns = np.triu_indices(rest)
    place = np.zeros((rest, rest), int)
    place[rows, columns] = place[columns, rows] = np.arange(len(rows))
    if upper.shape[1] == 1:
        return upper[place]
    below = jnp.asarray(np.tri(rest, k=-1, dtype=bool)).reshape((rest, rest) + (1,) * (upper.ndim - 1))
    return jnp.where(below, jnp.swapaxes(upper, 1, 2)[place], upper[place])


def without_own(
    blocks: Float[Array, "units logits logits"], weights: Float[Array, "units logits logits"], places: int = 1
) -> Float[Array, "units logits logits"]:
    """Return B = A (I - W A)⁻¹, the block of the inverse without the unit's own weight W (Woodbury)."""

    def one(block: Array, weight: Array) -> Array:
        found = jnp.linalg.solve(jnp.eye(len(block)) - block @ weight, block)
        return (found + found.T) / 2

    return each(one, blocks, weights, places=places)


def removed(
    contrasts: Float[Array, "logits"],
    block: Float[Array, "logits logits"],
    one_hot: Float[Array, "places classes"],
    directions: Float[Array, "classes rest"],
) -> Float[Array, "logits"]:
    """Return u_out = u_in + B g(u_in) of one unit."""
    return contrasts + block @ unit_errors(contrasts, one_hot, directions)


def added(
    contrasts: Float[Array, "logits"],
    block: Float[Array, "logits logits"],
    one_hot: Float[Array, "places classes"],
    directions: Float[Array, "classes rest"],
    share: float | Array = 1.0,
) -> Float[Array, "logits"]:
    """Return v with v + share B g(v) = u for one unit, by damped Newton steps: u_in if u = u_out.

    With share = 1 - r it is u_in, given the logits of the mean head, u = r u_in + (1 - r) u_out.
    """

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        value, _, steps = state
        residual = value - contrasts + share * block @ unit_errors(value, one_hot, directions)
        system = jnp.eye(len(block)) + share * block @ unit_curvature(value, one_hot, directions)
        move = jnp.linalg.solve(system, residual)
        size = jnp.max(jnp.abs(move))
        return value - move * jnp.minimum(1.0, _LONGEST / jnp.maximum(size, _LONGEST)), size, steps + 1

    def going(state: tuple[Array, Array, Array]) -> Array:
        value, size, steps = state
        return (size > _EXACT * (1 + jnp.max(jnp.abs(value)))) & (steps < _NEWTON_STEPS)

    start = (contrasts, jnp.asarray(jnp.inf, contrasts.dtype), jnp.int32(0))
    return jax.lax.while_loop(going, step, start)[0]
