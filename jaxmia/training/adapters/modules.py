"""Dense layers, norms and attention of a frozen transformer, each with the changes that an adapter makes to it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Changes = Mapping[str, Mapping[str, Array]]
"""By module name: "weight" and "bias" are added to the module's own; "lora_A" and "lora_B" act beside its weight."""

_FAR = -1e9  # logit of a token that attention must not see; finite, so that rows of padding alone are no NaN
GELUS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}


@dataclasses.dataclass(frozen=True)
class Modules:
    """The modules of one transformer with one model's changes.

    LoRA is computed beside the frozen product: under vmap the product of all models' examples with a frozen weight is
    one matrix product, while weights with the change added would be one copy per model.

    Attributes:
        weights: frozen tensors by published name.
        changes: the adapter's parameters by module name; none for the transformer as published.
        eps: epsilon of the norms.
        scale: factor of LoRA's product, alpha / rank.
        dtype: dtype of the products, as in TrainConfig.matmul_dtype.
    """

    weights: Mapping[str, Array]
    changes: Changes
    eps: float
    scale: float = 1.0
    dtype: str = "float32"

    def product(self, equation: str, left: Array, right: Array) -> Float[Array, "..."]:
        """Return an einsum multiplied in the dtype of the products and accumulated in float32."""
        kind = jnp.bfloat16 if self.dtype == "bfloat16" else jnp.float32
        precision = jax.lax.Precision.HIGH if self.dtype == "tensorfloat32" else jax.lax.Precision.HIGHEST
        return jnp.einsum(
            equation,
            left.astype(kind),
            right.astype(kind),
            precision=None if kind == jnp.bfloat16 else precision,
            preferred_element_type=jnp.float32,
        )

    def tensor(self, name: str, part: str) -> Array | None:
        """Return a tensor of a module in float32, with its change; None where the module has none."""
        frozen, change = self.weights.get(f"{name}.{part}"), self.changes.get(name, {}).get(part)
        if frozen is None:
            return None
        frozen = frozen.astype(jnp.float32)
        return frozen if change is None else frozen + change

    def given(self, name: str, part: str) -> Array:
        """Return a tensor that the module must have."""
        found = self.tensor(name, part)
        if found is None:
            raise KeyError(f"{name}.{part}")
        return found

    def dense(self, inputs: Float[Array, "*places inner"], name: str) -> Float[Array, "*places outer"]:
        """Return the module's weight [outer, inner] times the inputs, LoRA's product, and the bias."""
        outputs = self.product("...i,oi->...o", inputs, self.given(name, "weight"))
        change, bias = self.changes.get(name, {}), self.tensor(name, "bias")
        if "lora_A" in change:
            low = self.product("...i,ri->...r", inputs, change["lora_A"])
            outputs = outputs + self.scale * self.product("...r,or->...o", low, change["lora_B"])
        return outputs if bias is None else outputs + bias

    def norm(self, inputs: Float[Array, "*places dim"], name: str) -> Float[Array, "*places dim"]:
        """Return the layer norm of the last axis."""
        centred = inputs - jnp.mean(inputs, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + self.eps) * self.given(name, "weight") + self.given(
            name, "bias"
        )

    def attention(
        self,
        query: Float[Array, "examples tokens dim"],
        key: Float[Array, "examples tokens dim"],
        value: Float[Array, "examples tokens dim"],
        seen: Bool[Array, "examples tokens"],
        *,
        heads: int,
        bias: Float[Array, "heads tokens tokens"] | None = None,
    ) -> Float[Array, "examples tokens dim"]:
        """Return softmax(query key^T / sqrt(dim / heads) + bias) value of every head, over the tokens that are seen."""

        def split(array: Array) -> Array:
            return array.reshape(*array.shape[:-1], heads, array.shape[-1] // heads)

        query, key, value = map(split, (query, key, value))
        logits = self.product("nqhd,nkhd->nhqk", query, key) * query.shape[-1] ** -0.5
        logits = logits if bias is None else logits + bias
        weights = jax.nn.softmax(jnp.where(seen[:, None, None], logits, _FAR), axis=-1)
        mixed = self.product("nhqk,nkhd->nqhd", weights, value)
        return mixed.reshape(*mixed.shape[:-2], -1)


def pooled(
    hidden: Float[Array, "examples tokens dim"],
    counted: Bool[Array, "examples tokens"],
    *,
    how: str,
    unit: bool,
) -> Float[Array, "examples dim"]:
    """Return the mean over the counted tokens, or the first token, and divide it by its norm if asked."""
    if how == "token":
        features = hidden[:, 0]
    else:
        weight = counted.astype(hidden.dtype)[..., None]
        features = jnp.sum(hidden * weight, axis=1) / jnp.maximum(jnp.sum(weight, axis=1), 1.0)
    if unit:
        # sqrt has no finite derivative at 0, where examples of padding alone lie.
        square = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
        features = features * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
    return features


def in_turn(
    block: Callable[[Modules, str, Array], Array], modules: Modules, hidden: Array, prefixes: Sequence[str]
) -> Array:
    """Return hidden after blocks of equal structure, one after another.

    Several blocks are one loop, so that a program is compiled for one of them, and the backward pass holds the inside
    of one and the inputs of all. A Python loop with jax.checkpoint holds all on a CPU, where XLA merges what is
    computed twice.

    Args:
        block: function from modules, the prefix of a block's names and its inputs to its outputs.
        modules: modules of all blocks.
        hidden: inputs of the first block.
        prefixes: prefixes of the blocks' names.
    """
    if len(prefixes) == 1:
        return block(modules, prefixes[0], hidden)
    if not prefixes:
        return hidden
    names = [name.removeprefix(prefixes[0]) for name in modules.weights if name.startswith(prefixes[0])]
    changed = [name.removeprefix(prefixes[0]) for name in modules.changes if name.startswith(prefixes[0])]
    weights = {name: jnp.stack([modules.weights[own + name] for own in prefixes]) for name in names}
    changes = {
        name: jax.tree.map(lambda *each: jnp.stack(each), *(modules.changes[own + name] for own in prefixes))
        for name in changed
    }

    def one(inputs: Array, own: tuple[Mapping[str, Array], Changes]) -> tuple[Array, None]:
        weights = {f"block.{name}": each for name, each in own[0].items()}
        changes = {f"block.{name}": each for name, each in own[1].items()}
        return block(dataclasses.replace(modules, weights=weights, changes=changes), "block.", inputs), None

    return jax.lax.scan(jax.checkpoint(one, prevent_cse=False), hidden, (weights, changes))[0]
