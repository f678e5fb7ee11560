"""The average of re-trained ridge heads, and moments of scores over them, from the pool alone.

A unit is a record or, by person, all of a person's records, which are members together. A record's scores with and
without its unit differ by its effect on the head (jaxmia.ridge.influence). Over re-trainings they vary by the effect of
all other candidates, each a member with probability r. Both follow from the average head and the average inverse
Hessian. A fit of the pool with every candidate at weight r yields neither, because a head adapts to its members, whose
gradients are then smaller, and because the inverse varies. So both are computed self-consistently from heads without
the candidate in question. This is the cavity method of statistical physics, a deterministic equivalent in random matrix
theory. Let B_i be the block of unit i with inputs X_i [k, inputs] in the average inverse without it:

- mean logits u_i, u_in = u_i - (1 - r) B_i g(u_in): the average head solves sum_i r X_iᵀ g(u_in,i) + ridge V = 0 (twice
  the ridge with two classes, see jaxmia.training.contrasts.penalties);
- weights W_i = r Gamma_i (I + B_i Gamma_i)⁻¹ at u_in: the average inverse is that of sum_i (X_i ⊗ I)ᵀ W_i (X_i ⊗ I) +
  ridge I.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxmia.ridge.influence import (
    added,
    blocks_of_units,
    by_place,
    each,
    inverse_hessian,
    removed,
    seen_at_once,
    unit_curvature,
    unit_errors,
    without_own,
)
from jaxmia.ridge.units import Group
from jaxmia.training.contrasts import basis, from_params, penalties
from jaxmia.training.newton import converged_head
from jaxmia.training.scoring import log_odds


class Average(NamedTuple):
    """The average head, and for every unit of each group its block of the average inverse without it."""

    head: Array
    blocks: tuple[Array, ...]


class Point(NamedTuple):
    """Result of one iteration: the average, the inverse that it is from, and the change by the iteration."""

    average: Average
    inverse: Array
    change: Array


@jax.jit
def start(features: Array, labels: Array, groups: tuple[Group, ...], ridge: Array, rate: Array) -> Average:
    """Return the start of the iteration: the pool fitted with all candidates at weight r, and blocks of one curvature.

    With one curvature for all records, the mean over them, the Hessian is a Kronecker product of its eigenvectors and
    one matrix [inputs, inputs] for each, and blocks need no large inverse. They are 10 to 50% off and save a step.
    """
    classes = groups[0].one_hot.shape[2]
    everyone = jnp.full(len(labels), rate, features.dtype)
    fitted = converged_head(
        everyone, features, labels, num_classes=classes, ridge=ridge, steps=100, tolerance=1e-6
    )
    sizes = [(len(group.inputs), group.inputs.shape[1] * (classes - 1)) for group in groups]
    average = Average(from_params(fitted), tuple(jnp.zeros((units, size, size)) for units, size in sizes))
    for _ in range(2):  # the second time with errors and curvatures of heads without the unit
        average = Average(average.head, _blocks_of_one_curvature(average, groups, ridge, rate))
    return average


def without_blocks(average: Average) -> Average:
    """Return the same head with blocks of zero, the start that needs no factorisation."""
    return Average(average.head, tuple(map(jnp.zeros_like, average.blocks)))


def _blocks_of_one_curvature(
    average: Average, groups: tuple[Group, ...], ridge: Array, rate: Array
) -> tuple[Array, ...]:
    """Return every unit's block of an inverse whose weights are all the mean of those of the average."""
    rest, size = average.head.shape
    with jax.default_matmul_precision("highest"):
        _, _, weights = _members(average, groups, rate)
        total, gram = jnp.zeros((rest, rest)), jnp.zeros((size, size))
        for group, weight in zip(groups, weights, strict=True):
            total += jnp.einsum("ukakb->ab", by_place(weight, group.inputs.shape[1]))
            gram += group.inputs.reshape(-1, size).T @ group.inputs.reshape(-1, size)
        records = sum(jnp.sum(group.one_hot) for group in groups)
        curvatures, directions = jnp.linalg.eigh(total / records)
        penalty = penalties(ridge, rest + 1, groups[0].inputs[0])
        found = []
        for group, weight in zip(groups, weights, strict=True):

            def along(curvature: Array, inputs: Array = group.inputs) -> Array:
                factor = jnp.linalg.cholesky(curvature * gram + jnp.diag(penalty))
                seen = jax.scipy.linalg.solve_triangular(factor, inputs.reshape(-1, size).T, lower=True)
                seen = seen.T.reshape(inputs.shape)
                return jnp.sum(seen[:, :, None] * seen[:, None], axis=-1)

            blocks = jnp.einsum("ac,cuij,bc->uiajb", directions, jax.lax.map(along, curvatures), directions)
            found.append(without_own(blocks.reshape(weight.shape), weight, group.inputs.shape[1]))
        return tuple(found)


