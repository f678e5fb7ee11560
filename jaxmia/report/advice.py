"""The folder of `jaxmia advise` that a report takes measured levers from."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd

from jaxmia._validate import InputError
from jaxmia.studies.folder.tables import load_json
from jaxmia.tables import Measured, Table
from jaxmia.tables.advice import option_row, options_note
from jaxmia.tables.finding import between, share

_MOST_ROWS = 12  # of the table in the report; advice.csv has all


@dataclasses.dataclass(frozen=True)
class AdviceFolder:
    """Options of the advisor.

    Attributes:
        settings: its settings, by name.
        options: one row for each option, as jaxmia.advice.advice.Advice has them.
        headline: the advice in a sentence.
        beside: a sentence on how its records relate to the report's.
    """

    settings: Mapping[str, Any]
    options: pd.DataFrame
    headline: str
    beside: str

    @property
    def shown(self) -> pd.DataFrame:
        """The options of a report's table: as it is, the frontier, what is recommended, and the nearest of the rest."""
        rows = self.options
        first = rows["pareto"] | rows["recommended"] | (rows["lever"] == "as it is")
        rest = rows[~first].sort_values("worst_tpr", kind="stable").index
        kept = [*rows.index[first], *rest][:_MOST_ROWS]
        return rows.loc[sorted(kept)]

    def table(self) -> Table:
        """The options as a table."""
        settings = self.settings
        return Table(
            f"Options at FPR {settings['fpr']:g}; limit: TPR {settings['max_tpr']:g} for every {settings['unit']}",
            ("lever", "option", "accuracy", "mean TPR", "most vulnerable", "limit"),
            tuple(option_row(row) for _, row in self.shown.iterrows()),
            options_note(str(settings["unit"])),
            about="What each lever does to accuracy and to whoever is most at risk, in heads like the released one.",
        )

    def sentences(self) -> tuple[str, ...]:
        """The levers in sentences: the advice, and for each lever its option that lowers the worst TPR most."""
        unit, start = self.settings["unit"], self.options.iloc[0]
        lines = [f"Advice: {self.headline}."]
        rows = self.options[self.options["worst_tpr"].notna() & (self.options["lever"] != "as it is")]
        for lever, of_lever in rows.groupby("lever", sort=False):
            row = of_lever.sort_values("worst_tpr", kind="stable").iloc[0]
            at_most = "at most " if row["how"] == "bound" else ""
            ends = "" if at_most else between(Measured(row["worst_tpr"], row["worst_low"], row["worst_high"]))
            lines.append(
                f"{lever} ({row['option']}): the {unit} most at risk recognised in {at_most}{share(row['worst_tpr'])}"
                f"{ends}, as it is {share(start['worst_tpr'])}; accuracy {row['accuracy']:.3f}, as it is"
                f" {start['accuracy']:.3f}{', of an easier task' if lever == 'classes' else ''}"
            )
        return tuple(lines)


def load_advice(folder: str | os.PathLike[str], hashes: Collection[str]) -> AdviceFolder:
    """Return a finished folder of `jaxmia advise`.

    Args:
        folder: with advice.json.
        hashes: content hashes of the report's features; empty if they are not known.

    Raises:
        InputError: if it is no such folder, or the command was stopped before its end.
    """
    path = pathlib.Path(folder)
    if not (path / "advice.json").is_file():
        raise InputError(
            f"advice={str(folder)!r} must be a folder that `jaxmia advise --out` finished; it has no advice.json."
        )
    content = load_json(path, "advice.json")
    same = "The advice is on the records of this report (the same features, by their SHA-256)."
    other = (
        "The advice is on other records than those of this report, or on a part of them: it applies only as far as"
        " they resemble each other."
    )
    return AdviceFolder(
        content["settings"],
        pd.DataFrame(content["options"]),
        content["headline"],
        same if content["features"] in hashes else other,
    )
