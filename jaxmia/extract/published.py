"""Transformers as published, read for adapters: a folder of transformers, or a network of timm."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxmia._npz import check_read_size
from jaxmia._validate import InputError, check, check_choice
from jaxmia.data.backbone import Backbone, BertShape, VitShape, block_name, check_shape, check_weights
from jaxmia.training.adapters.bert import ATTENTION

_WORDS = "embeddings.word_embeddings.weight"
_TYPES = ("bert", "roberta", "xlm-roberta", "camembert", "mpnet")
_UNUSED = ("pooler.", "embeddings.position_ids")  # never part of mean or first-token features
_GELUS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
_VIT_OPTIONAL = (
    "cls_token",
    "reg_token",
    "patch_embed.proj.bias",
    "norm_pre.weight",
    "norm_pre.bias",
    "norm.weight",
    "norm.bias",
    "fc_norm.weight",
    "fc_norm.bias",
)
_BLOCK_OPTIONAL = ("attn.qkv.bias", "attn.proj.bias", "ls1.gamma", "ls2.gamma")
SAFETENSORS = "model.safetensors"


def published_bert(folder: pathlib.Path, *, sentence: bool) -> Backbone:
    """Return the sentence encoder in a folder with config.json and model.safetensors, whole (K = 0).

    Args:
        folder: as transformers or sentence-transformers save it.
        sentence: whether pooling is that of sentence-transformers' modules.json; else the mean over tokens.

    Raises:
        InputError: for missing or damaged files, a network of another kind, or missing, unknown or misshapen weights.
    """
    config = _json(folder / "config.json")
    kind = str(config.get("model_type"))
    check(kind in _TYPES, f"{folder.name}: model_type", kind, f"be one of {', '.join(_TYPES)}")
    places = config.get("position_embedding_type") or "absolute"
    check(places == "absolute", f"{folder.name}: position_embedding_type", places, "be 'absolute'")
    pooling, unit = _pooling(folder) if sentence else ("mean", False)
    shape = BertShape(**_bert_shape(config, kind, folder.name), pooling=pooling, unit=unit)
    check_shape(shape)
    weights = _named(read_safetensors(folder / SAFETENSORS), folder.name)
    given = {name: each.shape for name, each in weights.items()}
    check_weights(shape, given, _bert_tensors(config, shape, kind), f"{folder.name}/{SAFETENSORS}")
    return Backbone(shape, weights, 0, folder.name)


def published_vit(network: Any, name: str) -> Backbone:
    """Return a vision transformer of timm, whole (K = 0).

    Args:
        network: the loaded network, without classifier.
        name: its name.

    Raises:
        InputError: for another network than timm's plain VisionTransformer, or unknown or missing weights.
    """
    kind = type(network).__name__
    check(kind == "VisionTransformer", f"{name}: network", kind, "be timm's VisionTransformer, for adapters")
    block, patch = network.blocks[0], network.patch_embed
    check(type(block).__name__ == "Block", f"{name}: block", type(block).__name__, "be timm's plain Block")
    check_choice(f"{name}: global_pool", str(network.global_pool), ("token", "avg"))
    check(patch.img_size[0] == patch.img_size[1], f"{name}: image size", patch.img_size, "be square")
    act = "gelu_tanh" if getattr(block.mlp.act, "approximate", "none") == "tanh" else "gelu"
    known = type(block.mlp.act).__name__ in ("GELU", "GELUTanh")
    check(known, f"{name}: activation", type(block.mlp.act).__name__, "be GELU")
    shape = VitShape(
        layers=len(network.blocks),
        heads=block.attn.num_heads,
        eps=float(block.norm1.eps),
        patch=patch.patch_size[0],
        size=patch.img_size[0],
        activation="gelu_tanh" if type(block.mlp.act).__name__ == "GELUTanh" else act,
        pooling="mean" if network.global_pool == "avg" else "token",
        bare_prefix=bool(network.no_embed_class),
    )
    weights = {key: value.detach().float().cpu().numpy() for key, value in network.state_dict().items()}
    given = {key: value.shape for key, value in weights.items()}
    check_weights(shape, given, _vit_tensors(shape, given, name), name)
    return Backbone(shape, weights, 0, name)


def read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Return the tensors of a file.

    Raises:
        InputError: for a missing, damaged or too large file, or if safetensors is not installed.
    """
    if not path.is_file():
        raise InputError(f"weights={str(path)!r} must be an existing .safetensors file; there is none.")
    check_read_size(path, path.stat().st_size)
    try:
        import safetensors.numpy
    except ImportError:
        raise InputError(f"{path.name} needs safetensors: pip install 'jaxmia[audit]'.") from None
    try:
        tensors: dict[str, np.ndarray] = safetensors.numpy.load_file(path)
    except Exception as error:  # safetensors' own errors, and KeyError for dtypes that NumPy lacks
        raise InputError(f"{path} must be a readable .safetensors file of floats: {error}.") from None
    return tensors


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(
            f"{path} must be a JSON file of a published network; it is missing or damaged."
        ) from None
    if not isinstance(found, dict):
        raise InputError(f"{path} must be a JSON file of a published network, got a {type(found).__name__}.")
    return found


def _bert_shape(config: Mapping[str, Any], kind: str, source: str) -> dict[str, Any]:
    activation = str(config.get("hidden_act", "gelu"))
    check_choice(f"{source}: hidden_act", activation, _GELUS)
    pad = int(config.get("pad_token_id", 0 if kind == "bert" else 1))
    return {
        "layers": _whole(config, "num_hidden_layers", source),
        "heads": _whole(config, "num_attention_heads", source),
        "eps": float(config.get("layer_norm_eps", 1e-12)),
        "activation": _GELUS[activation],
        "style": "mpnet" if kind == "mpnet" else "bert",
        "pad": pad,
        "offset": 0 if kind == "bert" else pad + 1,
        "buckets": int(config.get("relative_attention_num_buckets", 32)),
    }


