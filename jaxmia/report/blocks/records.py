"""Single records in a report: the distribution of vulnerability, the records most at risk, and their classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxmia.report.content import Block, Picture, shown
from jaxmia.report.drawing import drawn_for_pages, to_svg, vulnerability_figure
from jaxmia.stats.resolution import required_nonmembers
from jaxmia.tables import Measured, Table, Value, measured
from jaxmia.vulnerability.curves import QUANTILES, tpr_quantile

LISTED = 50  # number of records in the ranked list
EXTRAPOLATED = (
    "extrapolated: all records together have fewer than 10/FPR residuals, and the largest one stands for the tail"
    " beyond it."
)


@dataclasses.dataclass(frozen=True)
class RecordsOf:
    """Records with an attacker's mean TPR on each over re-trainings.

    Attributes:
        name: name of the cell or the audit, for titles.
        table: one row per record: id, class_name, separation (D) and separation_error, and what
            jaxmia.studies.unit_rows.rates_by_fpr names.
        fprs: fractions, descending.
        num_out: shadows without a record, on average.
    """

    name: str
    table: pd.DataFrame
    fprs: Sequence[float]
    num_out: float

    def status(self, fpr: float) -> str:
        """Return whether the residuals of all records resolve this FPR, or the largest residual replaces the tail."""
        return "ok" if self.num_out * len(self.table) >= required_nonmembers(fpr) else "extrapolated"

    def worst(self, fpr: float) -> Measured:
        """Return the largest TPR of all records, with an interval that accounts for the selection of the largest.

        All records' 95% intervals hold jointly (Bonferroni), so its ends are the largest lower and the largest upper
        end.
        """
        return self._over_records(np.max, fpr, ("_drawn", "_low_all", "_high_all"))

    def average(self, fpr: float) -> Measured:
        """Return the mean over records, with an interval for fully dependent errors, which is the widest."""
        return self._over_records(np.mean, fpr)

    def quantile(self, level: float, fpr: float) -> Measured:
        """Return a quantile over records below the maximum, with an interval as in average."""
        found = tpr_quantile(np.sort(self.table[f"tpr_{fpr:g}_drawn"].dropna().to_numpy()), level)
        if found.status != "ok":
            return Measured(None, status=found.status, reason=found.reason)
        return self._over_records(
            lambda tprs: tpr_quantile(np.sort(tprs), level).tpr, fpr, ("_drawn", "_low", "_high")
        )

    def _over_records(
        self,
        statistic: Callable[[np.ndarray], float],
        fpr: float,
        ends: Sequence[str] = ("", "_low", "_high"),
    ) -> Measured:
        """Return a statistic that increases with every TPR, and its values at the ends of the intervals."""
        names = [f"tpr_{fpr:g}{end}" for end in ends]
        known = self.table[names].dropna()
        if known.empty:
            return Measured(None, status="unresolved", reason="too few shadows")
        value, low, high = (float(statistic(known[name].to_numpy())) for name in names)
        return Measured(value, min(low, value), max(high, value), self.status(fpr))

    def at(self, row: Mapping[Hashable, Any], fpr: float) -> Measured:
        """Return the TPR of one record with its own 95% interval."""
        value, low, high = (row[f"tpr_{fpr:g}{end}"] for end in ("", "_low", "_high"))
        return measured(value, min(low, value), max(high, value), self.status(fpr))


def blocks_of_records(records: RecordsOf, key: str) -> list[Block]:
    """Return distribution, quantiles, ranked list and classes.

    Args:
        records: at least one record.
        key: prefix of the figure's ids.
    """
    return [_distribution(records, key), _ranked(records), by_class(records)]


def _distribution(records: RecordsOf, key: str) -> Picture:
    rows: list[tuple[Value, ...]] = []
    for level in QUANTILES:
        cells = [records.worst(fpr) if level == 1 else records.quantile(level, fpr) for fpr in records.fprs]
        rows.append(("maximum" if level == 1 else f"quantile {level:g}", *cells))
    table = Table(
        f"Quantiles over {len(records.table)} records of their TPR: {records.name}",
        ("", *(f"at FPR {fpr:g}" for fpr in records.fprs)),
        tuple(rows),
        "Intervals: 95%. That of the maximum holds for all records jointly; the others assume errors"
        f" common to all records, the widest case. A quantile q needs 1/(1 − q) records. {EXTRAPOLATED}",
    )
    title = f"How vulnerability is spread over records: {records.name}"
    worst = ", ".join(f"{shown(records.worst(fpr))} at FPR {fpr:g}" for fpr in records.fprs)
    alternative = f"Share of records against the TPR an attacker has on them; the largest TPR is {worst}."
    with drawn_for_pages():
        figure = vulnerability_figure(records.table, list(records.fprs), "Vulnerability over records")
    return Picture(title, alternative, to_svg(figure, key, alternative), table)


def _ranked(records: RecordsOf) -> Table:
    by = [f"tpr_{records.fprs[0]:g}", "separation"]  # separation ranks records with a TPR of 1
    ranked = records.table.sort_values(by, ascending=False, kind="stable").head(LISTED)
    more = ["p_value"] if "p_value" in ranked else []
    marked = "above_guarantee" in ranked
    rows: list[tuple[Value, ...]] = []
    for place, row in enumerate(ranked.to_dict("records"), start=1):
        tprs = [records.at(row, fpr) for fpr in records.fprs]
        p_values = [Measured(row[name], form=".2g") for name in more]
        above = [("above" if row["above_guarantee"] else "") for _ in range(marked)]
        rows.append((place, str(row["id"]), str(row["class_name"]), *tprs, *p_values, *above))
    headings = [f"TPR at FPR {fpr:g}" for fpr in records.fprs] + ["p-value under this model"] * len(more)
    headings += ["compared with the stated guarantee"] * marked
    note = (
        "Ids only. Each interval is for a single record, and does not account for the selection of the largest."
        + (" p-value: of the released model's score, if the record had not been trained on." if more else "")
    )
    title = f"The {len(rows)} records most at risk: {records.name}"
    return Table(title, ("rank", "record", "class", *headings), tuple(rows), note, sortable=True)


def by_class(records: RecordsOf) -> Table:
    """Return mean and largest TPR of each class, and its share of the most vulnerable records."""
    table = records.table
    top = table.nlargest(max(1, len(table) // 100), "separation")
    fpr = records.fprs[0]
    rows: list[tuple[Value, ...]] = []
    for name, mine in table.groupby("class_name", sort=True):
        of_class = dataclasses.replace(records, table=mine)
        share = float((top["class_name"] == name).mean())
        means = [of_class.average(each) for each in records.fprs]
        rows.append((str(name), len(mine), *means, of_class.worst(fpr), Measured(share, form=".0%")))
    headings = [f"mean TPR at FPR {each:g}" for each in records.fprs]
    return Table(
        f"Vulnerability by class: {records.name}",
        ("class", "records", *headings, f"largest TPR at FPR {fpr:g}", "share of the top 1%"),
        tuple(rows),
        sortable=True,
    )
