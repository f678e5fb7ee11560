"""Paired scores: every record's score under every shadow, and under that shadow with the record's membership flipped.

For heads at the minimum of a ridge objective (optimizer="newton"). Every shadow then gives an IN and an OUT score of
every record, and their difference has no noise from comparing different shadows. docs/frontier.md shows how many
shadows this saves.
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
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.normalization import in_span
from jaxmia.ridge.influence import (
    added,
    blocks_of_records,
    check_size,
    each,
    inverse_hessian,
    removed,
    without_own,
)
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
    on_model: Callable[[int], None] = lambda _: None,
) -> Scores:
    """Return the scores of jaxmia.score, and the scores with each candidate's membership flipped.

    The Hessian of every shadow is factorised once. Flipped scores are within 1% of those from training with or without
    the record, at any ridge. One Hessian for all shadows would be faster, but 10% off at ridge 0.1 (docs/frontier.md).

    Args:
        ensemble: linear heads, converged under this ridge.
        pool: the candidates they were trained on.
        ridge: lambda of the objective, as in TrainConfig(optimizer="newton").
        memory: largest number of bytes for the Hessian, its factor and inverse, and arrays over records; 8 GiB by
            default.
        on_model: called with 1 after every model.

    Returns:
        Scores with flipped_log_odds.

    Raises:
        InputError: for networks, a Hessian that does not fit into memory or that float32 cannot factorise, or heads
            that are not at the minimum; the message then says how far their scores are from it.
    """
    check(0 < ridge < np.inf, "ridge", ridge, "be a finite number above 0")
    check(ensemble.network is None, "ensemble.network", ensemble.network, "be None: linear heads")
    features, head = pool.features, from_params(ensemble.params)
    inputs = with_bias(jnp.asarray(features))
    if features.shape[0] < features.shape[1]:
        coordinates, axes = in_span(features)
        inputs = with_bias(jnp.asarray(coordinates))
        head = jnp.concatenate([head[..., :-1] @ jnp.asarray(axes).T, head[..., -1:]], axis=-1)
    check_size(pool.num_classes, inputs.shape[1], len(pool.labels), memory)
    labels, member = jnp.asarray(pool.labels), jnp.asarray(ensemble.masks.member)
    _check_converged(ensemble, pool, ridge, inputs, head)
    rows = []
    for model in range(len(member)):
        flipped = _flipped(head[model], member[model], inputs, labels, ridge)
        rows.append(np.asarray(flipped))
        rule = f"be larger: float32 cannot factorise the Hessian of model {model}"
        check(bool(np.isfinite(rows[-1]).all()), "ridge", ridge, rule)
        on_model(1)
    return dataclasses.replace(score(ensemble, pool), flipped_log_odds=np.stack(rows))


@jax.jit
def _flipped(
    head: Float[Array, "rest inputs"],
    member: Array,
    inputs: Float[Array, "examples inputs"],
    labels: Array,
    ridge: float | Array,
) -> Float[Array, "examples"]:
    """Return the log-odds of every candidate under one head with that candidate's membership flipped."""
    directions = jnp.asarray(basis(head.shape[0] + 1))
    one_hot, counted = jax.nn.one_hot(labels, head.shape[0] + 1), member.astype(inputs.dtype)
    with jax.default_matmul_precision("highest"):
        contrasts = inputs @ head.T
        weights = jax.vmap(curvature, in_axes=(0, None))(contrasts, directions) * counted[:, None, None]
        inverse = inverse_hessian(weights, inputs, penalties(ridge, len(directions), inputs))
        blocks = without_own(blocks_of_records(inverse, inputs), weights)

        def other(contrast: Array, block: Array, label: Array, inside: Array) -> Array:
            without = removed(contrast, block, label, directions)
            return jnp.where(inside, without, added(contrast, block, label, directions))

        flipped = each(other, contrasts, blocks, one_hot, member)
        return log_odds(directions @ flipped.T, labels)


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
        step = jnp.tensordot(inverse_hessian(weights, inputs, penalty), gradient, axes=2)
        before, after = (log_odds(directions @ (inputs @ each.T).T, labels) for each in (head, head - step))
        return jnp.mean(jnp.abs(after - before))
