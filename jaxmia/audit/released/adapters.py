"""Reader of a released adapter and its linear head: PEFT's LoRA, or a state dict of changed norms, biases or blocks."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxmia._buckets import in_float32
from jaxmia._validate import InputError, check, listed
from jaxmia.audit.released.archives import read_tensors
from jaxmia.audit.released.base import ReleasedHead
from jaxmia.audit.released.tensors import head_of_tensors
from jaxmia.data.backbone import Backbone
from jaxmia.data.feature_set import FeatureSet
from jaxmia.training.adapters.adapter import Adapter
from jaxmia.training.adapters.inputs import AdapterInputs, adapter_inputs, pooled_features

_CONFIG = "adapter_config.json"  # PEFT's, beside the file
_LORA = re.compile(
    r"^(?P<module>.+)\.(?P<part>lora_[AB])(?:\.[^.]+)?\.weight$"
)  # the part between is PEFT's name
_SAME = 1e-4  # largest difference from the published weights, relative to their size, that rounding explains
_BATCH = 64
Changes = dict[str, dict[str, np.ndarray]]


@in_float32
def load_released_adapter(
    path: pathlib.Path, data: FeatureSet, adapter: Adapter, *, weight: str = "", bias: str = ""
) -> ReleasedHead:
    """Return a released adapter and its linear head, applied to the records.

    Args:
        path: a .safetensors or .npz: PEFT's adapter_model.safetensors (with adapter_config.json beside it, if it is
            there), or tensors of the changed modules under their published names, as in a state dict. The linear head
            on pooled features is in the same file.
        data: the records, with the backbone's activations.
        adapter: the kind of adapter, as in [train].
        weight: name of the head's weight; by default the only one with a weight's name.
        bias: name of the head's bias, or "none".

    Raises:
        InputError: for a missing or damaged file, missing, unknown or misshapen tensors, an adapter of another kind,
            rank or network, or a head that does not fit.
    """
    if not path.is_file():
        raise InputError(f"head={str(path)!r} must be an existing file of an adapter; there is none.")
    tensors = read_tensors(path)
    inputs = adapter_inputs(adapter, data)
    notes = _said_by_peft(path.with_name(_CONFIG), adapter, inputs.backbone)
    try:
        changes, rest = _split(tensors, adapter, inputs.backbone, data.backbone)
        features = _features(inputs, changes, adapter)
        seen = FeatureSet(features, data.labels, data.class_names)
        head = head_of_tensors(rest, seen, weight=weight, bias=bias)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    check(
        head.weight is not None, "head", path.name, "hold the weights of its linear head beside the adapter"
    )
    read = f"Read: {adapter.kind} in {len(changes)} modules of {inputs.backbone.name or 'the backbone'}."
    inside = sum(value.size for parts in changes.values() for value in parts.values())
    return dataclasses.replace(head, notes=(read, *notes, *head.notes), inside=inside)


def _split(
    tensors: Mapping[str, np.ndarray], adapter: Adapter, backbone: Backbone, whole: Backbone | None
) -> tuple[Changes, dict[str, np.ndarray]]:
    """Return the adapter's changes by module, and the tensors of the head."""
    wanted = adapter.trained(backbone)
    known = set(backbone.weights) | set(whole.weights if whole else ())
    changes: Changes = {module: {} for module in wanted}
    rest, unknown = {}, []
    for name, given in tensors.items():
        match = _LORA.match(name)
        module = _module(match["module"] if match else name.rpartition(".")[0], known, wanted)
        part = match["part"] if match else name.rpartition(".")[2]
        if module is None:
            (unknown.append(name) if match or _of_blocks(name) else rest.update({name: given}))
        elif part in wanted.get(module, {}):
            shape = wanted[module][part]
            check(
                given.shape == shape,
                f"{name}.shape",
                given.shape,
                f"be {shape}, as [train] and the network have",
            )
            frozen = backbone.weights.get(f"{module}.{part}")
            own = given.astype(np.float32)
            changes[module][part] = own if match or frozen is None else own - frozen
        elif match:
            raise InputError(
                f"{name} is of an adapter that [train] does not train: network or targets differ."
            )
        else:
            _check_frozen(name, given, (backbone, whole), f"{module}.{part}")
    check(not unknown, "tensors of modules that the activations' network lacks", listed(unknown), "be none")
    missing = [f"{m}.{part}" for m, parts in wanted.items() for part in parts if part not in changes[m]]
    rule = f"be none: [train] trains them (network={adapter.kind!r}, blocks={adapter.blocks})"
    check(not missing, "missing tensors", missing[:4], rule)
    return changes, rest


