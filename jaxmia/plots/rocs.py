"""ROC curves on log axes, with intervals, chance and resolution."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxmia.plots.style import COLOURS, LINES, STYLE, Picture, save
from jaxmia.stats.resolution import MIN_FALSE_POSITIVES
from jaxmia.stats.roc import Roc


def plot_rocs(
    curves: Mapping[str, Roc], stem: pathlib.Path, *, title: str, results: pd.DataFrame | None = None
) -> list[pathlib.Path]:
    """Draw ROC curves into files, as rocs_figure.

    Args:
        curves: as of rocs_figure.
        stem: path of the pictures without suffix; its folder must exist.
        title: as of rocs_figure.
        results: as of rocs_figure.

    Returns:
        The files written: STEM.png and STEM.svg.
    """
    with mpl.rc_context(STYLE):
        return save(rocs_figure(curves, title=title, results=results), stem)


def rocs_figure(curves: Mapping[str, Roc], *, title: str, results: pd.DataFrame | None = None) -> Figure:
    """Draw ROC curves on log axes, with chance and the FPR below which a TPR is not resolved.

    Args:
        curves: by attack, at least one.
        title: what the curves have in common.
        results: rows with attack, fpr, tpr, tpr_low and tpr_high. Each is drawn on the curve of its attack as
            a point with its interval. None draws no intervals.
    """
    figure = Picture(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, (attack, curve) in enumerate(curves.items()):
        style = LINES[number // len(COLOURS) % len(LINES)]
        colour = COLOURS[number % len(COLOURS)]
        fpr, tpr = resolved_part(thinned(curve))
        axes.plot(fpr, tpr, style, drawstyle="steps-post", color=colour, linewidth=1.5, label=attack)
        if results is not None:
            _draw_intervals(axes, results[results["attack"] == attack], colour, shift=1.03**number)
    _draw_chance_and_resolution(axes, min(curve.num_nonmembers for curve in curves.values()))
    axes.set_title(title)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _draw_intervals(axes: Axes, rows: pd.DataFrame, colour: str, *, shift: float) -> None:
    """Draw points with intervals, each attack's a little to the right of the last, so that bars can be told apart."""
    rows = rows[np.isfinite(rows["tpr_low"]) & (rows["tpr"] > 0)]
    beyond = rows["tpr"] - rows["tpr_low"], rows["tpr_high"] - rows["tpr"]
    axes.errorbar(
        rows["fpr"] * shift,
        rows["tpr"],
        np.maximum(beyond, 0),
        fmt="o",
        color=colour,
        markersize=3,
        capsize=2,
    )


def thinned(curve: Roc, *, num_points: int = 300) -> Roc:
    """Return at most num_points points of a curve, at FPRs evenly spaced on a log axis."""
    grid = np.geomspace(1 / max(curve.num_nonmembers, 2), 1, num_points)
    kept = np.unique(np.searchsorted(curve.fpr, grid, side="right") - 1)
    return dataclasses.replace(
        curve, fpr=curve.fpr[kept], tpr=curve.tpr[kept], threshold=curve.threshold[kept]
    )


def resolved_part(curve: Roc) -> tuple[np.ndarray, np.ndarray]:
    """FPR and TPR of a curve from the lowest FPR on that its non-members resolve; at least its end.

    What it has reached there begins it, though at a smaller FPR.
    """
    lowest = min(MIN_FALSE_POSITIVES / max(curve.num_nonmembers, 1), 1.0)
    first = int(np.searchsorted(curve.fpr, lowest, side="right")) - 1
    return np.maximum(curve.fpr[first:], lowest), curve.tpr[first:]


def _draw_chance_and_resolution(axes: Axes, num_nonmembers: int) -> None:
    lowest = min(0.7 * MIN_FALSE_POSITIVES / max(num_nonmembers, 1), 0.5)
    axes.plot([lowest, 1], [lowest, 1], color="0.6", linewidth=1, label="chance")
    label = f"resolution: {MIN_FALSE_POSITIVES} of {num_nonmembers} non-member scores"
    axes.axvline(
        min(MIN_FALSE_POSITIVES / max(num_nonmembers, 1), 1.0),
        color="0.6",
        linewidth=1,
        linestyle=":",
        label=label,
    )
    axes.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(lowest, 1))
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    axes.grid(alpha=0.25)
