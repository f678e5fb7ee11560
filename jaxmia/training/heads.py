"""Heads over frozen features: the flax module, and the split form in which training holds a head."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Params = Any  # a flax parameter tree: {"params": {"kernel": [classes, dim], "bias": [classes]}}


class LinearHead(nn.Module):
    """Multinomial logistic regression: logits = kernel x + bias, started at zero.

    Class-major on purpose: the kernel is [classes, dim] and the logits are [classes, examples]. Under vmap the kernels
    of all models are then one [models * classes, dim] matrix in memory as they stand, and a step is two large matrix
    products without a transpose (1.4 to 1.9 times the speed of the example-major layout on two CPU cores).
    """

    num_classes: int

    @nn.compact
    def __call__(self, features: Float[Array, "examples dim"]) -> Float[Array, "classes examples"]:
        """Logits of every class for every example."""
        kernel = self.param("kernel", nn.initializers.zeros, (self.num_classes, features.shape[1]))
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes,))
        return product(kernel, features.T) + bias[:, None]


class SplitHead(NamedTuple):
    """A linear head, or a gradient or update of one, with its last class apart.

    A softmax depends on differences of logits alone, and the gradients of the classes' logits add up to zero. So both
    products of a step need one class less than there are: half of the arithmetic for two classes, a tenth less for
    ten. Nothing is approximated: weights and moments are those of the whole head.

    Attributes:
        rest: {"kernel": [classes - 1, dim], "bias": [classes - 1]}: of a head, what each class has beyond the last;
            of a gradient or an update, the class's own.
        last: {"kernel": [dim], "bias": []}: the last class's own.
    """

    rest: dict[str, Array]
    last: dict[str, Array]


def zero_head(num_classes: int, dim: int, dtype: Any) -> SplitHead:
    """A head at zero."""
    rest = {"kernel": jnp.zeros((num_classes - 1, dim), dtype), "bias": jnp.zeros(num_classes - 1, dtype)}
    return SplitHead(rest, {"kernel": jnp.zeros(dim, dtype), "bias": jnp.zeros((), dtype)})


def joined(head: SplitHead) -> Params:
    """The parameters of LinearHead that a split head is equal to."""
    own = jax.tree.map(lambda rest, last: jnp.concatenate([rest + last, last[None]]), head.rest, head.last)
    return {"params": own}


def moved(head: SplitHead, update: SplitHead) -> SplitHead:
    """The head after its classes' own parameters took an update."""
    rest = jax.tree.map(lambda value, own, last: value + (own - last), head.rest, update.rest, update.last)
    return SplitHead(rest, jax.tree.map(jnp.add, head.last, update.last))


def without_bias(gradient: SplitHead) -> SplitHead:
    """The gradient of a head that has no bias."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.zeros_like(leaf) if "bias" in jax.tree_util.keystr(path) else leaf, gradient
    )


def logit_errors(
    head: SplitHead,
    features: Float[Array, "examples dim"],
    one_hot: Float[Array, "rest examples"],
    precision: jax.lax.Precision | None = None,
) -> Float[Array, "rest examples"]:
    """Predictions minus labels, of all classes but the last, whose own is minus their sum.

    They are the gradient of the cross-entropy with respect to the logits.

    Args:
        head: split.
        features: of the examples.
        one_hot: labels, without the row of the last class.
        precision: as of product.
    """
    logits = (
        product(head.rest["kernel"], features.T, precision) + head.rest["bias"][:, None]
    )  # beyond the last class's
    largest = jnp.maximum(jnp.max(logits, axis=0), 0.0)
    odds = jnp.exp(logits - largest)
    return odds / (jnp.sum(odds, axis=0) + jnp.exp(-largest)) - one_hot


def gradient_sum(
    weighted: Float[Array, "rest examples"],
    features: Float[Array, "examples dim"],
    precision: jax.lax.Precision | None = None,
) -> SplitHead:
    """Sum over the examples of weighted[:, i] [x_i, 1]^T, of the logits' gradients p_i - y_i with their weights.

    The bias and the last class take the weights as the kernel's product rounds them.
    """
    rounded = weighted.astype(features.dtype).astype(weighted.dtype)
    rest = {"kernel": product(rounded, features, precision), "bias": jnp.sum(rounded, axis=1)}
    return SplitHead(rest, jax.tree.map(lambda leaf: -jnp.sum(leaf, axis=0), rest))


def product(
    left: Float[Array, "rows inner"],
    features: Float[Array, "inner columns"],
    precision: jax.lax.Precision | None = None,
) -> Float[Array, "rows columns"]:
    """The matrix product, multiplied in the dtype of features and accumulated in that of left.

    With features in bfloat16 a product takes half of the time where processors have such arithmetic.

    Args:
        left: of any dtype.
        features: in the dtype of the product.
        precision: of float32 on devices that have less of it; by default the highest: JAX's own default multiplies
            float32 in TF32 on recent NVIDIA GPUs, and in bfloat16 on TPUs.
    """
    if precision is None and features.dtype == jnp.float32:
        precision = jax.lax.Precision.HIGHEST
    return jax.lax.dot(
        left.astype(features.dtype), features, precision=precision, preferred_element_type=left.dtype
    )
