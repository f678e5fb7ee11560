"""Logits in contrast coordinates: an orthonormal basis of what a softmax sees, differences between classes.

A softmax is blind to a constant added to all logits. With an orthonormal basis Q [classes, classes - 1] of the
differences logits are Q u and heads Q V, with the same norm and one class less; the Hessian in V has no null
direction. At a minimum of the penalised loss the kernel's columns sum to zero over the classes, so that nothing is
lost.
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
    """Q: orthonormal, every column sums to zero."""
    return scipy.linalg.helmert(num_classes).T.astype(np.float32)


def with_bias(
    features: Float[Array, "examples dim"], *, intercept: bool = True
) -> Float[Array, "examples inputs"]:
    """The features and a constant 1 after them, which takes the bias; a constant 0 for heads without one."""
    return jnp.pad(features, ((0, 0), (0, 1)), constant_values=float(intercept))


def penalties(
    ridge: float | Array, num_classes: int, inputs: Float[Array, "examples inputs"]
) -> Float[Array, "inputs"]:
    """The ridge of every input of a head V; the bias, the last, has none.

    ridge is scikit-learn's 1 / C. With two classes scikit-learn has one row of weights w, the difference of ours, and
    penalises ridge / 2 ||w||^2: that is ridge ||V||^2, since our two rows are -w / 2 and w / 2.
    """
    return jnp.full(inputs.shape[1], objective_ridge(ridge, num_classes), inputs.dtype).at[-1].set(0.0)


@overload
def objective_ridge(ridge: float, num_classes: int) -> float: ...
@overload
def objective_ridge(ridge: float | Array, num_classes: int) -> float | Array: ...
def objective_ridge(ridge: float | Array, num_classes: int) -> float | Array:
    """The factor of ||kernel||^2 / 2 over all rows that amounts to scikit-learn's ridge = 1 / C."""
    return ridge * (2.0 if num_classes == 2 else 1.0)


def from_params(params: Params) -> Float[Array, "*models rest inputs"]:
    """V = Qᵀ [kernel, bias] of heads, with or without an axis of models before."""
    kernel, bias = params["params"]["kernel"], params["params"]["bias"]
    whole = jnp.concatenate([kernel, bias[..., None]], axis=-1)
    return jnp.matmul(jnp.asarray(basis(kernel.shape[-2])).T, whole, precision=jax.lax.Precision.HIGHEST)


def to_params(head: Float[Array, "rest inputs"]) -> Params:
    """The parameters of LinearHead with [kernel, bias] = Q V."""
    whole = jnp.asarray(basis(head.shape[0] + 1)) @ head
    return {"params": {"kernel": whole[:, :-1], "bias": whole[:, -1]}}


def errors(
    contrasts: Float[Array, "rest"],
    one_hot: Float[Array, "classes"],
    directions: Float[Array, "classes rest"],
) -> Float[Array, "rest"]:
    """G = Qᵀ(p - e_y): the gradient of one example's cross-entropy with respect to its u."""
    return directions.T @ (jax.nn.softmax(directions @ contrasts) - one_hot)


def curvature(
    contrasts: Float[Array, "rest"], directions: Float[Array, "classes rest"]
) -> Float[Array, "rest rest"]:
    """Gamma = Qᵀ(diag(p) - p pᵀ)Q: the Hessian of one example's cross-entropy with respect to its u."""
    shares = jax.nn.softmax(directions @ contrasts)
    mean = directions.T @ shares
    return (directions.T * shares) @ directions - jnp.outer(mean, mean)
