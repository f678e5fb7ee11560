"""The content of a report, independent of its format: sections of sentences, tables and figures."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

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


Block = str | Table | Picture


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        key: its name in links and in the JSON.
        title: its heading.
        blocks: sentences, tables and figures, in order.
    """

    key: str
    title: str
    blocks: tuple[Block, ...]

    def to_json(self) -> dict[str, Any]:
        """Return its blocks, each under its kind."""
        kinds = {str: "text", Table: "table", Picture: "figure"}
        content = [
            {kinds[type(block)]: block if isinstance(block, str) else block.to_json()}
            for block in self.blocks
        ]
        return {"key": self.key, "title": self.title, "content": content}


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
