"""Items as inputs of a transformer: token ids or pixels, with labels, ids, membership and persons."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import rich.console
from jaxtyping import Shaped

from jaxmia._hashes import content_key, file_hash
from jaxmia._npz import read_npz
from jaxmia._terminal import quiet
from jaxmia._validate import InputError, check, check_choice
from jaxmia.data.backbone import Backbone
from jaxmia.data.feature_set import raw_set
from jaxmia.extract import timm_backbone
from jaxmia.extract.backbones import BackboneSpec, ImageOptions, check_modality, parse_backbone
from jaxmia.extract.packages import load_package, one_line
from jaxmia.extract.published import published_bert, published_vit
from jaxmia.extract.rows import Columns, Source
from jaxmia.extract.screening import Screened
from jaxmia.extract.sources import open_source
from jaxmia.extract.usable import labels_of, list_problems, notes_of, usable_items
from jaxmia.training.adapters.inputs import check_tokens

_OF_TEXTS = ("sentence-transformers", "transformers")
_KEPT = ("ids", "member", "person")  # arrays that a file of token ids may have beside labels


@dataclasses.dataclass(frozen=True, eq=False)
class Labelled:
    """Items that a transformer can be given.

    Attributes:
        backbone: the whole transformer.
        count: number of items.
        shape: shape of an item: (tokens,), or (height, width, channels).
        rows: function from (first, end) to their token ids, or to their pixels in float16.
        arrays: labels, class_names, and ids, member and person if known.
        provenance: everything that the rows depend on.
        skipped: number of items that could not be used.
        errors: CSV of their ids and reasons; None if there are none.
        notes: notes for readers of the results.
    """

    backbone: Backbone
    count: int
    shape: tuple[int, ...]
    rows: Callable[[int, int], Shaped[np.ndarray, "items ..."]]
    arrays: Mapping[str, np.ndarray]
    provenance: Mapping[str, Any]
    skipped: int = 0
    errors: pathlib.Path | None = None
    notes: tuple[str, ...] = ()


def labelled_items(
    source: str | os.PathLike[str],
    backbone: str,
    out: pathlib.Path,
    *,
    tokens: int | None,
    weights: str | os.PathLike[str] | None,
    columns: Columns,
    split: str | None,
    subset: str | None,
    person_folders: bool,
    images: ImageOptions,
    on_error: str,
    console: rich.console.Console | None,
) -> Labelled:
    """Return the items of a source for a network; arguments as of extract_activations.

    Raises:
        InputError: for a bad source or network, or items that do not fit the network.
    """
    kind, _, name = backbone.partition(":")
    if pathlib.Path(source).suffix.lower() == ".npz":
        check_choice("backbone: kind", kind, _OF_TEXTS)
        rule = "be left out: the file holds token ids"
        check(weights is None and images == ImageOptions(), "weights and preprocessing", backbone, rule)
        return _of_token_ids(pathlib.Path(source), _text_network(kind, _folder(kind, name)), tokens)
    check_choice("backbone: kind", kind, (*_OF_TEXTS, "timm"))
    file = None if weights is None else pathlib.Path(weights)
    spec = parse_backbone(backbone, weights=file, images=images)
    rows = open_source(os.fspath(source), columns, split=split, subset=subset, person_folders=person_folders)
    check_modality(kind, rows.modality)
    if kind in _OF_TEXTS:
        check(
            rows.modality == "text", "source", os.fspath(source), f"hold texts for {kind}: images need timm"
        )
    screened = usable_items(rows, console)
    errors = list_problems(out, rows, screened, on_error)
    found = (_of_texts if kind in _OF_TEXTS else _of_images)(spec, rows, screened, tokens)
    names, labels = labels_of(rows, screened)
    used = [rows.rows[place] for place in screened.usable]
    arrays = {"labels": labels, "class_names": np.array(names), "ids": np.array([row.id for row in used])}
    if "member" in rows.columns:
        arrays["member"] = np.array([row.member for row in used], bool)
    if "person" in rows.columns:
        arrays["person"] = np.array([row.person for row in used])
    return dataclasses.replace(
        found,
        arrays=arrays,
        provenance={"source": rows.name, "sha256": screened.content_hash, **found.provenance},
        skipped=len(screened.problems),
        errors=errors,
        notes=tuple(notes_of(rows, screened, found.notes)),
    )


def _folder(kind: str, name: str) -> pathlib.Path:
    """Return the folder of a network's files, from a hub if the name is no folder."""
    if pathlib.Path(name).is_dir():
        return pathlib.Path(name)
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    check(not looks_local, "backbone", f"{kind}:{name}", "name an existing folder")
    try:
        with quiet("huggingface_hub", "httpx"):
            hub = load_package("huggingface_hub")
            return pathlib.Path(
                hub.snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt"])
            )
    except InputError:
        raise
    except Exception as error:  # of whatever kind: network, names, files
        raise InputError(
            f"{kind}:{name} must be a folder, or a name to download: {one_line(error)}"
        ) from None


def _text_network(kind: str, folder: pathlib.Path) -> Backbone:
    return published_bert(folder, sentence=kind == "sentence-transformers")


