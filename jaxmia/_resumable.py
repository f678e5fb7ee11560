"""Work that a killed call continues: a folder that one process at a time holds, its key, and blocks of arrays in it.

Runs, sweeps, audits and extractions all open their folders in one order, so that a foreign folder is refused as it is:
look what is there, lock the folder, look again. Audits and extractions keep what they have computed in blocks under a
key, which names all that the blocks depend on; runs and sweeps have a manifest instead.
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
    """Make a folder or continue it, held against other processes, and yield what is found in it.

    Args:
        path: the folder.
        look: finds what is there, and raises InputError for a folder that holds something else. It is called before
            there is a lock, and again under the lock: another process may have written meanwhile.
        name: of the folder, in messages.

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
    """Make a folder for the blocks of one key, or continue with those that it holds, held against other processes.

    Args:
        path: the folder.
        key: all that the blocks depend on, JSON-ready.
        inside: the sub-folder of key and blocks; files beside it are of later steps, which need a key.
        name: of the folder, in messages.
        content: what it is to hold: "an audit".
        other: what it holds under another key, and what to do; "{differs}" stands for the first entry that differs.

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
    """The key that a folder has, if it is the one that is wanted."""
    wanted = json.loads(json.dumps(key))
    if known != wanted:
        differs = next(entry for entry in (*wanted, *known) if known.get(entry) != wanted.get(entry))
        raise InputError(other.format(differs=differs))
    return known


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Arrays with one row for each of many items, in files of so many items each: "models-0-32.npz".

    Attributes:
        folder: where the files are.
        items: what they are of, the first word of their names.
        total: number of items.
        size: items in a block; the last one may have fewer.
        names: of the arrays.
    """

    folder: pathlib.Path
    items: str
    total: int
    size: int
    names: tuple[str, ...]

    def missing(self) -> list[tuple[int, int]]:
        """The blocks [first, end) that are not on disk, or lack one of the arrays."""
        return [block for block in self._blocks() if not self._has(block)]

    def save(self, block: tuple[int, int], arrays: Mapping[str, np.ndarray]) -> None:
        """Write a block in one step."""
        write_arrays(self._file(block), {name: np.asarray(arrays[name]) for name in self.names})

    def load(self) -> dict[str, np.ndarray]:
        """The arrays of all items, which must all be on disk."""
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
        except (FileNotFoundError, EOFError, ValueError, zipfile.BadZipFile):  # not there, or damaged
            return False
        except OSError:  # it may be whole, and is not overwritten: load says why it cannot be read
            return True

    def _file(self, block: tuple[int, int]) -> pathlib.Path:
        return self.folder / f"{self.items}-{block[0]}-{block[1]}.npz"
