"""Read the tables and JSON files of runs and sweeps."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from jaxmia._validate import InputError
from jaxmia.laws.law import DEFAULT_RECIPE, UNITS_OF

_ORDER = ("dataset", "recipe", "classes", "shots", "seed", "epsilon")  # sort order of rows from several files


def load_results(folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> pd.DataFrame:
    """Return the results of one or several runs or sweeps, joined; for unfinished ones, the rows of finished cells.

    Rows that are equal in several folders are returned once.

    Args:
        folders: one folder, or several.

    Raises:
        InputError: if a folder has no results, or they cannot be read.
    """
    if isinstance(folders, (str, os.PathLike)):
        return load_table(folders, "results")
    if not folders:
        raise InputError("folders=[] must name at least one folder of a run or a sweep.")
    tables = [load_table(folder, "results") for folder in folders]
    return with_units(pd.concat(tables, ignore_index=True)).drop_duplicates(ignore_index=True)


def with_units(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows of several runs, with UNITS_OF in those from runs without them, if any run has them."""
    missing = {name: rows[name].fillna(value) for name, value in UNITS_OF.items() if name in rows}
    return rows.assign(**missing) if missing else rows


def of_unit(rows: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Return the rows on records, or those on persons, which runs by record have none of."""
    if "unit" not in rows:
        return rows if unit == "record" else rows.iloc[:0]
    return rows[rows["unit"] == unit].reset_index(drop=True)


def load_table(folder: str | os.PathLike[str], name: str) -> pd.DataFrame:
    """Return one of TABLES of a run or a sweep; for an unfinished one, the rows of finished cells.

    Raises:
        InputError: if it does not exist or cannot be read.
    """
    tables = []
    for path in _table_paths(folder, name):
        with _readable(path):
            tables.append(pq.read_table(path, partitioning=None))
    table: pd.DataFrame = pa.concat_tables(tables, promote_options="permissive").to_pandas()
    if "recipe" not in table:  # runs older than sweeps have no recipe column
        table.insert(1, "recipe", DEFAULT_RECIPE)
    order = [column for column in _ORDER if column in table]
    return table.sort_values(order, kind="stable", ignore_index=True) if len(tables) > 1 else table


def read_tables(folder: str | os.PathLike[str], name: str, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Yield some columns of one of TABLES file by file, as the records of a large sweep need.

    Raises:
        InputError: as load_table.
    """
    for path in _table_paths(folder, name):
        with _readable(path):
            has = set(pq.read_schema(path).names)  # runs older than sweeps have no recipe column
            table = pq.read_table(path, columns=[each for each in columns if each in has], partitioning=None)
        frame = table.to_pandas()
        yield frame if "recipe" in frame else frame.assign(recipe=DEFAULT_RECIPE)


def has_table(folder: str | os.PathLike[str], name: str) -> bool:
    """Whether a run or a sweep has a table, of any of its cells."""
    return bool(_places(pathlib.Path(folder), name))


def _places(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
    if (folder / f"{name}.parquet").is_file():
        return [folder / f"{name}.parquet"]
    # A sweep, or an unfinished run.
    return sorted([*folder.glob(f"{name}/*.parquet"), *folder.glob(f"checkpoints/*/{name}.parquet")])


def _table_paths(folder: str | os.PathLike[str], name: str) -> list[pathlib.Path]:
    folder = pathlib.Path(folder)
    paths = _places(folder, name)
    if not paths:
        raise InputError(
            f"folder={str(folder)!r} must be a run folder with {name}.parquet or a sweep's with {name}/;"
            " there is none, or no cell is done yet."
        )
    return paths


@contextlib.contextmanager
def _readable(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise InputError(f"{path} must be a readable Parquet file: {error}.") from None


def load_json(folder: str | os.PathLike[str], name: str) -> Any:
    """Return the content of a JSON file of a run folder.

    Raises:
        InputError: if it does not exist or cannot be read.
    """
    path = pathlib.Path(folder) / name
    if not path.is_file():
        raise InputError(f"folder={str(folder)!r} must be a run folder with {name}; there is none.")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path} must be a file that can be read: {error.strerror}.") from None
    except ValueError as error:
        raise InputError(f"{path} must be valid JSON: {error}.") from None
