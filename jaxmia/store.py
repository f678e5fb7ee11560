"""Run folders: the one module that knows file formats. Everything is written beside its place and moved there whole.

    manifest.json        settings, versions, feature hash, device, and the state of every cell
    results.parquet      one row per cell, attack, evaluation and FPR
    per_example.parquet  one row per cell, candidate and FPR
    controls.parquet     one row per cell and attack: the attack on permuted labels
    power_law.json       the fitted laws
    plots/               PNG and SVG
    checkpoints/CELL/    heads (orbax, one folder per range of models; msgpack, where several processes wrote them), the
                         cell's own rows, cell.json, its record, tuning.json, the search for its recipe, if there was
                         one, and, until the rows are there, scores of models that several processes computed

A cell's record says what its rows were computed from and holds their hashes: it is written after them, so that rows
which are damaged, or of other settings, are computed again. After a cell nothing else is written, so that its cost does
not grow with the grid: the manifest takes the records in at the end, as the tables take in the rows.

A sweep's folder:

    manifest.json        as above, with an identity and cells for every study: a feature set under a recipe
    results/             a Parquet data set: one file per cell, as are per_example/ and controls/
    power_law.json       the fitted laws of each recipe
    studies/DATASET/RECIPE/checkpoints/CELL/    heads and record

Tables hold no clock times, so that a killed and resumed run ends in the same bytes; those are in the records.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import hashlib
import importlib.metadata
import json
import logging
import math
import os
import pathlib
import platform
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import filelock
import flax.serialization
import jax
import numpy as np
import orbax.checkpoint as ocp
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Shaped

from jaxmia._files import replacing
from jaxmia._validate import InputError
from jaxmia.power_law import DEFAULT_RECIPE

_FORMAT = 2  # 2: cells have an epsilon
_SWEEP_FORMAT = "sweep 1"
_ORDER = ("dataset", "recipe", "classes", "shots", "seed", "epsilon")  # of rows from several files
TABLES = ("results", "per_example", "controls")
_PACKAGES = ("jaxmia", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "dp-accounting", "jax-privacy")
_HEADS = "heads.msgpack"  # in the part folder of one of several processes
_PART = re.compile(r"models-(\d+)-(\d+)")
_RECORD = "cell.json"
_TRACE = "traceback.txt"
_TUNING = "tuning.json"
_HASH = ".sha256"
_LOCK = ".lock"
_COPY = ".manifest.json"  # as the manifest, for when that is damaged: without one, nobody knows whose heads these are

CellState = Literal["done", "absent", "outdated", "failed", "damaged"]
"""Of a cell's rows: there; not there; of other settings; not there since computing them failed; not as written."""


class DamagedError(RuntimeError):
    """A file of a run folder is not what was written; whoever reads it can compute it again."""


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


