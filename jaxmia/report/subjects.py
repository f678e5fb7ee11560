"""The subject of a report: a folder and its companions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jaxmia.audit.settings import ContextSettings
from jaxmia.report.audit import Audit
from jaxmia.report.blocks.records import RecordsOf
from jaxmia.report.study import Study


@dataclasses.dataclass(frozen=True)
class OfAudit:
    """The audit of one head.

    Attributes:
        audit: the audit's folder.
        context: the controller's statements.
        study: a study of the same records, for the law and for privacy, if given.
        beside: a sentence on how the study's data relate to the audit's.
    """

    audit: Audit
    context: ContextSettings
    study: Study | None = None
    beside: str = ""

    @property
    def attacks(self) -> list[str]:
        """Attacks tested."""
        return list(self.audit.results["attack"].unique())


@dataclasses.dataclass(frozen=True)
class OfStudy:
    """A run or a sweep.

    Attributes:
        study: the study's folder.
        context: the controller's statements.
        records: records of its headline cells, first of their first seed, then of the others.
    """

    study: Study
    context: ContextSettings
    records: Sequence[RecordsOf]

    @property
    def attacks(self) -> list[str]:
        """Attacks tested."""
        return list(self.study.results["attack"].unique())


Subject = OfAudit | OfStudy
