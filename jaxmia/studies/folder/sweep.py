"""The folder of a sweep.

    manifest.json        as of a run, with an identity and cells for every study: a feature set under a recipe
    results/             a Parquet data set: one file per cell, as are per_example/ and controls/
    power_law.json       the fitted laws of each recipe
    studies/DATASET/RECIPE/checkpoints/CELL/    heads and record

The folder of each study is written in the same way as the folder of a run.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jaxmia._atomic import write_json
from jaxmia.studies.cell import Cell
from jaxmia.studies.folder.manifest import (
    check_models,
    check_same,
    held_with_manifest,
    machine,
    unfinished,
    write_manifest,
)
from jaxmia.studies.folder.run import RunFolder
from jaxmia.studies.folder.states import MORE_TABLES, TABLES

_SWEEP_FORMAT = "sweep 1"


class SweepFolder:
    """The folder of a sweep, locked by this process while it is open. Its studies write cells as runs do.

    Only this process writes the manifest; other processes can write cells, through study_folder.
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
            studies: identity and requested cells of each (data set, recipe) by name; the folder keeps the studies and
                cells that it already has.
            models: number of models M asked for.
            resume: continue an unfinished sweep.

        Raises:
            InputError: as RunFolder.open.
        """
        path = pathlib.Path(path)
        with held_with_manifest(path, _SWEEP_FORMAT) as manifest:
            manifest = manifest or {"format": _SWEEP_FORMAT, "studies": {}}
            folder = cls(path, manifest)
            known = manifest["studies"]
            for names, (identity, _) in studies.items():
                if "/".join(names) in known:
                    study = known["/".join(names)]
                    check_same(identity, study["identity"], path, f"{'/'.join(names)}: ")
                    check_models(models, study["models"], path)
            if known and manifest["status"] != "finished" and not resume:
                held = [folder.study(*name.split("/")) for name in known]
                done = sum("finished" in study.record(cell) for study in held for cell in study.cells)
                raise unfinished(path, "sweep", done, sum(len(study.cells) for study in held))
            for names, (identity, cells) in studies.items():
                entry = known.setdefault("/".join(names), {"cells": {}})
                entry |= {"identity": dict(identity), "models": models}
                for cell in cells:
                    entry["cells"].setdefault(str(cell), cell.entry())
            manifest |= {"settings": dict(settings), **machine()}
            yield folder

    def study(self, dataset: str, recipe: str) -> RunFolder:
        """Return the folder of one feature set and recipe."""
        return study_folder(self.path, dataset, recipe, self.manifest["studies"][f"{dataset}/{recipe}"])

    def start(self) -> None:
        """Mark the sweep as unfinished, on disk, and remove files that a killed process left in its data sets."""
        self._write("running")  # first, because a folder with files and no manifest is refused
        for left in (file for name in (*TABLES, *MORE_TABLES) for file in (self.path / name).glob(".*.tmp")):
            left.unlink(missing_ok=True)

    def finish(self, studies: Iterable[tuple[str, str]], *, left_out: list[dict[str, Any]]) -> None:
        """Write the manifest with the records of all cells and status "finished", or "failed" if a cell is not done."""
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
        """Return whether all cells of the last call and their fitted laws are on disk."""
        return self.manifest.get("status") == "finished"

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file into the folder."""
        write_json(self.path / name, content)

    def _write(self, status: str) -> None:
        self.manifest["status"] = status
        write_manifest(self.path, self.manifest)


def study_folder(
    path: pathlib.Path, dataset: str, recipe: str, manifest: dict[str, Any] | None = None
) -> RunFolder:
    """Return the folder of one feature set and recipe in a sweep; without a manifest, for writing cells only."""
    path = path.resolve()
    return RunFolder(
        path / "studies" / dataset / recipe,
        {"cells": {}} if manifest is None else manifest,
        (path, f"{dataset}__{recipe}__"),
    )
