"""Where images and texts come from: a folder of images, a table, or a data set of Hugging Face."""

from __future__ import annotations

import pathlib

from jaxmia._validate import InputError, check
from jaxmia.extract.datasets import is_saved, open_dataset
from jaxmia.extract.rows import Columns, Row, Source
from jaxmia.extract.tables import open_table

DATASETS = "datasets:"
_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}


def open_source(
    source: str, columns: Columns, *, split: str | None = None, subset: str | None = None
) -> Source:
    """List the rows of a source; contents are read later.

    Args:
        source: a folder with a sub-folder of images per class; a .csv, .parquet or .jsonl of texts; a data set that
            Hugging Face's `datasets` saved; or "datasets:" and what its load_dataset takes, a name or a folder.
        columns: of a table or a data set.
        split: of a data set; needed if it has several.
        subset: of a data set, where it has some.

    Raises:
        InputError: if there is no such source, it cannot be read, has no rows, or lacks a column.
    """
    place = source.removeprefix(DATASETS)
    path = pathlib.Path(place)
    if source.startswith(DATASETS) or is_saved(path):
        found = open_dataset(place, columns, split=split, subset=subset)
    else:
        for name, value in (("split", split), ("subset", subset)):
            check(value is None, name, value, f"be left out: {path.name} is no data set of Hugging Face")
        if not path.exists():
            raise InputError(f"source={source!r} must be an existing folder or file; there is none.")
        if path.is_dir():
            asked = [name for name in (columns.id, columns.member) if name is not None]
            check(
                not asked,
                "columns",
                asked,
                f"be left out: a folder of images has none (datasets:{place} reads them)",
            )
            found = _open_folder(path)
        else:
            found = open_table(path, columns)
    if not found.rows:
        raise InputError(f"source={source!r} must hold at least one row; it has none.")
    return found


def _open_folder(path: pathlib.Path) -> Source:
    """Every file below a sub-folder is an image of that class; hidden files are none."""
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    classes = [entry for entry in entries if entry.is_dir()]
    if not classes:
        raise InputError(
            f"source={str(path)!r} must have a sub-folder of images for each class; it has none."
        )
    if {entry.name.lower() for entry in classes} <= _SPLITS:
        names = ", ".join(entry.name for entry in classes)
        raise InputError(
            f"source={str(path)!r} must have a sub-folder per class; {names} are splits: give one."
        )
    files = [(folder.name, file) for folder in classes for file in _files(folder)]
    rows = tuple(Row(file.relative_to(path).as_posix(), label) for label, file in files)
    outside = len(entries) - len(classes)
    notes = (f"Left alone, beside the folders of the classes: {outside} files.",) if outside else ()
    return Source(path.resolve().name, "image", rows, lambda place: files[place][1].read_bytes(), notes=notes)


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    found = (file for file in folder.rglob("*") if file.is_file())
    return sorted(
        file for file in found if not any(p.startswith(".") for p in file.relative_to(folder).parts)
    )
