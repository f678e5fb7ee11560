"""Why cells of a table have no number, or one that is not to be taken as it stands: few lines for many cells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from jaxmia.tables.table import Measured, Table

_NEEDS = re.compile(r"fpr=(?P<fpr>\S+) needs at least (?P<number>\d+) (?P<what>.+), got (?P<got>\d+)\.?")


def grouped(reasons: Iterable[str]) -> list[str]:
    """The different reasons, those of several FPRs and cells that lack scores of one kind in one."""
    needs: dict[str, dict[str, int]] = {}  # by what is lacking: the number needed, by FPR
    got: dict[str, list[int]] = {}
    others: dict[str, None] = {}
    for reason in dict.fromkeys(reasons):
        match = _NEEDS.fullmatch(reason)
        if match is None:
            others[reason] = None
        else:
            needs.setdefault(match["what"], {})[match["fpr"]] = int(match["number"])
            got.setdefault(match["what"], []).append(int(match["got"]))
    lines = []
    for what, of_fpr in needs.items():
        fprs = sorted(of_fpr, key=float, reverse=True)
        least = ", ".join(f"{of_fpr[fpr]:,}" for fpr in fprs)
        found = " to ".join(f"{number:,}" for number in sorted({min(got[what]), max(got[what])}))
        verb = "needs" if len(fprs) == 1 else "need"
        lines.append(f"FPR {', '.join(fprs)} {verb} at least {least} {what}, got {found}.")
    return [*lines, *others]


def explained(table: Table) -> Mapping[str, list[str]]:
    """What each status in a table means there, by status, in the order of its cells."""
    of_status: dict[str, dict[str, None]] = {}
    for row in table.rows:
        for cell in row:
            if isinstance(cell, Measured) and cell.reason and cell.status != "ok":
                of_status.setdefault(cell.status, {})[cell.reason] = None
    return {status: grouped(reasons) for status, reasons in of_status.items()}
