"""Linear quantile regression by the pinball loss (Koenker and Bassett 1978), many targets at once."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import optax
import scipy.stats
from jaxtyping import Array, Float

from jaxmia._buckets import in_float32

_LEARNING_RATE = (
    0.1  # Adam's initial rate, decayed to 0 along a cosine; scores and features have standard deviation 1
)


@in_float32
@functools.partial(jax.jit, static_argnames=("level", "ridge", "steps"))
def quantile_predictions(
    scores: Float[Array, "targets examples"],
    weights: Float[Array, "targets examples"],
    features: Float[Array, "examples dim"],
    *,
    level: float,
    ridge: float,
    steps: int,
) -> Float[Array, "targets examples"]:
    """Return each target's fitted quantile of its scores at every example.

    Minimises for each target, on full batches, the weighted mean of max(level r, (level - 1) r) + ridge / (2 n) |w|^2,
    where r = score - intercept - w x is the residual and n the sum of the weights.

    Args:
        scores: scores standardised within each target.
        weights: 1 for examples to fit on, 0 for the others.
        features: standardised features; the last column is the constant 1, which is not penalised.
        level: level of the quantile, in (0, 1).
        ridge: penalty on w, in units of examples.
        steps: number of Adam steps.

        Returns: float32[targets, examples], in units of the standardised scores.
    """
    one = functools.partial(_fit_one, features=features, level=level, ridge=ridge, steps=steps)
    return jax.vmap(one)(scores, weights)


def _fit_one(
    score: Float[Array, " examples"],
    weight: Float[Array, " examples"],
    features: Float[Array, "examples dim"],
    level: float,
    ridge: float,
    steps: int,
) -> Float[Array, " examples"]:
    """Fit one target and return its quantile at every example."""

    def loss(coefficients: Float[Array, " dim"]) -> Float[Array, ""]:
        residual = score - features @ coefficients
        pinball = jnp.maximum(level * residual, (level - 1) * residual)
        penalty = ridge / 2 * jnp.sum(coefficients[:-1] ** 2)
        return (jnp.sum(weight * pinball) + penalty) / jnp.maximum(jnp.sum(weight), 1)

    optimizer = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, steps))

    def step(state: tuple[Array, optax.OptState], _: None) -> tuple[tuple[Array, optax.OptState], None]:
        coefficients, moments = state
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes float and int32
            updates, moments = optimizer.update(jax.grad(loss)(coefficients), moments)
        return (optax.apply_updates(coefficients, updates), moments), None

    # Start at the quantile of a standard normal score that is independent of the features.
    start = jnp.zeros(features.shape[1]).at[-1].set(scipy.stats.norm.ppf(level))
    (coefficients, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=steps)
    return features @ coefficients
