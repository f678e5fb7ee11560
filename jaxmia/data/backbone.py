"""A frozen transformer that adapters are trained inside: its architecture and its weights under published names."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxmia._validate import InputError, check, check_at_least, check_choice

ACTIVATIONS = ("gelu", "gelu_tanh", "relu")
POOLINGS = ("mean", "token")


@dataclasses.dataclass(frozen=True)
class BertShape:
    """The architecture of a post-norm sentence encoder: BERT, MiniLM, RoBERTa or MPNet.

    Attributes:
        layers: number of blocks.
        heads: number of attention heads.
        eps: epsilon of the norms.
        activation: of the dense layers, one of ACTIVATIONS.
        pooling: "mean" over the tokens that are no padding, or "token", the first one.
        unit: whether pooled features are divided by their norm.
        style: names of tensors: "bert" (also RoBERTa's) or "mpnet", which has a bias by relative position.
        pad: id of padding tokens.
        offset: position of the first token, padding + 1 in RoBERTa and MPNet.
        buckets: number of relative positions, for "mpnet".
    """

    layers: int
    heads: int
    eps: float
    activation: str = "gelu"
    pooling: str = "mean"
    unit: bool = False
    style: str = "bert"
    pad: int = 0
    offset: int = 0
    buckets: int = 32

    @property
    def kind(self) -> str:
        """Return the kind of transformer."""
        return "bert"


@dataclasses.dataclass(frozen=True)
class VitShape:
    """The architecture of a pre-norm vision transformer with timm's names, such as ViT, DeiT or DINOv2.

    Attributes:
        layers: number of blocks.
        heads: number of attention heads.
        eps: epsilon of the norms.
        patch: pixels of a patch's side.
        size: pixels of an image's side.
        activation: of the dense layers, one of ACTIVATIONS.
        pooling: "token", the class token, or "mean" over the patches.
        bare_prefix: whether class and register tokens have no position (timm's no_embed_class).
        unit: whether pooled features are divided by their norm.
    """

    layers: int
    heads: int
    eps: float
    patch: int
    size: int
    activation: str = "gelu"
    pooling: str = "token"
    bare_prefix: bool = False
    unit: bool = False

    @property
    def kind(self) -> str:
        """Return the kind of transformer."""
        return "vit"


Shape = BertShape | VitShape
_SHAPES: dict[str, type[Any]] = {"bert": BertShape, "vit": VitShape}


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A transformer of which the first blocks are computed already. Equal contents are equal.

    Attributes:
        shape: the architecture.
        weights: float tensors by published name, without those of blocks that are computed already.
        frozen: K, the number of blocks that inputs have passed; 0 if inputs are token ids or pixels.
        name: name of the network, for reports.
        content_hash: SHA-256 of shape, K and weights.
    """

    shape: Shape
    weights: Mapping[str, np.ndarray] = dataclasses.field(repr=False)
    frozen: int
    name: str = ""
    content_hash: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Compute the hash."""
        digest = hashlib.sha256(repr((self.shape, self.frozen)).encode())
        for name in sorted(self.weights):
            tensor = self.weights[name]
            digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
            digest.update(np.ascontiguousarray(tensor).tobytes())
        object.__setattr__(self, "content_hash", digest.hexdigest())

    def __eq__(self, other: object) -> bool:
        """Return whether both have the same content."""
        return isinstance(other, Backbone) and self.content_hash == other.content_hash

    def __hash__(self) -> int:
        """Return a hash of the content."""
        return hash(self.content_hash)

    @property
    def width(self) -> int:
        """Return the dimension of a token."""
        return len(self.weights[final_name(self)])

    @property
    def hidden(self) -> int:
        """Return the width of the dense layers of a block."""
        last = block_name(self.shape, self.shape.layers - 1)
        return len(
            self.weights[last + {"bert": "intermediate.dense", "vit": "mlp.fc1"}[self.shape.kind] + ".bias"]
        )

    def tokens(self, input_shape: tuple[int, ...]) -> int:
        """Return the number of tokens of an example with inputs of this shape."""
        if self.frozen or isinstance(self.shape, BertShape):
            return input_shape[0]
        prefix = sum(
            self.weights[name].shape[1] for name in ("cls_token", "reg_token") if name in self.weights
        )
        return int((self.shape.size // self.shape.patch) ** 2 + prefix)

    def facts(self) -> dict[str, Any]:
        """Return architecture, K and name, JSON-ready."""
        shape = {"kind": self.shape.kind, **dataclasses.asdict(self.shape)}
        return {"shape": shape, "frozen": self.frozen, "name": self.name}


def shape_of_facts(facts: Mapping[str, Any]) -> Shape:
    """Return the architecture that Backbone.facts wrote.

    Raises:
        InputError: for an unknown kind or missing numbers.
    """
    values = dict(facts)
    check_choice("backbone: kind", str(values.get("kind")), tuple(_SHAPES))
    shape = _SHAPES[values.pop("kind")]
    try:
        return check_shape(shape(**values))
    except TypeError as error:
        raise InputError(f"backbone: shape must be one that jaxmia extract wrote ({error}).") from None


def check_shape(shape: Shape) -> Shape:
    """Return the architecture, if its values make sense; raises InputError."""
    for name in ("layers", "heads"):
        check_at_least(f"backbone: {name}", getattr(shape, name), 1)
    check_choice("backbone: activation", shape.activation, ACTIVATIONS)
    check_choice("backbone: pooling", shape.pooling, POOLINGS)
    return shape


def block_name(shape: Shape, block: int) -> str:
    """Return the prefix of the names of a block's tensors."""
    return f"encoder.layer.{block}." if isinstance(shape, BertShape) else f"blocks.{block}."


def block_of(shape: Shape, name: str) -> int | None:
    """Return the block that a tensor belongs to; None for embeddings and what follows the blocks."""
    start = "encoder.layer." if isinstance(shape, BertShape) else "blocks."
    number = name.removeprefix(start).partition(".")[0]
    return int(number) if name.startswith(start) and number.isdecimal() else None


def final_name(backbone: Backbone) -> str:
    """Return the name of a tensor [width] that every backbone has, of its last norm."""
    if isinstance(backbone.shape, BertShape):
        return f"{block_name(backbone.shape, backbone.shape.layers - 1)}output.LayerNorm.weight"
    return "fc_norm.weight" if "fc_norm.weight" in backbone.weights else "norm.weight"


def check_weights(
    shape: Shape, given: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], source: str
) -> None:
    """Raise InputError, naming the tensors, unless a file has exactly those of the architecture.

    Args:
        shape: the architecture.
        given: shapes of the file's tensors.
        expected: shapes of the architecture's tensors.
        source: name of the file.
    """
    kind = f"of a {shape.kind} with {shape.layers} blocks"
    missing, more = (
        [n for n in one if n not in other] for one, other in ((expected, given), (given, expected))
    )
    check(not missing, f"{source}: missing weights", missing[:4], f"be none {kind}")
    check(not more, f"{source}: unknown weights", more[:4], f"be none {kind}")
    for name, size in expected.items():
        check(given[name] == size, f"{source}: {name}.shape", given[name], f"be {size}")
