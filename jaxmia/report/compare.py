"""`jm.compare`: audits, runs or attacks side by side: differences with intervals, and records whose risk rose."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxmia._atomic import check_writable, new_folder, write_json, write_parquet, write_text
from jaxmia._shown import Shown
from jaxmia._validate import InputError
from jaxmia.report import subject_of
from jaxmia.report.content import Report, Section
from jaxmia.report.page import to_html
from jaxmia.report.sections.glossary import glossary
from jaxmia.report.subjects import OfAudit, OfStudy, Subject, name_of, whom
from jaxmia.stats.differences import Difference, difference_of, paired_difference, risen
from jaxmia.tables import NONE, Measured, Table, Value, measured
from jaxmia.tables.rates import best_of

FDR = 0.1  # of the records whose risk is said to have risen
LISTED = 20
_PAIRED = "records in both, paired by id"
_CHANGES = ("against", "fpr", "what", "earlier", "later", "difference", "low", "high", "records", "how")


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """What differs between audits, runs or attacks, each against the first.

    Attributes:
        names: of the folders, the first one's first.
        changes: one row per folder, FPR and number: earlier, later, difference, low, high (95%), records, how.
        records: one row per folder, FPR and record that both have: id, earlier, later, change, error, rose.
        notes: what a reader must know.
    """

    names: tuple[str, ...]
    changes: pd.DataFrame
    records: pd.DataFrame
    notes: tuple[str, ...]

    def headline(self) -> str:
        """Return one line: what is compared, and how many records' risk rose."""
        rose = int(self.records["rose"].sum()) if len(self.records) else 0
        return f"{' against '.join(self.names)}; {rose} records' risk rose"

    def to_frame(self) -> pd.DataFrame:
        """Return the changes."""
        return self.changes

    def tables(self) -> list[str | Table]:
        """Return the tables of the terminal and of the page."""
        blocks: list[str | Table] = []
        for name in self.names[1:]:
            mine = self.changes[self.changes["against"] == name]
            blocks.append(_changes_table(mine, self.names[0], name))
            rose = self.records[(self.records["against"] == name) & self.records["rose"]]
            blocks.append(_rose_table(rose, name))
        return [*blocks, *self.notes]

    def write(self, out: str | os.PathLike[str]) -> pathlib.Path:
        """Write changes.parquet, records.parquet and compare.json into a new folder.

        Raises:
            InputError: if the folder holds files, or cannot be written.
        """
        with new_folder(out) as folder:
            write_parquet(folder / "changes.parquet", self.changes)
            write_parquet(folder / "records.parquet", self.records)
            write_json(folder / "compare.json", self.report().to_json())
        return pathlib.Path(out)

    def report(self) -> Report:
        """Return the content of the page."""
        title = f"Comparison: {' against '.join(self.names)}"
        return Report(title, (Section("changes", "What changed", tuple(self.tables())), glossary()))

    def write_page(self, out: str | os.PathLike[str]) -> pathlib.Path:
        """Write the page as one HTML file.

        Raises:
            InputError: unless it is an .html file that can be written.
        """
        page = check_page(out)
        write_text(page, to_html(self.report()))
        return page


def check_page(out: str | os.PathLike[str]) -> pathlib.Path:
    """Return the path of a page; raises InputError unless it is an .html file that can be written."""
    page = pathlib.Path(out)
    if page.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"html={str(out)!r} must be a .html file in a folder that exists.")
    check_writable(page)
    return page


