"""Plots of results tables, as figures for a report or as PNG and SVG files."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxmia._validate import InputError, check, check_choice
from jaxmia.laws.law import LawKey, PowerLaw, PowerLawFit
from jaxmia.laws.published import published_lines
from jaxmia.plots.rocs import plot_rocs as plot_rocs
from jaxmia.plots.rocs import rocs_figure as rocs_figure
from jaxmia.plots.rocs import thinned as thinned
from jaxmia.plots.style import COLOURS, LINES, STYLE, Picture, save
from jaxmia.stats.realised import realised_fpr

PRIVACY_FIGURES = {
    "accuracy": "accuracy against vulnerability",
    "ceiling": "what attacks reach and could reach at most",
}


def plot_power_law(
    results: pd.DataFrame, laws: Mapping[LawKey, PowerLawFit], folder: pathlib.Path
) -> list[pathlib.Path]:
    """Write plots of advantage against shots on log axes, with laws, one per attack and evaluation.

    Of several privacy levels only the least private is drawn; plot_privacy draws the others.

    Returns:
        The files written: FOLDER/advantage-ATTACK-EVALUATION.png and .svg; none of a law without any cell above
        chance, which log axes cannot show.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in _law_figures(results, laws):
        with mpl.rc_context(STYLE):
            of = "" if name.unit == "record" else f"-{name.unit}s"
            paths += save(figure, folder / f"advantage-{name.attack}-{name.evaluation}{of}")
    return paths


