"""A report as one HTML file that needs nothing else."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable

import jinja2
import markupsafe

from jaxmia.report.content import Picture, Report, shown
from jaxmia.tables import Measured, Table

_PARTS = importlib.resources.files("jaxmia.report")


def to_html(report: Report) -> str:
    """The page: styles, script and drawings are in it, and its policy lets it load nothing."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxmia", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    tests = {"table": Table, "picture": Picture, "measured": Measured}
    environment.tests |= {name: _is(kind) for name, kind in tests.items()}
    parts = {name: (_PARTS / f"page.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    marked = {name: markupsafe.Markup(text) for name, text in parts.items()}  # ours, not the reader's data
    return environment.get_template("page.html").render(report=report, **marked)


def _is(kind: type) -> Callable[[object], bool]:
    return lambda value: isinstance(value, kind)
