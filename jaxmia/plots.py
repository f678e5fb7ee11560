"""Plots of results tables, as PNG and SVG."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxmia.power_law import PowerLaw, PowerLawFit, published_lines

_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)  # Okabe and Ito: safe for colour blindness
_STYLE: Any = {
    "svg.hashsalt": "jaxmia",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 10,
}


def plot_power_law(
    results: pd.DataFrame, laws: Mapping[tuple[str, str], PowerLawFit], folder: pathlib.Path
) -> list[pathlib.Path]:
    """Advantage against shots on log axes, one picture per attack and evaluation, with the fitted and published laws.

    Returns:
        The files written: FOLDER/advantage-ATTACK-EVALUATION.png and .svg.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for (attack, evaluation), fit in laws.items():
        rows = results[(results["attack"] == attack) & (results["evaluation"] == evaluation)]
        with mpl.rc_context(_STYLE):
            figure = Figure(figsize=(9, 5), layout="constrained")
            axes = figure.subplots()
            _draw_laws(axes, rows, fit)
            figure.legend(loc="outside right upper", frameon=False, fontsize=8)
            axes.set_title(f"{attack}, {evaluation}: vulnerability against examples per class")
            stem = f"advantage-{attack}-{evaluation}".translate(str.maketrans("(=,", "---", ")"))
            for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
                paths.append(folder / f"{stem}.{suffix}")
                figure.savefig(paths[-1], dpi=150, metadata=metadata)
    return paths


def _draw_laws(axes: Axes, rows: pd.DataFrame, fit: PowerLawFit) -> None:
    for number, law in enumerate(fit.lines):
        colour = _COLOURS[number % len(_COLOURS)]
        at_fpr = rows[rows["fpr"] == law.fpr]
        _draw_cells(axes, at_fpr, colour, f"FPR {law.fpr:g}")
        _draw_fit(axes, law, colour)
        shots_range = (int(at_fpr["shots"].min()), int(at_fpr["shots"].max()))
        _draw_published(axes, law.fpr, shots_range, colour)
    shots = sorted(rows["shots"].unique())
    axes.set(xscale="log", yscale="log", xlabel="examples per class, S", ylabel="advantage, TPR − FPR")
    axes.set_xticks(shots, [str(value) for value in shots])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    positive = rows["advantage"][rows["advantage"] > 0]
    if len(positive):  # an interval that ends near chance must not stretch the axis over many decades
        axes.set_ylim(bottom=positive.min() / 2)


def _draw_cells(axes: Axes, cells: pd.DataFrame, colour: str, label: str) -> None:
    shown, censored = cells[cells["advantage"] > 0], cells[cells["advantage"] <= 0]
    errors = np.stack([shown["tpr"] - shown["tpr_low"], shown["tpr_high"] - shown["tpr"]])
    # The lower end of an interval may reach TPR = FPR, which a log axis cannot show.
    errors[0] = np.minimum(errors[0], 0.999 * shown["advantage"])
    axes.errorbar(
        shown["shots"],
        shown["advantage"],
        errors,
        fmt="o",
        color=colour,
        markersize=4,
        label=f"{label}: cells",
    )
    if len(censored):  # they have no place on a log axis: marked at the bottom
        bottom, of_axes = np.zeros(len(censored)), axes.get_xaxis_transform()
        label = f"{label}: {len(censored)} cells at or below chance"
        axes.plot(censored["shots"], bottom, "v", color=colour, transform=of_axes, clip_on=False, label=label)


def _draw_fit(axes: Axes, law: PowerLaw, colour: str) -> None:
    if law.status != "ok" or law.shots_range is None:
        return
    shots = np.geomspace(law.shots_range[0], law.shots_range[1], 50)
    label: str | None = f"FPR {law.fpr:g}: slope {law.slope_shots:.3f} ± {law.slope_shots_stderr:.3f}"
    for classes in law.classes:
        band = [law.predict(shots=float(value), classes=classes) for value in shots]
        axes.plot(shots, [point.advantage for point in band], color=colour, linewidth=1.5, label=label)
        label = None  # one entry for all numbers of classes
        if len(law.classes) == 1:
            ends = np.array([(point.low, point.high) for point in band], dtype=float)
            axes.fill_between(shots, ends[:, 0], ends[:, 1], color=colour, alpha=0.12, linewidth=0)


def _draw_published(axes: Axes, fpr: float, shots_range: tuple[float, float], colour: str) -> None:
    for line in published_lines().lines:
        if line.record == "average" and line.law.fpr == fpr:
            advantage = [line.law.predict(shots=float(shots), classes=2).advantage for shots in shots_range]
            label = f"FPR {fpr:g}: published, C = 2: {line.law.slope_shots:.3f}"
            axes.plot(shots_range, advantage, color=colour, linewidth=1, linestyle=":", label=label)
