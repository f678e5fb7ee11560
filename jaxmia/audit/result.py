"""The result of an audit, as Python and notebooks show it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import pandas as pd

from jaxmia._shown import Shown, report
from jaxmia.audit.attack_scores import AttackRun, found_most
from jaxmia.audit.recipe_fit import Match


@dataclasses.dataclass(frozen=True, repr=False)
class AuditResult(Shown):
    """The result of an audit.

    Attributes:
        path: folder of the audit.
        attack: results of the attacks on the head ("row 0") and on its shadows ("others").
        records: one row per record: score under the head, attack results on the head, and vulnerability over
            re-trainings.
        match: mismatch of the shadows and the head.
        warnings: warnings for readers of the results.
        void: why the results are meaningless, if the audit was forced; reports show it first.
        notes: how the head was read.
        persons: one row per person, in an audit by person; else None.
    """

    path: pathlib.Path
    attack: AttackRun
    records: pd.DataFrame
    match: Match
    warnings: tuple[str, ...]
    void: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    persons: pd.DataFrame | None = None

    def headline(self) -> str:
        """Return one line: "void" if so, the number of records, and the attack with the largest TPR on the head."""
        void = "VOID: " if self.void else ""
        own = self.attack.results[self.attack.results["targets"] != "others"]
        of = "" if self.persons is None else f" of {len(self.persons)} persons"
        return f"{void}{len(self.records)} records{of}; {found_most(own)}; {len(self.warnings)} warnings"

    def to_frame(self) -> pd.DataFrame:
        """Return the records, the most vulnerable first."""
        return self.records

    def brief_frame(self) -> pd.DataFrame:
        """Return each record's id, membership, and TPR with interval at each FPR."""
        return self.records.filter(regex=r"^(id|class_name|member|tpr_[0-9.e-]+(_low|_high)?)$")

    def plot(self, **options: Any) -> Any:
        """Return a figure of ROC curves, as AttackRun.plot: targets="row 0" is the head, the others its shadows."""
        return self.attack.plot(**options)

    def report(self, out: str | os.PathLike[str] | None = None, **options: Any) -> pathlib.Path:
        """Write the report, as jaxmia.write_report does, and return the path of its page."""
        return report(self.path, out, **options)
