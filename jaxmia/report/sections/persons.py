"""Persons with several records, beside their records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from jaxmia.report.blocks.persons import (
    PersonsOf,
    attacks_table,
    by_number_table,
    found_table,
    of_audit,
    of_study,
    ranked_table,
    worst_table,
)
from jaxmia.report.content import Block
from jaxmia.report.sections.part import Part
from jaxmia.report.study import first_seeds
from jaxmia.report.subjects import OfAudit, OfStudy
from jaxmia.tables import facts
from jaxmia.tables.attacks import controls_table


def _of_audit(about: OfAudit) -> Iterable[Block] | None:
    audit, found = about.audit, of_audit(about.audit)
    counts = audit.content.get("persons")
    if found is None or counts is None:
        return None
    counted = facts(
        "Persons",
        {
            "persons whom the records are of": counts["persons"],
            "of these, with records in the training data": counts["trained_on"],
            "with some records in it and others not": counts["split"],
            "with one record": counts["single"],
            "most records of one person": counts["most"],
        },
        "Counted in the data. Persons with some records in it are left out of attacks on this model.",
        about="How many persons the records are of.",
    )
    tables = [worst_table([found])]
    if len(audit.of_persons) and audit.content["records"]["others"]:
        tables.append(found_table(audit))
    title = "Every attack on this model, on records and on persons"
    records, persons = (rows[rows["targets"] != "others"] for rows in (audit.results, audit.of_persons))
    tables += [
        counted,
        ranked_table(found),
        by_number_table(found),
        attacks_table(records, persons, audit.fprs, title),
    ]
    return (*tables, controls_table(audit.controls_of_persons, "persons"))


def _of_study(about: OfStudy) -> Iterable[Block] | None:
    found = list(of_study(about.study, first_seeds(about.records)))
    return list(_blocks(about, found)) if found else None


def _blocks(about: OfStudy, found: list[PersonsOf]) -> Iterator[Block]:
    study = about.study
    counted = study.results["shots_of"].iloc[0]
    yield (
        "Membership is of persons: a model is trained on all records of a person or on none. S counts"
        f" {counted} of a class. The other sections are of single records of these same models."
    )
    yield worst_table(found)
    for each in found:
        yield ranked_table(each)
        yield by_number_table(each)
    title = "Every attack on the largest cells, on records and on persons"
    yield attacks_table(study.headline, study.largest(study.of_persons), study.fprs, title)
    yield controls_table(study.controls_of_persons, "persons")


PART = Part("persons", "Persons, not records", _of_audit, _of_study)