@contextlib.contextmanager
def _silent(name: str) -> Iterator[None]:
    """Keep a logger from printing what is raised as well, such as orbax's traceback of a disk without room."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


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
    """SHA-256 of all files of a folder and their names."""
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(path)} {file_hash(file)}\n".encode())
    return digest.hexdigest()


def _has_hash(path: pathlib.Path, expected: str | None) -> bool:
    try:
        return file_hash(path) == expected
    except OSError:
        return False


def versions(*more: str) -> dict[str, str]:
    """Versions of the packages that a result depends on, and of more packages."""
    return {name: importlib.metadata.version(name) for name in (*_PACKAGES, *more)}


class RunFolder:
    """A run folder, locked by this process while it is open.

    What was trained under one identity (settings, features, versions) is never mixed with another's: a folder of a
    different identity is refused, and every cell carries the key of what it was computed from.
    """

    def __init__(
        self, path: pathlib.Path, manifest: dict[str, Any], rows: tuple[pathlib.Path, str] | None = None
    ):
        self.path = path
        self.manifest = manifest
        self._rows = rows  # of a sweep: folder of its data sets, and the prefix of its files' names

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
        with _locked(path, _FORMAT):
            manifest = _read_manifest(path, _FORMAT)
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
        manifest = _read_manifest(path, _FORMAT)
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
        self.manifest |= {"settings": dict(settings), "identity": dict(identity), "models": models}
        self.manifest |= machine()

    @property
    def cells(self) -> list[Cell]:
        """All cells of the folder, in the order of its tables."""
        return sorted(Cell.from_entry(entry) for entry in self.manifest["cells"].values())

    def is_done(self, cell: Cell, key: str) -> bool:
        """Whether the cell's rows were computed from exactly what the key says, and are as they were written."""
        return self.state(cell, key) == "done"

    def state(self, cell: Cell, key: str) -> CellState:
        """What the folder has of a cell's rows under a key."""
        record = self.record(cell)
        if not record:
            return "damaged" if self._record_path(cell).exists() else "absent"
        if "error" in record:
            return "failed"
        if record.get("key") != key:
            return "outdated"
        intact = all(_has_hash(self._rows_path(cell, name), record["rows"].get(name)) for name in TABLES)
        return "done" if intact else "damaged"

    def record(self, cell: Cell) -> dict[str, Any]:
        """What finish_cell or fail_cell wrote of a cell last; empty if there is nothing that can be read."""
        try:
            record = json.loads(self._record_path(cell).read_text())
        except (OSError, ValueError):
            return {}
        whole = isinstance(record, dict) and ("error" in record or isinstance(record.get("rows"), dict))
        return record if whole else {}

    @property
    def is_finished(self) -> bool:
        """Whether every cell of the folder and everything made from them is on disk."""
        return self.manifest.get("status") == "finished"

    def start(self) -> None:
        """Mark the run as unfinished, on disk, before any rows are replaced."""
        self.manifest["status"] = "running"
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
        """Checkpoint heads of the models first .. end - 1, then the hash of its files.

        A kill between the two leaves a checkpoint that is whole, as orbax sees to, and taken on trust.
        """
        path = self._part_path(cell, models)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(_HASH).unlink(missing_ok=True)
        if jax.process_count() > 1:
            # Here orbax writes arrays of all processes together, or those of process 0 alone.
            shutil.rmtree(path, ignore_errors=True)
            with new_folder(path) as folder:
                (folder / _HEADS).write_bytes(flax.serialization.to_bytes(params))
        else:
            with _silent("absl"), ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(path, params, force=True)
        with replacing(path.with_suffix(_HASH)) as temporary:
            temporary.write_text(_folder_hash(path))

    def load_heads(self, cell: Cell, models: tuple[int, int], template: Any) -> Any:
        """Heads of the models first .. end - 1, in the shapes and dtypes of template.

        Raises:
            DamagedError: if the checkpoint is not what was saved (orbax itself notices neither every flipped bit nor
                every file that is missing).
            InputError: if it cannot be read for another reason (no permission, no memory, ...): it may be whole.
        """
        path = self._part_path(cell, models)
        name, hash_path = f"the checkpoint {'/'.join(path.parts[-2:])}", path.with_suffix(_HASH)
        vouched = False
        try:
            if hash_path.is_file():
                vouched = hash_path.read_text() == _folder_hash(path)
                if not vouched:
                    raise DamagedError(f"{name} was damaged (its files are not those that were saved)")
            return _restore(path, template)
        except DamagedError:
            raise
        except Exception as error:  # of whatever kind: tensorstore, JSON, zlib, ...
            reason = str(error).partition("\n")[0][:60]
            said = f"{type(error).__name__}: {reason}"
            # What its hash vouches for is whole; so may be what the system or the device did not hand out.
            outside = isinstance(error, (OSError, MemoryError, jax.errors.JaxRuntimeError))
            if vouched or outside:
                raise InputError(
                    f"{name} could not be read ({said}); it is left as it is:"
                    " mend that and go on with --resume."
                ) from error
            raise DamagedError(f"{name} was damaged ({said})") from error

    def save_scores(
        self, cell: Cell, models: tuple[int, int], arrays: Mapping[str, Shaped[np.ndarray, "models ..."]]
    ) -> None:
        """Write what process 0 must know of the models first .. end - 1: arrays by name, one row for each model."""
        path = self._scores_path(cell, models)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(path, arrays)

    def load_scores(self, cell: Cell, models: tuple[int, int]) -> dict[str, Shaped[np.ndarray, "models ..."]]:
        """What save_scores wrote."""
        with np.load(self._scores_path(cell, models), allow_pickle=False) as arrays:
            return dict(arrays)

    def save_tuning(self, cell: Cell, content: Mapping[str, Any]) -> None:
        """Write the search for a cell's recipe."""
        path = self._cell_path(cell) / _TUNING
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)

    def load_tuning(self, cell: Cell) -> dict[str, Any] | None:
        """What save_tuning wrote, or None if there is nothing that can be read."""
        try:
            content = json.loads((self._cell_path(cell) / _TUNING).read_text())
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def finish_cell(
        self, cell: Cell, key: str, tables: Mapping[str, pd.DataFrame], facts: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write a cell's rows, then its record, and return that: a record stands only for rows that are there."""
        for old in (self._record_path(cell), self.trace_path(cell)):
            old.unlink(missing_ok=True)
        for name in TABLES:
            write_parquet(self._rows_path(cell, name), tables[name])
        rows = {name: file_hash(self._rows_path(cell, name)) for name in TABLES}
        record = {"key": key, "finished": now(), **facts, "rows": rows}
        write_json(self._record_path(cell), record)
        for path in self._cell_path(cell).glob("*scores-*.npz*"):
            path.unlink()
        return record

    def fail_cell(self, cell: Cell, error: str, trace: str = "") -> None:
        """Record that computing a cell failed, and why; rows that it had are of no use any more.

        Args:
            cell: which.
            error: in one line.
            trace: Python's traceback, if there is one: into a file beside the record.
        """
        self.discard_rows(cell)
        self._record_path(cell).parent.mkdir(parents=True, exist_ok=True)
        if trace:
            write_text(self.trace_path(cell), trace)
        write_json(self._record_path(cell), {"error": error, "failed": now()})

    def trace_path(self, cell: Cell) -> pathlib.Path:
        """Where the traceback of a cell that failed lies."""
        return self._cell_path(cell) / _TRACE

    def discard_rows(self, cell: Cell) -> None:
        """Remove a cell's rows and record; its heads stay."""
        for path in (
            self._record_path(cell),
            self.trace_path(cell),
            *(self._rows_path(cell, name) for name in TABLES),
        ):
            path.unlink(missing_ok=True)

    def assemble(self, name: str, cells: Iterable[Cell]) -> pd.DataFrame:
        """Join one of TABLES over cells, write it and return it."""
        paths = (self._rows_path(cell, name) for cell in cells)
        table = pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)
        write_parquet(self.path / f"{name}.parquet", table)
        return table

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file into the folder."""
        write_json(self.path / name, content)

    def finish(self) -> None:
        """Mark the run as finished, on disk, with the records of all its cells."""
        for cell in self.cells:
            self.manifest["cells"][str(cell)] = cell.entry() | self.record(cell)
        self.manifest["status"] = "finished"
        self._write_manifest()

    def _write_manifest(self) -> None:
        _write_manifest(self.path, self.manifest)

    def _cell_path(self, cell: Cell) -> pathlib.Path:
        return self.path.resolve() / "checkpoints" / str(cell)

    def _part_path(self, cell: Cell, models: tuple[int, int]) -> pathlib.Path:
        return self._cell_path(cell) / f"models-{models[0]}-{models[1]}"

    def _scores_path(self, cell: Cell, models: tuple[int, int]) -> pathlib.Path:
        return self._cell_path(cell) / f"scores-{models[0]}-{models[1]}.npz"

    def _rows_path(self, cell: Cell, name: str) -> pathlib.Path:
        if self._rows is not None:
            folder, prefix = self._rows
            return folder / name / f"{prefix}{cell}.parquet"
        return self._cell_path(cell) / f"{name}.parquet"

    def _record_path(self, cell: Cell) -> pathlib.Path:
        return self._cell_path(cell) / _RECORD


class SweepFolder:
    """The folder of a sweep, locked by this process while it is open. Its studies write cells as runs do.

    Only this process writes the manifest; cells can be written by others, through study_folder.
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
        studies: Mapping[tuple[str, str], tuple[Mapping[str, Any], list[Cell]]],
        models: int,
        resume: bool,
    ) -> Iterator[SweepFolder]:
        """Create the folder, or continue the sweep it holds.

        Args:
            path: the folder.
            settings: all settings of the sweep, for the record.
            studies: for each data set and recipe by name, its identity and the cells asked for; the folder keeps the
                studies and cells that it has.
            models: M asked for.
            resume: continue an unfinished sweep.

        Raises:
            InputError: as RunFolder.open.
        """
        path = pathlib.Path(path)
        with _locked(path, _SWEEP_FORMAT):
            manifest = _read_manifest(path, _SWEEP_FORMAT) or {"format": _SWEEP_FORMAT, "studies": {}}
            folder = cls(path, manifest)
            known = manifest["studies"]
            for names, (identity, _) in studies.items():
                if "/".join(names) in known:
                    study = known["/".join(names)]
                    _check_same(identity, study["identity"], path, f"{'/'.join(names)}: ")
                    _check_models(models, study["models"], path)
            if known and manifest["status"] != "finished" and not resume:
                held = [folder.study(*name.split("/")) for name in known]
                done = sum("finished" in study.record(cell) for study in held for cell in study.cells)
                raise _unfinished(path, "sweep", done, sum(len(study.cells) for study in held))
            for names, (identity, cells) in studies.items():
                entry = known.setdefault("/".join(names), {"cells": {}})
                entry |= {"identity": dict(identity), "models": models}
                for cell in cells:
                    entry["cells"].setdefault(str(cell), cell.entry())
            manifest |= {"settings": dict(settings), **machine()}
            yield folder

    def study(self, dataset: str, recipe: str) -> RunFolder:
        """The part of the folder that is of one feature set and recipe."""
        return study_folder(self.path, dataset, recipe, self.manifest["studies"][f"{dataset}/{recipe}"])

    def start(self) -> None:
        """Mark the sweep as unfinished, on disk, and clear away what a kill left in its data sets."""
        self._write("running")  # first: without it, a folder with files is a foreign one
        for left in (file for name in TABLES for file in (self.path / name).glob(".*.tmp")):
            left.unlink(missing_ok=True)

    def finish(self, studies: Iterable[tuple[str, str]], *, left_out: list[dict[str, Any]]) -> None:
        """Write the manifest with the records of all cells: finished, or failed if one is not done."""
        done = True
        for names in studies:
            study = self.study(*names)
            for cell in study.cells:
                record = study.record(cell)
                done = done and "finished" in record
                study.manifest["cells"][str(cell)] = cell.entry() | record
        self.manifest["left_out"] = left_out
        self._write("finished" if done else "failed")

    @property
    def is_finished(self) -> bool:
        """Whether every cell of the last call and the laws fitted to them are on disk."""
        return self.manifest.get("status") == "finished"

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file into the folder."""
        write_json(self.path / name, content)

    def _write(self, status: str) -> None:
        self.manifest["status"] = status
        _write_manifest(self.path, self.manifest)


def study_folder(
    path: pathlib.Path, dataset: str, recipe: str, manifest: dict[str, Any] | None = None
) -> RunFolder:
    """The part of a sweep's folder that is of one feature set and recipe; without a manifest, to write cells alone."""
    path = path.resolve()
    return RunFolder(
        path / "studies" / dataset / recipe,
        {"cells": {}} if manifest is None else manifest,
        (path, f"{dataset}__{recipe}__"),
    )


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
            (path / _LOCK).unlink(missing_ok=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _check_free(path: pathlib.Path) -> None:
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"out={str(path)!r} must be a new or an empty folder; there is something already.")


