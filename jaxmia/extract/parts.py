"""Features of an unfinished extraction, block by block beside the output, so that a killed one goes on."""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxmia._atomic import held_folder, write_arrays, write_json
from jaxmia._npz import read_npz
from jaxmia._validate import InputError

_KEY = "key.json"


class Parts:
    """Blocks of features in a folder, all of one key."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: pathlib.Path, key: Mapping[str, Any]) -> Iterator[Parts]:
        """Make the folder, or continue with the one that is there, held against other processes.

        Args:
            path: the folder.
            key: all that features depend on, ready for JSON.

        Raises:
            InputError: if it is of another key (naming the first entry that differs), in use, or cannot be written.
        """
        with held_folder(path, repr(str(path))):
            _check_key(path, key)
            yield cls(path)

    def has(self, first: int, end: int) -> bool:
        """Whether the features of items first .. end - 1 are there."""
        return self._file(first, end).is_file()

    def save(self, first: int, end: int, features: Float[np.ndarray, "items dim"]) -> None:
        """Write a block in one step."""
        write_arrays(self._file(first, end), {"features": features})

    def load(self, first: int, end: int) -> Float[np.ndarray, "items dim"]:
        """A block that was saved."""
        return read_npz(self._file(first, end), name="part", required=("features",))["features"]

    def remove(self) -> None:
        """Delete the folder: the output has all of it."""
        shutil.rmtree(self.path)

    def _file(self, first: int, end: int) -> pathlib.Path:
        return self.path / f"items-{first}-{end}.npz"


def _check_key(path: pathlib.Path, key: Mapping[str, Any]) -> None:
    """Write the key of a new folder; refuse one of another key."""
    file = path / _KEY
    if not file.is_file():
        if any(entry.name != ".lock" for entry in path.iterdir()):
            raise InputError(f"{str(path)!r} must be the parts of an extraction; it has other files.")
        write_json(file, key)
        return
    try:
        known = json.loads(file.read_text())
    except (OSError, ValueError):
        known = {}
    wanted = json.loads(json.dumps(key))
    if known != wanted:
        entry = next(name for name in (*wanted, *known) if known.get(name) != wanted.get(name))
        raise InputError(
            f"{str(path)!r} holds features of another extraction (its {entry} differs): remove it, or choose another"
            " --out."
        )
