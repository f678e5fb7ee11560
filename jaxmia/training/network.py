"""Architecture of small networks: one flax module, a multilayer perceptron or a conv net. Training: from_scratch."""

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

KERNEL, STRIDE = 7, 4  # of the convolution, in pixels


def _scaled(scale: float) -> Any:
    """Kernels that keep the size of values; not truncated, which takes XLA several times longer to compile."""
    return nn.initializers.variance_scaling(scale, "fan_in", "normal")


class HiddenLayers(nn.Module):
    """Dense layers with ReLU, then logits.

    The first layer takes the last axis of its inputs, so that inputs cut into patches make it a convolution: one kernel
    for all places. Under vmap over models with shared inputs it is one matrix product for all models; a convolution
    primitive becomes a grouped one, which took 8 to 10 times as long on two CPU cores.
    """

    widths: tuple[int, ...]
    num_classes: int

    @nn.compact
    def __call__(self, inputs: Float[Array, "examples *places dim"]) -> Float[Array, "classes examples"]:
        """Logits of every class for every example, class-major as those of LinearHead."""
        dense = functools.partial(nn.Dense, precision=jax.lax.Precision.HIGHEST)  # float32 on every device
        values = inputs
        for place, width in enumerate(self.widths):
            start = nn.initializers.normal(1.0) if place == 0 else _scaled(2.0)
            values = nn.relu(dense(width, kernel_init=start, name=f"hidden_{place}")(values))
            values = values.reshape(len(values), -1)
        return dense(self.num_classes, kernel_init=_scaled(1.0), name="logits")(values).T


@dataclasses.dataclass(frozen=True)
class Network:
    """Which network is trained; static.

    Attributes:
        kind: "mlp" (on the inputs as they are), or "conv": 7 x 7 patches, 4 pixels apart, are mapped to widths[0]
            channels by one kernel; the other widths are of dense layers.
        widths: of the hidden layers.
    """

    kind: str
    widths: tuple[int, ...]

    def inputs(
        self, features: Float[Array, "examples dim"], input_shape: tuple[int, ...]
    ) -> Float[Array, "examples *places inner"]:
        """What the first layer multiplies: the features, or the patches of the images that they are.

        Args:
            features: of the examples.
            input_shape: of one example, as in FeatureSet.
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
        """Random parameters: biases zero; kernels such that values keep their size from layer to layer.

        The first kernel is scaled to the mean square norm of the inputs given, since these may be of any size: all
        candidates, members and non-members alike.

        Args:
            key: the model's own.
            inputs: of the candidates.
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
        """Logits under these parameters."""
        num_classes = params["params"]["logits"]["bias"].shape[0]
        return cast(Array, HiddenLayers(self.widths, num_classes).apply(params, inputs))

    def sizes(self, dim: int, input_shape: tuple[int, ...], num_classes: int) -> NetworkSizes:
        """Count what one network holds and computes.

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
    """Numbers of one network.

    Attributes:
        inputs: numbers that the first layer reads per example.
        parameters: in all.
        activations: per example.
        products: multiplications per example, of a forward pass.
    """

    inputs: int
    parameters: int
    activations: int
    products: int


def is_kernel(path: Any) -> bool:
    """Whether a leaf of a parameter tree, by its path, is a kernel: those alone decay."""
    return bool(path[-1].key == "kernel")
