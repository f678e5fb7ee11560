"""Tables and the figure of `jaxmia run demo`: README and docs/guide/demo.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from rendering import HERE, markdown, origin, results


def demo_cells(attack: str = "lira") -> Iterator[tuple[int, float, pd.DataFrame, pd.DataFrame]]:
    """S, FPR, and the rows of three seeds by the two evaluations."""
    rows = results("demo.json")
    rows = rows[rows["attack"] == attack]
    for (shots, fpr), cell in sorted(
        rows.groupby(["shots", "fpr"]), key=lambda each: (each[0][0], -each[0][1])
    ):
        pooled, calibrated = (cell[cell["evaluation"] == name] for name in ("pooled", "calibrated"))
        yield shots, fpr, pooled, calibrated


def demo_short() -> str:
    """LiRA's median TPR by S: pooled and calibrated at three FPRs."""
    by_shots: dict[int, list[tuple[str, str]]] = {}
    fprs: dict[float, None] = {}
    for shots, fpr, pooled, calibrated in demo_cells():
        by_shots.setdefault(shots, []).append(
            (f"{pooled.tpr.median():.3f}", f"{calibrated.tpr.median():.3f}")
        )
        fprs[fpr] = None
    headings = ["S", *(f"{name} at FPR {fpr:g}" for name in ("pooled", "calibrated") for fpr in fprs)]
    rows = [
        [f"{shots}", *(cell[side] for side in (0, 1) for cell in cells)] for shots, cells in by_shots.items()
    ]
    return markdown(headings, rows)


def demo_full() -> str:
    """LiRA's median TPR with the outermost ends of the seeds' intervals, and the FPR realised."""
    from jaxmia.tables.rates import over_seeds, realised

    rows = []
    for shots, fpr, *sides in demo_cells():
        cells = [f"{shots}", f"{fpr:g}"]
        for side in sides:
            found = over_seeds(side)
            cells += [
                f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})",
                f"{realised(side).value:.2g}",
            ]
        rows.append(cells)
    return markdown(["S", "FPR", "pooled", "realised", "calibrated", "realised"], rows) + origin("demo.json")


def demo_laws() -> str:
    """The fitted laws of LiRA, pooled, beside the published slopes."""
    from jaxmia import published_lines

    slopes = {
        line.law.fpr: line.slope_shots_range for line in published_lines().lines if line.record == "average"
    }
    rows = []
    for law in demo_fit().lines:
        left_out = sum(number or 0 for number in (law.num_censored, law.num_unresolved, law.num_saturated))
        low, high = slopes[law.fpr]
        rows.append(
            [
                f"{law.fpr:g}",
                f"{law.slope_shots:.3f} ± {law.slope_shots_stderr:.3f}",
                f"{law.intercept:.3f} ± {law.intercept_stderr:.3f}",
                f"{law.r_squared:.3f}",
                f"{law.num_cells}",
                f"{left_out}",
                f"{low:.3f} to {high:.3f}",
            ]
        )
    return markdown(["FPR", "slope", "intercept", "R²", "cells", "left out", "published slope"], rows)


def demo_fit() -> Any:
    """The law of LiRA, pooled, fitted to the rows that are kept."""
    from jaxmia import fit_laws

    rows = results("demo.json")
    rows = rows[(rows["attack"] == "lira") & (rows["evaluation"] == "pooled")]
    (fit,) = fit_laws(rows).values()
    return fit


def demo_figure() -> None:
    """docs/demo.png: advantage against S with the fitted and the published laws."""
    import matplotlib as mpl

    from jaxmia.plots import power_law_figure
    from jaxmia.plots.style import STYLE

    rows = results("demo.json")
    rows = rows[(rows["attack"] == "lira") & (rows["evaluation"] == "pooled")]
    with mpl.rc_context(STYLE):
        figure = power_law_figure(
            rows, demo_fit(), title="LiRA, pooled: advantage against examples per class"
        )
        figure.savefig(HERE.parent / "demo.png", dpi=150)