def compare(*folders: str | os.PathLike[str]) -> Comparison:
    """Compare two or more audits, runs, sweeps or attacks, each with the first.

    Of the attacks: the TPR of the best one at each FPR, with the interval of the difference for independent estimates
    (jaxmia.stats.differences). Of the records: the mean of the TPR over re-trainings, paired by id where both have the
    record, and those whose TPR rose beyond their errors at a false discovery rate of 0.1. Runs are compared by their
    largest cell and its first seed.

    Args:
        folders: at least two, of `jaxmia audit`, `jaxmia run`, `jaxmia sweep` or `jaxmia attack`.

    Returns:
        A Comparison: tables, .write(folder) and .write_page(file).

    Raises:
        InputError: for fewer than two folders, one that is none, or folders without a common FPR.
    """
    if len(folders) < 2:
        raise InputError(f"folders={[str(each) for each in folders]} must be at least two, to be compared.")
    subjects = [subject_of(pathlib.Path(each)) for each in folders]
    names = _names(folders, subjects)
    common = [fpr for fpr in whom(subjects[0]).fprs if all(fpr in whom(each).fprs for each in subjects)]
    if not common:
        fprs = "; ".join(
            f"{name}: {list(whom(each).fprs)}" for name, each in zip(names, subjects, strict=True)
        )
        raise InputError(f"folders must have an FPR in common, got {fprs}.")
    changes, records, notes = [], [], []
    for name, subject in zip(names[1:], subjects[1:], strict=True):
        both = _in_both(subjects[0], subject, common)
        for fpr in common:
            changes += [
                {"against": name, "fpr": fpr, **row} for row in _changes(subjects[0], subject, fpr, both)
            ]
        if both.empty:
            notes.append(
                f"{names[0]} and {name} have no record in common by id: averages are compared unpaired."
            )
        records.append(both.assign(against=name))
        if type(subject) is not type(subjects[0]):
            notes.append(
                f"{names[0]} and {name} are of different kinds: one model's, or those of many models."
            )
    notes.append(
        "Differences are later less earlier: above 0 the risk rose. Records are matched by id alone. Intervals take the"
        " two as independent; made from the same members and seed they are narrower than shown."
    )
    return Comparison(
        tuple(names), pd.DataFrame(changes, columns=list(_CHANGES)), pd.concat(records), tuple(notes)
    )


def _names(folders: Sequence[str | os.PathLike[str]], subjects: Sequence[Subject]) -> list[str]:
    """Return the names of subjects; those of their folders where names are the same."""
    names = [name_of(each) for each in subjects]
    if len(set(names)) == len(names):
        return names
    paths = [str(each) for each in folders]
    if len(set(paths)) < len(paths):
        raise InputError(f"folders={paths} must differ.")
    return paths


def _attack_rows(subject: Subject) -> pd.DataFrame:
    """Return the rows of attacks that the first page of a report on the subject is about."""
    if isinstance(subject, OfAudit):
        return subject.audit.head_rows()
    if isinstance(subject, OfStudy):
        return subject.study.headline
    return subject.attack.audited


