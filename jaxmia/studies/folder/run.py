"""The folder of a run. Every file is written to a temporary name and then moved into place.

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

A cell's record identifies the inputs of its rows and holds the rows' hashes. It is written after the rows, so that
damaged rows, or rows of other settings, are computed again. Finishing a cell writes nothing else, so its cost does not
grow with the grid. At the end of the run the records go into the manifest, and the rows into the tables.

Tables hold no clock times, so that a killed and resumed run ends with the same bytes; the records hold them.
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

    Heads of different identities (settings, features, versions) are never mixed: a folder with another identity is
    refused, and every cell has a key that identifies its inputs.
    """

    def __init__(
        self, path: pathlib.Path, manifest: dict[str, Any], rows: tuple[pathlib.Path, str] | None = None
    ):
        self.path = path
        self.manifest = manifest
        self._rows = rows  # for a sweep: folder of its Parquet data sets, and prefix of the file names

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
            identity: everything that the trained heads depend on, as nested dictionaries of plain values.
            cells: cells asked for; the folder keeps those it has.
            models: number of models M asked for.
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
        """Return the folder that another process holds open, only for writing heads and scores.

        Args:
            path: the folder.
            identity: as in open.
            manifest_hash: hash of the manifest, computed by the other process.

        Raises:
            InputError: if the path is a different folder, or holds a run of another identity.
        """
        path = pathlib.Path(path)
        manifest = read_manifest(path, _FORMAT)
        if manifest is None or file_hash(path / MANIFEST) != manifest_hash:
            raise InputError(f"out={str(path)!r} must be a folder that all processes share.")
        check_same(identity, manifest["identity"], path)
        return cls(path, manifest)

    def manifest_hash(self) -> str:
        """Return the SHA-256 of the manifest on disk."""
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
        """Return all cells of the folder, in the order of its tables."""
        return sorted(Cell.from_entry(entry) for entry in self.manifest["cells"].values())

    def state(self, cell: Cell, key: str) -> CellState:
        """Return the state of a cell's rows under a key."""
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
        """Return the record that finish_cell or fail_cell wrote last; empty if it is missing or damaged."""
        record = read_json(self._record_path(cell))
        whole = isinstance(record, dict) and ("error" in record or isinstance(record.get("rows"), dict))
        return record if whole else {}

    @property
    def is_finished(self) -> bool:
        """Return whether all cells of the folder and everything computed from them are on disk."""
        return self.manifest.get("status") == "finished"

    def start(self) -> None:
        """Mark the run as unfinished, on disk, before any rows are replaced."""
        self.manifest["status"] = "running"
        self._write_manifest()

    def trained_models(self, cell: Cell) -> list[tuple[int, int]]:
        """Return disjoint ranges [first, end) of model ids whose heads are on disk, ascending."""
        return models_on_disk(self._cell_path(cell))

    def save_heads(self, cell: Cell, models: tuple[int, int], params: Any) -> None:
        """Save a checkpoint of the heads of the models first .. end - 1."""
        save_heads(self._part_path(cell, models), params)

    def load_heads(self, cell: Cell, models: tuple[int, int], template: Any) -> Any:
        """Return the heads of the models first .. end - 1, in the shapes and dtypes of template.

        Raises:
            DamagedError: if the checkpoint differs from what was saved.
            InputError: if it cannot be read for another reason and may be intact.
        """
        return load_heads(self._part_path(cell, models), template)

    def save_scores(
        self, cell: Cell, models: tuple[int, int], arrays: Mapping[str, Shaped[np.ndarray, "models ..."]]
    ) -> None:
        """Write the scores of the models first .. end - 1 for process 0: arrays by name, one row per model."""
        path = self._scores_path(cell, models)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(path, arrays)

    def load_scores(self, cell: Cell, models: tuple[int, int]) -> dict[str, Shaped[np.ndarray, "models ..."]]:
        """Return the arrays that save_scores wrote."""
        with np.load(self._scores_path(cell, models), allow_pickle=False) as arrays:
            return dict(arrays)

    def save_tuning(self, cell: Cell, content: Mapping[str, Any]) -> None:
        """Write the search for a cell's recipe."""
        path = self._cell_path(cell) / _TUNING
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)

    def load_tuning(self, cell: Cell) -> dict[str, Any] | None:
        """Return what save_tuning wrote, or None if it is missing or damaged."""
        content = read_json(self._cell_path(cell) / _TUNING)
        return content if isinstance(content, dict) else None

    def finish_cell(
        self, cell: Cell, key: str, tables: Mapping[str, pd.DataFrame], facts: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write a cell's rows, then its record, and return the record; so a record implies that the rows exist."""
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
        """Record why computing a cell failed, and remove its old rows.

        Args:
            cell: the cell.
            error: the error in one line.
            trace: Python's traceback, if any; written to a file next to the record.
        """
        self.discard_rows(cell)
        self._record_path(cell).parent.mkdir(parents=True, exist_ok=True)
        if trace:
            write_text(self.trace_path(cell), trace)
        write_json(self._record_path(cell), {"error": error, "failed": now()})

    def trace_path(self, cell: Cell) -> pathlib.Path:
        """Return the path of a failed cell's traceback."""
        return self._cell_path(cell) / _TRACE

    def discard_rows(self, cell: Cell) -> None:
        """Remove a cell's rows and record, but keep its heads."""
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
