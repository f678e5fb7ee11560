"""The records most at risk."""

from __future__ import annotations

from collections.abc import Iterator

from jaxmia._npz import read_npz
from jaxmia.report.blocks.first_page import limit_of
from jaxmia.report.blocks.records import blocks_of_records
from jaxmia.report.blocks.stability import attacks_table
from jaxmia.report.content import Block
from jaxmia.report.sections.part import Part
from jaxmia.report.study import first_seeds
from jaxmia.report.subjects import OfAttack, OfAudit, OfStudy
from jaxmia.tables import Value, facts
from jaxmia.vulnerability.stability import flags_of_attacks


def _of_audit(about: OfAudit) -> Iterator[Block]:
    audit = about.audit
    yield (
        "An attacker's mean TPR on each member over re-trainings on other subsets of the records. This"
        " report has ids only, no contents."
    )
    limit = limit_of(about.context)
    yield from blocks_of_records(audit.members(), "records", show_ids=about.show_ids, limit=limit)
    flags = flags_of_attacks(audit.path / "attack", about.attacks, audit.fprs[0])
    if len(flags) > 1:
        member = read_npz(audit.path / "scores.npz", name="scores", required=("member",))["member"][0]
        yield attacks_table(flags, member, audit.fprs[0])
    else:
        yield f"Stability over attacks: not resolved, too few shadows or attacks at FPR {audit.fprs[0]:g}."
    if "called" in audit.records:
        called = audit.records[audit.records["called"]]
        answers: dict[str, Value] = {
            "records called members": len(called),
            "of these, members": int(called["member"].sum()),
        }
        yield facts(
            "Calls at a false discovery rate of 0.1",
            answers,
            "By ranks among the known non-members.",
            about="Whom an attacker would name who wants nine in ten of the names to be right.",
        )


def _of_study(about: OfStudy) -> Iterator[Block]:
    yield "Records are named by their row in the feature set; their contents are not in this report."
    for number, of_cell in enumerate(first_seeds(about.records)):
        limit = limit_of(about.context)
        yield from blocks_of_records(of_cell, f"records-{number}", show_ids=about.show_ids, limit=limit)


def _of_attack(about: OfAttack) -> Iterator[Block]:
    yield "Records are named by their column in the scores; their contents are not in this report."
    limit = limit_of(about.context)
    yield from blocks_of_records(about.attack.members(), "records", show_ids=about.show_ids, limit=limit)


PART = Part("records", "Most vulnerable records", _of_audit, _of_study, _of_attack)
