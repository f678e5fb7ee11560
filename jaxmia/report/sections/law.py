"""How much data would be enough: the laws of a study, or the published ones."""

from __future__ import annotations

from collections.abc import Iterator

from jaxmia.report.blocks.laws import law_blocks, published_blocks
from jaxmia.report.content import Block
from jaxmia.report.sections.part import Part
from jaxmia.report.subjects import OfAudit, OfStudy


def _of_audit(about: OfAudit) -> Iterator[Block]:
    """At the size of the audited model."""
    shots, classes, study = about.audit.shots, int(about.audit.content["records"]["classes"]), about.study
    if study is None:
        yield from published_blocks(shots=shots, classes=classes)
        return
    yield about.beside
    yield from law_blocks(study.laws, study.results, shots=shots, classes=classes)


def _of_study(about: OfStudy) -> Iterator[Block]:
    """At the size of the study's largest cell."""
    study, largest = about.study, about.study.headline.iloc[0]
    shots, classes = float(largest["shots"]), int(largest["classes"])
    yield from law_blocks(study.laws, study.results, shots=shots, classes=classes)


PART = Part("law", "How much data would be enough", _of_audit, _of_study)
