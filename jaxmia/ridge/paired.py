"""Paired scores: every record's score under every shadow, and under that shadow with the record's membership flipped.

For heads at the minimum of a ridge objective (optimizer="newton"). Every shadow then gives an IN and an OUT score of
every record, and their difference has no noise from comparing different shadows. docs/frontier.md shows how many
shadows this saves. By person, all of a person's records are flipped together.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmia._buckets import in_float32
from jaxmia._validate import InputError, check
from jaxmia.attacks.persons import member_by_person
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.normalization import in_span
from jaxmia.ridge.influence import (
    added,
    blocks_of_units,
    check_size,
    each,
    inverse_hessian,
    removed,
    unit_curvature,
    without_own,
)
from jaxmia.ridge.units import Group, by_record, group_shapes, groups_of, layouts
from jaxmia.scores import Scores
from jaxmia.training.contrasts import basis, curvature, errors, from_params, penalties, with_bias
from jaxmia.training.ensemble import ShadowEnsemble
from jaxmia.training.newton import stationarity
from jaxmia.training.scoring import log_odds, score

# Largest stationarity of a converged head: one more Newton step moves scores by about 1e-3.
LARGEST_STATIONARITY = 1e-4


@in_float32
def paired_scores(
    ensemble: ShadowEnsemble,
    pool: FeatureSet,
    *,
    ridge: float,
    memory: int | None = None,
    person: np.ndarray | None = None,
    on_model: Callable[[int], None] = lambda _: None,
) -> Scores:
    """Return the scores of jaxmia.score, and the scores with each candidate's, or person's, membership flipped.

    The Hessian of every shadow is factorised once. Flipped scores are within 1% of those from training with or without
    the record, at any ridge. One Hessian for all shadows would be faster, but 10% off at ridge 0.1 (docs/frontier.md).

    Args:
        ensemble: linear heads, converged under this ridge.
        pool: the candidates they were trained on.
        ridge: lambda of the objective, as in TrainConfig(optimizer="newton").
        memory: largest number of bytes for the Hessian, its factor and inverse, and arrays over records; 8 GiB by
            default.
        person: [examples], the person of each candidate: all of a person's records are then flipped together.
        on_model: called with 1 after every model.

    Returns:
        Scores with flipped_log_odds.

    Raises:
        InputError: for networks, persons of whom a model has only some records, a Hessian that does not fit into memory
            or that float32 cannot factorise, or heads that are not at the minimum; the message then says how far their
            scores are from it.
    """
    check(0 < ridge < np.inf, "ridge", ridge, "be a finite number above 0")
    check(ensemble.network is None, "ensemble.network", ensemble.network, "be None: linear heads")
    features, head = pool.features, from_params(ensemble.params)
    inputs = with_bias(jnp.asarray(features))
    if features.shape[0] < features.shape[1]:
        coordinates, axes = in_span(features)
        inputs = with_bias(jnp.asarray(coordinates))
        head = jnp.concatenate([head[..., :-1] @ jnp.asarray(axes).T, head[..., -1:]], axis=-1)
    placed = layouts(len(pool.labels), person)
    check_size(pool.num_classes, inputs.shape[1], group_shapes(len(pool.labels), person), memory)
    labels, member = jnp.asarray(pool.labels), jnp.asarray(ensemble.masks.member)
    if person is not None:
        member_by_person(np.asarray(member), person)
    _check_converged(ensemble, pool, ridge, inputs, head)
    groups, rows = groups_of(placed, inputs, labels, pool.num_classes), []
    for model in range(len(member)):
        inside = [member[model][layout.rows[:, 0]] for layout in placed]
        found = _flipped(head[model], inside, groups, ridge)
        rows.append(by_record(placed, [np.asarray(group) for group in found]))
        rule = f"be larger: float32 cannot factorise the Hessian of model {model}"
        check(bool(np.isfinite(rows[-1]).all()), "ridge", ridge, rule)
        on_model(1)
    return dataclasses.replace(score(ensemble, pool), flipped_log_odds=np.stack(rows))


@jax.jit
def _flipped(
    head: Float[Array, "rest inputs"],
    member: list[Array],
    groups: tuple[Group, ...],
    ridge: float | Array,
) -> list[Array]:
    """Return the log-odds [units, places] of every group under one head with each unit's membership flipped."""
    directions = jnp.asarray(basis(head.shape[0] + 1))

    def other(contrast: Array, block: Array, label: Array, inside: Array) -> Array:
        without = removed(contrast, block, label, directions)
        return jnp.where(inside, without, added(contrast, block, label, directions))

    with jax.default_matmul_precision("highest"):
        contrasts, weights = [], []
        for group, inside in zip(groups, member, strict=True):
            contrasts.append((group.inputs @ head.T).reshape(len(inside), -1))
            own = jax.vmap(unit_curvature, in_axes=(0, 0, None))(contrasts[-1], group.one_hot, directions)
            weights.append(own * inside.astype(own.dtype)[:, None, None])
        penalty = penalties(ridge, len(directions), groups[0].inputs[0])
        inverse = inverse_hessian(weights, [group.inputs for group in groups], penalty)
        found = []
        for group, inside, contrast, weight in zip(groups, member, contrasts, weights, strict=True):
            places = group.inputs.shape[1]
            blocks = without_own(blocks_of_units(inverse, group.inputs), weight, places)
            flipped = each(other, contrast, blocks, group.one_hot, inside, places=places)
            logits = directions @ flipped.reshape(-1, head.shape[0]).T
            labels = jnp.argmax(group.one_hot, axis=2).reshape(-1)
            found.append(log_odds(logits, labels).reshape(-1, places))
        return found


