"""Logits in contrast coordinates: an orthonormal basis of differences between classes, all that a softmax depends on.

A softmax does not change when a constant is added to all logits. With an orthonormal basis Q [classes, classes - 1] of
the differences, logits are Q u and heads Q V, with the same norm and one row less, and the Hessian in V has no null
direction. At a minimum of the penalised loss the kernel's columns sum to zero over the classes, so every minimum has
this form.
"""

from __future__ import annotations

from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

from jaxmia.training.heads import Params


def basis(num_classes: int) -> Float[np.ndarray, "classes rest"]:
    """Return Q, whose columns are orthonormal and sum to zero."""
    return scipy.linalg.helmert(num_classes).T.astype(np.float32)


def with_bias(
    features: Float[Array, "examples dim"], *, intercept: bool = True
) -> Float[Array, "examples inputs"]:
    """Return the features with an appended constant for the bias: 1, or 0 for heads without a bias."""
    return jnp.pad(features, ((0, 0), (0, 1)), constant_values=float(intercept))


def penalties(
    ridge: float | Array, num_classes: int, inputs: Float[Array, "examples inputs"]
) -> Float[Array, "inputs"]:
    """Return the ridge penalty of every input of a head V; the last input, the bias, has none.

    ridge is scikit-learn's 1 / C. For two classes scikit-learn has one row of weights w, the difference of our two rows
    -w / 2 and w / 2, and penalises ridge / 2 ||w||^2, which equals ridge ||V||^2.
    """
    return jnp.full(inputs.shape[1], objective_ridge(ridge, num_classes), inputs.dtype).at[-1].set(0.0)


@overload
def objective_ridge(ridge: float, num_classes: int) -> float: ...
@overload
def objective_ridge(ridge: float | Array, num_classes: int) -> float | Array: ...
def objective_ridge(ridge: float | Array, num_classes: int) -> float | Array:
    """Return the factor of ||kernel||^2 / 2, over all rows, that is equivalent to scikit-learn's ridge = 1 / C."""
    return ridge * (2.0 if num_classes == 2 else 1.0)


def from_params(params: Params) -> Float[Array, "*models rest inputs"]:
    """Return V = Qᵀ [kernel, bias] of heads, with or without a leading axis of models."""
    kernel, bias = params["params"]["kernel"], params["params"]["bias"]
    whole = jnp.concatenate([kernel, bias[..., None]], axis=-1)
    return jnp.matmul(jnp.asarray(basis(kernel.shape[-2])).T, whole, precision=jax.lax.Precision.HIGHEST)


def to_params(head: Float[Array, "rest inputs"]) -> Params:
    """Return the parameters of LinearHead with [kernel, bias] = Q V."""
    whole = jnp.asarray(basis(head.shape[0] + 1)) @ head
    return {"params": {"kernel": whole[:, :-1], "bias": whole[:, -1]}}


def errors(
    contrasts: Float[Array, "rest"],
    one_hot: Float[Array, "classes"],
    directions: Float[Array, "classes rest"],
) -> Float[Array, "rest"]:
    """Return G = Qᵀ(p - e_y), the gradient of one example's cross-entropy with respect to its u."""
    return directions.T @ (jax.nn.softmax(directions @ contrasts) - one_hot)


def curvature(
    contrasts: Float[Array, "rest"], directions: Float[Array, "classes rest"]
) -> Float[Array, "rest rest"]:
    """Return Gamma = Qᵀ(diag(p) - p pᵀ)Q, the Hessian of one example's cross-entropy with respect to its u."""
    shares = jax.nn.softmax(directions @ contrasts)
    mean = directions.T @ shares
    return (directions.T * shares) @ directions - jnp.outer(mean, mean)
