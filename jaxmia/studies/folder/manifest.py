"""The manifest of a folder: settings, versions, identity and the state of every cell."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

import jax

from jaxmia._atomic import read_json_or_copy, write_json_and_copy
from jaxmia._resumable import resumed_folder
from jaxmia._validate import InputError

_PACKAGES = ("jaxmia", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "dp-accounting", "jax-privacy")
MANIFEST = "manifest.json"  # kept with a copy: without it the heads cannot be identified


def versions(*more: str) -> dict[str, str]:
    """Return the versions of the packages that results depend on, and of further packages."""
    return {name: importlib.metadata.version(name) for name in (*_PACKAGES, *more)}


def held_with_manifest(
    path: pathlib.Path, form: int | str
) -> contextlib.AbstractContextManager[dict[str, Any] | None]:
    """Create or open a folder, locked against other processes, and yield its manifest, as read_manifest returns it."""
    return resumed_folder(path, lambda: read_manifest(path, form), f"out={str(path)!r}")


def machine() -> dict[str, str]:
    """Return the device that holds arrays, and the platform, for the record."""
    return {
        "device": str(jax.devices()[0].device_kind),
        "platform": f"{platform.platform()}, Python {platform.python_version()}",
    }


def read_manifest(path: pathlib.Path, form: int | str) -> dict[str, Any] | None:
    """Return the manifest of a folder, or None if the folder is new or empty.

    Raises:
        InputError: if the path is a file, or the folder holds files without a manifest, or a manifest of another format
            or one that cannot be read.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"out={str(path)!r} must be a folder, but it is a file.")
    manifest = read_json_or_copy(path / MANIFEST)
    if manifest is None and (path / MANIFEST).exists():
        raise InputError(
            f"{path / MANIFEST} must be valid JSON: it is empty or damaged, and has no copy. Choose another folder."
        )
    if manifest is None:
        if path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir()):
            raise InputError(
                f"out={str(path)!r} must be empty or hold a run; it has files but no {MANIFEST}."
            )
        return None
    if manifest.get("format") != form:
        has = manifest.get("format")
        raise InputError(f"{path / MANIFEST} must be a manifest of format {form!r}, got {has!r}.")
    return manifest


def write_manifest(path: pathlib.Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest of a folder, and its copy before it."""
    write_json_and_copy(path / MANIFEST, manifest)


def unfinished(path: pathlib.Path, what: str, done: int, cells: int) -> InputError:
    """Return the error for an unfinished folder without resume."""
    return InputError(
        f"out={str(path)!r} holds an unfinished {what} ({done} of {cells} cells done);"
        " continue it with --resume (resume=True) or choose another folder."
    )


def check_models(models: int, has: int, path: pathlib.Path) -> None:
    """Raise InputError if the settings ask for fewer models than the folder has."""
    if models < has:
        raise InputError(
            f"shadows.models={models} must be at least the {has} that {path} has; choose another folder for fewer."
        )


def check_same(asked: Mapping[str, Any], has: Mapping[str, Any], path: pathlib.Path, where: str = "") -> None:
    """Raise InputError, naming the first difference, unless two identities are the same."""
    for name in sorted({*asked, *has}):
        ours, theirs = asked.get(name), has.get(name)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            check_same(ours, theirs, path, f"{where}{name}.")
        elif ours != theirs:
            raise InputError(
                f"{where}{name}={ours!r} must equal the {theirs!r} that {path} was made with; choose another folder."
            )


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
