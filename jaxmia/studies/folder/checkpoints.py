"""Heads on disk: checkpoints of ranges of models, with hashes that detect damage.

A range is stored in models-FIRST-END, in orbax's format, or as heads.msgpack if several processes write. The hash is in
a file next to it. If the process is killed between the two writes, it leaves a checkpoint without a hash. Such a
checkpoint is complete, since orbax writes atomically, and is used.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import pathlib
import re
import shutil
from typing import Any

import flax.serialization
import jax
import orbax.checkpoint as ocp

from jaxmia._atomic import new_folder, replacing
from jaxmia._hashes import file_hash
from jaxmia._terminal import quiet
from jaxmia._validate import InputError
from jaxmia.studies.folder.states import DamagedError

_HEADS = "heads.msgpack"
_PART = re.compile(r"models-(\d+)-(\d+)")
_HASH = ".sha256"
_ROOM_BESIDE = 2**17  # bytes for orbax's own files


def models_on_disk(folder: pathlib.Path) -> list[tuple[int, int]]:
    """Return disjoint ranges [first, end) of model ids that have a checkpoint in a folder, ascending."""
    names = (_PART.fullmatch(entry.name) for entry in folder.iterdir()) if folder.is_dir() else ()
    disjoint: list[tuple[int, int]] = []
    for first, end in sorted((int(match[1]), int(match[2])) for match in names if match):
        if not disjoint or first >= disjoint[-1][1]:
            disjoint.append((first, end))
    return disjoint


def save_heads(path: pathlib.Path, params: Any) -> None:
    """Write a checkpoint, then the hash of its files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(_HASH).unlink(missing_ok=True)
    if jax.process_count() > 1:
        # With several processes orbax writes the arrays of all processes together, or only those of process 0.
        shutil.rmtree(path, ignore_errors=True)
        with new_folder(path) as folder:
            (folder / _HEADS).write_bytes(flax.serialization.to_bytes(params))
    else:
        _check_room(path.parent, params)
        with quiet("absl", above=logging.CRITICAL), ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, params, force=True)
    with replacing(path.with_suffix(_HASH)) as temporary:
        temporary.write_text(_folder_hash(path))


def _check_room(folder: pathlib.Path, params: Any) -> None:
    """A full disk is refused before orbax meets it: from threads of its own it would print tracebacks of it."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(params)) + _ROOM_BESIDE
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def load_heads(path: pathlib.Path, template: Any) -> Any:
    """Return the heads of a checkpoint, in the shapes and dtypes of template.

    Raises:
        DamagedError: if the checkpoint differs from what was saved (orbax does not detect every flipped bit or missing
            file).
        InputError: if it cannot be read for another reason (no permission, no memory, ...) and may be intact.
    """
    name, hash_path = f"the checkpoint {'/'.join(path.parts[-2:])}", path.with_suffix(_HASH)
    hash_agrees = False
    try:
        if hash_path.is_file():
            hash_agrees = hash_path.read_text() == _folder_hash(path)
            if not hash_agrees:
                raise DamagedError(f"{name} was damaged (its files differ from those that were saved)")
        return _restore(path, template)
    except DamagedError:
        raise
    except Exception as error:  # of any type: tensorstore, JSON, zlib, ...
        line = str(error).partition("\n")[0][:60]
        reason = f"{type(error).__name__}: {line}"
        # Files that match their hash are intact. They may also be intact if the system or the device failed.
        outside = isinstance(error, (OSError, MemoryError, jax.errors.JaxRuntimeError))
        if hash_agrees or outside:
            raise InputError(
                f"{name} could not be read ({reason}). It was not changed: solve the problem, then"
                " continue with --resume."
            ) from error
        raise DamagedError(f"{name} was damaged ({reason})") from error


def _restore(path: pathlib.Path, template: Any) -> Any:
    if (path / _HEADS).is_file():
        return flax.serialization.from_bytes(template, (path / _HEADS).read_bytes())
    alone = ocp.options.MultiprocessingOptions()
    if jax.process_count() > 1:
        index = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(primary_host=index, active_processes={index})
    with ocp.StandardCheckpointer(multiprocessing_options=alone) as checkpointer:
        return checkpointer.restore(path, template)


def _folder_hash(path: pathlib.Path) -> str:
    """Return the SHA-256 of all files of a folder and their names."""
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(path)} {file_hash(file)}\n".encode())
    return digest.hexdigest()