def _in_both(first: Subject, second: Subject, fprs: Sequence[float]) -> pd.DataFrame:
    """Return one row per FPR and record that both have: earlier, later, change, error, rose."""
    tables = []
    for fpr in fprs:
        sides = []
        for subject in (first, second):
            table = whom(subject).table
            columns = {
                "id": table["id"].astype(str),
                "tpr": table[f"tpr_{fpr:g}"],
                "error": table[f"tpr_{fpr:g}_error"],
            }
            sides.append(pd.DataFrame(columns).drop_duplicates("id"))
        both = sides[0].merge(sides[1], on="id", suffixes=("_earlier", "_later")).dropna()
        change = (both["tpr_later"] - both["tpr_earlier"]).to_numpy(np.float64)
        error = np.hypot(*(both[f"error_{side}"].to_numpy(np.float64) for side in ("earlier", "later")))
        tables.append(
            pd.DataFrame(
                {
                    "fpr": fpr,
                    "id": both["id"],
                    "earlier": both["tpr_earlier"],
                    "later": both["tpr_later"],
                    "change": change,
                    "error": error,
                    "rose": risen(change, error, FDR) if len(both) else np.zeros(0, bool),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def _changes(first: Subject, second: Subject, fpr: float, both: pd.DataFrame) -> list[dict[str, Any]]:
    """Return what the best attack finds, the average record and the worst one, earlier and later."""
    rows = [_of_attacks(first, second, fpr)]
    mine = both[both["fpr"] == fpr]
    pairs = (whom(first).average(fpr), whom(second).average(fpr))
    if len(mine) > 1:
        found = paired_difference(mine["earlier"].to_numpy(), mine["later"].to_numpy())
        ends = {"earlier": float(mine["earlier"].mean()), "later": float(mine["later"].mean())}
        rows.append({"what": "average record", **ends, **_of(found), "records": len(mine), "how": _PAIRED})
    else:
        rows.append({"what": "average record", **_unpaired(*pairs)})
    rows.append({"what": "worst record", **_unpaired(whom(first).worst(fpr), whom(second).worst(fpr))})
    return rows


def _of_attacks(first: Subject, second: Subject, fpr: float) -> dict[str, Any]:
    found = [best_of(rows[rows["fpr"] == fpr]) for rows in map(_attack_rows, (first, second))]
    return {"what": "members, found by the best attack", **_unpaired(found[0], found[1])}


def _unpaired(earlier: Measured, later: Measured) -> dict[str, Any]:
    """Return two numbers and their difference; NaN where one is missing."""
    ends = {"earlier": _float(earlier.value), "later": _float(later.value)}
    sides = [(each.value, each.low, each.high) for each in (earlier, later)]
    if any(value is None for side in sides for value in side):
        missing = {"difference": np.nan, "low": np.nan, "high": np.nan, "how": "not resolved in both"}
        return ends | missing
    one, two = ((float(a or 0), float(b or 0), float(c or 0)) for a, b, c in sides)
    return ends | _of(difference_of(one, two)) | {"how": "two independent estimates"}


def _float(value: float | None) -> float:
    return np.nan if value is None else float(value)


def _of(found: Difference) -> dict[str, float]:
    return {"difference": found.value, "low": found.low, "high": found.high}


def _changes_table(rows: pd.DataFrame, first: str, second: str) -> Table:
    lines: list[tuple[Value, ...]] = []
    for row in rows.to_dict("records"):
        ends = (Measured(row[name]) if np.isfinite(row[name]) else NONE for name in ("earlier", "later"))
        change = measured(row["difference"], row["low"], row["high"])
        if np.isnan(row["difference"]):
            change = Measured(None, status="unresolved", reason="not resolved in both")
        lines.append((f"{row['fpr']:g}", str(row["what"]), *ends, dataclasses.replace(change, form="+.3f")))
    pairs = rows[rows["how"] == _PAIRED]["records"]
    note = (
        f"The average is over {int(pairs.iloc[0]):,} records that both have, paired by id."
        if len(pairs)
        else ""
    )
    return Table(
        f"TPR in {first} (earlier) and in {second} (later)",
        ("FPR", "of", "earlier", "later", "difference, 95% interval"),
        tuple(lines),
        note,
        about="How much more or less an attacker finds.",
    )


def _rose_table(rose: pd.DataFrame, name: str) -> str | Table:
    """Return the records whose risk rose most, at the largest FPR at which some did."""
    if rose.empty:
        return f"{name}: no record's risk rose beyond its errors (false discovery rate {FDR:g})."
    fpr = rose["fpr"].max()
    mine = rose[rose["fpr"] == fpr].sort_values("change", ascending=False, kind="stable")
    lines: list[tuple[Value, ...]] = [
        (
            str(row["id"]),
            Measured(row["earlier"]),
            Measured(row["later"]),
            Measured(row["change"], form="+.3f", error=row["error"]),
        )
        for row in mine.head(LISTED).to_dict("records")
    ]
    return Table(
        f"Records whose risk rose in {name}, at FPR {fpr:g}",
        ("record", "earlier", "later", "difference ± standard error"),
        tuple(lines),
        f"{len(mine):,} records, of which one in ten may be here by chance"
        + (f"; the {LISTED} that rose most." if len(mine) > LISTED else "."),
        sortable=True,
        about="For whom the later model is worse.",
    )