def _of_token_ids(path: pathlib.Path, network: Backbone, tokens: int | None) -> Labelled:
    """Return the texts of a file that holds their token ids under `raw`."""
    required = ("raw", "labels")
    held = read_npz(path, name="source", required=required, optional=("class_names", *_KEPT))
    names = held["class_names"].tolist() if "class_names" in held else None
    try:
        data = raw_set(held["raw"], held["labels"], names, person=held.get("person"))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    check(
        len(data.input_shape) == 1, f"{path}: raw.shape", held["raw"].shape, "be [items, tokens]: token ids"
    )
    pad = getattr(network.shape, "pad", 0)
    ids = _without_padding(held["raw"].astype(np.int32), pad, tokens)
    arrays = {"labels": data.labels, "class_names": np.array(data.class_names)}
    arrays |= {name: held[name] for name in _KEPT if name in held}
    arrays.setdefault("ids", np.arange(len(ids)).astype(str))
    made = _of_ids(network, ids, {"tokens": ids.shape[1]})
    provenance = {"source": path.name, "sha256": file_hash(path), **made.provenance}
    said: tuple[str, ...] = ()
    if len(np.unique(ids[:, 0])) > 1:  # every tokenizer of these networks begins with [CLS] or <s>
        said = (
            f"{path.name}: texts begin with different tokens: are special tokens, as [CLS] and [SEP], missing?",
        )
    return dataclasses.replace(made, arrays=arrays, provenance=provenance, notes=said)


def _without_padding(ids: np.ndarray, pad: int, tokens: int | None) -> np.ndarray:
    """Return token ids without columns that are padding for all, cut to a number of tokens.

    Raises:
        InputError: for a text without tokens, or padding before a token, which no tokenizer writes.
    """
    seen = ids != pad
    lengths = seen.sum(axis=1)
    empty = int(np.count_nonzero(lengths == 0))
    check(empty == 0, f"texts without a token (padding is {pad})", empty, "be 0")
    odd = int(np.count_nonzero(seen != (np.arange(ids.shape[1]) < lengths[:, None])))
    check(odd == 0, f"tokens after padding ({pad})", odd, "be 0: the ids are of another network's tokenizer")
    return ids[:, : min(int(lengths.max()), tokens or ids.shape[1])]


def _of_ids(network: Backbone, ids: np.ndarray, provenance: Mapping[str, Any]) -> Labelled:
    """Return texts of these token ids, checked against the network."""
    check_tokens(ids.shape[1:], int(ids.max()), network)
    return Labelled(network, len(ids), ids.shape[1:], lambda first, end: ids[first:end], {}, dict(provenance))


def _of_texts(spec: BackboneSpec, rows: Source, screened: Screened, tokens: int | None) -> Labelled:
    """Return texts as the network's own tokenizer cuts them."""
    folder = _folder(spec.kind, spec.name)
    network = _text_network(spec.kind, folder)
    package = load_package("transformers")
    try:
        with quiet("transformers", "huggingface_hub", "httpx"):
            tokenizer = package.AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # of whatever kind: files, versions
        raise InputError(f"{spec.kind}:{spec.name} must have a tokenizer: {one_line(error)}") from None
    shape: Any = network.shape
    check(
        tokenizer.pad_token_id == shape.pad, "tokenizer: padding", tokenizer.pad_token_id, f"be {shape.pad}"
    )
    places = len(network.weights["embeddings.position_embeddings.weight"]) - shape.offset
    limit = min(tokens or places, int(tokenizer.model_max_length), places)
    texts: Sequence[str] = [rows.content(place) for place in screened.usable]
    coded = tokenizer(list(texts), padding=True, truncation=True, max_length=limit, return_tensors="np")
    ids = np.where(coded["attention_mask"] > 0, coded["input_ids"], shape.pad).astype(np.int32)
    facts = {"max_length": limit, "vocabulary_sha256": content_key(tokenizer.get_vocab())}
    return _of_ids(network, _without_padding(ids, shape.pad, None), facts)


def _of_images(spec: BackboneSpec, rows: Source, screened: Screened, tokens: int | None) -> Labelled:
    """Return images as timm prepares them for the network."""
    check(tokens is None, "tokens", tokens, "be left out: an image's tokens are its patches")
    loaded = timm_backbone.load(spec, rows.modality)
    network = published_vit(timm_backbone.network_of(spec)[0], spec.label)
    side: Any = network.shape
    channels = network.weights["patch_embed.proj.weight"].shape[1]

    def some(first: int, end: int) -> np.ndarray:
        def one(place: int) -> np.ndarray:
            return np.asarray(loaded.prepare(rows.content(place)), np.float16).transpose(1, 2, 0)

        with ThreadPoolExecutor() as pool:
            return np.stack(list(pool.map(one, screened.usable[first:end])))

    shape = (side.size, side.size, channels)
    found = some(0, 1).shape[1:]
    check(found == shape, "image_size", found, f"be {shape}, which this network is built for")
    provenance = {"preprocessing": loaded.preprocessing}
    return Labelled(network, len(screened.usable), shape, some, {}, provenance, notes=loaded.notes)
