"""Figures as SVG inside a page: text and lines have the page's colour, and ids are unique."""

from __future__ import annotations

import contextlib
import html
import io
import re
from collections.abc import Iterator, Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxmia.plots import COLOURS, STYLE

_INK = "#010203"  # a colour used for nothing else; it is replaced by the page's colour
_GREYS = {"#999999": "currentColor"}  # grey lines get the page's colour too


@contextlib.contextmanager
def drawn_for_pages() -> Iterator[None]:
    """Context in which figures are drawn in the page's colours, and text stays text."""
    names = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
    style = STYLE | dict.fromkeys(names, _INK) | {"svg.fonttype": "none", "font.family": "sans-serif"}
    with mpl.rc_context(style):
        yield


def to_svg(figure: Figure, key: str, alternative: str) -> str:
    """Return an <svg> element.

    Args:
        figure: figure drawn within drawn_for_pages.
        key: prefix of the figure's ids, unique in the page.
        alternative: description in words.
    """
    buffer = io.StringIO()
    with drawn_for_pages():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for colour, instead in {_INK: "currentColor", **_GREYS}.items():
        text = text.replace(colour, instead)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{key}-\1"', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{key}-", text)
    view = re.search(r'viewBox="[^"]+"', text)
    head = (
        f'<svg {view.group() if view else ""} role="img" aria-label="{html.escape(alternative)}"'
        ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return head + text[text.index(">") + 1 :]


def vulnerability_figure(records: pd.DataFrame, fprs: list[float], title: str) -> Figure:
    """Return a figure of the share of records whose TPR is at least t, against t, on a log axis.

    Args:
        records: with a column tpr_FPR for each FPR.
        fprs: fractions.
        title: of the figure.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for fpr, colour in zip(fprs, COLOURS, strict=False):
        ordered = np.sort(records[f"tpr_{fpr:g}"].dropna().to_numpy())
        if len(ordered) == 0:
            continue
        share = 1 - np.arange(len(ordered)) / len(ordered)
        at = np.unique(np.searchsorted(ordered, np.linspace(0, 1, 201)).clip(max=len(ordered) - 1))
        axes.step(ordered[at], share[at], where="pre", color=colour, linewidth=1.5, label=f"at FPR {fpr:g}")
    axes.set(yscale="log", xlabel="TPR on a record, t", ylabel="share of records with TPR ≥ t", xlim=(0, 1))
    axes.grid(alpha=0.25)
    axes.set_title(title)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def average_roc_figure(
    curves: Mapping[str, Mapping[float, float]], points: pd.DataFrame, title: str
) -> Figure:
    """Return a figure of estimated TPRs with unlimited shadows against the FPR, with measured points.

    Args:
        curves: mean estimated TPR of the records at each FPR, by label.
        points: measured: fpr, tpr, tpr_low, tpr_high and label of the curve that they belong to.
        title: of the figure.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    lowest = float(points["fpr"].min()) / 3
    for number, (label, curve) in enumerate(curves.items()):
        colour, fprs = COLOURS[number % len(COLOURS)], sorted(curve)
        axes.plot(fprs, [curve[fpr] for fpr in fprs], color=colour, linewidth=1.5, label=label)
        mine = points[(points["label"] == label) & (points["status"] == "ok")]
        errors = np.stack([mine["tpr"] - mine["tpr_low"], mine["tpr_high"] - mine["tpr"]]).clip(min=0)
        axes.errorbar(mine["fpr"], mine["tpr"], errors, fmt="o", color=colour, markersize=4)
    axes.plot([lowest, 1], [lowest, 1], color="0.6", linewidth=1, label="chance")
    axes.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(lowest, 1.1))
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    axes.grid(alpha=0.25)
    axes.set_title(title)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def accuracy_figure(cells: pd.DataFrame, fpr: float, title: str) -> Figure:
    """Return a figure of accuracy against TPR, with a line over shots for each label.

    Args:
        cells: one row per label and S: label, shots, accuracy, tpr.
        fpr: at which the TPRs are.
        title: of the figure.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, (label, mine) in enumerate(cells.groupby("label", sort=False)):
        colour, ordered = COLOURS[number % len(COLOURS)], mine.sort_values("shots")
        axes.plot(ordered["accuracy"], ordered["tpr"], "o-", color=colour, markersize=4, label=label)
        for _, cell in ordered.iterrows():
            axes.annotate(
                f"{cell['shots']}",
                (cell["accuracy"], cell["tpr"]),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=7,
            )
    axes.axhline(fpr, color="0.6", linewidth=1, label="chance")
    axes.set(yscale="log", xlabel="accuracy on held-out examples", ylabel=f"TPR at FPR {fpr:g}")
    axes.grid(alpha=0.25)
    axes.set_title(title)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure
