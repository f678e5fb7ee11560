"""`jaxmia extract`: from images, texts or tables to a file of features."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
import rich.console
from jaxtyping import Float

from jaxmia._atomic import check_writable, write_arrays
from jaxmia._npz import read_npz
from jaxmia._resumable import keyed_folder
from jaxmia._validate import InputError, check, check_at_least, check_choice
from jaxmia.extract import tabular
from jaxmia.extract.backbones import (
    TABULAR,
    Backbone,
    BackboneSpec,
    ImageOptions,
    check_modality,
    load_backbone,
    parse_backbone,
    parse_numbers,
)
from jaxmia.extract.computing import compute
from jaxmia.extract.packages import package_versions
from jaxmia.extract.rows import Columns, Source
from jaxmia.extract.screening import Screened
from jaxmia.extract.sources import open_source
from jaxmia.extract.tabular import TabularOptions
from jaxmia.extract.usable import check_finite, labels_of, list_problems, notes_of, usable_items

__all__ = ["Columns", "Extraction", "ImageOptions", "TabularOptions", "extract_features", "parse_numbers"]

ON_ERROR = ("stop", "skip")
_FORMAT = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Extraction:
    """The result of an extraction.

    Attributes:
        path: the .npz.
        class_names: class names in label order.
        class_sizes: number of examples of each class.
        dim: dimension of the features.
        skipped: number of items that could not be used.
        errors: CSV of their ids and reasons; None if there are none.
        computed: number of items whose features this call computed; the others were already on disk.
        provenance: the record in the file.
    """

    path: pathlib.Path
    class_names: tuple[str, ...]
    class_sizes: tuple[int, ...]
    dim: int
    skipped: int
    errors: pathlib.Path | None
    computed: int
    provenance: dict[str, Any]

    def summary(self) -> list[str]:
        """Return counts and files as lines for a terminal."""
        sizes = [size for size in self.class_sizes if size]
        smallest = min(sizes)
        name = self.class_names[self.class_sizes.index(smallest)]
        lines = [
            f"{sum(sizes)} items, {len(sizes)} classes (smallest: {name}, {smallest}), dim {self.dim}, "
            f"{self.skipped} skipped: {self.path}"
        ]
        if self.errors is not None:
            lines.append(f"What was skipped, and why: {self.errors}")
        if not self.computed:
            lines.append("All features were already on disk: nothing to compute.")
        return lines


def extract_features(
    source: str | os.PathLike[str],
    backbone: str,
    out: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    columns: Columns | None = None,
    split: str | None = None,
    subset: str | None = None,
    person_folders: bool = False,
    images: ImageOptions | None = None,
    table: TabularOptions | None = None,
    batch_size: int = 64,
    device: str = "auto",
    dtype: str = "float32",
    on_error: str = "stop",
    console: rich.console.Console | None = None,
) -> Extraction:
    """Turn images or texts into features of a frozen pretrained network, or a table into numbers, and write an .npz.

    The file has `features` [examples, dim], `labels` int32[examples], `class_names`, `ids`, `member` (bool) and
    `person` (text) if columns say so, and `provenance`, JSON: network, hash of its weights, preprocessing, versions,
    source, counts. It has the names of items, never their contents. `load_features` reads it, and `jaxmia audit`
    takes ids and membership from it.

    Features are written block by block to OUT.parts. A killed call can be started again: it continues, and ends with
    the same bytes. Items that cannot be used are listed in OUT-errors.csv, before any network is loaded.

    Args:
        source: a folder with a sub-folder of images per class; a .csv, .parquet or .jsonl with texts and labels; or a
            data set of Hugging Face: a folder of `save_to_disk`, or "datasets:NAME_OR_FOLDER".
        backbone: "timm:NAME_OR_FOLDER", "sentence-transformers:NAME_OR_FOLDER" or "transformers:NAME_OR_FOLDER"; or
            "tabular" for tables without a network (jaxmia.extract.tabular), or "tabular:FILE.skops" to transform a
            table as another one was.
        out: the .npz; its folder must exist.
        weights: a .safetensors, .pth or .pt for a timm network; never an arbitrary pickle.
        columns: names of the columns of a table or data set.
        split: split of a data set.
        subset: subset of a data set.
        person_folders: whether the sub-folders of a class of images are persons: class/person/image.png.
        images: preprocessing for a timm network; by default the network's own.
        table: options of "tabular".
        batch_size: number of items per forward pass.
        device: torch device; "auto" is a GPU if there is one.
        dtype: dtype of the features in the file, "float32" or "float16".
        on_error: "stop" or "skip" when items cannot be used.
        console: console for progress, or None for no output.

    Raises:
        InputError: for bad arguments, source, network or output; computed blocks are kept.
    """
    _check_options(dtype, on_error, batch_size)
    out = pathlib.Path(out)
    written = _written(out)
    given = None if weights is None else pathlib.Path(weights)
    spec = parse_backbone(backbone, weights=given, images=images, device=device)
    table = _checked_table(spec, table or TabularOptions())
    chosen: dict[str, Any] = {"split": split, "subset": subset, "person_folders": person_folders}
    rows = open_source(os.fspath(source), columns or Columns(), whole_rows=spec.kind == TABULAR, **chosen)
    check_modality(spec.kind, rows.modality)
    screened = usable_items(rows, console)
    errors = list_problems(out, rows, screened, on_error)
    class_names, labels = labels_of(rows, screened)
    network = _loaded(spec, rows, screened, table)
    identity, folder = _identity(rows, screened, network, batch_size), out.with_name(f"{out.name}.parts")
    provenance = identity | {"dtype": dtype, "notes": notes_of(rows, screened, network.notes)}
    if written is None:
        with _parts(folder, identity):
            features, computed = compute(folder, rows, screened.usable, network, batch_size, console)
            _write(out, features, labels, class_names, provenance, rows, screened)
            shutil.rmtree(folder)
        dim = features.shape[1]
    else:
        dim, computed = _dim_of_written(out, written, provenance, folder, identity), 0
    sizes = tuple(np.bincount(labels, minlength=len(class_names)).tolist())
    return Extraction(out, class_names, sizes, dim, len(screened.problems), errors, computed, provenance)


def _check_options(dtype: str, on_error: str, batch_size: int) -> None:
    check_choice("dtype", dtype, ("float16", "float32"))
    check_choice("on_error", on_error, ON_ERROR)
    check_at_least("batch_size", batch_size, 1)


def _loaded(spec: BackboneSpec, rows: Source, screened: Screened, table: TabularOptions) -> Backbone:
    """Return the network, or what makes numbers of a table, fitted to its usable rows."""
    if spec.kind == TABULAR:
        return tabular.load(spec.name, rows, screened.usable, table)
    return load_backbone(spec, rows.modality)


def _dim_of_written(
    out: pathlib.Path,
    written: dict[str, Any],
    provenance: dict[str, Any],
    folder: pathlib.Path,
    identity: dict[str, Any],
) -> int:
    """Return the dimension of the features in a finished file, and remove what a killed process left beside it."""
    _check_same(out, written, provenance)
    if folder.is_dir():  # the process was killed between the last two steps
        with _parts(folder, identity):
            shutil.rmtree(folder)
    return int(read_npz(out, name="out", required=("features",))["features"].shape[1])


def _checked_table(spec: BackboneSpec, table: TabularOptions) -> TabularOptions:
    """Return the checked options of a table; refuses them for other backbones."""
    fitted = spec.kind == TABULAR and not spec.name
    rule = "be 'tabular' for fourier, seed, drop, categories and save_transformer"
    check(fitted or table == TabularOptions(), "backbone", f"{spec.kind}:{spec.name}", rule)
    table.check()
    return table


def _parts(folder: pathlib.Path, identity: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
    """Open the folder with the blocks of an unfinished extraction, locked against other processes."""
    other = "features of another extraction (its {differs} differs): remove it, or choose another --out."
    name, content = repr(str(folder)), "the parts of an extraction"
    return keyed_folder(folder, identity, name=name, content=content, other=other)


def _written(out: pathlib.Path) -> dict[str, Any] | None:
    """Return the provenance of an existing output."""
    check(out.suffix.lower() == ".npz", "out", str(out), "end in .npz")
    check_writable(out)
    if not out.exists():
        return None
    found = read_npz(out, name="out", required=(), optional=("provenance",))
    if "provenance" not in found:
        raise InputError(f"out={str(out)!r} must be a new file: there is one that no extraction wrote.")
    provenance: dict[str, Any] = json.loads(str(found["provenance"]))
    return provenance


def _check_same(out: pathlib.Path, written: dict[str, Any], provenance: dict[str, Any]) -> None:
    """Raise InputError unless the existing output is from this extraction."""
    if written != json.loads(json.dumps(provenance)):
        raise InputError(f"out={str(out)!r} holds another extraction: remove it, or choose another --out.")


def _write(
    out: pathlib.Path,
    features: Float[np.ndarray, "items dim"],
    labels: np.ndarray,
    class_names: tuple[str, ...],
    provenance: dict[str, Any],
    source: Source,
    screened: Screened,
) -> None:
    """Write the .npz, unless a feature is not finite in the file's data type."""
    dtype = provenance["dtype"]
    check_finite(features, dtype, source, screened)
    used = [source.rows[place] for place in screened.usable]
    arrays = {"features": features.astype(dtype), "labels": labels, "class_names": np.array(class_names)}
    arrays["ids"] = np.array([row.id for row in used])
    if "member" in source.columns:
        arrays["member"] = np.array([row.member for row in used], bool)
    if "person" in source.columns:
        arrays["person"] = np.array([row.person for row in used])
    write_arrays(out, arrays | {"provenance": np.array(json.dumps(provenance))})


def _identity(source: Source, screened: Screened, network: Backbone, batch_size: int) -> dict[str, Any]:
    """Return everything that features depend on, and their source."""
    return {
        "format": _FORMAT,
        "source": {
            "name": source.name,
            "modality": source.modality,
            "sha256": screened.content_hash,
            "columns": dict(source.columns),
            "items": len(source.rows),
            "used": len(screened.usable),
            "problems": screened.counts(),
        },
        "backbone": network.facts,
        "preprocessing": network.preprocessing,
        "batch_size": batch_size,
        "versions": package_versions("jaxmia", "numpy", *network.packages),
    }