def _whole(config: Mapping[str, Any], name: str, source: str) -> int:
    value = config.get(name)
    fits = isinstance(value, int) and not isinstance(value, bool) and value > 0
    check(fits, f"{source}: {name}", value, "be a whole number above 0")
    return int(value)  # type: ignore[arg-type]


def _pooling(folder: pathlib.Path) -> tuple[str, bool]:
    """Return how sentence-transformers pools: "mean" or "token", and whether it normalises."""
    path = folder / "modules.json"
    if not path.is_file():
        raise InputError(
            f"{path} must say how features are pooled: use transformers:{folder} for the mean over tokens."
        )
    modules = json.loads(path.read_text(encoding="utf-8"))
    kinds = [str(each.get("type")).rpartition(".")[2] for each in modules]
    fits = kinds in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
    check(fits, f"{folder.name}: modules", kinds, "be Transformer, Pooling and at most Normalize")
    pooling = _json(folder / str(modules[1]["path"]) / "config.json")
    modes = [key for key, value in pooling.items() if key.startswith("pooling_mode_") and value is True]
    how = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "token"}
    fits = len(modes) == 1 and modes[0] in how
    check(fits, f"{folder.name}: pooling", modes, "be mean_tokens or cls_token")
    return how[modes[0]], len(kinds) == 3


def _named(tensors: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """Return the encoder's tensors in float32, without the prefix of their names and without those of other tasks."""
    prefixes = [name.removesuffix(_WORDS) for name in tensors if name.endswith(_WORDS)]
    check(len(prefixes) == 1, f"{source}: tensors {_WORDS}", prefixes, "be one")
    own = {name[len(prefixes[0]) :]: value for name, value in tensors.items() if name.startswith(prefixes[0])}
    if not prefixes[0]:  # a bare encoder may carry the layers of its pretraining task
        own = {name: each for name, each in own.items() if name.split(".")[0] in ("embeddings", "encoder")}
    return {name: each.astype(np.float32) for name, each in own.items() if not name.startswith(_UNUSED)}


def _bert_tensors(config: Mapping[str, Any], shape: BertShape, kind: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes that an encoder's tensors must have."""
    dim, wide, words, places = (
        _whole(config, name, kind)
        for name in ("hidden_size", "intermediate_size", "vocab_size", "max_position_embeddings")
    )
    check(dim % shape.heads == 0, "hidden_size", dim, f"be a multiple of the {shape.heads} attention heads")
    expected: dict[str, tuple[int, ...]] = {
        _WORDS: (words, dim),
        "embeddings.position_embeddings.weight": (places, dim),
        "embeddings.LayerNorm.weight": (dim,),
        "embeddings.LayerNorm.bias": (dim,),
    }
    if shape.style == "mpnet":
        expected["encoder.relative_attention_bias.weight"] = (shape.buckets, shape.heads)
    else:
        expected["embeddings.token_type_embeddings.weight"] = (_whole(config, "type_vocab_size", kind), dim)
    names = ATTENTION[shape.style]
    for number in range(shape.layers):
        own = block_name(shape, number)
        sizes = {"intermediate.dense": (wide, dim), "output.dense": (dim, wide)}
        sizes |= {names[part]: (dim, dim) for part in ("query", "key", "value", "output")}
        for module, size in sizes.items():
            expected |= {f"{own}{module}.weight": size, f"{own}{module}.bias": size[:1]}
        for module in (names["norm"], "output.LayerNorm"):
            expected |= {f"{own}{module}.{part}": (dim,) for part in ("weight", "bias")}
    return expected


def _vit_tensors(
    shape: VitShape, given: Mapping[str, tuple[int, ...]], source: str
) -> dict[str, tuple[int, ...]]:
    """Return the shapes that a vision transformer's tensors must have; optional ones where the file has them."""
    kernel = given.get("patch_embed.proj.weight", ())
    check(len(kernel) == 4, f"{source}: patch_embed.proj.weight.shape", kernel, "have four axes")
    dim, patches = kernel[0], (shape.size // shape.patch) ** 2
    wide = given.get("blocks.0.mlp.fc1.bias", (0,))[0]
    prefix = {name: given[name] for name in ("cls_token", "reg_token") if name in given}
    held = sum(size[1] for size in prefix.values() if len(size) == 3)
    places = patches if shape.bare_prefix else patches + held
    expected: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (dim, kernel[1], shape.patch, shape.patch),
        "pos_embed": (1, places, dim),
        **prefix,
    }
    expected |= {name: (dim,) for name in _VIT_OPTIONAL if name in given and name not in prefix}
    check(
        ("norm.weight" in given) != ("fc_norm.weight" in given),
        f"{source}: last norm",
        sorted(given)[-4:],
        "be one",
    )
    for number in range(shape.layers):
        own = block_name(shape, number)
        for module in ("norm1", "norm2"):
            expected |= {f"{own}{module}.{part}": (dim,) for part in ("weight", "bias")}
        expected |= {f"{own}attn.qkv.weight": (3 * dim, dim), f"{own}attn.proj.weight": (dim, dim)}
        expected |= {f"{own}mlp.fc1.weight": (wide, dim), f"{own}mlp.fc1.bias": (wide,)}
        expected |= {f"{own}mlp.fc2.weight": (dim, wide), f"{own}mlp.fc2.bias": (dim,)}
        for part in _BLOCK_OPTIONAL:
            if own + part in given:
                expected[own + part] = (3 * dim,) if part == "attn.qkv.bias" else (dim,)
    return expected
