"""The content of a report, independent of its format: sections of sentences, tables and figures."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, NamedTuple

from jaxmia.tables import Measured, Table


def shown(found: Measured) -> str:
    """Return a number with its interval or standard error, as text for a page; empty if there is none."""
    if found.value is None:
        return ""
    words = [
        "∞" if each == math.inf else f"{each:{found.form}}".replace("-", "−")
        for each in (found.value, found.low, found.high, found.error)
        if each is not None
    ]
    if found.error is not None:
        return " ± ".join(words)
    return f"{words[0]} ({words[1]} to {words[2]})" if len(words) == 3 else words[0]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A plot, with its description and numbers.

    Attributes:
        title: what it shows.
        alternative: description in words, for readers who cannot see it.
        svg: the drawing; its text has the colour of the page.
        table: the numbers drawn.
    """

    title: str
    alternative: str
    svg: str
    table: Table

    def to_json(self) -> dict[str, Any]:
        """Return everything except the drawing."""
        return {"title": self.title, "alternative": self.alternative, "table": self.table.to_json()}


@dataclasses.dataclass(frozen=True)
class Lines:
    """Sentences that belong together.

    Attributes:
        title: what they are.
        lines: of text.
        kind: "finding" and "warning" are set off from the text around them.
    """

    title: str
    lines: tuple[str, ...]
    kind: Literal["finding", "warning", "list"] = "list"

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {"title": self.title, "kind": self.kind, "lines": list(self.lines)}


class Term(NamedTuple):
    """A word of the report, explained.

    Attributes:
        key: of its place in the page.
        name: the word.
        meaning: in plain words.
        also: other forms, that are linked to it too.
    """

    key: str
    name: str
    meaning: str
    also: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Terms:
    """A glossary.

    Attributes:
        terms: in order.
    """

    terms: tuple[Term, ...]

    def to_json(self) -> dict[str, Any]:
        """Words and what they mean."""
        return {term.name: term.meaning for term in self.terms}


Block = str | Table | Picture | Lines | Terms
Depth = Literal["summary", "results", "evidence"]


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        key: its name in links and in the JSON.
        title: its heading.
        blocks: sentences, tables and figures, in order.
        depth: how deep a reader goes to meet it.
    """

    key: str
    title: str
    blocks: tuple[Block, ...]
    depth: Depth = "results"

    def to_json(self) -> dict[str, Any]:
        """Its blocks, each under its kind."""
        kinds = {str: "text", Table: "table", Picture: "figure", Lines: "lines", Terms: "terms"}
        content = [
            {kinds[type(block)]: block if isinstance(block, str) else block.to_json()}
            for block in self.blocks
        ]
        return {"key": self.key, "title": self.title, "depth": self.depth, "content": content}


@dataclasses.dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        title: of the page.
        sections: in order.
    """

    title: str
    sections: tuple[Section, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the content of the page."""
        return {"title": self.title, "sections": [section.to_json() for section in self.sections]}
