"""Pre-norm vision transformers as pure functions over timm's tensors: ViT, DeiT, DINOv2.

Dosovitskiy et al. 2021 (arXiv 2010.11929); layer scale: Touvron et al. 2021 (arXiv 2103.17239); register tokens: Darcet
et al. 2024 (arXiv 2309.16588).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmia.data.backbone import VitShape, block_name
from jaxmia.training.adapters.modules import GELUS, Modules, in_turn, pooled

_PREFIX = ("cls_token", "reg_token")


def vit(
    modules: Modules, shape: VitShape, hidden: Float[Array, "examples tokens dim"], *, first: int = 0
) -> Float[Array, "examples dim"]:
    """Return the pooled features of examples whose tokens have passed the embeddings and the blocks before `first`.

    Args:
        modules: weights of the blocks from `first` on, with an adapter's changes.
        shape: the architecture.
        hidden: activations of class token, register tokens and patches.
        first: the first block to compute.
    """
    hidden = vit_blocks(modules, shape, hidden, first=first, end=shape.layers)
    last = "norm.weight" in modules.weights
    hidden = modules.norm(hidden, "norm") if last else hidden
    patches = (shape.size // shape.patch) ** 2
    counted = jnp.broadcast_to(jnp.arange(hidden.shape[1]) >= hidden.shape[1] - patches, hidden.shape[:2])
    features = pooled(hidden, counted, how=shape.pooling, unit=False)
    features = modules.norm(features, "fc_norm") if not last else features
    return pooled(features[:, None], counted[:, :1], how="token", unit=shape.unit)


def vit_blocks(
    modules: Modules, shape: VitShape, hidden: Float[Array, "examples tokens dim"], *, first: int, end: int
) -> Float[Array, "examples tokens dim"]:
    """Return the activations after the blocks first .. end - 1."""
    activation, seen = GELUS[shape.activation], jnp.ones(hidden.shape[:2], bool)

    def scaled(modules: Modules, values: Array, name: str) -> Array:
        gamma = modules.tensor(name, "gamma")
        return values if gamma is None else values * gamma

    def block(modules: Modules, own: str, inputs: Array) -> Array:
        mixed = modules.dense(modules.norm(inputs, own + "norm1"), own + "attn.qkv")
        query, key, value = jnp.split(mixed, 3, axis=-1)
        mixed = modules.attention(query, key, value, seen, heads=shape.heads)
        inputs = inputs + scaled(modules, modules.dense(mixed, own + "attn.proj"), own + "ls1")
        wide = activation(modules.dense(modules.norm(inputs, own + "norm2"), own + "mlp.fc1"))
        return inputs + scaled(modules, modules.dense(wide, own + "mlp.fc2"), own + "ls2")

    return in_turn(block, modules, hidden, [block_name(shape, number) for number in range(first, end)])


def vit_embeddings(
    modules: Modules, shape: VitShape, pixels: Float[Array, "examples height width channels"]
) -> Float[Array, "examples tokens dim"]:
    """Return the activations before the first block, of normalised pixels."""
    count, side, patch = len(pixels), shape.size // shape.patch, shape.patch
    cut = pixels.reshape(count, side, patch, side, patch, -1).transpose(0, 1, 3, 5, 2, 4)
    kernel = modules.given("patch_embed.proj", "weight")
    hidden = modules.product("npi,oi->npo", cut.reshape(count, side**2, -1), kernel.reshape(len(kernel), -1))
    bias = modules.tensor("patch_embed.proj", "bias")
    hidden = hidden if bias is None else hidden + bias
    prefix = [modules.weights[name].astype(jnp.float32) for name in _PREFIX if name in modules.weights]
    prefix = [jnp.broadcast_to(tokens, (count, *tokens.shape[1:])) for tokens in prefix]
    places = modules.weights["pos_embed"].astype(jnp.float32)
    if shape.bare_prefix:
        hidden = jnp.concatenate([*prefix, hidden + places], axis=1)
    else:
        hidden = jnp.concatenate([*prefix, hidden], axis=1) + places
    return modules.norm(hidden, "norm_pre") if "norm_pre.weight" in modules.weights else hidden
