"""Writing files whole or not at all, and asking before the work whether they can be written."""

from __future__ import annotations

import contextlib
import os
import pathlib
import platform
import secrets
from collections.abc import Iterator

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
