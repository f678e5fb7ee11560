"""The sections of a report, in order. To add one: a file here with its PART, and a line in PARTS."""

from __future__ import annotations

from jaxmia.report.content import Section
from jaxmia.report.sections import (
    actors,
    context,
    controls,
    data,
    declared,
    law,
    lowering,
    not_covered,
    persons,
    privacy,
    records,
    reproduction,
    results,
    summary,
)
from jaxmia.report.sections.annex import annex
from jaxmia.report.sections.glossary import glossary
from jaxmia.report.subjects import Subject

PARTS = (
    summary.PART,
    context.PART,
    data.PART,
    declared.PART,
    results.PART,
    actors.PART,
    records.PART,
    persons.PART,
    law.PART,
    privacy.PART,
    lowering.PART,
    controls.PART,
    not_covered.PART,
    reproduction.PART,
)


def sections_of(about: Subject) -> tuple[Section, ...]:
    """All sections on a subject, the annex that tells which of them answers which document, and the glossary."""
    written = (part.section(about) for part in PARTS)
    sections = tuple(section for section in written if section is not None)
    return (*sections, annex({section.key: section.title for section in sections}), glossary())
