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

from jaxmia.power_law import PowerLawFit, published_lines

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
        The files written: FOLDER/advantage-ATTACK-EVALUATION.png and .svg; none of a law without any cell above
        chance, which log axes cannot show.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for (attack, evaluation), fit in laws.items():
        rows = results[(results["attack"] == attack) & (results["evaluation"] == evaluation)]
        if not (rows["advantage"] > 0).any():
            continue
        with mpl.rc_context(_STYLE):
            figure = Figure(figsize=(7, 5), layout="constrained")
            axes = figure.subplots()
            _draw_laws(axes, rows, fit)
            axes.set_title(f"{attack}, {evaluation}: vulnerability against examples per class")
            stem = f"advantage-{attack}-{evaluation}".translate(str.maketrans("(=,", "---", ")"))
            for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
                paths.append(folder / f"{stem}.{suffix}")
                figure.savefig(paths[-1], dpi=150, metadata=metadata)
    return paths


def _draw_laws(axes: Axes, rows: pd.DataFrame, fit: PowerLawFit) -> None:
    several_classes = rows["classes"].nunique() > 1
    for number, fpr in enumerate(fit):
        colour, law = _COLOURS[number % len(_COLOURS)], fit[fpr]
        cells = rows[(rows["fpr"] == fpr) & (rows["advantage"] > 0)]
        errors = np.stack([cells["tpr"] - cells["tpr_low"], cells["tpr_high"] - cells["tpr"]])
        # The lower end of an interval may reach TPR = FPR, which a log axis cannot show.
        errors[0] = np.minimum(errors[0], 0.999 * cells["advantage"])
        label = f"FPR {fpr:g}"
        if law.shots_range is not None and law.status == "ok":
            label += f": slope {law.slope_shots:.3f} ± {law.slope_shots_stderr:.3f}"
            shots = np.geomspace(*law.shots_range, 50)
            for classes in sorted(set(cells["classes"])):
                band = [law.predict(shots=float(s), classes=int(classes)) for s in shots]
                axes.plot(shots, [point.advantage for point in band], color=colour, linewidth=1.5)
                if not several_classes:
                    ends = np.array([(point.low, point.high) for point in band], dtype=float)
                    axes.fill_between(shots, ends[:, 0], ends[:, 1], color=colour, alpha=0.12, linewidth=0)
        axes.errorbar(
            cells["shots"], cells["advantage"], errors, fmt="o", color=colour, markersize=4, label=label
        )
        censored = rows[(rows["fpr"] == fpr) & (rows["advantage"] <= 0)]
        if len(censored):
            axes.plot(
                censored["shots"],
                np.zeros(len(censored)),
                "v",
                color=colour,
                transform=axes.get_xaxis_transform(),
                label=f"FPR {fpr:g}: {len(censored)} cells at or below chance",
                clip_on=False,
            )
        if set(rows["evaluation"]) == {"pooled"}:  # what was published
            _draw_published(axes, fpr, colour)
    axes.set(xscale="log", yscale="log", xlabel="examples per class, S", ylabel="advantage, TPR − FPR")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)


def _draw_published(axes: Axes, fpr: float, colour: str) -> None:
    for line in published_lines().lines:
        if line.record == "average" and line.law.fpr == fpr:
            shots = np.array(axes.get_xlim()) if axes.has_data() else np.array([1.0, 1000.0])
            shots = np.geomspace(max(shots[0], 1.0), shots[1], 2)
            advantage = [line.law.predict(shots=float(s), classes=2).advantage for s in shots]
            label = f"published, C = 2: slope {line.law.slope_shots:.3f}"
            axes.plot(shots, advantage, color=colour, linewidth=1, linestyle=":", label=label)
