"""Kinds of adapters: which parameters of a frozen transformer are trained, and their initial values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxmia._validate import InputError, check, check_at_least, check_choice
from jaxmia.data.backbone import Backbone, Shape, block_of

ADAPTERS = ("film", "lora", "bias", "blocks")
_TARGETS = {"bert": ("query", "value"), "mpnet": ("q", "v"), "vit": ("qkv",)}  # LoRA's by default
_BEFORE, _AFTER = ("embeddings.LayerNorm", "norm_pre"), ("norm", "fc_norm")  # norms outside the blocks


@dataclasses.dataclass(frozen=True)
class Adapter:
    """The parameters that are trained inside a frozen transformer, in addition to the linear head; static.

    Attributes:
        kind: "film": scale and shift of the norms (Perez et al. 2018, arXiv 1709.07871); "lora": for each target weight
            W a product B A of low rank beside it (Hu et al. 2022, arXiv 2106.09685); "bias": biases (Ben Zaken et al.
            2022, arXiv 2106.10199); "blocks": all parameters of the blocks.
        blocks: number of last blocks that are adapted; 0 for all whose weights are known. Norms after the last block
            are adapted too, and those before the first one if all blocks are; by LoRA no norm is.
        rank: rank of LoRA's products.
        alpha: LoRA's products are multiplied by alpha / rank; 0 for alpha = rank.
        targets: last part of the names of modules that LoRA adapts, such as "query"; by default query and value, or
            timm's one module of query, key and value.
    """

    kind: str
    blocks: int = 0
    rank: int = 8
    alpha: float = 0.0
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the values; raises InputError."""
        check_choice("network", self.kind, ADAPTERS)
        check_at_least("blocks", self.blocks, 0)
        check_at_least("rank", self.rank, 1)
        check(0 <= self.alpha < math.inf, "alpha", self.alpha, "be a finite number of at least 0")

    @property
    def scale(self) -> float:
        """Return the factor of LoRA's products."""
        return (self.alpha or self.rank) / self.rank

    def first(self, backbone: Backbone) -> int:
        """Return the first adapted block.

        Raises:
            InputError: if blocks are asked for that the data have passed already.
        """
        known = backbone.shape.layers - backbone.frozen
        rule = f"be at most {known}, the blocks that activations from block {backbone.frozen} on have before them"
        check(self.blocks <= known, "blocks", self.blocks, rule)
        return backbone.shape.layers - self.blocks if self.blocks else backbone.frozen

    def trained(self, backbone: Backbone) -> dict[str, dict[str, tuple[int, ...]]]:
        """Return the shapes of the trained parameters by module name, in the order of names.

        Raises:
            InputError: for LoRA's targets that no adapted module is called; the message names those there are.
        """
        first = self.first(backbone)
        found: dict[str, dict[str, tuple[int, ...]]] = {}
        for name in sorted(backbone.weights):
            module, _, part = name.rpartition(".")
            if self._adapts(backbone.shape, module, first):
                added = self._added(backbone, module, part, backbone.weights[name].shape)
                if added:
                    found[module] = found.get(module, {}) | dict(added)
        called = {module.rpartition(".")[2] for module in found}
        if self.kind == "lora" and not set(self._targets(backbone)) <= called:
            there = sorted({name.split(".")[-2] for name in backbone.weights if name.count(".") > 1})
            raise InputError(
                f"targets={list(self._targets(backbone))} must name modules of the blocks: {', '.join(there)}."
            )
        return found

    def init(self, key: jax.Array, backbone: Backbone) -> dict[str, dict[str, Array]]:
        """Return initial parameters that change nothing: zeros, but uniform values in LoRA's first factor, as in PEFT.

        Args:
            key: random key of this model.
            backbone: the transformer.
        """
        params: dict[str, dict[str, Array]] = {}
        for number, (module, parts) in enumerate(self.trained(backbone).items()):
            params[module] = {part: jnp.zeros(shape) for part, shape in parts.items()}
            if "lora_A" in parts:
                limit = 1 / math.sqrt(parts["lora_A"][1])  # Kaiming's with a = sqrt(5)
                draw = jax.random.fold_in(key, number)
                params[module]["lora_A"] = jax.random.uniform(
                    draw, parts["lora_A"], minval=-limit, maxval=limit
                )
        return params

    def _targets(self, backbone: Backbone) -> tuple[str, ...]:
        shape: Any = backbone.shape
        return self.targets or _TARGETS[getattr(shape, "style", shape.kind)]

    def _adapts(self, shape: Shape, module: str, first: int) -> bool:
        """Return whether a module lies in the adapted part."""
        block = block_of(shape, f"{module}.")
        if block is not None:
            return block >= first
        if self.kind == "lora":
            return False
        return module in _AFTER or (first == 0 and module in _BEFORE)

    def _added(
        self, backbone: Backbone, module: str, part: str, shape: tuple[int, ...]
    ) -> Mapping[str, tuple[int, ...]]:
        """Return the parameters that one tensor of an adapted module brings."""
        last = module.rpartition(".")[2]
        if self.kind == "lora":
            fits = part == "weight" and last in self._targets(backbone) and len(shape) == 2
            return {"lora_A": (self.rank, shape[1]), "lora_B": (shape[0], self.rank)} if fits else {}
        norm = (
            len(backbone.weights.get(f"{module}.weight", ()))
            and backbone.weights[f"{module}.weight"].ndim == 1
        )
        kept = {"film": bool(norm), "bias": part == "bias", "blocks": True}[self.kind]
        return {part: shape} if kept else {}


def is_penalised(path: Any) -> bool:
    """Return whether a leaf of an adapter's parameter tree, by its path, has weight decay.

    These are the head's kernel, LoRA's factors, and the changes of weights with two axes or more.
    """
    return str(path[-1].key) in ("kernel", "lora_A", "lora_B", "weight")
