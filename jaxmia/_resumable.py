"""Work that a call continues after a kill: a folder locked by one process, its key, and blocks of arrays.

Runs, sweeps, audits and extractions open their folders in the same order: inspect the folder, lock it, inspect it
again. A folder with other content is refused unchanged. Audits and extractions keep results in blocks under a key,
which identifies everything that the blocks depend on; runs and sweeps have a manifest instead.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from jaxmia._atomic import LOCK, copy_of, held_folder, read_json_or_copy, write_arrays, write_json_and_copy
from jaxmia._npz import read_npz
from jaxmia._validate import InputError

T = TypeVar("T")
_KEY = "key.json"


@contextlib.contextmanager
def resumed_folder(path: pathlib.Path, look: Callable[[], T], name: str) -> Iterator[T]:
    """Create or open a folder, locked against other processes, and yield what `look` finds in it.

    Args:
        path: the folder.
        look: inspects the folder, and raises InputError if it holds something else. It is called before locking, and
            again with the lock, since another process may have written in between.
        name: name of the folder in messages.

    Raises:
        InputError: as look, or if the folder is in use or cannot be written.
    """
    look()
    with held_folder(path, name):
        yield look()


@contextlib.contextmanager
def keyed_folder(
    path: pathlib.Path, key: Mapping[str, Any], *, inside: str = ".", name: str, content: str, other: str
) -> Iterator[None]:
    """Create a folder for the blocks of one key, or open it with its blocks, locked against other processes.

    Args:
        path: the folder.
        key: everything that the blocks depend on, JSON-ready.
        inside: the sub-folder of key and blocks; files outside it belong to later steps, which need a key.
        name: name of the folder in messages.
        content: expected content in words, such as "an audit".
        other: message for another key; "{differs}" stands for the first entry that differs.

    Raises:
        InputError: if it is a file, holds other files or another key, is in use, or cannot be written.
    """
    folder = path / inside

    def look() -> Any:
        if path.exists() and not path.is_dir():
            raise InputError(f"{name} must be a folder, but it is a file.")
        known = read_json_or_copy(folder / _KEY)
        if known is not None:
            return _check_key(known, key, f"{name} holds {other}")
        own = {path / LOCK, folder, folder / _KEY, copy_of(folder / _KEY)}
        if any(entry not in own for place in (path, folder) if place.is_dir() for entry in place.iterdir()):
            damaged = f", and its {_KEY} is empty or damaged" if (folder / _KEY).exists() else ""
            raise InputError(f"{name} must be empty or hold {content}; it has other files{damaged}.")
        return None

    with resumed_folder(path, look, name) as known:
        if known is None:
            folder.mkdir(exist_ok=True)
            write_json_and_copy(folder / _KEY, key)
        yield


def _check_key(known: Mapping[str, Any], key: Mapping[str, Any], other: str) -> Mapping[str, Any]:
    """Return the key of a folder, if it equals the wanted key."""
    wanted = json.loads(json.dumps(key))
    if known != wanted:
        differs = next(entry for entry in (*wanted, *known) if known.get(entry) != wanted.get(entry))
        raise InputError(other.format(differs=differs))
    return known


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Arrays with one row per item, in files with `size` items each, such as "models-0-32.npz".

    Attributes:
        folder: folder of the files.
        items: name of the items, the first word of file names.
        total: number of items.
        size: number of items in a block; the last block may have fewer.
        names: names of the arrays.
    """

    folder: pathlib.Path
    items: str
    total: int
    size: int
    names: tuple[str, ...]

    def missing(self) -> list[tuple[int, int]]:
        """Return the blocks [first, end) that are not on disk, or lack one of the arrays."""
        return [block for block in self._blocks() if not self._has(block)]

    def save(self, block: tuple[int, int], arrays: Mapping[str, np.ndarray]) -> None:
        """Write a block atomically."""
        write_arrays(self._file(block), {name: np.asarray(arrays[name]) for name in self.names})

    def load(self) -> dict[str, np.ndarray]:
        """Return the arrays of all items, which must all be on disk."""
        parts = [
            read_npz(self._file(block), name=self.items, required=self.names) for block in self._blocks()
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.names}

    def _blocks(self) -> list[tuple[int, int]]:
        return [(first, min(first + self.size, self.total)) for first in range(0, self.total, self.size)]

    def _has(self, block: tuple[int, int]) -> bool:
        try:
            with self._file(block).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return set(self.names) <= set(arrays.files)
        except (FileNotFoundError, EOFError, ValueError, zipfile.BadZipFile):  # missing or damaged
            return False
        except OSError:  # it may be intact and is not overwritten; load reports why it cannot be read
            return True

    def _file(self, block: tuple[int, int]) -> pathlib.Path:
        return self.folder / f"{self.items}-{block[0]}-{block[1]}.npz"
