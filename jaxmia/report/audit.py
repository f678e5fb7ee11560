"""The parts of an audit's folder that a report needs."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import pandas as pd

from jaxmia._hashes import file_hash
from jaxmia._validate import InputError
from jaxmia.report.attack import attack_curves
from jaxmia.report.blocks.records import RecordsOf
from jaxmia.stats.roc import Roc
from jaxmia.studies.folder.tables import load_json, load_table, of_unit


@dataclasses.dataclass(frozen=True)
class Audit:
    """A folder of an audit.

    Attributes:
        path: the folder.
        content: its audit.json.
        results: rows of the attacks on records, of the head ("row 0") and of its shadows ("others").
        controls: the negative controls of these.
        records: one row per record.
        curves: ROC of each attack on the head, empty without non-members.
        persons: one row per person; None if the audit is by record.
        of_persons: rows of the attacks on persons; empty if the audit is by record.
        controls_of_persons: the negative controls of these.
    """

    path: pathlib.Path
    content: Mapping[str, Any]
    results: pd.DataFrame
    controls: pd.DataFrame
    records: pd.DataFrame
    curves: Mapping[str, Roc]
    persons: pd.DataFrame | None
    of_persons: pd.DataFrame
    controls_of_persons: pd.DataFrame

    @property
    def fprs(self) -> list[float]:
        """Declared FPRs, descending."""
        return sorted(self.content["settings"]["fpr"], reverse=True)

    @property
    def shots(self) -> float:
        """Return the mean number of members per class."""
        return float(self.content["records"]["members"] / self.content["records"]["classes"])

    def of(self, targets: str, evaluation: str) -> pd.DataFrame:
        """Return the rows of results of a group of targets and an evaluation."""
        rows = self.results
        return rows[(rows["targets"] == targets) & (rows["evaluation"] == evaluation)]

    def head_rows(self) -> pd.DataFrame:
        """Rows of the attacks on the head, under every evaluation."""
        return self.results[self.results["targets"] == "row 0"]

    def members(self) -> RecordsOf:
        """Return the head's members."""
        shadows = self.content["shadows"]
        num_out = self.content["settings"]["shadows"]["models"] * (1 - shadows["inclusion_rate"])
        table = self.records[self.records["member"]].reset_index(drop=True)
        return RecordsOf("members of the released model, over re-trainings", table, self.fprs, num_out)


def load_audit_folder(folder: str | os.PathLike[str]) -> Audit:
    """Return a folder of `jaxmia audit`.

    Raises:
        InputError: if it is not an audit's folder, or cannot be read.
    """
    path = pathlib.Path(folder)
    content = load_json(path, "audit.json")
    if "void" not in content:
        raise InputError(
            f"folder={str(path)!r} holds an audit of an earlier jaxmia: run it again, its shadows are kept."
        )
    for name, expected in content["written"].items():
        if not (path / name).is_file() or file_hash(path / name) != expected:
            raise InputError(
                f"folder={str(path)!r} must be unchanged since jaxmia audit wrote it; {name} does not"
                " match audit.json: run the audit again, its shadows are kept."
            )
    results, controls = (load_table(path / "attack", name) for name in ("results", "controls"))
    persons = load_table(path, "persons") if "persons.parquet" in content["written"] else None
    target = load_json(path / "attack", "manifest.json")["target"]
    attacks = results["attack"].unique() if target is not None else ()
    curves, _ = attack_curves(path / "attack", attacks, target)
    return Audit(
        path,
        content,
        of_unit(results, "record"),
        of_unit(controls, "record"),
        load_table(path, "records"),
        curves,
        persons,
        of_unit(results, "person"),
        of_unit(controls, "person"),
    )
