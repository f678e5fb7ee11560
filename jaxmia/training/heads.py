"""Linear heads on frozen features: the flax module, and the split form that training uses."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Params = Any  # a flax parameter tree: {"params": {"kernel": [classes, dim], "bias": [classes]}}


class LinearHead(nn.Module):
    """Multinomial logistic regression: logits = kernel x + bias, initialised at zero.

    The layout is class-major: the kernel is [classes, dim] and the logits are [classes, examples]. Under vmap the
    kernels of all models then form one contiguous [models * classes, dim] matrix, and a step is two large matrix
    products without a transpose (1.4 to 1.9 times the speed of the example-major layout on two CPU cores).
    """

    num_classes: int

    @nn.compact
    def __call__(self, features: Float[Array, "examples dim"]) -> Float[Array, "classes examples"]:
        """Return the logits of every class for every example."""
        kernel = self.param("kernel", nn.initializers.zeros, (self.num_classes, features.shape[1]))
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes,))
        return product(kernel, features.T) + bias[:, None]


class SplitHead(NamedTuple):
    """A linear head, or a gradient or update of one, with the last class stored separately.

    A softmax depends only on differences of logits, and the gradients with respect to the classes' logits add up to
    zero. So both products of a step need one class less: half of the arithmetic for two classes, a tenth less for ten.
    This is exact: weights and moments are those of the whole head.

    Attributes:
        rest: {"kernel": [classes - 1, dim], "bias": [classes - 1]}: in a head, each class's parameters minus those of
            the last class; in a gradient or an update, the class's own.
        last: {"kernel": [dim], "bias": []}: those of the last class.
    """

    rest: dict[str, Array]
    last: dict[str, Array]


def zero_head(num_classes: int, dim: int, dtype: Any) -> SplitHead:
    """Return a head of zeros."""
    rest = {"kernel": jnp.zeros((num_classes - 1, dim), dtype), "bias": jnp.zeros(num_classes - 1, dtype)}
    return SplitHead(rest, {"kernel": jnp.zeros(dim, dtype), "bias": jnp.zeros((), dtype)})


def joined(head: SplitHead) -> Params:
    """Return the parameters of the LinearHead that equals a split head."""
    own = jax.tree.map(lambda rest, last: jnp.concatenate([rest + last, last[None]]), head.rest, head.last)
    return {"params": own}


def moved(head: SplitHead, update: SplitHead) -> SplitHead:
    """Return the head after an update of its classes' parameters."""
    rest = jax.tree.map(lambda value, own, last: value + (own - last), head.rest, update.rest, update.last)
    return SplitHead(rest, jax.tree.map(jnp.add, head.last, update.last))


def without_bias(gradient: SplitHead) -> SplitHead:
    """Return the gradient of a head without bias."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.zeros_like(leaf) if "bias" in jax.tree_util.keystr(path) else leaf, gradient
    )


def logit_errors(
    head: SplitHead,
    features: Float[Array, "examples dim"],
    one_hot: Float[Array, "rest examples"],
    precision: jax.lax.Precision | None = None,
) -> Float[Array, "rest examples"]:
    """Return predictions minus labels for all classes but the last, whose value is minus their sum.

    This is the gradient of the cross-entropy with respect to the logits.

    Args:
        head: a split head.
        features: features of the examples.
        one_hot: one-hot labels, without the row of the last class.
        precision: precision of the product, as in product.
    """
    logits = (
        product(head.rest["kernel"], features.T, precision) + head.rest["bias"][:, None]
    )  # relative to the last class
    largest = jnp.maximum(jnp.max(logits, axis=0), 0.0)
    odds = jnp.exp(logits - largest)
    return odds / (jnp.sum(odds, axis=0) + jnp.exp(-largest)) - one_hot


def gradient_sum(
    weighted: Float[Array, "rest examples"],
    features: Float[Array, "examples dim"],
    precision: jax.lax.Precision | None = None,
) -> SplitHead:
    """Return the sum over examples of weighted[:, i] [x_i, 1]^T, for weighted logit gradients p_i - y_i.

    The bias and the last class use the same rounded weights as the kernel's product.
    """
    rounded = weighted.astype(features.dtype).astype(weighted.dtype)
    rest = {"kernel": product(rounded, features, precision), "bias": jnp.sum(rounded, axis=1)}
    return SplitHead(rest, jax.tree.map(lambda leaf: -jnp.sum(leaf, axis=0), rest))


def product(
    left: Float[Array, "rows inner"],
    features: Float[Array, "inner columns"],
    precision: jax.lax.Precision | None = None,
) -> Float[Array, "rows columns"]:
    """Return the matrix product, multiplied in the dtype of features and accumulated in the dtype of left.

    With features in bfloat16 a product takes half of the time on processors with bfloat16 arithmetic.

    Args:
        left: left factor, of any dtype.
        features: right factor, in the dtype of the product.
        precision: precision of float32 products; by default the highest, because JAX's default multiplies float32 in
            TF32 on recent NVIDIA GPUs, and in bfloat16 on TPUs.
    """
    if precision is None and features.dtype == jnp.float32:
        precision = jax.lax.Precision.HIGHEST
    return jax.lax.dot(
        left.astype(features.dtype), features, precision=precision, preferred_element_type=left.dtype
    )
