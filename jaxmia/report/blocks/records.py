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
from jaxmia.tables.finding import Limit
from jaxmia.vulnerability.curves import QUANTILES, tpr_quantile

LISTED = 50  # records in the ranked list
EXTRAPOLATED = "all records together have fewer than 10/FPR residuals: the largest one stands for the tail"


@dataclasses.dataclass(frozen=True)
class RecordsOf:
    """Records with an attacker's mean TPR on each over re-trainings.

    Attributes:
        name: name of the cell or the audit, for titles.
        table: one row per record: id, class_name, separation (D) and separation_error, and what
            jaxmia.studies.unit_rows.rates_by_fpr names.
        fprs: fractions, descending.
        num_out: shadows without a record, on average.
        pooled: how many records' residuals stand for one tail together; all of the table's by default.
    """

    name: str
    table: pd.DataFrame
    fprs: Sequence[float]
    num_out: float
    pooled: int | None = None

    def status(self, fpr: float) -> str:
        """Whether the residuals of all records together reach this FPR, or the largest of them stands for it."""
        return (
            "ok"
            if self.num_out * (self.pooled or len(self.table)) >= required_nonmembers(fpr)
            else "extrapolated"
        )

    def worst(self, fpr: float) -> Measured:
        """Return the largest TPR of all records, with an interval that accounts for the selection of the largest.

        All records' 95% intervals hold jointly (Bonferroni), so its ends are the largest lower and the largest upper
        end.
        """
        found = self._over_records(np.max, fpr, ("_drawn", "_low_all", "_high_all"))
        average = self.average(fpr)
        if found.value is None or average.value is None or average.value <= found.value:
            return found
        # Drawn together to their mean, records do not lie below it.
        return dataclasses.replace(found, value=average.value, high=max(found.high or 0.0, average.value))

    def first(self, fpr: float) -> str:
        """The id of the record whose number is the largest; empty if none is resolved."""
        ranked = self.ranked(fpr)
        return str(ranked["id"].iloc[0]) if len(ranked) else ""

    def ranked(self, fpr: float) -> pd.DataFrame:
        """Resolved records, the most vulnerable at an FPR first, by separation where TPRs have reached 1."""
        known = self.table[self.table[f"tpr_{fpr:g}_drawn"].notna()]
        return known.sort_values([f"tpr_{fpr:g}_drawn", "separation"], ascending=False, kind="stable")

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
        return Measured(value, min(low, value), max(high, value), *self._status(fpr))

    def _status(self, fpr: float) -> tuple[str, str]:
        status = self.status(fpr)
        return status, EXTRAPOLATED if status == "extrapolated" else ""

    def at(self, row: Mapping[Hashable, Any], fpr: float) -> Measured:
        """TPR of one record, and the 95% interval that holds for all records at once: the same as in worst."""
        value, low, high = (row[f"tpr_{fpr:g}{end}"] for end in ("_drawn", "_low_all", "_high_all"))
        return measured(value, min(low, value), max(high, value), *self._status(fpr))


def blocks_of_records(
    records: RecordsOf, key: str, *, show_ids: bool = True, limit: Limit | None = None
) -> list[Block]:
    """Distribution, quantiles, the ranked list and the classes.

    Args:
        records: at least one.
        key: for the ids of the figure.
        show_ids: whether the list may name records.
        limit: declared by the controller.
    """
    return [_distribution(records, key, limit), ranked_table(records, show_ids=show_ids), by_class(records)]


def distribution_svg(
    records: RecordsOf, key: str, limit: Limit | None, height: float = 3.2
) -> tuple[str, str]:
    """The drawing of how vulnerability is spread, and what it shows in words."""
    worst = ", ".join(f"{shown(records.worst(fpr))} at FPR {fpr:g}" for fpr in records.fprs)
    alternative = f"Share of records against the TPR an attacker has on them; the largest TPR is {worst}."
    with drawn_for_pages():
        figure = vulnerability_figure(records.table, list(records.fprs), limit=limit)
    return to_svg(figure, key, alternative, height=height), alternative


