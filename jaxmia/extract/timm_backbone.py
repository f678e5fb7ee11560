"""Networks for images by timm: pooled features before the classifier."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxmia._terminal import quiet
from jaxmia._validate import InputError, check, check_choice
from jaxmia.extract.backbones import Backbone, BackboneSpec, check_modality, network_facts, torch_device
from jaxmia.extract.images import decode
from jaxmia.extract.packages import load_package, one_line
from jaxmia.extract.rows import Modality

# A counter of batch norms that does not affect outputs, missing in older files.
_COUNTER = "num_batches_tracked"


def load(spec: BackboneSpec, modality: Modality) -> Backbone:
    """Load a network with the weights of its name, of a folder, or of a file.

    Raises:
        InputError: for an unknown name, weights that cannot be loaded or do not fit, or options that it does not
            support.
    """
    check_modality(spec.kind, modality)
    timm, torch, device = load_package("timm"), load_package("torch"), torch_device(spec.device)
    network, notes = network_of(spec)
    network.to(device)
    preprocessing = _preprocessing(spec, network)
    transform = timm.data.create_transform(**preprocessing)

    def features(items: Sequence[Any]) -> Float[np.ndarray, "items dim"]:
        with torch.inference_mode():
            rows: np.ndarray = network(torch.stack(list(items)).to(device)).float().cpu().numpy()
        return rows

    facts = network_facts(spec, network, device)
    return Backbone(
        facts,
        preprocessing,
        ("torch", "timm", "torchvision", "pillow"),
        lambda content: transform(decode(content)),
        features,
        notes,
    )


def network_of(spec: BackboneSpec) -> tuple[Any, tuple[str, ...]]:
    """Return the network without classifier, with its weights, and notes on reading them.

    Raises:
        InputError: as load.
    """
    network = _network(spec)
    network.reset_classifier(0)
    notes = () if spec.weights is None else _fill(network, spec.weights)
    return network.eval(), notes


def _network(spec: BackboneSpec) -> Any:
    timm = load_package("timm")
    if spec.folder is None and not spec.name.startswith("hf-hub:"):
        check_choice("backbone: timm name", spec.name.partition(".")[0], timm.list_models())
    name = spec.name if spec.folder is None else f"local-dir:{spec.folder}"
    try:
        with quiet("timm", "huggingface_hub", "httpx"):
            return timm.create_model(name, pretrained=spec.weights is None)
    except Exception as error:  # of whatever kind: network, files, shapes
        raise InputError(
            f"weights of timm:{spec.name} must be in a folder, in a file (--weights) or downloadable: {one_line(error)}"
        ) from None


def _preprocessing(spec: BackboneSpec, network: Any) -> dict[str, Any]:
    """Return the arguments of timm's transform."""
    options, own = spec.images, network.pretrained_cfg
    if own.get("fixed_input_size"):
        sizes = (None, own["input_size"][-1])
        check(
            options.size in sizes,
            "image_size",
            options.size,
            f"be {sizes[1]}, which this network is built for",
        )
    asked = {
        "img_size": options.size,
        "mean": options.mean,
        "std": options.std,
        "crop_pct": options.crop_pct,
        "interpolation": options.interpolation,
    }
    found = load_package("timm").data.resolve_model_data_config(network, args=asked)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def _fill(network: Any, path: pathlib.Path) -> tuple[str, ...]:
    """Copy the tensors of a file into a network without classifier, and return notes for the reader."""
    given, own = _read(path), network.state_dict()
    notes = []
    needed = [name for name in own if not name.endswith(_COUNTER)]
    if any(name in given for name in needed):
        absent = [name for name in needed if name not in given]
        check(not absent, f"{path.name}: missing tensors", absent[:3], "be none")
        taken = {name: name for name in needed}
    else:
        taken = _by_order(own, given, path)
        notes.append(
            f"No name in {path.name} is timm's: its {len(taken)} tensors are used in their order, in"
            " which all shapes and roles match."
        )
    for name, source in taken.items():
        shapes = tuple(given[source].shape), tuple(own[name].shape)
        check(shapes[0] == shapes[1], f"{path.name}: shape of {source}", shapes[0], f"be {shapes[1]}")
    unused = [name for name in given if name not in set(taken.values()) and not name.endswith(_COUNTER)]
    if unused:
        notes.append(f"Not used of {path.name}: {', '.join(unused[:4])}{' ...' if len(unused) > 4 else ''}.")
    network.load_state_dict(own | {name: given[source] for name, source in taken.items()})
    return tuple(notes)


def _by_order(own: Mapping[str, Any], given: Mapping[str, Any], path: pathlib.Path) -> dict[str, str]:
    """Return a map from names of the network to names of the file, if shapes and roles (weight, bias) match in order.

    The file may have only a classifier, a weight and a bias, in addition to the network's tensors.
    """
    mine, theirs = ([name for name in tensors if not name.endswith(_COUNTER)] for tensors in (own, given))
    signatures = [
        [(name.rpartition(".")[2], tuple(tensors[name].shape)) for name in names[: len(mine)]]
        for names, tensors in ((mine, own), (theirs, given))
    ]
    agrees = signatures[0] == signatures[1] and len(theirs) - len(mine) <= 2
    rule = "be those of the network, by name or in order: it is of another network"
    check(agrees, f"{path.name}: tensors", f"{len(theirs)} for {len(mine)}", rule)
    return dict(zip(mine, theirs, strict=False))


def _read(path: pathlib.Path) -> dict[str, Any]:
    """Return the tensors of a file by name; arbitrary pickles are never loaded."""
    torch = load_package("torch")
    try:
        with quiet("timm"):
            state: dict[str, Any] = load_package("timm").models.load_state_dict(str(path), weights_only=True)
    except Exception as error:  # of whatever kind: zip, pickle, safetensors
        raise InputError(
            f"weights={str(path)!r} must be a file of tensors alone: {one_line(error)}"
        ) from None
    odd = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    check(not odd, f"{path.name}: entries that are no tensors", odd[:3], "be none")
    return state
