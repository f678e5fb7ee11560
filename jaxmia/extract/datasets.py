"""Data sets of Hugging Face, by name, from a folder, or written by `save_to_disk`."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from jaxmia._validate import InputError, check_choice
from jaxmia.extract.packages import load_package, one_line
from jaxmia.extract.rows import Columns, Modality, Row, Source, row_of

_MARKS = ("dataset_dict.json", "state.json")


def is_saved(path: pathlib.Path) -> bool:
    """Return whether a folder holds a data set that `datasets` saved."""
    return any((path / mark).is_file() for mark in _MARKS)


def open_dataset(place: str, columns: Columns, *, split: str | None, subset: str | None) -> Source:
    """Return the rows of one split: images if it has the image column, else texts.

    Code that comes with a data set is never run.

    Raises:
        InputError: if it cannot be loaded, has several splits and none is named, or lacks a column.
    """
    data = _split_of(_load(place, subset), split)
    modality: Modality = "image" if columns.image in data.column_names else "text"
    roles = columns.roles(modality)
    column = roles[modality]
    for name in roles.values():
        check_choice("column", name, data.column_names)
    if modality == "image":
        image = load_package("datasets").Image(decode=False)
        try:
            data = data.cast_column(column, image)
        except Exception as error:  # its own kinds and Arrow's
            raise InputError(f"column={column!r} must hold images: {one_line(error)}.") from None
    names: tuple[str, ...] = tuple(getattr(data.features[columns.label], "names", ()))
    rows = tuple(
        _row(number, record, columns, names)
        for number, record in enumerate(
            data.select_columns([name for role, name in roles.items() if role != modality])
        )
    )
    contents = data.select_columns([column])

    def content(at: int) -> Any:
        value = contents[at][column]
        return _image_bytes(value) if modality == "image" and value is not None else value

    title = pathlib.Path(place).resolve().name if os.path.exists(place) else place
    return Source(title, modality, rows, content, roles, names)


def _load(place: str, subset: str | None) -> Any:
    package = load_package("datasets")
    try:
        if is_saved(pathlib.Path(place)):
            return package.load_from_disk(place)
        return package.load_dataset(place, name=subset)
    except Exception as error:  # of whatever kind: files, network, formats
        raise InputError(
            f"source='datasets:{place}' must be a data set that can be loaded: {one_line(error)}"
        ) from None


def _split_of(data: Any, split: str | None) -> Any:
    if not hasattr(data, "keys"):
        if split is not None:
            raise InputError(f"split={split!r} must be left out: the data set has none.")
        return data
    splits = list(data.keys())
    if split is None and len(splits) > 1:
        raise InputError(f"split must be one of {', '.join(splits)}: give --split.")
    split = splits[0] if split is None else split
    check_choice("split", split, splits)
    return data[split]


def _row(number: int, record: dict[str, Any], columns: Columns, names: tuple[str, ...]) -> Row:
    label = record[columns.label]
    if names and label is not None:  # splits without labels have -1
        record = record | {columns.label: names[label] if 0 <= label < len(names) else None}
    return row_of(number, record, columns)


def _image_bytes(value: dict[str, Any]) -> bytes:
    return value["bytes"] if value["bytes"] is not None else pathlib.Path(value["path"]).read_bytes()
