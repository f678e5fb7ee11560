"""Tables: CSV, Parquet, JSON lines. Values are not interpreted: "NA" is a text and "007" a label."""

from __future__ import annotations

import csv
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from jaxmia._npz import check_read_size
from jaxmia._text import encoding_of
from jaxmia._validate import InputError, check, check_choice
from jaxmia.extract.rows import Columns, Modality, Row, Source, row_of

SUFFIXES = (".csv", ".jsonl", ".parquet")

_Record = Mapping[str, Any] | str  # or the reason why there is none


def open_table(path: pathlib.Path, columns: Columns, modality: Modality = "text") -> Source:
    """Return the rows of a table.

    Args:
        path: .csv (UTF-8, with a line of names), .parquet, or .jsonl (one object a line).
        columns: names of the columns.
        modality: "text" for the column of texts, "table" for all columns.

    Raises:
        InputError: for another ending, a file that cannot be read, or a missing column.
    """
    suffix = path.suffix.lower()
    check(suffix in SUFFIXES, "source", path.name, f"be a folder, or end in one of {', '.join(SUFFIXES)}")
    rows: list[Row] = []
    contents: list[Any] = []
    whole = modality == "table"
    try:
        for number, record in enumerate(_READERS[suffix](path, columns, whole)):
            if isinstance(record, str):
                rows.append(Row(str(number), problem=record))
                contents.append(None)
            else:
                rows.append(row_of(number, record, columns))
                contents.append(record if whole else record[columns.text])
    except OSError as error:
        raise InputError(f"{path} must be a file that can be read: {error.strerror}.") from None
    return Source(path.name, modality, tuple(rows), contents.__getitem__, columns.roles(modality))


def _check_columns(path: pathlib.Path, columns: Columns, known: list[str], whole: bool) -> None:
    asked = columns.roles("table" if whole else "text").values()
    for name in asked:
        check_choice(f"{path.name}: column", name, known)
    for name in dict.fromkeys(known) if whole else asked:
        if known.count(name) > 1:
            raise InputError(
                f"{path.name}: column={name!r} must occur once, but {known.count(name)} columns have"
                " that name: rename one."
            )


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _read_csv(path: pathlib.Path, columns: Columns, whole: bool) -> Iterator[_Record]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with path.open("rb") as raw:
        encoding = encoding_of(raw.read(4))
    with path.open(encoding=encoding, errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            names = next(reader, [])
        except csv.Error as error:
            raise InputError(f"{path.name}: the line of column names must be CSV: {error}.") from None
        if len(names) == 1 and (other := next((mark for mark in ";\t|" if mark in names[0]), None)):
            raise InputError(
                f"{path.name} must have commas between its columns; it has {other!r}: save it with commas."
            )
        _check_columns(path, columns, names, whole)
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield f"malformed row ({error})"
                continue
            if not fields:
                continue
            if len(fields) != len(names):
                yield f"malformed row ({len(fields)} fields instead of {len(names)})"
            elif not all(map(_is_unicode, fields)):
                yield "malformed row (not UTF-8)"
            else:
                yield dict(zip(names, fields, strict=True))


def _read_jsonl(path: pathlib.Path, columns: Columns, whole: bool) -> Iterator[_Record]:
    known: dict[str, None] = {}
    asked = columns.roles("table" if whole else "text").values()
    with open(path, "rb") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_without_repeats)
            except UnicodeDecodeError:
                yield "malformed row (not UTF-8)"
                continue
            except RecursionError:
                yield "malformed row (nested too deeply)"
                continue
            except ValueError as error:
                yield f"malformed row ({str(error).partition(':')[0]})"
                continue
            if not isinstance(record, dict):
                yield "malformed row (no object)"
                continue
            known |= dict.fromkeys(record)
            yield {name: record.get(name) for name in asked} | (record if whole else {})
    if known:
        _check_columns(path, columns, list(known), whole)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key is given twice")
    return record


def _read_parquet(path: pathlib.Path, columns: Columns, whole: bool) -> Iterator[_Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, columns, file.schema_arrow.names, whole)
            groups = (file.metadata.row_group(place) for place in range(file.metadata.num_row_groups))
            check_read_size(path, sum(max(0, group.total_byte_size) for group in groups))
            asked = None if whole else list(columns.roles("text").values())
            for batch in file.iter_batches(columns=asked):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} must be a readable .parquet file: {str(error).partition(chr(10))[0]}."
        ) from None


_READERS = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
