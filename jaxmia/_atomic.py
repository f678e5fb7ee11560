"""Files that are written whole or not at all, and whether they can be written, asked before the work."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import platform
import secrets
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import filelock
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from jaxmia._validate import InputError


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a file to write beside the place, which takes the place once it is complete and on disk.

    A machine that loses its power leaves the old file or the new one, never an empty one.
    """
    # Of this process alone: a worker that outlives its driver may still write the same bytes.
    temporary = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.tmp")
    try:
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, path)
        _to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _to_disk(path: pathlib.Path) -> None:
    if path.is_dir() and os.name == "nt":  # has no handles of folders
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # file systems without it, as some networks'
        pass
    finally:
        os.close(handle)


def check_writable(path: pathlib.Path, name: str = "out") -> None:
    """Ask, before the work, whether a file can be written at a place; nothing is left there.

    Raises:
        InputError: if the place is a folder, or lies in none that can be written.
    """
    try:
        folder = path.resolve().parent
        if path.is_dir() or not folder.is_dir():
            raise InputError(f"{name}={str(path)!r} must be a file in a folder that exists.")
        probe = folder / f".jaxmia-{secrets.token_hex(8)}.tmp"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"{name}={str(path)!r} must be a file that can be written: {error.strerror}."
        ) from None


LOCK = ".lock"


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yield a folder to fill, which takes its place once it is complete; if filling fails, nothing is left.

    Raises:
        InputError: if there is something at the place already, or it cannot be written.
    """
    path = pathlib.Path(path).resolve()
    _check_free(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with contextlib.ExitStack() as stack:
        stack.enter_context(held_folder(temporary, f"out={str(path)!r}"))
        _check_free(path)  # whoever held it may have filled the place
        try:
            _clear(temporary)
            yield temporary
            if os.name == "nt":  # where a folder with an open file cannot be moved
                stack.close()
            os.replace(temporary, path)
            (path / LOCK).unlink(missing_ok=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _check_free(path: pathlib.Path) -> None:
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"out={str(path)!r} must be a new or an empty folder; there is something already.")


def _clear(folder: pathlib.Path) -> None:
    """Remove what a killed process left in a held folder."""
    for entry in folder.iterdir():
        if entry.name == LOCK:
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz in one step."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def write_json(path: pathlib.Path, content: Any) -> None:
    """Write a JSON file in one step; NaN and infinity are refused."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: pathlib.Path) -> Any:
    """The content of a JSON file that can be computed again: None if it is damaged, or not there.

    Raises:
        InputError: if it cannot be read for another reason: it may be whole, and must not be written anew.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise InputError(f"{path} must be a file that can be read: {error.strerror}.") from None


def write_json_and_copy(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, and a hidden copy of it first: for what nothing else in a folder says."""
    for each in (copy_of(path), path):
        write_json(each, content)


def read_json_or_copy(path: pathlib.Path) -> dict[str, Any] | None:
    """What write_json_and_copy wrote; from the copy, which then takes its place, if it is damaged. None without both.

    Raises:
        InputError: as read_json.
    """
    content = read_json(path)
    if isinstance(content, dict):
        return content
    content = read_json(copy_of(path))
    if not isinstance(content, dict):
        return None
    write_json(path, content)
    return content


def copy_of(path: pathlib.Path) -> pathlib.Path:
    """Where the copy of write_json_and_copy is."""
    return path.with_name(f".{path.name}")


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a text file in one step.

    Raises:
        InputError: if it cannot be written.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"out={str(path)!r} must be a file that can be written: {error.strerror}.") from None


@contextlib.contextmanager
def held_folder(path: pathlib.Path, name: str) -> Iterator[None]:
    """Make a folder and hold it against other processes.

    Raises:
        InputError: under that name, if it is in use or cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(path / LOCK, timeout=0).acquire()
    except filelock.Timeout:
        raise InputError(f"{name} is in use by another process.") from None
    except OSError as error:
        raise InputError(f"{name} must be a folder that can be written: {error.strerror}.") from None
    with held:
        yield


def write_parquet(path: pathlib.Path, table: pd.DataFrame) -> None:
    """Write a table in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = pa.Table.from_pandas(table, preserve_index=False)
    for place, field in enumerate(columns.schema):
        if pa.types.is_null(field.type):  # no cell of it has a reason: of one type with the cells that have
            columns = columns.set_column(
                place, field.with_type(pa.string()), columns.column(place).cast(pa.string())
            )
    with replacing(path) as temporary:
        pq.write_table(columns, temporary)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that no room was left; libraries have their own kinds of it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(error) for words in ("No space left on device", "Disk quota exceeded")):
            return True
        error = error.__cause__ or error.__context__
    return False