def _check_converged(
    ensemble: ShadowEnsemble,
    pool: FeatureSet,
    ridge: float,
    inputs: Float[Array, "examples inputs"],
    heads: Float[Array, "models rest inputs"],
) -> None:
    """Raise InputError unless all heads are at the minimum; the message says how far the worst head is off."""
    of_head = functools.partial(
        stationarity, features=jnp.asarray(pool.features), labels=jnp.asarray(pool.labels), ridge=ridge
    )
    member = jnp.asarray(ensemble.masks.member)
    found = np.asarray(jax.lax.map(lambda model: of_head(*model), (ensemble.params, member), batch_size=16))
    worst = int(np.argmax(np.nan_to_num(found, nan=np.inf)))
    if found[worst] <= LARGEST_STATIONARITY:
        return
    moved = _newton_move(heads[worst], member[worst], inputs, jnp.asarray(pool.labels), ridge)
    raise InputError(
        f"stationarity={found[worst]:.2g} of model {worst} must be at most {LARGEST_STATIONARITY:g}: its"
        f" head is not at the minimum for ridge={ridge:g}. One Newton step towards it moves the log-odds"
        f" of the candidates by {float(moved):.2g} on average, and paired scores would be wrong by as"
        " much. Train with optimizer='newton'."
    )


@jax.jit
def _newton_move(
    head: Float[Array, "rest inputs"],
    member: Array,
    inputs: Float[Array, "examples inputs"],
    labels: Array,
    ridge: float | Array,
) -> Float[Array, ""]:
    """Return the mean absolute change of the log-odds by one Newton step of one head."""
    directions = jnp.asarray(basis(head.shape[0] + 1))
    one_hot, counted = jax.nn.one_hot(labels, head.shape[0] + 1), member.astype(inputs.dtype)
    with jax.default_matmul_precision("highest"):
        contrasts, penalty = inputs @ head.T, penalties(ridge, len(directions), inputs)
        weights = jax.vmap(curvature, in_axes=(0, None))(contrasts, directions) * counted[:, None, None]
        own = jax.vmap(errors, in_axes=(0, 0, None))(contrasts, one_hot, directions) * counted[:, None]
        gradient = own.T @ inputs + penalty * head
        inverse = inverse_hessian([weights], [inputs[:, None]], penalty)
        step = jnp.tensordot(inverse, gradient, axes=2)
        before, after = (log_odds(directions @ (inputs @ each.T).T, labels) for each in (head, head - step))
        return jnp.mean(jnp.abs(after - before))
