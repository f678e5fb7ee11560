"""Figures as SVG inside a page: text and lines have the page's colour, and ids are unique."""

from __future__ import annotations

import contextlib
import html
import io
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, NullFormatter, StrMethodFormatter

from jaxmia.plots.style import COLOURS, STYLE
from jaxmia.tables.finding import Limit

WIDTH = 4.8
"""Of a figure in a page, in inches: on a phone its text is then no smaller than 8 pt."""
FONT = 10.5
"""The smallest type of a figure, in points at that width."""
MOST = 50
"""Letters in a line of a legend."""
_INK = "#010203"  # a colour that nothing else has: it becomes the page's
_GREYS = {"#999999": "currentColor"}  # grey lines are drawn in the page's ink too


@contextlib.contextmanager
def drawn_for_pages() -> Iterator[None]:
    """Context in which figures are drawn in the page's colours, and text stays text."""
    names = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
    style = STYLE | dict.fromkeys(names, _INK) | {"svg.fonttype": "none", "font.family": "sans-serif"}
    with mpl.rc_context(style):
        yield


def to_svg(figure: Figure, key: str, alternative: str, *, height: float = 3.2) -> str:
    """An <svg> element.

    Args:
        figure: drawn within drawn_for_pages.
        key: of the figure, different from all others of the page.
        alternative: what it shows, in words.
        height: of its panels, in inches.
    """
    buffer = io.StringIO()
    with drawn_for_pages():
        fit_page(figure, height)
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


def fit_page(figure: Figure, height: float) -> None:
    """Make a figure as narrow as a phone, its legend below, no type too small; its title is the page's to write.

    Args:
        figure: with at most one legend of its own.
        height: of all its panels, in inches.
    """
    entries = []
    for legend in figure.legends:
        words = ("\n".join(textwrap.wrap(each.get_text(), MOST)) for each in legend.texts)
        entries += list(zip(legend.legend_handles, words, strict=True))
        legend.remove()
    if figure.get_suptitle():
        figure.suptitle("")
    for axes in figure.axes if len(figure.axes) == 1 else ():
        axes.set_title("")
    columns = max(1, 58 // (8 + max((len(label) for _, label in entries), default=0)))
    lines = sum(label.count("\n") + 1 for _, label in entries)
    figure.set_size_inches(WIDTH, height + 0.21 * -(-lines // columns))
    if entries:
        handles, labels = zip(*entries, strict=True)
        style = {"frameon": False, "fontsize": FONT, "borderpad": 0, "ncols": columns}
        figure.legend(handles, labels, loc="outside lower left", **style)
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        _without_exponents(axis)
    for text in figure.findobj(Text):
        text.set_fontsize(max(text.get_fontsize(), FONT))


def _without_exponents(axis: Axis) -> None:
    """Have a log axis say 0.01 where it would say 10 to the -2, whose exponent is too small to read."""
    if axis.get_scale() != "log" or isinstance(axis.get_major_locator(), FixedLocator):
        return
    low, high = axis.get_view_interval()
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    within_a_decade = high / low < 10
    axis.set_minor_formatter(StrMethodFormatter("{x:g}") if within_a_decade else NullFormatter())


def vulnerability_figure(
    records: pd.DataFrame, fprs: Sequence[float], *, limit: Limit | None = None
) -> Figure:
    """Share of the records whose own TPR is at least t, against t, on a log axis.

    Args:
        records: with a column tpr_FPR_drawn for each FPR.
        fprs: fractions.
        limit: declared by the controller; drawn where its FPR is one of these.
    """
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    for fpr, colour in zip(fprs, COLOURS, strict=False):
        ordered = np.sort(records[f"tpr_{fpr:g}_drawn"].dropna().to_numpy())
        if len(ordered) == 0:
            continue
        share = 1 - np.arange(len(ordered)) / len(ordered)
        at = np.unique(np.searchsorted(ordered, np.linspace(0, 1, 201)).clip(max=len(ordered) - 1))
        axes.step(ordered[at], share[at], where="pre", color=colour, linewidth=1.5, label=f"at FPR {fpr:g}")
    if limit is not None and limit.fpr in fprs:
        label = f"declared limit at FPR {limit.fpr:g}"
        axes.axvline(limit.tpr, color=_INK, linewidth=1.5, linestyle="--", label=label)
    axes.set(yscale="log", xlabel="TPR on a record, t", ylabel="share of records", xlim=(0, 1.01))
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower left")
    return figure


def average_roc_figure(
    curves: Mapping[str, Sequence[tuple[float, float, float, float]]], points: pd.DataFrame
) -> Figure:
    """What these shadows reach at each FPR, joined, and the estimate for unlimited shadows with its interval.

    Args:
        curves: (fpr, mean estimated TPR of the records, low, high), ascending, by label.
        points: measured: fpr, tpr, tpr_low, tpr_high, status and label of the curve that they belong to.
    """
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    lowest = float(points["fpr"].min()) / 1.5
    for number, (label, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        mine = points[(points["label"] == label) & (points["status"] == "ok")].sort_values("fpr")
        errors = np.stack([mine["tpr"] - mine["tpr_low"], mine["tpr_high"] - mine["tpr"]]).clip(min=0)
        named = f"found with these shadows: {label}"
        axes.errorbar(mine["fpr"], mine["tpr"], errors, fmt="o-", color=colour, markersize=4, label=named)
        fpr, tpr, low, high = np.asarray(curve, float).T
        axes.fill_between(fpr, np.maximum(low, lowest), high, color=colour, alpha=0.12, linewidth=0)
        dashed = None if number else "dashed: estimated for unlimited shadows"  # one entry for all colours
        axes.plot(fpr, tpr, "--", color=colour, linewidth=1.5, label=dashed)
    axes.plot([lowest, 1], [lowest, 1], color="0.6", linewidth=1, label="chance")
    axes.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(lowest, 1.1))
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower left")
    return figure


def accuracy_figure(cells: pd.DataFrame, fpr: float) -> Figure:
    """Accuracy against TPR, a line over shots for each label.

    Args:
        cells: one row per label and S: label, shots, accuracy, tpr.
        fpr: at which the TPRs are.
    """
    figure = Figure(layout="constrained")
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
    figure.legend(loc="outside lower left")
    return figure
