"""The parts of a folder of `jaxmia run` or `jaxmia sweep` that a report needs."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxmia._validate import InputError
from jaxmia.laws.law import LawKey, PowerLawFit
from jaxmia.report.blocks.records import RecordsOf
from jaxmia.studies.cell import Cell
from jaxmia.studies.folder.tables import load_json, load_table, of_unit, read_tables
from jaxmia.studies.laws import load_laws
from jaxmia.studies.unit_rows import RATES, rates_by_fpr

CELL = ["dataset", "recipe", "classes", "shots", "epsilon"]


@dataclasses.dataclass(frozen=True)
class Study:
    """The parts of a run's or a sweep's folder that a report needs.

    Attributes:
        path: the folder.
        manifest: its manifest.json.
        results: its rows on records.
        controls: its negative controls of attacks on records.
        laws: fitted to its cells, averages and quantiles over records.
        of_persons: its rows on persons; empty if membership is by record.
        controls_of_persons: its negative controls of attacks on persons.
    """

    path: pathlib.Path
    manifest: Mapping[str, Any]
    results: pd.DataFrame
    controls: pd.DataFrame
    laws: Mapping[LawKey, PowerLawFit]
    of_persons: pd.DataFrame
    controls_of_persons: pd.DataFrame

    @property
    def fprs(self) -> list[float]:
        """Declared FPRs, descending."""
        return sorted((float(fpr) for fpr in self.results["fpr"].unique()), reverse=True)

    @property
    def headline(self) -> pd.DataFrame:
        """Return, for each feature set and recipe, the rows of the least private cells with most classes and shots."""
        return self.largest(self.results)

    def largest(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows of the headline's cells."""
        for column in ("epsilon", "classes", "shots"):
            best = rows.groupby(["dataset", "recipe"])[column].transform("max")
            rows = rows[rows[column] == best]
        return rows


def load_study(folder: str | os.PathLike[str]) -> Study:
    """Return a folder of a run or a sweep.

    Raises:
        InputError: if it is none, or cannot be read.
    """
    manifest = load_json(folder, "manifest.json")
    if "settings" not in manifest:
        raise InputError(f"folder={str(folder)!r} must be that of a run, a sweep or an audit of a head.")
    results, controls = (load_table(folder, name) for name in ("results", "controls"))
    laws = {LawKey(*name[:4]): fit for name, fit in load_laws(folder).items() if name.unit == "record"}
    return Study(
        pathlib.Path(folder),
        manifest,
        of_unit(results, "record"),
        of_unit(controls, "record"),
        laws,
        of_unit(results, "person"),
        of_unit(controls, "person"),
    )


def num_parameters(study: Study, cell: Mapping[Any, Any]) -> int | None:
    """Return the number of parameters of one model of a cell; None in folders without this information."""
    parameters: int | None = _record_of(study, cell).get("parameters")
    return parameters


def _record_of(study: Study, cell: Mapping[Any, Any]) -> Mapping[str, Any]:
    """Return what the manifest says of a cell."""
    parts = study.manifest.get("studies", {})
    cells = parts.get(f"{cell['dataset']}/{cell['recipe']}", study.manifest).get("cells", {})
    name = str(Cell(cell["classes"], cell["shots"], cell["seed"], cell["epsilon"]))
    record: Mapping[str, Any] = cells.get(name, {})
    return record


def persons_of_largest(study: Study) -> int:
    """Persons whom the records of the largest cell's pool are of; 0 where nobody said."""
    row = study.headline.head(1).to_dict("records")[0]
    return int(_record_of(study, row).get("persons", {}).get("persons", 0))


def cell_name(row: Mapping[Any, Any]) -> str:
    """Return the name of a row's cell, for titles."""
    private = "" if row["epsilon"] == float("inf") else f", ε = {row['epsilon']:g}"
    return f"{row['dataset']}, {row['recipe']}, C = {row['classes']}, S = {row['shots']}{private}"


def seed_names(rows: pd.DataFrame) -> np.ndarray:
    """Return cell and seed of each row, the names of RecordsOf."""
    return np.array([f"{cell_name(row)}, seed {row['seed']}" for row in rows.to_dict("records")])


def records_of(study: Study) -> Iterator[RecordsOf]:
    """Yield the records of the headline cells, first of their first seed, then of the others."""
    cells = study.headline.drop_duplicates([*CELL, "seed"])
    columns = [
        *CELL,
        "seed",
        "record",
        "class_name",
        "fpr",
        *RATES,
        "separation",
        "separation_error",
        "num_out",
    ]
    tables = [
        table.merge(cells[[*CELL, "seed"]]) for table in read_tables(study.path, "per_example", columns)
    ]
    known = pd.concat(tables, ignore_index=True)
    for key, rows in known.groupby([*CELL, "seed"], sort=False):
        first = rows[rows["fpr"] == rows["fpr"].iloc[0]].reset_index(drop=True)
        table = first[["record", "class_name", "separation", "separation_error"]].rename(
            columns={"record": "id"}
        )
        table = pd.concat([table, rates_by_fpr(rows, study.fprs)], axis=1)
        name = f"{cell_name(dict(zip(CELL, key, strict=False)))}, seed {key[-1]}"
        yield RecordsOf(name, table, study.fprs, float(first["num_out"].mean()))


def first_seeds(records: Sequence[RecordsOf]) -> list[RecordsOf]:
    """Return one RecordsOf per cell; other seeds are under “Controls”."""
    return list({each.name.rpartition(", seed ")[0]: each for each in reversed(records)}.values())[::-1]
