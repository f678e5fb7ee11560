"""Frozen pretrained networks that turn images or texts into features, and the record of each."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxmia._hashes import file_hash
from jaxmia._validate import InputError, check, check_at_least, check_choice
from jaxmia.extract.packages import check_installed, load_package
from jaxmia.extract.rows import Modality

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt")
TABULAR = "tabular"
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
_MODULES = {
    "timm": "timm_backbone",
    "sentence-transformers": "sentence_backbone",
    "transformers": "transformers_backbone",
}
_PACKAGES = {
    "timm": ("torch", "timm", "torchvision", "PIL"),
    "sentence-transformers": ("torch", "sentence_transformers"),
    "transformers": ("torch", "transformers"),
    TABULAR: ("sklearn", "skops"),
}


@dataclasses.dataclass(frozen=True)
class ImageOptions:
    """Preprocessing that replaces a timm network's own configuration; None keeps the network's value.

    Attributes:
        size: height and width in pixels.
        mean: subtracted from pixels in 0 .. 1: one number, or one a channel.
        std: divisor after that.
        crop_pct: share of the resized image's side that the central crop keeps, above 0 and at most 1.
        interpolation: one of INTERPOLATIONS.
    """

    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_pct: float | None = None
    interpolation: str | None = None

    def check(self) -> None:
        """Raise InputError, naming the option, unless all values make sense."""
        if self.size is not None:
            check_at_least("image_size", self.size, 1)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None:
                check(len(values) in (1, 3), name, values, "be one number or three")
                check(bool(np.isfinite(values).all()), name, values, "be finite")
        check(self.std is None or min(self.std) > 0, "std", self.std, "be above 0")
        check(
            self.crop_pct is None or 0 < self.crop_pct <= 1, "crop_pct", self.crop_pct, "lie in 0 .. 1, not 0"
        )
        if self.interpolation is not None:
            check_choice("interpolation", self.interpolation, INTERPOLATIONS)


@dataclasses.dataclass(frozen=True)
class BackboneSpec:
    """The choice of network and weights.

    Attributes:
        kind: "timm", "sentence-transformers", "transformers" or "tabular".
        name: the library's name of the network, or a folder; for "tabular", a file of a fitted transformer or nothing.
        weights: a file of weights for a timm network.
        images: preprocessing for a timm network.
        device: torch's device: "cpu", "cuda", ...; "auto" is a GPU if there is one.
    """

    kind: str
    name: str
    weights: pathlib.Path | None = None
    images: ImageOptions = ImageOptions()
    device: str = "auto"

    @property
    def folder(self) -> pathlib.Path | None:
        """Return the folder, if the name is one."""
        return pathlib.Path(self.name) if pathlib.Path(self.name).is_dir() else None

    @property
    def label(self) -> str:
        """Return the name, without the path of a folder."""
        return self.name if self.folder is None else self.folder.resolve().name


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A loaded network.

    Attributes:
        facts: kind, name and hash of weights.
        preprocessing: preprocessing of items.
        packages: packages whose versions affect the features.
        prepare: function from a content (bytes of an image file, or a text) to an input of `features`; runs in threads.
        features: function from a batch of prepared items to features.
        notes: notes for readers of the results.
    """

    facts: dict[str, Any]
    preprocessing: dict[str, Any]
    packages: tuple[str, ...]
    prepare: Callable[[Any], Any]
    features: Callable[[Sequence[Any]], Float[np.ndarray, "items dim"]]
    notes: tuple[str, ...] = ()


def parse_numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    """Return numbers separated by commas, or None.

    Raises:
        InputError: for anything else; the message names the option.
    """
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"{name}={text!r} must be numbers with commas between them, as in 0.5,0.5,0.5."
        ) from None


