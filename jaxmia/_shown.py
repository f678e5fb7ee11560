"""How results are displayed: one line, a table in notebooks, a figure, a report.

Plots and reports belong to higher wings than most results. They are looked up by name at the call, so that no import
points upwards and nothing loads before it is needed.
"""

from __future__ import annotations

import html
import importlib
import os
import pathlib
from typing import Any

import pandas as pd

_ROWS = 12  # rows of a table in a notebook


class Shown:
    """A result with a short repr and, in notebooks, a table from its to_frame, if it has one."""

    def headline(self) -> str:
        """Return type, size and main number, in one line."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.headline()}"

    def brief_frame(self) -> pd.DataFrame:
        """Return the columns of to_frame that a notebook shows."""
        table: pd.DataFrame = getattr(self, "to_frame")()  # noqa: B009 - not every result has one
        return table

    def _repr_html_(self) -> str:
        said = f"<p><b>{html.escape(type(self).__name__)}</b>: {html.escape(self.headline())}</p>"
        if not hasattr(self, "to_frame"):
            return said
        table = self.brief_frame()
        more = (
            f"<p>{len(table)} rows: .to_frame() has all, with all columns</p>" if len(table) > _ROWS else ""
        )
        return said + table.head(_ROWS).to_html(border=0, index=False, float_format="{:.4g}".format) + more


def figure(name: str, *args: Any, **options: Any) -> Any:
    """Return the figure of a function of jaxmia.plots."""
    return getattr(importlib.import_module("jaxmia.plots"), name)(*args, **options)


def report(folder: pathlib.Path, out: str | os.PathLike[str] | None, **options: Any) -> pathlib.Path:
    """Write the report on a folder, and return its page."""
    page: pathlib.Path = importlib.import_module("jaxmia.report").write_report(folder, out, **options)[0]
    return page