def _clear(folder: pathlib.Path) -> None:
    """Remove what a killed process left in a held folder."""
    for entry in folder.iterdir():
        if entry.name == _LOCK:
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


def load_results(folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> pd.DataFrame:
    """The results of a run or a sweep, or of several, joined; of unfinished ones, those of the cells that are done.

    Rows that several folders have alike stand there once.

    Args:
        folders: one folder, or several.

    Raises:
        InputError: if there are none, or they cannot be read.
    """
    if isinstance(folders, (str, os.PathLike)):
        return load_table(folders, "results")
    if not folders:
        raise InputError("folders=[] must name at least one folder of a run or a sweep.")
    tables = [load_table(folder, "results") for folder in folders]
    return pd.concat(tables, ignore_index=True).drop_duplicates(ignore_index=True)


def load_table(folder: str | os.PathLike[str], name: str) -> pd.DataFrame:
    """One of TABLES of a run or a sweep; of an unfinished one, the rows of the cells that are done.

    Raises:
        InputError: if there is none, or it cannot be read.
    """
    tables = []
    for path in _table_paths(folder, name):
        with _readable(path):
            tables.append(pq.read_table(path, partitioning=None))
    table = pa.concat_tables(tables, promote_options="permissive").to_pandas()
    if "recipe" not in table:  # of a run from before sweeps
        table.insert(1, "recipe", DEFAULT_RECIPE)
    order = [column for column in _ORDER if column in table]
    return table.sort_values(order, kind="stable", ignore_index=True) if len(tables) > 1 else table


def read_tables(folder: str | os.PathLike[str], name: str, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Some columns of one of TABLES, file by file: what a large sweep's records need.

    Raises:
        InputError: as load_table.
    """
    for path in _table_paths(folder, name):
        with _readable(path):
            has = set(pq.read_schema(path).names)  # runs from before sweeps named no recipe
            table = pq.read_table(path, columns=[each for each in columns if each in has], partitioning=None)
        frame = table.to_pandas()
        yield frame if "recipe" in frame else frame.assign(recipe=DEFAULT_RECIPE)


def _table_paths(folder: str | os.PathLike[str], name: str) -> list[pathlib.Path]:
    folder = pathlib.Path(folder)
    if (folder / f"{name}.parquet").is_file():
        return [folder / f"{name}.parquet"]
    # Of a sweep, or of a run that is not finished.
    paths = sorted([*folder.glob(f"{name}/*.parquet"), *folder.glob(f"checkpoints/*/{name}.parquet")])
    if not paths:
        raise InputError(
            f"folder={str(folder)!r} must be a run folder with {name}.parquet or a sweep's with {name}/;"
            " there is none, or no cell is done yet."
        )
    return paths


@contextlib.contextmanager
def _readable(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
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
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path} must be a file that can be read: {error.strerror}.") from None
    except ValueError as error:
        raise InputError(f"{path} must be valid JSON: {error}.") from None


@contextlib.contextmanager
def _locked(path: pathlib.Path, form: int | str) -> Iterator[None]:
    """Make a folder and hold it against other processes; a foreign folder is refused before a lock appears in it."""
    _read_manifest(path, form)
    with held_folder(path, f"out={str(path)!r}"):
        yield


@contextlib.contextmanager
def held_folder(path: pathlib.Path, name: str) -> Iterator[None]:
    """Make a folder and hold it against other processes.

    Raises:
        InputError: under that name, if it is in use or cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(path / _LOCK, timeout=0).acquire()
    except filelock.Timeout:
        raise InputError(f"{name} is in use by another process.") from None
    except OSError as error:
        raise InputError(f"{name} must be a folder that can be written: {error.strerror}.") from None
    with held:
        yield


def machine() -> dict[str, str]:
    """The device that arrays live on, and the platform, for the record."""
    return {
        "device": str(jax.devices()[0].device_kind),
        "platform": f"{platform.platform()}, Python {platform.python_version()}",
    }


def _read_manifest(path: pathlib.Path, form: int | str) -> dict[str, Any] | None:
    if path.exists() and not path.is_dir():
        raise InputError(f"out={str(path)!r} must be a folder, but it is a file.")
    if not any((path / name).is_file() for name in ("manifest.json", _COPY)):
        if path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir()):
            raise InputError(
                f"out={str(path)!r} must be empty or hold a run; it has files but no manifest.json."
            )
        return None
    manifest = _whole_manifest(path)
    if manifest.get("format") != form:
        has = manifest.get("format")
        raise InputError(f"{path / 'manifest.json'} must be a manifest of format {form!r}, got {has!r}.")
    return manifest


def _whole_manifest(path: pathlib.Path) -> dict[str, Any]:
    """The manifest, or its copy if it is damaged: what the cells hold is hashed and stays of use."""
    for name in ("manifest.json", _COPY):
        try:
            manifest = json.loads((path / name).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError):
            continue
        if isinstance(manifest, dict):
            if name == _COPY:
                write_json(path / "manifest.json", manifest)
            return manifest
    raise InputError(
        f"{path / 'manifest.json'} must be valid JSON: it is empty or damaged, and there is no copy of it: choose"
        " another folder."
    )


def _write_manifest(path: pathlib.Path, manifest: Mapping[str, Any]) -> None:
    for name in (_COPY, "manifest.json"):
        write_json(path / name, manifest)


def _check_continues(
    manifest: Mapping[str, Any], path: pathlib.Path, *, identity: Mapping[str, Any], models: int, resume: bool
) -> None:
    _check_same(identity, manifest["identity"], path)
    _check_models(models, manifest["models"], path)
    if manifest["status"] != "finished" and not resume:
        folder = RunFolder(path, dict(manifest))
        done = sum("finished" in folder.record(cell) for cell in folder.cells)
        raise _unfinished(path, "run", done, len(manifest["cells"]))


def _unfinished(path: pathlib.Path, what: str, done: int, cells: int) -> InputError:
    return InputError(
        f"out={str(path)!r} holds an unfinished {what} ({done} of {cells} cells done);"
        " continue it with --resume (resume=True) or choose another folder."
    )


def _check_models(models: int, has: int, path: pathlib.Path) -> None:
    if models < has:
        raise InputError(
            f"shadows.models={models} must be at least the {has} that {path} has; choose another folder for fewer."
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
    columns = pa.Table.from_pandas(table, preserve_index=False)
    for place, field in enumerate(columns.schema):
        if pa.types.is_null(field.type):  # no cell of it has a reason: of one type with the cells that have
            columns = columns.set_column(
                place, field.with_type(pa.string()), columns.column(place).cast(pa.string())
            )
    with replacing(path) as temporary:
        pq.write_table(columns, temporary)


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that no room was left; libraries have their own kinds of it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(error) for words in ("No space left on device", "Disk quota exceeded")):
            return True
        error = error.__cause__ or error.__context__
    return False
