"""Run folders: the one module that knows file formats. Everything is written beside its place and moved there whole.

    manifest.json        settings, versions, feature hash, device, and the state of every cell
    results.parquet      one row per cell, attack, evaluation and FPR
    per_example.parquet  one row per cell, candidate and FPR
    controls.parquet     one row per cell and attack: the attack on permuted labels
    power_law.json       the fitted laws
    plots/               PNG and SVG
    checkpoints/CELL/    heads (orbax, one folder per range of models; msgpack, where several processes wrote them), the
                         cell's own rows, and, until these are there, scores of models that several processes computed

Tables hold no clock times, so that a killed and resumed run ends in the same bytes; those are in the manifest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import filelock
import flax.serialization
import jax
import numpy as np
import orbax.checkpoint as ocp
import pandas as pd

from jaxmia._validate import InputError

_FORMAT = 2  # 2: cells have an epsilon
TABLES = ("results", "per_example", "controls")
_PACKAGES = ("jaxmia", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")
_HEADS = "heads.msgpack"  # in the part folder of one of several processes
_PART = re.compile(r"models-(\d+)-(\d+)")


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
    """One ensemble of the grid.

    Attributes:
        classes: C.
        shots: S.
        seed: of all its randomness.
        epsilon: that it is trained to; inf for ordinary training.
    """

    classes: int
    shots: int
    seed: int
    epsilon: float = math.inf

    def __str__(self) -> str:
        """The name of the cell's folder."""
        private = "" if self.epsilon == math.inf else f"_epsilon-{self.epsilon:g}"
        return f"classes-{self.classes}_shots-{self.shots}_seed-{self.seed}{private}"

    def entry(self) -> dict[str, int | float | str]:
        """What the manifest says of the cell: JSON has no infinity."""
        return {**dataclasses.asdict(self), "epsilon": json_number(self.epsilon)}

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> Cell:
        """The cell of an entry."""
        return cls(entry["classes"], entry["shots"], entry["seed"], float(entry["epsilon"]))


def json_number(value: float) -> float | str:
    """The value, or "inf", which float() reads back."""
    return "inf" if value == math.inf else value


