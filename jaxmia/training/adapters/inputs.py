"""Inputs of adapters: activations of a frozen prefix, with the weights above it, and the logits of one model."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmia._validate import InputError, check
from jaxmia.data.backbone import Backbone, BertShape, block_of
from jaxmia.data.feature_set import FeatureSet
from jaxmia.training.adapters.adapter import Adapter
from jaxmia.training.adapters.bert import bert, bert_blocks, bert_embeddings
from jaxmia.training.adapters.modules import Changes, Modules
from jaxmia.training.adapters.vit import vit, vit_blocks, vit_embeddings

_BATCH = 64  # examples whose frozen blocks are computed at once
NO_BACKBONE = (
    "network={!r} needs activations of a transformer, as `jaxmia extract --activations K` writes them: give its"
    " folder as data.features."
)


@flax.struct.dataclass
class AdapterInputs:
    """Activations of the examples, and the weights of the blocks above them.

    Attributes:
        rows: [examples, tokens, 1 + dim]: of each token 1, or 0 for padding, and its activations; where no block is
            frozen, token ids [examples, tokens] or pixels [examples, height, width, channels].
        weights: tensors by published name.
        backbone: what they are of, with K = first.
    """

    rows: Array
    weights: dict[str, Array]
    backbone: Backbone = flax.struct.field(pytree_node=False)

    def of(self, rows: Array) -> AdapterInputs:
        """Return inputs of other examples, with the same weights."""
        return dataclasses.replace(self, rows=rows)

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.rows)


def backbone_of(data: FeatureSet, adapter: Adapter) -> Backbone:
    """Return the backbone of the data, or raise InputError if there is none or adapters cannot be trained in it."""
    if data.backbone is None:
        raise InputError(NO_BACKBONE.format(adapter.kind))
    return data.backbone


def adapter_inputs(adapter: Adapter, data: FeatureSet) -> AdapterInputs:
    """Return the inputs of an adapter, with every block computed that lies below the first adapted one.

    Raises:
        InputError: if the data have no backbone, or the adapter does not fit it.
    """
    backbone = backbone_of(data, adapter)
    first = adapter.first(backbone)
    rows: Any = data.features.reshape(len(data.features), *data.input_shape)
    if first > backbone.frozen:
        rows = frozen_rows(backbone, np.asarray(rows), first)
        backbone = above(backbone, first)
    return AdapterInputs(jnp.asarray(rows), jax.tree.map(jnp.asarray, dict(backbone.weights)), backbone)


def above(backbone: Backbone, first: int) -> Backbone:
    """Return the backbone with K = first: without the weights of lower blocks, and of embeddings if K > 0."""
    kept = {}
    for name, tensor in backbone.weights.items():
        block = block_of(backbone.shape, name)
        outside = name.split(".")[0] in ("norm", "fc_norm") or "relative_attention_bias" in name
        if outside or first == 0 or (block is not None and block >= first):
            kept[name] = tensor
    return Backbone(backbone.shape, kept, first, backbone.name)


def frozen_rows(
    backbone: Backbone, rows: Float[np.ndarray, "examples ..."], first: int
) -> Float[np.ndarray, "examples tokens more"]:
    """Return the inputs after the blocks before `first`, in float16: activations behind the mask.

    Args:
        backbone: weights of these blocks, and K.
        rows: inputs of block K, or token ids or pixels if K is 0.
        first: the block whose inputs are wanted.
    """
    weights = jax.tree.map(jnp.asarray, dict(backbone.weights))
    pieces = []
    for start in range(0, len(rows), _BATCH):
        some = rows[start : start + _BATCH]
        padding = [(0, min(_BATCH, len(rows)) - len(some))] + [(0, 0)] * (rows.ndim - 1)
        found = _advanced(jnp.asarray(np.pad(some, padding)), weights, backbone, first)
        pieces.append(np.asarray(found)[: len(some)])
    return np.concatenate(pieces)


@functools.partial(jax.jit, static_argnames=("backbone", "first"))
def _advanced(rows: Array, weights: dict[str, Array], backbone: Backbone, first: int) -> Array:
    modules = Modules(weights, {}, backbone.shape.eps)
    hidden, seen = _entered(modules, backbone, rows)
    if isinstance(backbone.shape, BertShape):
        hidden = bert_blocks(modules, backbone.shape, hidden, seen, first=backbone.frozen, end=first)
    else:
        hidden = vit_blocks(modules, backbone.shape, hidden, first=backbone.frozen, end=first)
    packed = jnp.concatenate([seen.astype(hidden.dtype)[..., None], hidden], axis=-1)
    return jnp.where(seen[..., None], packed, 0.0).astype(jnp.float16)


def _entered(modules: Modules, backbone: Backbone, rows: Array) -> tuple[Array, Array]:
    """Return the activations before the first block to compute, and which tokens are no padding."""
    if backbone.frozen:
        return rows[..., 1:].astype(jnp.float32), rows[..., 0] > 0
    if isinstance(backbone.shape, BertShape):
        ids = rows.astype(jnp.int32)
        seen = ids != backbone.shape.pad
        return bert_embeddings(modules, backbone.shape, ids, seen), seen
    hidden = vit_embeddings(modules, backbone.shape, rows.astype(jnp.float32))
    return hidden, jnp.ones(hidden.shape[:2], bool)


def pooled_features(
    inputs: AdapterInputs, changes: Changes, *, scale: float = 1.0, dtype: str = "float32"
) -> Float[Array, "examples dim"]:
    """Return the features of the examples under one model's changes; without changes, the extractor's own."""
    backbone = inputs.backbone
    modules = Modules(inputs.weights, changes, backbone.shape.eps, scale, dtype)
    hidden, seen = _entered(modules, backbone, inputs.rows)
    if isinstance(backbone.shape, BertShape):
        return bert(modules, backbone.shape, hidden, seen, first=backbone.frozen)
    return vit(modules, backbone.shape, hidden, first=backbone.frozen)


def check_inputs(data: FeatureSet, network: object) -> None:
    """Raise InputError unless adapters have a backbone and inputs that fit it, and other models have none.

    Args:
        data: the pool.
        network: TrainConfig.network.
    """
    if isinstance(network, Adapter):
        backbone = backbone_of(data, network)
        texts = backbone.frozen == 0 and isinstance(backbone.shape, BertShape)
        check_tokens(data.input_shape, int(data.features.max()) if texts else 0, backbone)
        return
    rule = "be of an adapter (film, lora, bias or blocks): the data are activations of a transformer"
    check(data.backbone is None, "network", getattr(network, "kind", "linear"), rule)


def check_tokens(shape: tuple[int, ...], largest: int, backbone: Backbone) -> None:
    """Raise InputError if inputs do not fit: ids beyond the vocabulary, more tokens than positions, other pixels.

    Args:
        shape: shape of an example.
        largest: largest token id.
        backbone: the transformer.
    """
    if backbone.frozen:
        rule = f"be (tokens, {1 + backbone.width}): a mask and the activations of each token"
        fits = len(shape) == 2 and shape[1] == 1 + backbone.width
        check(fits, "activations: shape of an example", shape, rule)
    elif isinstance(backbone.shape, BertShape):
        words, places = (
            len(backbone.weights[f"embeddings.{name}_embeddings.weight"]) for name in ("word", "position")
        )
        places -= backbone.shape.offset
        check(len(shape) == 1, "inputs: shape of an example", shape, "be (tokens,): token ids")
        rule = f"be at most {places}, the positions of {backbone.name or 'the network'}"
        check(shape[0] <= places, "tokens", shape[0], rule)
        rule = f"be below {words}, the words of {backbone.name or 'the network'}: the ids are another tokenizer's"
        check(largest < words, "largest token id", largest, rule)
    else:
        side, channels = backbone.shape.size, backbone.weights["patch_embed.proj.weight"].shape[1]
        rule = f"be {(side, side, channels)}: pixels"
        check(shape == (side, side, channels), "inputs: shape of an example", shape, rule)
