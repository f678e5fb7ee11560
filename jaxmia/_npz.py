"""Read .npz archives from other sources: plain arrays only, with errors in one clear line."""

from __future__ import annotations

import contextlib
import contextvars
import math
import pathlib
import zipfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from jaxmia._text import parse_bytes, printable
from jaxmia._validate import InputError, listed

_LIMIT = contextvars.ContextVar("limit", default=16 * 2**30)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def set_read_limit(limit: str | int) -> None:
    """Set, in this context, the largest number of bytes read from one file; 16 GiB by default.

    Raises:
        InputError: for what parse_bytes refuses.
    """
    _LIMIT.set(parse_bytes(limit, "read limit"))


@contextlib.contextmanager
def read_limit(limit: str | int) -> Iterator[None]:
    """Limit the number of bytes read from one file within this context; 16 GiB by default.

    A file of a few kilobytes can unpack to arrays that fill any memory. The size is checked before unpacking.

    Args:
        limit: bytes, or "64GiB".

    Raises:
        InputError: for a limit that is no size.
    """
    before = _LIMIT.get()
    set_read_limit(limit)
    try:
        yield
    finally:
        _LIMIT.set(before)


def check_read_size(path: pathlib.Path, size: int) -> None:
    """Raise InputError if the size that a file declares, in bytes, is above the limit on reading."""
    if size > _LIMIT.get():
        raise InputError(
            f"{path} holds {size / 2**30:,.3g} GiB once unpacked, above the limit of {_LIMIT.get() / 2**30:.3g} GiB:"
            " if this is intended, give --read-limit SIZE (from Python, jm.read_limit)."
        )


def read_npz(
    path: pathlib.Path, *, name: str, required: Sequence[str], optional: Sequence[str] | None = ()
) -> dict[str, np.ndarray]:
    """Return the arrays of an archive under the required keys and those of the optional keys it has.

    Never loads pickled objects, or more bytes than read_limit allows.

    Args:
        path: the file.
        name: name of the file's role, for messages.
        required: keys it must have.
        optional: keys it may have; other keys are ignored. None reads all keys.

    Raises:
        InputError: for a missing, unknown or damaged file, a missing key, object arrays, or too many bytes.
    """
    try:
        if not path.is_file():
            what = "it is a folder" if path.is_dir() else "there is none"
            raise InputError(f"{name}={str(path)!r} must be an existing .npz file; {what}.")
        with path.open("rb") as file:
            _check_is_archive(path, file)
            with zipfile.ZipFile(file) as archive:
                return _arrays(path, archive, required, optional)
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(f"{path} must be a file that can be read: {error.strerror}.") from None
    except Exception as error:  # of any type: zip, zlib, NumPy's headers, the operating system
        raise InputError(
            f"{path} must be a complete .npz archive; it is truncated or damaged ({_line(error)})."
        ) from None


def check_archive(path: pathlib.Path) -> None:
    """Refuse other zip archives, such as skops', that unpack above read_limit or whose arrays declare wrong sizes.

    Raises:
        InputError: for such archives; files that are no archives are left to their reader.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_read_size(path, sum(info.file_size for info in archive.infolist()))
            for name in archive.namelist():
                if name.endswith(".npy"):
                    _checked_size(path, archive, name.removesuffix(".npy"))
    except InputError:
        raise
    except Exception:  # of any type, as in read_npz
        return


def _arrays(
    path: pathlib.Path, archive: zipfile.ZipFile, required: Sequence[str], optional: Sequence[str] | None
) -> dict[str, np.ndarray]:
    held = [entry.removesuffix(".npy") for entry in archive.namelist()]
    for key in required:
        if key not in held:
            raise InputError(
                f"{path} must hold the key {key!r}, got {listed(map(printable, held)) or 'no keys'}."
            )
    wanted = held if optional is None else (*required, *optional)
    keys = [key for key in dict.fromkeys(wanted) if key in held]
    check_read_size(path, sum(_checked_size(path, archive, key) for key in keys))
    return {key: _array(archive, key) for key in keys}


def _entry(archive: zipfile.ZipFile, key: str) -> str:
    return f"{key}.npy" if f"{key}.npy" in archive.namelist() else key


def _checked_size(path: pathlib.Path, archive: zipfile.ZipFile, key: str) -> int:
    """Return the bytes of an array by its header, which must declare plain numbers or text and no more than exists."""
    info = archive.getinfo(_entry(archive, key))
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise InputError(f"{path} must hold plain arrays; {key!r} has named fields.")
        shape, _, dtype = _HEADERS[version](file)
        rest = info.file_size - file.tell()
    if dtype.hasobject:
        raise InputError(
            f"{path} must hold plain arrays of numbers or text; {key!r} has pickled objects, which are never loaded:"
            f" save {key}.astype(str) or {key}.astype(float) in its place."
        )
    size = math.prod(shape) * dtype.itemsize
    if not 0 <= size <= rest:
        raise InputError(
            f"{path} must be a complete .npz archive; it is truncated or damaged ({key!r} is said to hold"
            f" {size:,} bytes, and has {rest:,})."
        )
    return size


def _array(archive: zipfile.ZipFile, key: str) -> np.ndarray:
    with archive.open(_entry(archive, key)) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _check_is_archive(path: pathlib.Path, file: BinaryIO) -> None:
    start = file.read(4096)
    file.seek(0)
    if start.startswith(b"\x93NUMPY"):
        raise InputError(f"{path} must be an .npz archive, got a single .npy array: save it with np.savez.")
    if not start.startswith(b"PK"):
        raise InputError(f"{path} must be an .npz archive as np.savez writes it; it {_what(start)}.")


def _what(start: bytes) -> str:
    """Return the type of a file, as far as its first bytes show."""
    if not start:
        return "is empty"
    if start.startswith(b"\x80"):
        return "looks like a pickle, which is never loaded"
    if start.startswith(b"PAR1"):
        return "is a Parquet file"
    text = start.decode("utf-8", "ignore")
    return (
        "is a text"
        if text and all(letter.isprintable() or letter.isspace() for letter in text)
        else "is another file"
    )


def _line(error: Exception) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 200 else f"{words[:200]}..."