def parse_backbone(
    backbone: str,
    *,
    weights: pathlib.Path | None = None,
    images: ImageOptions | None = None,
    device: str = "auto",
) -> BackboneSpec:
    """Return the checked choice of network, without importing packages.

    Args:
        backbone: KIND:NAME or KIND:FOLDER; "tabular", or "tabular:FILE" of a fitted transformer.
        weights: a .safetensors, .pth or .pt for a timm network.
        images: preprocessing for a timm network.
        device: as in BackboneSpec.

    Raises:
        InputError: for an unknown kind, no such file, options of timm with another kind, or packages that are not
            installed.
    """
    kind, colon, name = backbone.partition(":")
    images = images or ImageOptions()
    if kind == TABULAR:
        return _tabular_spec(backbone, name, weights, images)
    if not colon or not name:
        raise InputError(f"backbone={backbone!r} must be KIND:NAME or KIND:FOLDER, as in timm:resnet50.")
    check_choice("backbone: kind", kind, _PACKAGES)
    if kind != "timm":
        check(weights is None, "weights", str(weights), f"be left out: {kind} takes a folder")
        check(images == ImageOptions(), "backbone", backbone, "be of timm for sizes, mean, std and the like")
    images.check()
    if weights is not None:
        check(weights.is_file(), "weights", str(weights), "be an existing file")
        check(
            weights.suffix in WEIGHT_SUFFIXES, "weights", weights.name, f"end in {', '.join(WEIGHT_SUFFIXES)}"
        )
        check(not pathlib.Path(name).is_dir(), "weights", str(weights), "be left out: the folder has its own")
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    check(not looks_local or pathlib.Path(name).is_dir(), "backbone", backbone, "name an existing folder")
    check_installed(*_PACKAGES[kind])
    return BackboneSpec(kind, name, weights, images, device)


def _tabular_spec(
    backbone: str, name: str, weights: pathlib.Path | None, images: ImageOptions
) -> BackboneSpec:
    check(weights is None, "weights", str(weights), "be left out: tables need no network")
    check(images == ImageOptions(), "backbone", backbone, "be of timm for sizes, mean, std and the like")
    if name:
        rule = "name a .skops file that --save-transformer wrote"
        check(name.endswith(".skops") and pathlib.Path(name).is_file(), "backbone", backbone, rule)
    check_installed(*_PACKAGES[TABULAR])
    return BackboneSpec(TABULAR, name)


def load_backbone(spec: BackboneSpec, modality: Modality) -> Backbone:
    """Load the network.

    Raises:
        InputError: if it cannot be loaded, weights are missing or do not fit, or it is not for such items.
    """
    backbone: Backbone = importlib.import_module(f"jaxmia.extract.{_MODULES[spec.kind]}").load(spec, modality)
    return backbone


def check_modality(kind: str, modality: Modality) -> None:
    """Raise InputError unless backbones of this kind support such items."""
    if kind == TABULAR:  # whose source is opened as a table
        return
    for_images, for_texts = kind != "sentence-transformers", kind != "timm"
    fits = for_images if modality == "image" else for_texts
    check(fits, "backbone: kind", kind, f"be for {modality}s, which the source holds")


def torch_device(name: str) -> str:
    """Return the device of a name; "auto" is the GPU if there is one.

    Raises:
        InputError: if torch cannot compute on it.
    """
    torch = load_package("torch")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device={name!r} must be one that torch has here: {str(error).splitlines()[0]}"
        ) from None
    return name


def network_facts(spec: BackboneSpec, network: Any, device: str) -> dict[str, Any]:
    """Return the facts about a network, including the file of its weights, if given."""
    facts: dict[str, Any] = {
        "kind": spec.kind,
        "name": spec.label,
        "weights_sha256": _weights_hash(network),
        "device": device,
    }
    if spec.weights is not None:
        facts["weights_file"] = {"name": spec.weights.name, "sha256": file_hash(spec.weights)}
    return facts


def _weights_hash(network: Any) -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes of all tensors, which does not depend on the file."""
    torch = load_package("torch")
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
