"""What all pictures have in common: colours, lines, and how they are saved."""

from __future__ import annotations

import io
import pathlib
from typing import Any

from matplotlib.figure import Figure

COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)  # Okabe and Ito: safe for colour blindness
LINES = ("-", "--", "-.")
STYLE: Any = {
    "svg.hashsalt": "jaxmia",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 10,
}


class Picture(Figure):
    """A figure that notebooks show without pyplot."""

    def _repr_png_(self) -> bytes:
        held = io.BytesIO()
        self.savefig(held, format="png", dpi=100)
        return held.getvalue()


def save(figure: Figure, stem: pathlib.Path) -> list[pathlib.Path]:
    """Write STEM.png and STEM.svg, without timestamps, with a stem that is safe for shells."""
    name = stem.name.translate(str.maketrans("(=, ", "----", ")"))
    paths = []
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        paths.append(stem.with_name(f"{name}.{suffix}"))
        figure.savefig(paths[-1], dpi=150, metadata=metadata)
    return paths
