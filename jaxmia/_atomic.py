"""Atomic writes of files and folders, and checks before the work that they can be written."""

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
    """Yield a temporary file to write, which replaces the path once it is complete and on disk.

    After a power failure either the old or the new file exists, never an empty one.
    """
    # The name is unique to this process: a worker that outlives its driver may still write the same file.
    temporary = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.tmp")
    try:
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, path)
        _to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _to_disk(path: pathlib.Path) -> None:
    if path.is_dir() and os.name == "nt":  # Windows has no handles of folders
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems do not support it
        pass
    finally:
        os.close(handle)


def check_writable(path: pathlib.Path, name: str = "out") -> None:
    """Check, before the work, that a file can be written at a path; leaves no file behind.

    Raises:
        InputError: if the path is a folder, or its folder does not exist or cannot be written.
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
    """Yield a temporary folder to fill, which is moved to the path once it is complete; after an error nothing is left.

    Raises:
        InputError: if the path exists and is not empty, or cannot be written.
    """
    path = pathlib.Path(path).resolve()
    _check_free(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with contextlib.ExitStack() as stack:
        stack.enter_context(held_folder(temporary, f"out={str(path)!r}"))
        _check_free(path)  # another process may have filled it
        try:
            _clear(temporary)
            yield temporary
            if os.name == "nt":  # Windows cannot move a folder with an open file
                stack.close()
            os.replace(temporary, path)
            (path / LOCK).unlink(missing_ok=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _check_free(path: pathlib.Path) -> None:
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"out={str(path)!r} must be a new or an empty folder; there is something already.")


def _clear(folder: pathlib.Path) -> None:
    """Remove files that a killed process left in a locked folder."""
    for entry in folder.iterdir():
        if entry.name == LOCK:
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz atomically."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def write_json(path: pathlib.Path, content: Any) -> None:
    """Write a JSON file atomically; NaN and infinity are refused."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: pathlib.Path) -> Any:
    """Return the content of a JSON file that can be computed again; None if it is damaged or missing.

    Raises:
        InputError: if it cannot be read for another reason; it may be intact and must not be overwritten.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise InputError(f"{path} must be a file that can be read: {error.strerror}.") from None


def write_json_and_copy(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, after a hidden copy of it, for content that cannot be recovered from other files."""
    for each in (copy_of(path), path):
        write_json(each, content)


def read_json_or_copy(path: pathlib.Path) -> dict[str, Any] | None:
    """Return what write_json_and_copy wrote; a damaged file is restored from its copy. None if both are missing.

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
    """Return the path of the copy by write_json_and_copy."""
    return path.with_name(f".{path.name}")


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        InputError: if it cannot be written.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Write a file in one step.

    Raises:
        InputError: if it cannot be written.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise InputError(f"out={str(path)!r} must be a file that can be written: {error.strerror}.") from None


@contextlib.contextmanager
def held_folder(path: pathlib.Path, name: str) -> Iterator[None]:
    """Create a folder and lock it against other processes.

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
    """Write a table as Parquet atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = pa.Table.from_pandas(table, preserve_index=False)
    for place, field in enumerate(columns.schema):
        if pa.types.is_null(field.type):  # an all-null column gets the type that it has in other cells
            columns = columns.set_column(
                place, field.with_type(pa.string()), columns.column(place).cast(pa.string())
            )
    with replacing(path) as temporary:
        pq.write_table(columns, temporary)


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether an error or one of its causes means a full disk; libraries have their own errors for it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(error) for words in ("No space left on device", "Disk quota exceeded")):
            return True
        error = error.__cause__ or error.__context__
    return False