def _module(name: str, known: set[str], wanted: Mapping[str, Any]) -> str | None:
    """Return the backbone's module that a name ends with, after any prefix such as base_model.model.bert."""
    parts = name.split(".")
    modules = {each.rpartition(".")[0] for each in known} | set(wanted)
    for start in range(len(parts)):
        if ".".join(parts[start:]) in modules:
            return ".".join(parts[start:])
    return None


def _of_blocks(name: str) -> bool:
    return re.search(r"(^|\.)(layer|blocks)\.\d+\.", name) is not None or "pooler." in name


def _check_frozen(name: str, given: np.ndarray, backbones: tuple[Backbone | None, ...], own: str) -> None:
    """Raise InputError unless a tensor that is not trained is the published one."""
    frozen = next((each.weights[own] for each in backbones if each and own in each.weights), None)
    if frozen is None:
        return
    same = given.shape == frozen.shape
    gap = float(np.abs(given.astype(np.float32) - frozen).max()) if same else math.inf
    rule = "be the published one, which [train] does not change: it is an adapter of another base, or trains more"
    check(
        gap <= _SAME * max(1.0, float(np.abs(frozen).max())),
        f"{name}: largest difference",
        round(gap, 6),
        rule,
    )


def _said_by_peft(path: pathlib.Path, adapter: Adapter, backbone: Backbone) -> tuple[str, ...]:
    """Return a warning for another base; raises InputError where PEFT's configuration and [train] differ."""
    if not path.is_file():
        return ()
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        kind, rank, alpha = str(told["peft_type"]), int(told["r"]), float(told["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{path} must be PEFT's configuration of a LoRA adapter; it is damaged or of another."
        ) from None
    check(
        kind == "LORA" and adapter.kind == "lora",
        f"{path.name}: peft_type",
        kind,
        "be 'LORA', with network='lora'",
    )
    check(rank == adapter.rank, "train.rank", adapter.rank, f"be {rank}, as {path.name} says")
    scale = alpha / (math.sqrt(rank) if told.get("use_rslora") else rank)
    rule = f"be {scale * rank:g}, as {path.name} says (lora_alpha={alpha:g})"
    check(
        math.isclose(scale, adapter.scale, rel_tol=1e-6), "train.alpha", adapter.alpha or adapter.rank, rule
    )
    check(not told.get("use_dora"), f"{path.name}: use_dora", True, "be false")
    base = str(told.get("base_model_name_or_path") or "").rstrip("/").rpartition("/")[2]
    if base and backbone.name and base != backbone.name:
        return (f"The adapter says that its base is {base}, the activations are of {backbone.name}.",)
    return ()


def _features(inputs: AdapterInputs, changes: Changes, adapter: Adapter) -> Float[np.ndarray, "records dim"]:
    """Return the features of all records under the adapter."""
    own = jax.tree.map(jnp.asarray, changes)
    found = jax.jit(lambda some, own: pooled_features(some, own, scale=adapter.scale))
    count = len(inputs)
    parts = []
    for first in range(0, count, _BATCH):
        some = inputs.rows[first : first + _BATCH]
        padded = jnp.pad(some, [(0, _BATCH - len(some))] + [(0, 0)] * (some.ndim - 1))
        parts.append(np.asarray(found(inputs.of(padded), own))[: len(some)])
    return np.concatenate(parts)