def content_key(content: Any) -> str:
    """SHA-256 of a JSON-ready value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


class RunFolder:
    """A run folder, locked by this process while it is open.

    What was trained under one identity (settings, features, versions) is never mixed with another's: a folder of a
    different identity is refused, and every cell carries the key of what it was computed from.
    """

    def __init__(self, path: pathlib.Path, manifest: dict[str, Any]):
        self.path = path
        self.manifest = manifest

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        settings: Mapping[str, Any],
        identity: Mapping[str, Any],
        cells: list[Cell],
        models: int,
        resume: bool,
    ) -> Iterator[RunFolder]:
        """Create the folder, or continue the run it holds.

        Args:
            path: the folder.
            settings: all settings of the experiment, for the record.
            identity: what every trained head depends on: nested dictionaries of plain values.
            cells: cells asked for; the folder keeps those it has.
            models: M asked for.
            resume: continue an unfinished run.

        Raises:
            InputError: if the folder holds something else, a run of another identity (naming the first difference),
                more models than asked for, an unfinished run and resume is False, or is in use.
        """
        path = pathlib.Path(path)
        _read_manifest(path)  # refuse a foreign folder before a lock file appears in it
        try:
            path.mkdir(parents=True, exist_ok=True)
            held = filelock.FileLock(path / ".lock", timeout=0).acquire()
        except filelock.Timeout:
            raise InputError(f"out={str(path)!r} is in use by another process.") from None
        except OSError as error:
            raise InputError(
                f"out={str(path)!r} must be a folder that can be written: {error.strerror}."
            ) from None
        with held:
            manifest = _read_manifest(path)
            if manifest is not None:
                _check_continues(manifest, path, identity=identity, models=models, resume=resume)
            folder = cls(path, manifest or {"format": _FORMAT, "cells": {}})
            folder._record(settings=settings, identity=identity, cells=cells, models=models)
            yield folder

    @classmethod
    def join(
        cls, path: str | os.PathLike[str], *, identity: Mapping[str, Any], manifest_hash: str
    ) -> RunFolder:
        """The folder that another process holds open, for writing heads and scores into it and nothing else.

        Args:
            path: the folder.
            identity: as in open.
            manifest_hash: of the manifest, as the other process sees it.

        Raises:
            InputError: if the folder at path is another one, or holds a run of another identity.
        """
        path = pathlib.Path(path)
        manifest = _read_manifest(path)
        if manifest is None or file_hash(path / "manifest.json") != manifest_hash:
            raise InputError(f"out={str(path)!r} must be one folder that all processes share.")
        _check_same(identity, manifest["identity"], path)
        return cls(path, manifest)

    def manifest_hash(self) -> str:
        """SHA-256 of the manifest as it is on disk."""
        return file_hash(self.path / "manifest.json")

    def _record(
        self, *, settings: Mapping[str, Any], identity: Mapping[str, Any], cells: list[Cell], models: int
    ) -> None:
        known = self.manifest["cells"]
        for cell in cells:
            known.setdefault(str(cell), cell.entry())
        self.manifest |= {
            "settings": dict(settings),
            "identity": dict(identity),
            "models": models,
            "device": str(jax.devices()[0].device_kind),
            "platform": f"{platform.platform()}, Python {platform.python_version()}",
        }

    @property
    def cells(self) -> list[Cell]:
        """All cells of the folder, in the order of its tables."""
        return sorted(Cell.from_entry(entry) for entry in self.manifest["cells"].values())

    def is_done(self, cell: Cell, key: str) -> bool:
        """Whether the cell's rows were computed from exactly what the key says."""
        entry = self.manifest["cells"][str(cell)]
        there = all((self._cell_path(cell) / f"{name}.parquet").is_file() for name in TABLES)
        return there and entry.get("key") == key

    @property
    def is_finished(self) -> bool:
        """Whether every cell of the folder and everything made from them is on disk."""
        return self.manifest.get("status") == "finished"

    def start(self, todo: Iterable[Cell]) -> None:
        """Mark the run as unfinished and the cells as not computed, on disk, before their rows are replaced."""
        self.manifest["status"] = "running"
        for cell in todo:
            self.manifest["cells"][str(cell)].pop("key", None)
        self._write_manifest()

    def trained_models(self, cell: Cell) -> list[tuple[int, int]]:
        """Disjoint ranges [first, end) of model ids whose heads are on disk, ascending."""
        ranges = []
        if self._cell_path(cell).is_dir():
            names = (_PART.fullmatch(entry.name) for entry in self._cell_path(cell).iterdir())
            ranges = sorted((int(match[1]), int(match[2])) for match in names if match)
        disjoint: list[tuple[int, int]] = []
        for first, end in ranges:
            if not disjoint or first >= disjoint[-1][1]:
                disjoint.append((first, end))
        return disjoint

    def save_heads(self, cell: Cell, models: tuple[int, int], params: Any) -> None:
        """Checkpoint heads of the models first .. end - 1."""
        if jax.process_count() > 1:
            # Here orbax writes arrays of all processes together, or those of process 0 alone.
            with new_folder(self._part_path(cell, models)) as folder:
                (folder / _HEADS).write_bytes(flax.serialization.to_bytes(params))
            return
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(self._part_path(cell, models), params, force=True)

    def load_heads(self, cell: Cell, models: tuple[int, int], template: Any) -> Any:
        """Heads of the models first .. end - 1, in the shapes and dtypes of template."""
        path = self._part_path(cell, models)
        if (path / _HEADS).is_file():
            return flax.serialization.from_bytes(template, (path / _HEADS).read_bytes())
        alone = ocp.options.MultiprocessingOptions()
        if jax.process_count() > 1:
            index = jax.process_index()
            alone = ocp.options.MultiprocessingOptions(primary_host=index, active_processes={index})
        with ocp.StandardCheckpointer(multiprocessing_options=alone) as checkpointer:
            return checkpointer.restore(path, template)

    def save_scores(
        self, cell: Cell, models: tuple[int, int], log_odds: np.ndarray, accuracies: np.ndarray
    ) -> None:
        """Write log-odds [models, examples] and accuracies [models] of the models first .. end - 1, for process 0."""
        path = self._scores_path(cell, models)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, log_odds=log_odds, accuracies=accuracies)

    def load_scores(self, cell: Cell, models: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """What save_scores wrote."""
        with np.load(self._scores_path(cell, models), allow_pickle=False) as arrays:
            return arrays["log_odds"], arrays["accuracies"]

    def finish_cell(
        self, cell: Cell, key: str, tables: Mapping[str, pd.DataFrame], facts: Mapping[str, Any]
    ) -> None:
        """Write a cell's rows, then its entry in the manifest: the entry stands only for rows that are there."""
        for name in TABLES:
            write_parquet(self._cell_path(cell) / f"{name}.parquet", tables[name])
        self.manifest["cells"][str(cell)] |= {"key": key, "finished": _now(), **facts}
        self._write_manifest()
        for path in self._cell_path(cell).glob("*scores-*.npz*"):
            path.unlink()

    def assemble(self, name: str, cells: Iterable[Cell]) -> pd.DataFrame:
        """Join one of TABLES over cells, write it and return it."""
        paths = (self._cell_path(cell) / f"{name}.parquet" for cell in cells)
        table = pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)
        write_parquet(self.path / f"{name}.parquet", table)
        return table

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file into the folder."""
        write_json(self.path / name, content)

    def finish(self) -> None:
        """Mark the run as finished, on disk."""
        self.manifest["status"] = "finished"
        self._write_manifest()

    def _write_manifest(self) -> None:
        self.write_json("manifest.json", self.manifest)

    def _cell_path(self, cell: Cell) -> pathlib.Path:
        return self.path.resolve() / "checkpoints" / str(cell)

    def _part_path(self, cell: Cell, models: tuple[int, int]) -> pathlib.Path:
        return self._cell_path(cell) / f"models-{models[0]}-{models[1]}"

    def _scores_path(self, cell: Cell, models: tuple[int, int]) -> pathlib.Path:
        return self._cell_path(cell) / f"scores-{models[0]}-{models[1]}.npz"


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yield a folder to fill, which takes its place once it is complete; if filling fails, nothing is left.

    Raises:
        InputError: if there is something at the place already, or it cannot be written.
    """
    path = pathlib.Path(path).resolve()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"out={str(path)!r} must be a new or an empty folder; there is something already.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise InputError(
            f"out={str(path)!r} must be a folder that can be written: {error.strerror}."
        ) from None
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: pathlib.Path, content: Any) -> None:
    """Write a JSON file in one step; NaN and infinity are refused."""
    with _replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def load_results(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """The results table of a run folder.

    Raises:
        InputError: if there is none, or it cannot be read.
    """
    return load_table(folder, "results")


def load_table(folder: str | os.PathLike[str], name: str) -> pd.DataFrame:
    """One of TABLES of a run folder.

    Raises:
        InputError: if there is none, or it cannot be read.
    """
    path = pathlib.Path(folder) / f"{name}.parquet"
    if not path.is_file():
        raise InputError(f"folder={str(folder)!r} must be a run folder with {path.name}; there is none.")
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} must be a readable Parquet file: {error}.") from None


