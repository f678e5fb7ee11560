"""`jaxmia extract --activations K`: inputs of a transformer's block K, and the weights from there on, in a folder."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import rich.console

from jaxmia._atomic import check_writable, read_json, write_arrays, write_json
from jaxmia._buckets import in_float32
from jaxmia._hashes import file_hash
from jaxmia._progress import item_progress
from jaxmia._resumable import keyed_folder
from jaxmia._validate import InputError, check, check_at_least, check_choice
from jaxmia.data.activations import ACTIVATIONS, FACTS, FEATURES, FORMAT, WEIGHTS
from jaxmia.extract.backbones import ImageOptions
from jaxmia.extract.labelled import Labelled, labelled_items
from jaxmia.extract.packages import package_versions
from jaxmia.extract.rows import Columns
from jaxmia.training.adapters.inputs import AdapterInputs, above, frozen_rows, pooled_features

__all__ = ["ActivationsExtraction", "extract_activations"]

_BLOCK = 256  # examples whose activations are written at once
_DONE = "done.json"


@dataclasses.dataclass(frozen=True, eq=False)
class ActivationsExtraction:
    """The result of an extraction of activations.

    Attributes:
        path: the folder.
        examples: number of examples.
        tokens: number of tokens of each.
        bytes: size of the activations.
        computed: number of examples that this call computed; the others were already on disk.
        skipped: number of items that could not be used.
        errors: CSV of their ids and reasons; None if there are none.
        notes: notes for readers of the results.
    """

    path: pathlib.Path
    examples: int
    tokens: int
    bytes: int
    computed: int
    skipped: int
    errors: pathlib.Path | None
    notes: tuple[str, ...]

    def summary(self) -> list[str]:
        """Return counts and files as lines for a terminal."""
        lines = [
            f"{self.examples} items of {self.tokens} tokens, {_size(self.bytes)} of activations: {self.path}"
        ]
        if self.errors is not None:
            lines.append(f"What was skipped ({self.skipped}), and why: {self.errors}")
        return lines


@in_float32
def extract_activations(
    source: str | os.PathLike[str],
    backbone: str,
    out: str | os.PathLike[str],
    *,
    activations: int,
    tokens: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    columns: Columns | None = None,
    split: str | None = None,
    subset: str | None = None,
    person_folders: bool = False,
    images: ImageOptions | None = None,
    on_error: str = "stop",
    console: rich.console.Console | None = None,
) -> ActivationsExtraction:
    """Write the inputs of a transformer's block for every item, and the weights from this block on, into a folder.

    Adapters are trained on them (network = "film", "lora", "bias" or "blocks" in [train]). The folder has
    activations.npy (float16 [examples, tokens, 1 + dim]: of each token 1, or 0 for padding, and its activations; for
    K = 0 token ids or pixels), weights.npz, features.npz (the extractor's own features, as `jaxmia extract` writes
    them) and backbone.json (architecture, K, and hashes of the other files). Torch computes none of it; texts need the
    network's tokenizer, images timm. The size is printed before anything is written. A killed call continues when it is
    started again.

    Args:
        source: as in extract_features; or an .npz with `raw`, token ids [examples, tokens] padded by the network's
            padding.
        backbone: "sentence-transformers:FOLDER" or "transformers:FOLDER" of BERT, MiniLM, RoBERTa or MPNet, or
            "timm:NAME" of a vision transformer.
        out: the folder, new or of the same extraction.
        activations: K, the number of blocks that are computed now and stay frozen; 0 for none.
        tokens: longest text in tokens; longer ones are cut. By default what the network's files say.
        weights: as in extract_features.
        columns: as in extract_features.
        split: as in extract_features.
        subset: as in extract_features.
        person_folders: as in extract_features.
        images: as in extract_features.
        on_error: "stop" or "skip", if items cannot be used.
        console: console for progress, or None for no output.

    Raises:
        InputError: for bad arguments, source, network or output, or too little room on the disk, before anything is
            computed.
    """
    check_at_least("activations", activations, 0)
    check_choice("on_error", on_error, ("stop", "skip"))
    if tokens is not None:
        check_at_least("tokens", tokens, 1)
    out = pathlib.Path(out)
    check_writable(out.with_name(f".{out.name}.probe"))
    if out.exists() and not (out / FACTS).is_file():
        raise InputError(
            f"out={str(out)!r} must be a new folder: there is something that no extraction wrote."
        )
    items = labelled_items(
        source,
        backbone,
        out,
        tokens=tokens,
        weights=weights,
        columns=columns or Columns(),
        split=split,
        subset=subset,
        person_folders=person_folders,
        images=images or ImageOptions(),
        on_error=on_error,
        console=console,
    )
    whole = items.backbone
    most = whole.shape.layers - 1
    check(
        activations <= most, "activations", activations, f"be at most {most}: a block must be left to adapt"
    )
    return _Writing(items, out, activations, console).written()


@dataclasses.dataclass(frozen=True, eq=False)
class _Writing:
    """One extraction: items, and where their activations go."""

    items: Labelled
    out: pathlib.Path
    frozen: int
    console: rich.console.Console | None

    def written(self) -> ActivationsExtraction:
        """Write what is missing, and return the result."""
        identity = self.identity()
        folder = self.out.with_name(f"{self.out.name}.parts")
        if (self.out / FACTS).is_file():
            facts = cast(dict[str, Any], read_json(self.out / FACTS) or {})
            if facts.get("identity") != json.loads(json.dumps(identity)):
                raise InputError(
                    f"out={str(self.out)!r} holds another extraction: remove it, or choose another --out."
                )
            return self._result(0)
        self._say_size(folder)
        other = (
            "activations of another extraction (its {differs} differs): remove it, or choose another --out."
        )
        name, content = repr(str(folder)), "the parts of an extraction"
        with keyed_folder(folder, identity, name=name, content=content, other=other):
            computed = self._blocks(folder)
            self._finish(folder, identity)
            self.out.mkdir(exist_ok=True)
            for each in (ACTIVATIONS, WEIGHTS, FEATURES, FACTS):  # the last one makes it an extraction
                os.replace(folder / each, self.out / each)
            shutil.rmtree(folder)
        return self._result(computed)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of an example in the file."""
        if not self.frozen:
            return self.items.shape
        backbone = self.items.backbone
        return backbone.tokens(self.items.shape), 1 + backbone.width

    @property
    def dtype(self) -> str:
        """Return the dtype of the file: token ids are no floats."""
        return "int32" if not self.frozen and len(self.shape) == 1 else "float16"

    @property
    def bytes(self) -> int:
        """Return the size of the activations."""
        return self.items.count * math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def identity(self) -> dict[str, Any]:
        """Return everything that the folder depends on."""
        return {
            "format": FORMAT,
            "frozen": self.frozen,
            "backbone": self.items.backbone.content_hash,
            "inputs": self.items.provenance,
            "shape": list(self.shape),
            "versions": package_versions("jaxmia", "numpy", "jax"),
        }

    def _say_size(self, folder: pathlib.Path) -> None:
        held = sum(tensor.nbytes for tensor in above(self.items.backbone, self.frozen).weights.values())
        if self.console is not None:
            what = f"inputs of block {self.frozen}" if self.frozen else "inputs of the network"
            self.console.print(
                f"{self.items.count} items of {' x '.join(map(str, self.shape))} {self.dtype}, {what}:"
                f" {_size(self.bytes)}, and {_size(held)} of weights, in {self.out}"
            )
        free, needed = shutil.disk_usage(folder.parent).free, self.bytes + held
        check(
            free > needed,
            f"free space for out={str(self.out)!r}",
            _size(free),
            f"be at least {_size(needed)}",
        )

    def _blocks(self, folder: pathlib.Path) -> int:
        """Write activations and features of the examples that a killed call did not; return their number."""
        count, dim = self.items.count, self.items.backbone.width
        todo = [(first, min(first + _BLOCK, count)) for first in range(0, count, _BLOCK)]
        rows = _mapped(folder / ACTIVATIONS, (count, *self.shape), self.dtype)
        features = _mapped(folder / "features.npy", (count, dim), "float32")
        done = int((read_json(folder / _DONE) or {}).get("blocks", 0))
        computed = 0
        with item_progress(self.console, "extracting", count - sum(b - a for a, b in todo[:done])) as advance:
            for number, (first, end) in enumerate(todo[done:], start=done):
                some = self.items.rows(first, end)
                rows[first:end], features[first:end] = self._of(some)
                rows.flush()
                features.flush()
                write_json(folder / _DONE, {"blocks": number + 1})
                computed += end - first
                advance(end - first)
        return computed

    def _of(self, some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return activations and features of some items; those of the features have passed half precision too."""
        whole = self.items.backbone
        kept = frozen_rows(whole, some.astype(np.float32), self.frozen) if self.frozen else some
        backbone = above(whole, self.frozen)
        inputs = AdapterInputs(jnp.asarray(kept), jax.tree.map(jnp.asarray, dict(backbone.weights)), backbone)
        parts = [np.asarray(_pooled(inputs, at)) for at in range(0, len(some), 64)]
        return kept, np.concatenate(parts)

    def _finish(self, folder: pathlib.Path, identity: Mapping[str, Any]) -> None:
        """Write features, weights and facts."""
        features = np.load(folder / "features.npy")
        bad = int(np.count_nonzero(~np.isfinite(features).all(axis=1)))
        check(
            bad == 0,
            "items whose features are not finite",
            bad,
            "be 0: activations may exceed float16's range",
        )
        backbone = above(self.items.backbone, self.frozen)
        provenance = np.array(json.dumps(identity))
        write_arrays(folder / FEATURES, {"features": features, **self.items.arrays, "provenance": provenance})
        write_arrays(folder / WEIGHTS, backbone.weights)
        hashes = {name: file_hash(folder / name) for name in (ACTIVATIONS, WEIGHTS, FEATURES)}
        facts = {"format": FORMAT, **backbone.facts(), "sha256": hashes, "identity": dict(identity)}
        write_json(folder / FACTS, facts | {"notes": list(self.items.notes)})

    def _result(self, computed: int) -> ActivationsExtraction:
        backbone = self.items.backbone
        return ActivationsExtraction(
            self.out,
            self.items.count,
            backbone.tokens(self.items.shape),
            self.bytes,
            computed,
            self.items.skipped,
            self.items.errors,
            self.items.notes,
        )


def _pooled(inputs: AdapterInputs, first: int) -> np.ndarray:
    """Return the features of up to 64 examples; the last ones are padded, so that one program serves all."""
    some = inputs.rows[first : first + 64]
    padded = jnp.pad(some, [(0, 64 - len(some))] + [(0, 0)] * (some.ndim - 1))
    return np.asarray(_features(inputs.of(padded)))[: len(some)]


@jax.jit
def _features(inputs: AdapterInputs) -> jax.Array:
    return pooled_features(inputs, {})


def _mapped(path: pathlib.Path, shape: tuple[int, ...], dtype: str) -> np.memmap[Any, Any]:
    """Open a file of an array to write into, as a killed call left it."""
    mode = "r+" if path.is_file() else "w+"
    return np.lib.format.open_memmap(path, mode=mode, dtype=np.dtype(dtype), shape=shape)


def _size(count: int) -> str:
    """Return a number of bytes in words."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count} bytes"
