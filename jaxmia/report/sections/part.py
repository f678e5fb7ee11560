"""The content of a section's module."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from jaxmia.report.content import Block, Depth, Section
from jaxmia.report.subjects import OfAttack, OfAudit, OfStudy, Subject


class Part(NamedTuple):
    """A section, with its blocks for each kind of report.

    Attributes:
        key: its name in links and in the JSON.
        title: its heading.
        of_audit: its blocks in the report on an audit; None if it is not in that, or returns None.
        of_study: its blocks in the report on a run or a sweep; None if it is not in that.
        of_attack: its blocks in the report on attacks on anyone's scores; None if it is not in that.
        depth: how deep a reader goes to meet it: "summary", "results" or "evidence".
    """

    key: str
    title: str
    of_audit: Callable[[OfAudit], Iterable[Block] | None] | None
    of_study: Callable[[OfStudy], Iterable[Block] | None] | None
    of_attack: Callable[[OfAttack], Iterable[Block] | None] | None = None
    depth: Depth = "results"

    def section(self, about: Subject) -> Section | None:
        """Return the section on this subject, or None."""
        if isinstance(about, OfAudit):
            blocks = None if self.of_audit is None else self.of_audit(about)
        elif isinstance(about, OfStudy):
            blocks = None if self.of_study is None else self.of_study(about)
        else:
            blocks = None if self.of_attack is None else self.of_attack(about)
        return None if blocks is None else Section(self.key, self.title, tuple(blocks), self.depth)