def load_json(folder: str | os.PathLike[str], name: str) -> Any:
    """A JSON file of a run folder.

    Raises:
        InputError: if there is none, or it cannot be read.
    """
    path = pathlib.Path(folder) / name
    if not path.is_file():
        raise InputError(f"folder={str(folder)!r} must be a run folder with {name}; there is none.")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} must be valid JSON: {error}.") from None


def _read_manifest(path: pathlib.Path) -> dict[str, Any] | None:
    if path.exists() and not path.is_dir():
        raise InputError(f"out={str(path)!r} must be a folder, but it is a file.")
    if not (path / "manifest.json").is_file():
        if path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir()):
            raise InputError(
                f"out={str(path)!r} must be empty or hold a run; it has files but no manifest.json."
            )
        return None
    manifest = load_json(path, "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise InputError(f"{path / 'manifest.json'} must be a run manifest of format {_FORMAT}.")
    return manifest


def _check_continues(
    manifest: Mapping[str, Any], path: pathlib.Path, *, identity: Mapping[str, Any], models: int, resume: bool
) -> None:
    _check_same(identity, manifest["identity"], path)
    if models < manifest["models"]:
        raise InputError(
            f"shadows.models={models} must be at least the {manifest['models']} that {path} has;"
            " choose another folder for fewer."
        )
    if manifest["status"] != "finished" and not resume:
        done = sum("finished" in entry for entry in manifest["cells"].values())
        raise InputError(
            f"out={str(path)!r} holds an unfinished run ({done} of {len(manifest['cells'])} cells done);"
            " continue it with --resume (resume=True) or choose another folder."
        )


def _check_same(
    asked: Mapping[str, Any], has: Mapping[str, Any], path: pathlib.Path, where: str = ""
) -> None:
    for name in sorted({*asked, *has}):
        ours, theirs = asked.get(name), has.get(name)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            _check_same(ours, theirs, path, f"{where}{name}.")
        elif ours != theirs:
            raise InputError(
                f"{where}{name}={ours!r} must equal the {theirs!r} that {path} was made with; choose another folder."
            )


def write_parquet(path: pathlib.Path, table: pd.DataFrame) -> None:
    """Write a table in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _replacing(path) as temporary:
        table.to_parquet(temporary, index=False)


@contextlib.contextmanager
def _replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    temporary = path.with_name(f".{path.name}.tmp")  # one writer at a time: the folder is locked
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
