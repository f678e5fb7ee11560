"""Sources of images and texts: a folder of images, a table, or a data set of Hugging Face."""

from __future__ import annotations

import os
import pathlib

from jaxmia._text import printable
from jaxmia._validate import InputError, check
from jaxmia.extract.datasets import is_saved, open_dataset
from jaxmia.extract.rows import Columns, Row, Source
from jaxmia.extract.tables import open_table

DATASETS = "datasets:"
_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}


def open_source(
    source: str,
    columns: Columns,
    *,
    split: str | None = None,
    subset: str | None = None,
    whole_rows: bool = False,
    person_folders: bool = False,
) -> Source:
    """Return the rows of a source; contents are read later.

    Args:
        source: a folder with a sub-folder of images per class; a .csv, .parquet or .jsonl of texts; a data set that
            Hugging Face's `datasets` saved; or "datasets:" and what its load_dataset takes, a name or a folder.
        columns: names of the columns of a table or a data set.
        split: split of a data set; needed if it has several.
        subset: subset of a data set, if it has any.
        whole_rows: whether the content of a table's row is the whole row rather than a text.
        person_folders: of a folder of images, that the folders in those of classes are persons.

    Raises:
        InputError: if there is no such source, it cannot be read, has no rows, or lacks a column.
    """
    place = source.removeprefix(DATASETS)
    path = pathlib.Path(place)
    rule = "be a .csv, .parquet or .jsonl for a tabular backbone"
    check(not whole_rows or not (source.startswith(DATASETS) or path.is_dir()), "source", source, rule)
    images = path.is_dir() and not source.startswith(DATASETS) and not is_saved(path)
    rule = (
        "be left out: only of a folder of images can folders be persons (a column may say it: person_column)"
    )
    check(images or not person_folders, "person_folders", person_folders, rule)
    if source.startswith(DATASETS) or is_saved(path):
        found = open_dataset(place, columns, split=split, subset=subset)
    else:
        for name, value in (("split", split), ("subset", subset)):
            check(value is None, name, value, f"be left out: {path.name} is no data set of Hugging Face")
        if not path.exists():
            raise InputError(f"source={source!r} must be an existing folder or file; there is none.")
        if path.is_dir():
            asked = [name for name in (columns.id, columns.member, columns.person) if name is not None]
            check(
                not asked,
                "columns",
                asked,
                f"be left out: a folder of images has none (datasets:{place} reads them)",
            )
            found = _open_folder(path, person_folders)
        else:
            found = open_table(path, columns, "table" if whole_rows else "text")
    if not found.rows:
        raise InputError(f"source={source!r} must hold at least one row; it has none.")
    return found


def _open_folder(path: pathlib.Path, person_folders: bool) -> Source:
    """Every file below a sub-folder is an image of that class; hidden files are none.

    With person_folders, folders in that of a class are persons: those of one name in two classes are the same person.
    """
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
    found = [(folder.name, *entry) for folder in classes for entry in _files(folder)]
    files = [file for _, file, _ in found]
    rows = tuple(
        _row(file.relative_to(path), label, problem, person_folders) for label, file, problem in found
    )
    outside = len(entries) - len(classes)
    notes = (f"Ignored, outside the folders of the classes: {outside} files.",) if outside else ()
    columns = {"person": "folders in those of classes"} if person_folders else {}
    return Source(
        path.resolve().name, "image", rows, lambda place: files[place].read_bytes(), columns, notes=notes
    )


def _row(file: pathlib.Path, label: str, problem: str, person_folders: bool) -> Row:
    """The row of a file, by its place in the folder of classes."""
    person = printable(file.parts[1]) if person_folders and len(file.parts) > 2 else None
    if person_folders and person is None and not problem:
        problem = "not in a person's folder"
    return Row(printable(file.as_posix()), printable(label), problem=problem, person=person)


def _files(folder: pathlib.Path) -> list[tuple[pathlib.Path, str]]:
    """Return every file below a folder except hidden ones, and why it cannot be read, such as a broken link."""
    found = []
    for place, folders, names in os.walk(folder, onerror=_refuse):
        linked = [name for name in folders if (pathlib.Path(place) / name).is_symlink()]
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in (*names, *linked):
            file = pathlib.Path(place) / name
            if not name.startswith(".") and (problem := _problem(file)) is not None:
                found.append((file, problem))
    return sorted(found)


def _problem(file: pathlib.Path) -> str | None:
    """Return why an entry of a folder cannot be read; empty for a file, None if it is neither file nor link."""
    if file.is_file():
        return ""
    if file.is_dir():
        return "link to a folder"
    return "link to nothing" if file.is_symlink() else None


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename} must be a folder that can be read: {error.strerror}.") from None
