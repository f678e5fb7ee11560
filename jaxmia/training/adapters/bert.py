"""BERT, MiniLM, RoBERTa and MPNet sentence encoders as pure functions over their published tensors.

Devlin et al. 2019 (arXiv 1810.04805); Liu et al. 2019 (arXiv 1907.11692) differ in the positions alone; Song et al.
2020 (arXiv 2004.09297) add a bias by relative position.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmia.data.backbone import BertShape, block_name
from jaxmia.training.adapters.modules import GELUS, Modules, in_turn, pooled

_FARTHEST = 128  # relative positions at this distance or more share a bucket
ATTENTION = {
    "bert": {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "output": "attention.output.dense",
        "norm": "attention.output.LayerNorm",
    },
    "mpnet": {
        "query": "attention.attn.q",
        "key": "attention.attn.k",
        "value": "attention.attn.v",
        "output": "attention.attn.o",
        "norm": "attention.LayerNorm",
    },
}


def bert(
    modules: Modules,
    shape: BertShape,
    hidden: Float[Array, "examples tokens dim"],
    seen: Bool[Array, "examples tokens"],
    *,
    first: int = 0,
) -> Float[Array, "examples dim"]:
    """Return the pooled features of examples whose tokens have passed the embeddings and the blocks before `first`.

    Args:
        modules: weights of the blocks from `first` on, with an adapter's changes.
        shape: the architecture.
        hidden: activations of the tokens.
        seen: True for tokens, False for padding.
        first: the first block to compute.
    """
    hidden = bert_blocks(modules, shape, hidden, seen, first=first, end=shape.layers)
    return pooled(hidden, seen, how=shape.pooling, unit=shape.unit)


def bert_blocks(
    modules: Modules,
    shape: BertShape,
    hidden: Float[Array, "examples tokens dim"],
    seen: Bool[Array, "examples tokens"],
    *,
    first: int,
    end: int,
) -> Float[Array, "examples tokens dim"]:
    """Return the activations after the blocks first .. end - 1."""
    names, activation = ATTENTION[shape.style], GELUS[shape.activation]
    bias = relative_bias(modules, shape, hidden.shape[1]) if shape.style == "mpnet" else None

    def block(modules: Modules, own: str, inputs: Array) -> Array:
        query, key, value = (modules.dense(inputs, own + names[name]) for name in ("query", "key", "value"))
        mixed = modules.attention(query, key, value, seen, heads=shape.heads, bias=bias)
        inputs = modules.norm(inputs + modules.dense(mixed, own + names["output"]), own + names["norm"])
        wide = activation(modules.dense(inputs, own + "intermediate.dense"))
        return modules.norm(inputs + modules.dense(wide, own + "output.dense"), own + "output.LayerNorm")

    return in_turn(block, modules, hidden, [block_name(shape, number) for number in range(first, end)])


def bert_embeddings(
    modules: Modules,
    shape: BertShape,
    ids: Int[Array, "examples tokens"],
    seen: Bool[Array, "examples tokens"],
) -> Float[Array, "examples tokens dim"]:
    """Return the activations before the first block: embeddings of words, positions and, in BERT, of token type 0."""
    words = modules.given("embeddings.word_embeddings", "weight")[ids]
    places = jnp.arange(ids.shape[1])
    if shape.offset:  # RoBERTa counts tokens alone, and gives padding its own position
        counts = seen.astype(jnp.int32)
        places = jnp.where(seen, jnp.cumsum(counts, axis=1) + shape.offset - 1, shape.offset - 1)
    hidden = words + modules.given("embeddings.position_embeddings", "weight")[places]
    types = modules.tensor("embeddings.token_type_embeddings", "weight")
    hidden = hidden if types is None else hidden + types[0]
    return modules.norm(hidden, "embeddings.LayerNorm")


def relative_bias(modules: Modules, shape: BertShape, tokens: int) -> Float[Array, "heads tokens tokens"]:
    """Return MPNet's bias of attention logits: exact for near tokens, in logarithmic buckets for far ones."""
    table = modules.given("encoder.relative_attention_bias", "weight")
    steps = jnp.arange(tokens)
    distance = steps[:, None] - steps[None, :]
    half = shape.buckets // 2
    near = half // 2
    far = jnp.maximum(jnp.abs(distance), 1).astype(jnp.float32)
    log = jnp.log(far / near) / math.log(_FARTHEST / near) * (half - near)
    large = jnp.minimum(near + log.astype(jnp.int32), half - 1)
    bucket = jnp.where(jnp.abs(distance) < near, jnp.abs(distance), large) + jnp.where(distance < 0, half, 0)
    return jnp.transpose(table[bucket], (2, 0, 1))