def _members(
    average: Average, groups: tuple[Group, ...], rate: Array
) -> tuple[list[Array], list[Array], list[Array]]:
    """Return each unit's logits u_in, errors g(u_in) and weight W, for every group."""
    rest = average.head.shape[0]
    directions = jnp.asarray(basis(rest + 1))

    def member(mean: Array, block: Array, label: Array) -> Array:
        return added(mean, block, label, directions, 1 - rate)

    def weight(contrast: Array, block: Array, label: Array) -> Array:
        own = unit_curvature(contrast, label, directions)
        found = rate * jnp.linalg.solve(jnp.eye(len(block)) + own @ block, own)
        return (found + found.T) / 2

    def error(contrast: Array, label: Array) -> Array:
        return unit_errors(contrast, label, directions)

    contrasts, own, weights = [], [], []
    for group, block in zip(groups, average.blocks, strict=True):
        places = group.inputs.shape[1]
        mean = (group.inputs @ average.head.T).reshape(len(block), -1)
        contrasts.append(each(member, mean, block, group.one_hot, places=places))
        own.append(each(error, contrasts[-1], group.one_hot))
        weights.append(each(weight, contrasts[-1], block, group.one_hot, places=places))
    return contrasts, own, weights


@jax.jit
def iterated(average: Average, groups: tuple[Group, ...], ridge: Array, rate: Array) -> Point:
    """Return the next iterate of the average head and the blocks."""
    rest, size = average.head.shape
    with jax.default_matmul_precision("highest"):
        penalty = penalties(ridge, rest + 1, groups[0].inputs[0])
        _, own, weights = _members(average, groups, rate)
        gradient = penalty * average.head
        for group, error in zip(groups, own, strict=True):
            gradient += rate * error.reshape(-1, rest).T @ group.inputs.reshape(-1, size)
        inverse = inverse_hessian(weights, [group.inputs for group in groups], penalty)
        blocks = tuple(
            without_own(blocks_of_units(inverse, group.inputs), weight, group.inputs.shape[1])
            for group, weight in zip(groups, weights, strict=True)
        )
        move = jnp.tensordot(inverse, gradient, axes=2)
        moved = [jnp.max(jnp.abs(new - old)) for new, old in zip(blocks, average.blocks, strict=True)]
        largest = [jnp.max(jnp.abs(new)) for new in blocks]
        change = jnp.maximum(
            jnp.max(jnp.stack(moved)) / jnp.max(jnp.stack(largest)),
            jnp.linalg.norm(move) / jnp.linalg.norm(average.head),
        )
        return Point(Average(average.head - move, blocks), inverse, change)


@jax.jit
def moments(point: Point, groups: tuple[Group, ...], rate: Array) -> tuple[list[tuple[Array, ...]], Array]:
    """Return moments of the log-odds of every group's records, and the fluctuation.

    The membership of unit j moves the head by H_-j⁻¹ X_jᵀ g_j, where H_-j excludes j. Its effect on the logits of unit
    i, which is out, is (I - A_i W_i)⁻¹ times the uncorrected effect by A. Memberships are independent, so the variance
    is the sum of r (1 - r) times squared effects.

    Returns:
        For each group means [units, 2, places] with and without the unit, covariances [units, 2, places, places], and
        the generalised leverage [units]; and the fluctuation.
    """
    classes, size = groups[0].one_hot.shape[2], groups[0].inputs.shape[2]
    directions, rest = jnp.asarray(basis(classes)), classes - 1
    with jax.default_matmul_precision("highest"):
        contrasts, errors, weights = _members(point.average, groups, rate)
        freed, images = [], []
        for group, block, weight, error in zip(groups, point.average.blocks, weights, errors, strict=True):
            # B = A (I - W A)⁻¹ = (I - A W)⁻¹ A and so (I - A W)⁻¹ = I + B W.
            freed.append(jnp.eye(block.shape[1]) + block @ weight)
            moves = jnp.einsum("jba,jb->ja", freed[-1], error).reshape(*group.inputs.shape[:2], rest)
            images.append(jnp.sum(moves[..., None] * group.inputs[:, :, None], axis=1))
        image = jnp.concatenate(images).reshape(-1, rest * size)
        image = (image @ point.inverse.reshape(rest * size, -1)).reshape(-1, rest, size)

        def spread(unit: tuple[Array, Array]) -> Array:
            inputs, place = unit
            seen = jnp.einsum("jad,kd->jka", image, inputs).reshape(len(image), -1).at[place].set(0.0)
            return rate * (1 - rate) * seen.T @ seen

        def of_unit(inside: Array, block: Array, hot: Array, covariance: Array) -> tuple[Array, ...]:
            outside = removed(inside, block, hot, directions)

            def scored(contrast: Array) -> Array:
                logits = directions @ contrast.reshape(len(hot), rest).T
                return log_odds(logits, jnp.argmax(hot, axis=1)) * hot.sum(axis=1)

            effect = block @ unit_curvature(inside, hot, directions)
            to_inside = jnp.linalg.inv(jnp.eye(len(block)) + effect)
            slopes = jax.jacrev(scored)(inside) @ to_inside, jax.jacrev(scored)(outside)
            means = jnp.stack([scored(inside), scored(outside)])
            covariances = jnp.stack([slope @ covariance @ slope.T for slope in slopes])
            return means, covariances, jnp.trace(effect)

        found, total, records = [], jnp.zeros(()), jnp.zeros(())
        for group, block, free, inside in zip(groups, point.average.blocks, freed, contrasts, strict=True):
            units, places = group.inputs.shape[:2]
            among = group.first + jnp.arange(units)
            covariances = jax.lax.map(spread, (group.inputs, among), batch_size=seen_at_once(places))
            covariances = free @ covariances @ free.transpose(0, 2, 1)
            found.append(each(of_unit, inside, block, group.one_hot, covariances, places=places))
            total += jnp.sum(jnp.trace(covariances, axis1=1, axis2=2))
            records += jnp.sum(group.one_hot)
        return found, jnp.sqrt(total / records / classes)
