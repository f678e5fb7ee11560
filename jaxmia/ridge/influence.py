"""The effect of one record on a ridge head: blocks of the inverse Hessian, and logits with and without the record.

All logits are those of one model, in contrast coordinates (jaxmia.training.contrasts), with the records on the first
axis. For a record with inputs x let B = (I ⊗ x)ᵀ H⁻¹ (I ⊗ x), where H is the Hessian of the objective without the
record, and g(u) = Qᵀ(softmax(Q u) - e_y). The record's logits under a head trained with it and a head trained without
it satisfy u_out = u_in + B g(u_in). This is exact if the rest of the objective is quadratic between the two heads.
Removing a record is one evaluation; adding one solves a small convex problem.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmia._validate import check
from jaxmia.training.contrasts import curvature, errors

_MEMORY = 8 * 2**30
SEEN_AT_ONCE = 32  # number of records for which the effects of all others are held at once
_BATCH = 4096  # number of records whose small systems are solved at once
_NEWTON_STEPS = 50  # largest number: each step is at most _LONGEST, and no record moves its logits by 100
_LONGEST = 2.0  # largest Newton step, in logits: the softmax's quadratic model fails beyond it
_EXACT = 1e-6  # change of the logits at which the iteration stops


def check_size(num_classes: int, num_inputs: int, num_records: int, memory: int | None = None) -> None:
    """Raise InputError unless the Hessian and the arrays over records fit into memory (8 GiB by default)."""
    size, rest = (num_classes - 1) * num_inputs, num_classes - 1
    needed = bytes_held(rest, num_inputs, num_records)
    budget = _MEMORY if memory is None else memory
    rule = (
        f"be at least {needed / 2**30:.3g} GiB: the Hessian has {size} rows, and each of {num_records} records"
        f" {rest} x {rest} blocks (--memory SIZE, memory=)"
    )
    check(needed <= budget, "memory", f"{budget / 2**30:.3g} GiB", rule)


def bytes_held(rest: int, num_inputs: int, num_records: int) -> int:
    """Return an upper bound of the bytes that the largest step holds, for heads with rest + 1 classes."""
    size = rest * num_inputs
    hessian = 3 * size**2  # the matrix, its factor, its inverse
    # A, B, weights, covariances and copies, and the small systems solved at once.
    blocks = (6 * num_records + 4 * min(num_records, _BATCH)) * rest**2
    # Effects of every record on the head, before and after the inverse.
    moves = 2 * num_records * (size + num_inputs)
    seen = 2 * SEEN_AT_ONCE * num_records * rest  # these effects on the logits of some records
    return 4 * (hessian + blocks + moves + seen)


def each(function: Callable[..., Array], *arrays: Array) -> Array:
    """Map a function over the records, in blocks.

    All blocks have the same size; the last one is padded. lax.map would run the remainder concurrently with the blocks,
    and two concurrent batched solves deadlock if XLA has two threads (jaxlib 0.10).
    """
    number = len(arrays[0])
    blocks = -(-number // _BATCH)
    size = -(-number // blocks)

    def filled(array: Array) -> Array:
        padding = [(0, blocks * size - number)] + [(0, 0)] * (array.ndim - 1)
        return jnp.pad(array, padding, mode="edge")

    found = jax.lax.map(lambda record: function(*record), tuple(map(filled, arrays)), batch_size=size)
    return found[:number]


def inverse_hessian(
    weights: Float[Array, "records rest rest"],
    inputs: Float[Array, "records inputs"],
    penalty: Float[Array, "inputs"],
) -> Float[Array, "rest inputs rest inputs"]:
    """Return the inverse of sum_i weights_i ⊗ x_i x_iᵀ + I ⊗ diag(penalty); NaN if float32 cannot factorise it.

    Args:
        weights: curvature times membership of each record.
        inputs: x with an appended 1.
        penalty: ridge penalty of every input.
    """
    rest, size = weights.shape[1], inputs.shape[1]
    rows, columns = np.triu_indices(rest)

    def block(pair: Array) -> Array:
        return (inputs * weights[:, pair[0], pair[1], None]).T @ inputs

    blocks = jax.lax.map(block, jnp.asarray(np.stack([rows, columns], axis=1)))
    place = np.zeros((rest, rest), int)
    place[rows, columns] = place[columns, rows] = np.arange(len(rows))
    hessian = blocks[place].transpose(0, 2, 1, 3).reshape(rest * size, rest * size)
    hessian += jnp.diag(jnp.tile(penalty, rest))
    factor = jnp.linalg.cholesky(hessian)
    inverse = jax.scipy.linalg.cho_solve((factor, True), jnp.eye(rest * size, dtype=inputs.dtype))
    return inverse.reshape(rest, size, rest, size)


def blocks_of_records(
    inverse: Float[Array, "rest inputs rest inputs"], inputs: Float[Array, "records inputs"]
) -> Float[Array, "records rest rest"]:
    """Return A_i = (I ⊗ x_i)ᵀ H⁻¹ (I ⊗ x_i) for every record."""
    rest = inverse.shape[0]
    rows, columns = np.triu_indices(rest)

    def entry(pair: Array) -> Array:
        return jnp.sum((inputs @ inverse[pair[0], :, pair[1]]) * inputs, axis=1)

    entries = jax.lax.map(entry, jnp.asarray(np.stack([rows, columns], axis=1)))
    place = np.zeros((rest, rest), int)
    place[rows, columns] = place[columns, rows] = np.arange(len(rows))
    return entries[place].transpose(2, 0, 1)


def without_own(
    blocks: Float[Array, "records rest rest"], weights: Float[Array, "records rest rest"]
) -> Float[Array, "records rest rest"]:
    """Return B_i = A_i (I - W_i A_i)⁻¹, the block of the inverse without the record's own weight W_i (Woodbury)."""

    def one(block: Array, weight: Array) -> Array:
        found = jnp.linalg.solve(jnp.eye(len(block)) - block @ weight, block)
        return (found + found.T) / 2

    return each(one, blocks, weights)


def removed(
    contrasts: Float[Array, "rest"],
    block: Float[Array, "rest rest"],
    one_hot: Float[Array, "classes"],
    directions: Float[Array, "classes rest"],
) -> Float[Array, "rest"]:
    """Return u_out = u_in + B g(u_in) of one record."""
    return contrasts + block @ errors(contrasts, one_hot, directions)


def added(
    contrasts: Float[Array, "rest"],
    block: Float[Array, "rest rest"],
    one_hot: Float[Array, "classes"],
    directions: Float[Array, "classes rest"],
    share: float | Array = 1.0,
) -> Float[Array, "rest"]:
    """Return v with v + share B g(v) = u for one record, by damped Newton steps: u_in if u = u_out.

    With share = 1 - r it is u_in, given the logits of the mean head, u = r u_in + (1 - r) u_out.
    """

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        value, _, steps = state
        residual = value - contrasts + share * block @ errors(value, one_hot, directions)
        system = jnp.eye(len(block)) + share * block @ curvature(value, directions)
        move = jnp.linalg.solve(system, residual)
        size = jnp.max(jnp.abs(move))
        return value - move * jnp.minimum(1.0, _LONGEST / jnp.maximum(size, _LONGEST)), size, steps + 1

    def going(state: tuple[Array, Array, Array]) -> Array:
        value, size, steps = state
        return (size > _EXACT * (1 + jnp.max(jnp.abs(value)))) & (steps < _NEWTON_STEPS)

    start = (contrasts, jnp.asarray(jnp.inf, contrasts.dtype), jnp.int32(0))
    return jax.lax.while_loop(going, step, start)[0]
