"""What one record does to a ridge head: the inverse Hessian seen from every record, and heads with and without it.

All logits are in contrast coordinates (jaxmia.training.contrasts), of one model, with the records on the first axis.
For a record with inputs x let B = (I ⊗ x)ᵀ H⁻¹ (I ⊗ x), H the Hessian of the objective without it, and g(u) =
Qᵀ(softmax(Q u) - e_y). A head trained with the record and one without it have logits of it that obey u_out = u_in + B
g(u_in): exact where the rest of the objective is quadratic between the two heads. Removing is one evaluation, adding
the solution of a small convex problem.
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
SEEN_AT_ONCE = 32  # records in whose logits all others' moves are held at once
_BATCH = 4096  # records whose small systems are solved at once
_NEWTON_STEPS = 50  # at most: each goes by up to _LONGEST, and records that move their logits by 100 are none
_LONGEST = 2.0  # of a Newton step, in logits: beyond it a softmax is another function
_EXACT = 1e-6  # of the logits, at which no step is needed any more


def check_size(num_classes: int, num_inputs: int, num_records: int, memory: int | None = None) -> None:
    """Raise InputError unless the Hessian and what is held of records fit in memory (8 GiB by default)."""
    size, rest = (num_classes - 1) * num_inputs, num_classes - 1
    needed = bytes_held(rest, num_inputs, num_records)
    budget = _MEMORY if memory is None else memory
    rule = (
        f"be at least {needed / 2**30:.3g} GiB: the Hessian has {size} rows, and each of {num_records} records"
        f" {rest} x {rest} blocks (--memory SIZE, memory=)"
    )
    check(needed <= budget, "memory", f"{budget / 2**30:.3g} GiB", rule)


def bytes_held(rest: int, num_inputs: int, num_records: int) -> int:
    """What the largest step on heads of rest + 1 classes holds at once, from above."""
    size = rest * num_inputs
    hessian = 3 * size**2  # itself, its factor, its inverse
    # A, B, weights, covariances and copies; and the small systems that are solved at once.
    blocks = (6 * num_records + 4 * min(num_records, _BATCH)) * rest**2
    moves = 2 * num_records * (size + num_inputs)  # of the head by every record, before and after the inverse
    seen = 2 * SEEN_AT_ONCE * num_records * rest  # these moves, in the logits of some records
    return 4 * (hessian + blocks + moves + seen)


def each(function: Callable[..., Array], *arrays: Array) -> Array:
    """The function of every record, so many at once.

    In blocks of one size, the last one filled up: lax.map would take what is left over beside the blocks, and two
    batched solves at once wait for each other for ever where XLA has two threads (jaxlib 0.10).
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
    """Inverse of sum_i weights_i ⊗ x_i x_iᵀ + I ⊗ diag(penalty); NaN where float32 cannot factorise it.

    Args:
        weights: of the records: their curvature, times membership.
        inputs: x, with the bias's 1.
        penalty: of every input.
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
    """A_i = (I ⊗ x_i)ᵀ H⁻¹ (I ⊗ x_i) of every record; its trace is the record's generalised leverage."""
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
    """B_i = A_i (I - W_i A_i)⁻¹: the block of the Hessian without the record's own weight W_i (Woodbury)."""

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
    """u_out = u_in + B g(u_in) of one record."""
    return contrasts + block @ errors(contrasts, one_hot, directions)


def added(
    contrasts: Float[Array, "rest"],
    block: Float[Array, "rest rest"],
    one_hot: Float[Array, "classes"],
    directions: Float[Array, "classes rest"],
    share: float | Array = 1.0,
) -> Float[Array, "rest"]:
    """The v with v + share B g(v) = u of one record: u_in for u = u_out, by damped Newton steps.

    With share = 1 - r it is u_in from the logits of the mean head, r u_in + (1 - r) u_out.
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
