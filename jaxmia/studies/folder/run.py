"""The folder of a run. Everything is written beside its place and moved there whole.

    manifest.json        settings, versions, feature hash, device, and the state of every cell
    results.parquet      one row per cell, attack, evaluation and FPR
    per_example.parquet  one row per cell, candidate and FPR
    per_person.parquet   one row per cell, person and FPR, where membership is of persons
    controls.parquet     one row per cell and attack: the attack on permuted labels
    power_law.json       the fitted laws
    plots/               PNG and SVG
    checkpoints/CELL/    heads (orbax, one folder per range of models; msgpack, where several processes wrote them), the
                         cell's own rows, cell.json, its record, tuning.json, the search for its recipe, if there was
                         one, and, until the rows are there, scores of models that several processes computed

A cell's record names what its rows were computed from and holds their hashes. It is written after them, so that rows
which are damaged, or of other settings, are computed again. After a cell nothing else is written, so that its cost does
not grow with the grid: at the end the records go into the manifest, and the rows into the tables.

Tables hold no clock times, so that a killed and resumed run ends in the same bytes; those are in the records.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from jaxmia._atomic import read_json, write_arrays, write_json, write_parquet, write_text
from jaxmia._hashes import file_hash
from jaxmia._validate import InputError
from jaxmia.studies.cell import Cell
from jaxmia.studies.folder.checkpoints import load_heads, models_on_disk, save_heads
from jaxmia.studies.folder.manifest import (
    MANIFEST,
    check_models,
    check_same,
    held_with_manifest,
    machine,
    now,
    read_manifest,
    unfinished,
    write_manifest,
)
from jaxmia.studies.folder.states import MORE_TABLES, TABLES, CellState

_FORMAT = 2  # 2: cells have an epsilon
_RECORD = "cell.json"
_TRACE = "traceback.txt"
_TUNING = "tuning.json"


def _has_hash(path: pathlib.Path, expected: str | None) -> bool:
    try:
        return file_hash(path) == expected
    except OSError:
        return False


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
        with held_with_manifest(path, _FORMAT) as manifest:
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
        manifest = read_manifest(path, _FORMAT)
        if manifest is None or file_hash(path / MANIFEST) != manifest_hash:
            raise InputError(f"out={str(path)!r} must be one folder that all processes share.")
        check_same(identity, manifest["identity"], path)
        return cls(path, manifest)

    def manifest_hash(self) -> str:
        """SHA-256 of the manifest as it is on disk."""
        return file_hash(self.path / MANIFEST)

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

    def state(self, cell: Cell, key: str) -> CellState:
        """What the folder has of a cell's rows under a key."""
        record = self.record(cell)
        if not record:
            return "damaged" if self._record_path(cell).exists() else "absent"
        if "error" in record:
            return "failed"
        if record.get("key") != key:
            return "outdated"
        names = dict.fromkeys((*TABLES, *record["rows"]))
        intact = all(_has_hash(self._rows_path(cell, name), record["rows"].get(name)) for name in names)
        return "done" if intact else "damaged"

    def record(self, cell: Cell) -> dict[str, Any]:
        """What finish_cell or fail_cell wrote of a cell last; empty if there is nothing, or it is damaged."""
        record = read_json(self._record_path(cell))
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
        return models_on_disk(self._cell_path(cell))

    def save_heads(self, cell: Cell, models: tuple[int, int], params: Any) -> None:
        """Checkpoint heads of the models first .. end - 1."""
        save_heads(self._part_path(cell, models), params)

    def load_heads(self, cell: Cell, models: tuple[int, int], template: Any) -> Any:
        """Heads of the models first .. end - 1, in the shapes and dtypes of template.

        Raises:
            DamagedError: if the checkpoint is not what was saved.
            InputError: if it cannot be read for another reason: it may be whole.
        """
        return load_heads(self._part_path(cell, models), template)

    def save_scores(
        self, cell: Cell, models: tuple[int, int], arrays: Mapping[str, Shaped[np.ndarray, "models ..."]]
    ) -> None:
        """Write the scores of the models first .. end - 1 for process 0: arrays by name, one row for each model."""
        path = self._scores_path(cell, models)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(path, arrays)

    def load_scores(self, cell: Cell, models: tuple[int, int]) -> dict[str, Shaped[np.ndarray, "models ..."]]:
        """The arrays that save_scores wrote."""
        with np.load(self._scores_path(cell, models), allow_pickle=False) as arrays:
            return dict(arrays)

    def save_tuning(self, cell: Cell, content: Mapping[str, Any]) -> None:
        """Write the search for a cell's recipe."""
        path = self._cell_path(cell) / _TUNING
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)

    def load_tuning(self, cell: Cell) -> dict[str, Any] | None:
        """What save_tuning wrote, or None if there is nothing, or it is damaged."""
        content = read_json(self._cell_path(cell) / _TUNING)
        return content if isinstance(content, dict) else None

    def finish_cell(
        self, cell: Cell, key: str, tables: Mapping[str, pd.DataFrame], facts: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write a cell's rows, then its record, and return that: a record stands only for rows that are there."""
        for old in (self._record_path(cell), self.trace_path(cell)):
            old.unlink(missing_ok=True)
        for name in tables:
            write_parquet(self._rows_path(cell, name), tables[name])
        rows = {name: file_hash(self._rows_path(cell, name)) for name in tables}
        record = {"key": key, "finished": now(), **facts, "rows": rows}
        write_json(self._record_path(cell), record)
        for path in self._cell_path(cell).glob("*scores-*.npz*"):
            path.unlink()
        return record

    def fail_cell(self, cell: Cell, error: str, trace: str = "") -> None:
        """Record that computing a cell failed, and why; its old rows are removed.

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
            *(self._rows_path(cell, name) for name in (*TABLES, *MORE_TABLES)),
        ):
            path.unlink(missing_ok=True)

    def assemble(self, name: str, cells: Iterable[Cell]) -> pd.DataFrame:
        """Join one of TABLES, or of MORE_TABLES, over cells, write it and return it."""
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
        write_manifest(self.path, self.manifest)

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


def _check_continues(
    manifest: Mapping[str, Any], path: pathlib.Path, *, identity: Mapping[str, Any], models: int, resume: bool
) -> None:
    check_same(identity, manifest["identity"], path)
    check_models(models, manifest["models"], path)
    if manifest["status"] != "finished" and not resume:
        folder = RunFolder(path, dict(manifest))
        done = sum("finished" in folder.record(cell) for cell in folder.cells)
        raise unfinished(path, "run", done, len(manifest["cells"]))
