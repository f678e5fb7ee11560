"""A report as one self-contained HTML file."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable

import jinja2
import markupsafe

from jaxmia.report.content import Picture, Report, shown
from jaxmia.tables import Measured, Table

_PARTS = importlib.resources.files("jaxmia.report")


def to_html(report: Report) -> str:
    """Return the page, with styles, script and drawings inside; its policy forbids loading anything."""
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
    marked = {name: markupsafe.Markup(text) for name, text in parts.items()}  # our own parts, not data
    return environment.get_template("page.html").render(report=report, **marked)


def _is(kind: type) -> Callable[[object], bool]:
    return lambda value: isinstance(value, kind)
