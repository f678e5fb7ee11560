"""The subject of a report: a folder and its companions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jaxmia.audit.settings import ContextSettings
from jaxmia.report.advice import AdviceFolder
from jaxmia.report.attack import AttackFolder
from jaxmia.report.audit import Audit
from jaxmia.report.blocks.records import RecordsOf
from jaxmia.report.study import Study, first_seeds


@dataclasses.dataclass(frozen=True)
class OfAudit:
    """The audit of one head.

    Attributes:
        audit: the audit's folder.
        context: the controller's statements.
        study: a study of the same records, for the law and for privacy, if given.
        beside: a sentence on how the study's data relate to the audit's.
        show_ids: whether the page may name records.
        advice: what the advisor found, if it has run.
    """

    audit: Audit
    context: ContextSettings
    study: Study | None = None
    beside: str = ""
    show_ids: bool = True
    advice: AdviceFolder | None = None

    @property
    def attacks(self) -> list[str]:
        """Attacks tested."""
        return list(self.audit.results["attack"].unique())


@dataclasses.dataclass(frozen=True)
class OfStudy:
    """A run or a sweep.

    Attributes:
        study: its folder.
        context: what the controller stated.
        records: of its headline cells, of their first seed and then of the others.
        show_ids: whether the page may name records.
        advice: what the advisor found, if it has run.
    """

    study: Study
    context: ContextSettings
    records: Sequence[RecordsOf]
    show_ids: bool = True
    advice: AdviceFolder | None = None

    @property
    def attacks(self) -> list[str]:
        """Attacks tested."""
        return list(self.study.results["attack"].unique())


@dataclasses.dataclass(frozen=True)
class OfAttack:
    """Attacks on anyone's scores.

    Attributes:
        attack: the folder.
        context: what the controller stated.
        show_ids: whether the page may name records.
        advice: what the advisor found, if it has run.
    """

    attack: AttackFolder
    context: ContextSettings
    show_ids: bool = True
    advice: AdviceFolder | None = None

    @property
    def attacks(self) -> list[str]:
        """Attacks tested."""
        return list(self.attack.results["attack"].unique())


Subject = OfAudit | OfStudy | OfAttack


def name_of(about: Subject) -> str:
    """What a report calls its subject."""
    if isinstance(about, OfAudit):
        return str(about.audit.content["settings"]["name"])
    if isinstance(about, OfStudy):
        return str(about.study.manifest["settings"]["name"])
    return f"attacks in {about.attack.path.resolve().name}"


def whom(about: Subject) -> RecordsOf:
    """The records that the first page is about."""
    if isinstance(about, OfAudit):
        return about.audit.members()
    if isinstance(about, OfStudy):
        return first_seeds(about.records)[0]
    return about.attack.members()