def power_law_figure(rows: pd.DataFrame, fit: PowerLawFit, *, title: str) -> Figure:
    """Return a figure of advantage against shots on log axes, with the fitted and the published laws.

    Args:
        rows: rows of one attack, evaluation, privacy level and recipe, some of them above chance.
        fit: the fit to these rows.
        title: title of the figure.
    """
    figure = Picture(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    _draw_laws(axes, rows, fit)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    axes.set_title(title)
    return figure


def laws_figure(results: pd.DataFrame, laws: Mapping[LawKey, PowerLawFit]) -> Figure:
    """The first law that has a cell above chance, of the least private cells: advantage against shots.

    Raises:
        InputError: if there is none.
    """
    for _, figure in _law_figures(results, laws):
        return figure
    raise InputError("results must hold a cell above chance, that has a law.")


def study_figure(
    results: pd.DataFrame, laws: Mapping[LawKey, PowerLawFit], *, kind: str, evaluation: str
) -> Figure:
    """Draw the results of a run or sweep.

    Args:
        results: its rows.
        laws: its laws.
        kind: "law" (advantage against examples per class), "accuracy" (TPR against accuracy over levels of privacy) or
            "ceiling" (TPR and its ceiling against epsilon).
        evaluation: of the rows that are drawn, where kind is not "law".

    Raises:
        InputError: for another kind or evaluation, for a law without a cell above chance, or for levels of privacy
            where no cell is private.
    """
    check_choice("kind", kind, ("law", *PRIVACY_FIGURES))
    if kind == "law":
        return laws_figure(results, laws)
    check_choice("evaluation", evaluation, results["evaluation"].unique())
    check(
        bool(np.isfinite(results["epsilon"]).any()),
        "privacy.epsilon",
        "inf",
        f"name a level for kind={kind!r}",
    )
    with mpl.rc_context(STYLE):
        return privacy_figure(results[results["evaluation"] == evaluation], kind)


def _law_figures(
    results: pd.DataFrame, laws: Mapping[LawKey, PowerLawFit]
) -> Iterator[tuple[LawKey, Figure]]:
    """Yield the figure of each law of the least private cells that has a cell above chance."""
    least_private = results["epsilon"].max()
    for name, fit in laws.items():
        rows = results
        for column, value in name.named().items():
            rows = rows[rows[column] == value]
        if name.epsilon == least_private and (rows["advantage"] > 0).any():
            with mpl.rc_context(STYLE):
                figure = power_law_figure(
                    rows, fit, title=f"{name}: vulnerability against examples per class"
                )
            yield name, figure


def records_figure(tpr: np.ndarray, low: np.ndarray, high: np.ndarray, *, fpr: float) -> Figure:
    """Return a figure of each record's TPR with its 95% interval, ascending.

    Args:
        tpr: [records]; NaN is left out.
        low: [records], lower ends.
        high: [records], upper ends.
        fpr: FPR of every record.
    """
    order = np.argsort(tpr)[: np.count_nonzero(np.isfinite(tpr))]
    with mpl.rc_context(STYLE):
        figure = Picture(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        rank = np.arange(1, len(order) + 1)
        axes.fill_between(
            rank, low[order], high[order], color=COLOURS[0], alpha=0.25, linewidth=0, label="95% interval"
        )
        axes.plot(rank, tpr[order], color=COLOURS[0], label="TPR of the record")
        axes.axhline(fpr, color="0.6", linewidth=1, label=f"chance, FPR {fpr:g}")
        axes.set(xlabel="records, the most vulnerable last", ylabel=f"TPR at FPR {fpr:g}", ylim=(0, 1.02))
        axes.legend(frameon=False, fontsize=8)
    return figure


def plot_privacy(results: pd.DataFrame, folder: pathlib.Path) -> list[pathlib.Path]:
    """Write two plots per evaluation of privacy's cost and benefit; none without a private cell.

    Where membership is by person, they are of persons.

    Points are medians over seeds; vertical lines span the outermost ends of their intervals.

    Args:
        results: results of a run.
        folder: folder to write to.

    Returns:
        The files written: FOLDER/accuracy-EVALUATION.png and .svg (accuracy against TPR), and
        FOLDER/ceiling-EVALUATION.png and .svg (TPR and its ceiling against epsilon).
    """
    paths: list[pathlib.Path] = []
    if not np.isfinite(results["epsilon"]).any():
        return paths
    if "unit" in results:
        results = results[results["unit"] == "person"]
    folder.mkdir(parents=True, exist_ok=True)
    for evaluation, rows in results.groupby("evaluation", sort=False):
        for stem in PRIVACY_FIGURES:
            with mpl.rc_context(STYLE):
                paths += save(privacy_figure(rows, stem), folder / f"{stem}-{evaluation}")
    return paths


def privacy_figure(rows: pd.DataFrame, stem: str, *, stacked: bool = False) -> Figure:
    """One panel for each FPR over the levels of privacy.

    Args:
        rows: of one evaluation, some of them private.
        stem: of PRIVACY_FIGURES: "accuracy" against TPR, or TPR and its "ceiling" against epsilon.
        stacked: panels below one another, not side by side.
    """
    fprs = sorted(rows["fpr"].unique(), reverse=True)
    figure = Picture(figsize=(4.5 * len(fprs) + 2, 4.5), layout="constrained")
    shape = (len(fprs), 1) if stacked else (1, len(fprs))
    handles: dict[Any, Any] = {}  # of all panels: not every attack has a point at every FPR
    for axes, fpr in zip(figure.subplots(*shape, squeeze=False).flat, fprs, strict=True):
        (_draw_accuracy if stem == "accuracy" else _draw_ceilings)(axes, rows[rows["fpr"] == fpr])
        axes.set_title(f"FPR {fpr:g}")
        axes.grid(alpha=0.25)
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles, loc="outside right upper", frameon=False, fontsize=8)
    figure.suptitle(f"{rows['evaluation'].iloc[0]}: {PRIVACY_FIGURES[stem]}")
    return figure


def _levels(rows: pd.DataFrame) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """Yield label, colour, marker and medians by epsilon, for each attack and cell size with a TPR."""
    groups = rows[rows["status"] == "ok"].groupby(["attack", "classes", "shots"], sort=False)
    markers = dict(zip(rows["attack"].unique(), itertools.cycle("os^Dv")))
    colours = dict(zip(sorted({*zip(rows["classes"], rows["shots"], strict=True)}), itertools.cycle(COLOURS)))
    for (attack, classes, shots), cells in groups:
        levels = cells.groupby("epsilon").agg(
            tpr=("tpr", "median"),
            low=("tpr_low", "min"),
            high=("tpr_high", "max"),
            accuracy=("accuracy", "median"),
        )
        yield f"{attack}, C = {classes}, S = {shots}", colours[classes, shots], markers[attack], levels


def _draw_accuracy(axes: Axes, rows: pd.DataFrame) -> None:
    for label, colour, marker, levels in _levels(rows):
        axes.plot(levels["accuracy"], levels["tpr"], f"{marker}-", color=colour, markersize=4, label=label)
        axes.vlines(levels["accuracy"], levels["low"], levels["high"], color=colour, linewidth=1)
        if not label.startswith(f"{rows['attack'].iloc[0]},"):
            continue  # the other attacks' points have the same accuracies
        for epsilon, level in levels.iterrows():
            at = (level["accuracy"], level["tpr"])
            axes.annotate(
                f"ε {epsilon:g}".replace("inf", "∞"),
                at,
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=7,
            )
    axes.axhline(rows["fpr"].iloc[0], color="0.6", linewidth=1, label="chance")
    axes.set(yscale="log", xlabel="accuracy on held-out examples", ylabel="TPR")
    axes.set_ylim(bottom=rows["fpr"].iloc[0] / 2)


def _draw_ceilings(axes: Axes, rows: pd.DataFrame) -> None:
    private = rows[np.isfinite(rows["epsilon"])]
    for number, (adjacency, ceilings) in enumerate(private.groupby("adjacency")):
        bound = ceilings.groupby("epsilon")["tpr_ceiling"].max()
        ink = mpl.rcParams["text.color"]
        axes.plot(
            bound.index,
            bound,
            LINES[number],
            marker="_",
            markersize=12,
            color=ink,
            label=f"ceiling ({adjacency})",
        )
    right = 2 * private["epsilon"].max()  # where infinity is drawn
    for label, colour, marker, levels in _levels(rows):
        at = [min(epsilon, right) for epsilon in levels.index]
        axes.plot(at, levels["tpr"], f"{marker}-", color=colour, markersize=4, label=label)
        axes.vlines(at, levels["low"], levels["high"], color=colour, linewidth=1)
    axes.axhline(rows["fpr"].iloc[0], color="0.6", linewidth=1, label="chance")
    ticks = sorted({*private["epsilon"]})
    infinite = [right] if np.isinf(rows["epsilon"]).any() else []
    axes.set(xscale="log", yscale="log", xlabel="ε", ylabel="TPR", ylim=(rows["fpr"].iloc[0] / 2, 1.2))
    axes.set_xticks([*ticks, *infinite], [*(f"{tick:g}" for tick in ticks), *("∞" for _ in infinite)])
    axes.minorticks_off()


def _draw_laws(axes: Axes, rows: pd.DataFrame, fit: PowerLawFit) -> None:
    for number, law in enumerate(fit.lines):
        colour = COLOURS[number % len(COLOURS)]
        at_fpr = rows[rows["fpr"] == law.fpr]
        _draw_cells(axes, at_fpr, colour, f"FPR {law.fpr:g}")
        _draw_fit(axes, law, colour)
        shots_range = (int(at_fpr["shots"].min()), int(at_fpr["shots"].max()))
        if set(rows["evaluation"]) == {"pooled"}:  # what was published
            _draw_published(axes, law.fpr, shots_range, colour)
    shots = sorted(rows["shots"].unique())
    axes.set(xscale="log", yscale="log", xlabel="examples per class, S", ylabel="advantage, TPR − FPR")
    axes.set_xticks(shots, [str(value) for value in shots])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    # An interval that ends near chance must not stretch the axis over many decades.
    axes.set_ylim(bottom=rows["advantage"][rows["advantage"] > 0].min() / 2)


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
    off = [realised_fpr(shown.iloc[[row]]).off for row in range(len(shown))]
    if any(off):
        hollow, label_off = shown[off], f"{label}: realised FPR off"
        style: Any = {"color": colour, "markerfacecolor": "white", "markersize": 4, "zorder": 3}
        axes.plot(hollow["shots"], hollow["advantage"], "o", label=label_off, **style)
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


def advice_figure(options: pd.DataFrame, *, fpr: float, max_tpr: float, unit: str = "record") -> Figure:
    """Options by accuracy and by the TPR of the most vulnerable record or person, with the limit and the frontier.

    Args:
        options: of jaxmia.advice.advice.Advice.
        fpr: of every record or person.
        max_tpr: the limit.
        unit: "record" or "person".
    """
    with mpl.rc_context(STYLE):
        drawn = Picture(figsize=(8, 5), layout="constrained")
        axes = drawn.subplots()
        for (lever, rows), colour, marker in zip(
            options.groupby("lever", sort=False),
            itertools.cycle(COLOURS),
            itertools.cycle("osD^vP*X"),
            strict=False,
        ):
            worst = rows["worst_tpr"].to_numpy()
            ends = np.clip([worst - rows["worst_low"], rows["worst_high"] - worst], 0, None)
            bounds = (rows["how"] == "bound").to_numpy()
            ends[0, bounds] = 0  # a bound, not an estimate
            axes.errorbar(
                rows["accuracy"], worst, yerr=ends, fmt=marker, color=colour, label=str(lever), elinewidth=1
            )
        front = options[options["pareto"]].sort_values("accuracy")
        axes.plot(front["accuracy"], front["worst_tpr"], color="0.6", linewidth=1, zorder=0, label="frontier")
        axes.axhline(max_tpr, color="0.3", linestyle="--", linewidth=1, label=f"limit {max_tpr:g}")
        for _, row in options[options["recommended"]].iterrows():
            place = (row["accuracy"], row["worst_tpr"])
            axes.annotate(row["option"], place, xytext=(-8, 12), textcoords="offset points", ha="right")
        axes.set(
            xlabel="accuracy on records outside of the training set",
            ylabel=f"TPR of the most vulnerable {unit} at FPR {fpr:g}",
            yscale="log",
        )
        axes.legend(frameon=False, fontsize=8)
    return drawn
