"""Values from rows of results: rates with intervals, and realised false positive rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from jaxmia.stats.realised import OFF, realised_fpr
from jaxmia.tables.table import Measured, measured

if TYPE_CHECKING:
    _Row = pd.Series[Any]
else:  # pandas 2 has no such subscript at run time
    _Row = pd.Series


def over_seeds(rows: pd.DataFrame) -> Measured:
    """Return the median TPR over rows that differ in their seed, with the outermost ends of their intervals."""
    resolved = rows[rows["status"] == "ok"]
    if resolved.empty:
        return Measured(
            None, status=", ".join(sorted(rows["status"].unique())), reason=rows["reason"].iloc[0]
        )
    some = len(resolved) < len(rows)
    status, reason = ("partial", "some seeds have no number") if some else ("ok", "")
    ends = (resolved["tpr_low"].min(), resolved["tpr_high"].max())
    return measured(resolved["tpr"].median(), *ends, status, reason)


def over_runs(rows: pd.DataFrame, column: str) -> Measured:
    """The median over seeds of a number that each cell has once, and its range; of one seed no range.

    Args:
        rows: of results, with the column seed.
        column: the number.
    """
    values = rows.groupby("seed")[column].first().dropna()
    if len(values) == 1:
        return Measured(float(values.iloc[0]), status="one seed", reason="no range over seeds")
    return measured(values.median(), values.min(), values.max())


def realised(rows: pd.DataFrame) -> Measured:
    """Return the FPR realised over rows of one nominal FPR, marked if it differs from the nominal one."""
    found = realised_fpr(rows)
    if math.isnan(found.fpr):
        return Measured(None, status="unresolved")
    status, reason = ("off", OFF) if found.off else ("ok", "")
    return Measured(found.fpr, found.low, found.high, status, reason, form=".3g")


def rates_headings(fprs: Sequence[float]) -> list[str]:
    """Return the headings of the cells of rates."""
    return [word for fpr in fprs for word in (f"TPR at FPR {fpr:g}", "FPR realised")]


def rates(rows: pd.DataFrame, fprs: Sequence[float]) -> list[Measured]:
    """Return at each FPR the TPR over rows that differ in their seed, and their realised FPR."""
    at = [rows[rows["fpr"] == fpr] for fpr in fprs]
    return [cell for each in at for cell in (over_seeds(each), realised(each))]


def brief_results(results: pd.DataFrame) -> pd.DataFrame:
    """Return the rates of rows of results, with the identifying columns that differ between rows."""
    of = ("targets", "dataset", "recipe", "classes", "shots", "seed", "epsilon", "unit")
    varied = [name for name in of if name in results and results[name].nunique() > 1]
    return results[[*varied, "attack", "evaluation", "fpr", "tpr", "tpr_low", "tpr_high", "status"]]


def best_row(rows: pd.DataFrame) -> _Row | None:
    """The row with the largest TPR among those of one FPR that kept to it; None without a resolved row.

    A row that realised a larger FPR than it names is passed over while there is another: its TPR is of that FPR.
    """
    resolved = rows[rows["status"] == "ok"]
    if resolved.empty:
        return None
    kept = resolved[resolved["fpr_realised"] <= resolved["fpr"] * (1 + 1e-9)]
    best: _Row = (resolved if kept.empty else kept).nlargest(1, "tpr").iloc[0]
    return best


def exceeds(rows: pd.DataFrame) -> bool:
    """Whether rows of one FPR realised a larger one together, beyond the counting error."""
    found = realised_fpr(rows)
    return found.off and found.fpr > float(rows["fpr"].iloc[0])


def best_of(rows: pd.DataFrame) -> Measured:
    """The TPR of best_row with its own interval, or why there is none."""
    if rows.empty:
        return Measured(None, status="unresolved", reason="all records are members")
    best = best_row(rows)
    if best is None:
        return Measured(None, status=rows["status"].iloc[0], reason=rows["reason"].iloc[0])
    status, reason = ("off", OFF) if exceeds(best.to_frame().T) else ("ok", "")
    return measured(best["tpr"], best["tpr_low"], best["tpr_high"], status, reason)


def best_at_the_lowest(results: pd.DataFrame) -> _Row | None:
    """Return the row with the largest TPR at the lowest resolved FPR; None without a resolved row."""
    resolved = results[results["status"] == "ok"]
    if resolved.empty:
        return None
    best: _Row = resolved[resolved["fpr"] == resolved["fpr"].min()].nlargest(1, "tpr").iloc[0]
    return best


def on_persons(row: Mapping[Any, Any] | _Row) -> str:
    """Return " on persons" for a row that is of persons, else nothing."""
    return " on persons" if row.get("unit") == "person" else ""


def best_and_realised(rows: pd.DataFrame) -> tuple[Measured, Measured]:
    """What best_of says, and the FPR that this row realised."""
    best = best_row(rows)
    return best_of(rows), realised(rows.head(0) if best is None else best.to_frame().T)
