"""Architecture of small networks, an MLP or a conv net, as one flax module; from_scratch trains them."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmia._validate import check
from jaxmia.training.heads import Params

KERNEL, STRIDE = 7, 4  # kernel size and stride of the convolution, in pixels


def _scaled(scale: float) -> Any:
    """Return a normal initialiser that preserves the scale of values; truncated normals compile much slower."""
    return nn.initializers.variance_scaling(scale, "fan_in", "normal")


class HiddenLayers(nn.Module):
    """Dense layers with ReLU, then logits.

    The first layer acts on the last axis of its inputs. On inputs cut into patches it is therefore a convolution, with
    one kernel for all positions. Under vmap over models with shared inputs it is one matrix product for all models. A
    convolution primitive would become a grouped convolution, which took 8 to 10 times as long on two CPU cores.
    """

    widths: tuple[int, ...]
    num_classes: int

    @nn.compact
    def __call__(self, inputs: Float[Array, "examples *places dim"]) -> Float[Array, "classes examples"]:
        """Return the logits of every class for every example, class-major as in LinearHead."""
        dense = functools.partial(nn.Dense, precision=jax.lax.Precision.HIGHEST)  # float32 on every device
        values = inputs
        for place, width in enumerate(self.widths):
            start = nn.initializers.normal(1.0) if place == 0 else _scaled(2.0)
            values = nn.relu(dense(width, kernel_init=start, name=f"hidden_{place}")(values))
            values = values.reshape(len(values), -1)
        return dense(self.num_classes, kernel_init=_scaled(1.0), name="logits")(values).T


@dataclasses.dataclass(frozen=True)
class Network:
    """The architecture of a network; static.

    Attributes:
        kind: "mlp" (dense layers on the inputs), or "conv": one kernel maps 7 x 7 patches, 4 pixels apart, to widths[0]
            channels, and dense layers have the other widths.
        widths: widths of the hidden layers.
    """

    kind: str
    widths: tuple[int, ...]

    def inputs(
        self, features: Float[Array, "examples dim"], input_shape: tuple[int, ...]
    ) -> Float[Array, "examples *places inner"]:
        """Return the inputs of the first layer: the features, or for "conv" the patches of the images.

        Args:
            features: features or flattened pixels of the examples.
            input_shape: shape of one example, as in FeatureSet.
        """
        if self.kind == "mlp":
            return features
        images = features.reshape(len(features), *input_shape)
        patches = jax.lax.conv_general_dilated_patches(
            images,
            (KERNEL, KERNEL),
            (STRIDE, STRIDE),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,
        )
        return patches.reshape(len(features), -1, patches.shape[-1])

    def init(
        self, key: jax.Array, inputs: Float[Array, "examples *places dim"], *, num_classes: int
    ) -> Params:
        """Return random parameters: zero biases, and kernels that preserve the scale of values from layer to layer.

        The first kernel is scaled by the mean squared norm of the given inputs, which may have any scale. These are all
        candidates, members and non-members.

        Args:
            key: random key of this model.
            inputs: inputs of all candidates.
            num_classes: C.
        """
        params = HiddenLayers(self.widths, num_classes).init(key, inputs[:1])
        square = jnp.mean(jnp.sum(inputs**2, axis=-1))
        first = params["params"]["hidden_0"]
        scaled = {**first, "kernel": first["kernel"] / jnp.sqrt(jnp.where(square > 0, square, 1.0))}
        return {"params": {**params["params"], "hidden_0": scaled}}

    def apply(
        self, params: Params, inputs: Float[Array, "examples *places dim"]
    ) -> Float[Array, "classes examples"]:
        """Return the logits with these parameters."""
        num_classes = params["params"]["logits"]["bias"].shape[0]
        return cast(Array, HiddenLayers(self.widths, num_classes).apply(params, inputs))

    def sizes(self, dim: int, input_shape: tuple[int, ...], num_classes: int) -> NetworkSizes:
        """Return the numbers of parameters, activations and multiplications of one network.

        Raises:
            InputError: if a conv net is given anything but pixels.
        """
        places, inner = 1, dim
        if self.kind == "conv":
            what = {0: "features", 1: "token ids"}.get(len(input_shape), "pixels")
            check(len(input_shape) == 3, "network", "conv", f"be given pixels, and inputs are {what}")
            places = math.prod(-(-side // STRIDE) for side in input_shape[:2])
            inner = KERNEL * KERNEL * input_shape[2]
        layers = [(inner, self.widths[0], places)]
        fan_in = places * self.widths[0]
        for width in (*self.widths[1:], num_classes):
            layers.append((fan_in, width, 1))
            fan_in = width
        return NetworkSizes(
            inputs=places * inner,
            parameters=sum((rows + 1) * columns for rows, columns, _ in layers),
            activations=sum(columns * times for _, columns, times in layers),
            products=sum(rows * columns * times for rows, columns, times in layers),
        )


@dataclasses.dataclass(frozen=True)
class NetworkSizes:
    """The sizes of one network.

    Attributes:
        inputs: number of inputs of the first layer per example.
        parameters: number of parameters.
        activations: number of activations per example.
        products: number of multiplications of a forward pass per example.
    """

    inputs: int
    parameters: int
    activations: int
    products: int


def is_kernel(path: Any) -> bool:
    """Return whether a leaf of a parameter tree, by its path, is a kernel; only kernels have weight decay."""
    return bool(path[-1].key == "kernel")