def _distribution(records: RecordsOf, key: str, limit: Limit | None) -> Picture:
    rows: list[tuple[Value, ...]] = []
    for level in QUANTILES:
        cells = [records.worst(fpr) if level == 1 else records.quantile(level, fpr) for fpr in records.fprs]
        rows.append(("maximum" if level == 1 else f"quantile {level:g}", *cells))
    table = Table(
        f"Quantiles over {len(records.table)} records of their TPR: {records.name}",
        ("", *(f"at FPR {fpr:g}" for fpr in records.fprs)),
        tuple(rows),
        "Intervals: 95%. That of the maximum holds for all records at once; the others allow for errors that all"
        " records share, which is the widest case. A quantile q needs 1/(1 − q) records.",
        about="Half of the records, nine in ten, and so on, have at most this TPR; the maximum is the worst record's.",
    )
    title = f"How vulnerability is spread over records: {records.name}"
    svg, alternative = distribution_svg(records, key, limit)
    return Picture(title, alternative, svg, table)


def ranked_table(records: RecordsOf, *, show_ids: bool = True) -> Table:
    """The records most at risk, the first of them first.

    Args:
        records: at least one.
        show_ids: whether they are named; else they have their rank alone.
    """
    ranked = records.ranked(records.fprs[0]).head(LISTED)
    more = ["p_value"] if "p_value" in ranked else []
    marked = "above_guarantee" in ranked
    rows: list[tuple[Value, ...]] = []
    for place, row in enumerate(ranked.to_dict("records"), start=1):
        tprs = [records.at(row, fpr) for fpr in records.fprs]
        p_values = [Measured(row[name], form=".2g") for name in more]
        above = [("above" if row["above_guarantee"] else "") for _ in range(marked)]
        name = (str(row["id"]),) if show_ids else ()
        rows.append((place, *name, str(row["class_name"]), *tprs, *p_values, *above))
    headings = [f"TPR at FPR {fpr:g}" for fpr in records.fprs] + ["p-value under this model"] * len(more)
    headings += ["compared with the stated guarantee"] * marked
    note = (
        ("Ids only. " if show_ids else "Without ids: the CSV beside the page has them. ")
        + "Intervals: 95%, of all records at once, so that the largest may be chosen among them."
        + (" p-value: of the released model's score, if the record had not been trained on." if more else "")
    )
    title = f"The {len(rows)} records most at risk: {records.name}"
    named = ("record",) if show_ids else ()
    return Table(
        title,
        ("rank", *named, "class", *headings),
        tuple(rows),
        note,
        sortable=True,
        about="Whose membership an attacker recognises most often, over re-trainings.",
    )


def ranked_csv(records: RecordsOf) -> str:
    """The records of ranked_table as CSV: rank, id, class, and of each FPR the TPR and the ends of its interval."""
    ranked = records.ranked(records.fprs[0]).head(LISTED)
    columns = {"rank": np.arange(1, len(ranked) + 1), "id": ranked["id"], "class": ranked["class_name"]}
    for fpr in records.fprs:
        found = [records.at(row, fpr) for row in ranked.to_dict("records")]
        for name in ("value", "low", "high"):
            end = "" if name == "value" else f"_{name}"
            columns[f"tpr_{fpr:g}{end}"] = [getattr(each, name) for each in found]
    return pd.DataFrame(columns).to_csv(index=False, lineterminator="\n")


def by_class(records: RecordsOf) -> Table:
    """Return mean and largest TPR of each class, and its share of the most vulnerable records."""
    table = records.table
    top = table.nlargest(max(1, len(table) // 100), "separation")
    fpr = records.fprs[0]
    rows: list[tuple[Value, ...]] = []
    for name, mine in table.groupby("class_name", sort=True):
        of_class = dataclasses.replace(records, table=mine, pooled=records.pooled or len(table))
        share = float((top["class_name"] == name).mean())
        means = [of_class.average(each) for each in records.fprs]
        rows.append((str(name), len(mine), *means, of_class.worst(fpr), Measured(share, form=".0%")))
    headings = [f"mean TPR at FPR {each:g}" for each in records.fprs]
    return Table(
        f"Vulnerability by class: {records.name}",
        ("class", "records", *headings, f"largest TPR at FPR {fpr:g}", "share of the top 1%"),
        tuple(rows),
        sortable=True,
        about="Whether the records of some classes are more at risk than others.",
    )
