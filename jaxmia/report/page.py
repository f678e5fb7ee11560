"""A report as one self-contained HTML file."""

from __future__ import annotations

import importlib.resources
import itertools
import re
from collections.abc import Callable, Mapping, Sequence

import jinja2
import markupsafe

from jaxmia.report.content import Lines, Picture, Report, Section, Term, Terms, shown
from jaxmia.tables import Measured, Table
from jaxmia.tables.reasons import explained

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
    environment.filters |= {"shown": shown, "footnotes": footnotes, "again": repeated}
    tests = {"table": Table, "picture": Picture, "measured": Measured, "lines": Lines, "terms": Terms}
    environment.tests |= {name: _is(kind) for name, kind in tests.items()}
    parts = {name: (_PARTS / f"page.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    marked = {name: markupsafe.Markup(text) for name, text in parts.items()}  # ours, not the reader's data
    terms = [term for section in report.sections for term in _terms_of(section)]
    template = environment.get_template("page.html")
    return template.render(report=report, linker=lambda: Linker(terms), captions=_names("caption"), **marked)


def _names(word: str) -> Callable[[], str]:
    """Names that differ: word-1, word-2, ..."""
    numbers = itertools.count(1)
    return lambda: f"{word}-{next(numbers)}"


def footnotes(table: Table) -> Mapping[str, tuple[str, str]]:
    """What each status in a table means there: its letter and its reasons, by status."""
    found = explained(table)
    return {
        status: ("abcdefghij"[place % 10], " ".join(reasons))
        for place, (status, reasons) in enumerate(found.items())
    }


def repeated(table: Table, row: int) -> int:
    """How many of the first cells of a row are those of the row above: names that a reader need not read again."""
    if row == 0:
        return 0
    above, mine = table.rows[row - 1], table.rows[row]
    same = 0
    while same < min(table.stub, len(mine) - 1) and above[same] == mine[same]:
        same += 1
    return same


class Linker:
    """Links the first appearance of each term in a section to the glossary.

    Args:
        terms: of the glossary.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        self._keys = {form: term.key for term in terms for form in (term.name, *term.also)}
        words = sorted(map(re.escape, self._keys), key=len, reverse=True)
        self._any = re.compile(rf"(?<![\w-])(?:{'|'.join(words)})(?![\w-])") if words else None
        self._linked: set[str] = set()

    def __call__(self, text: str) -> markupsafe.Markup:
        """The text, escaped, with its links."""
        if self._any is None:
            return markupsafe.escape(text)
        parts, end = [], 0
        for match in self._any.finditer(text):
            key = self._keys[match.group()]
            if key in self._linked:
                continue
            self._linked.add(key)
            link = markupsafe.Markup('<a class="term" href="#term-{}">{}</a>').format(key, match.group())
            parts += [markupsafe.escape(text[end : match.start()]), link]
            end = match.end()
        return markupsafe.Markup("").join((*parts, markupsafe.escape(text[end:])))


def _terms_of(section: Section) -> Sequence[Term]:
    return [term for block in section.blocks if isinstance(block, Terms) for term in block.terms]


def _is(kind: type) -> Callable[[object], bool]:
    return lambda value: isinstance(value, kind)
