"""Negative controls (attacks on permuted labels), and repetitions."""

from __future__ import annotations

from collections.abc import Iterator

from jaxmia.report.blocks.privacy import is_private
from jaxmia.report.blocks.stability import seeds_table
from jaxmia.report.content import Block
from jaxmia.report.sections.part import Part
from jaxmia.report.subjects import OfAttack, OfAudit, OfStudy
from jaxmia.tables import Table, Value
from jaxmia.tables.attacks import controls_table
from jaxmia.tables.rates import best_and_realised


def _of_audit(about: OfAudit) -> Iterator[Block]:
    audit, study = about.audit, about.study
    yield controls_table(audit.controls)
    heads, others = (audit.of(name, "calibrated") for name in ("row 0", "others"))
    rows: list[tuple[Value, ...]] = []
    for fpr in audit.fprs:
        of_each = [each[each["fpr"] == fpr] for each in (heads, others)]
        rows.append((f"FPR {fpr:g}", *(cell for each in of_each for cell in best_and_realised(each))))
    yield Table(
        "This model compared with heads like it: the best attack, every record at the FPR",
        ("", "this model", "FPR realised", "its shadows", "FPR realised by them"),
        tuple(rows),
        "One model's figure scatters around that of its shadows. Far from it, the shadows do not stand for this model.",
        about="Whether the shadows behave like the model, as the tests assume.",
    )
    if study is None:
        yield "Repeated seeds, and a head of known privacy under its ceiling: not run (no study was given)."
    else:
        yield f"Repeated seeds and heads of known privacy: see the study {study.path.name} and “Differential privacy”."


def _of_study(about: OfStudy) -> Iterator[Block]:
    study, records = about.study, about.records
    yield controls_table(study.controls)
    rows: list[tuple[Value, ...]] = []
    for of_cell in records:
        rows += [(of_cell.name, f"{fpr:g}", of_cell.average(fpr), of_cell.worst(fpr)) for fpr in study.fprs]
    yield Table(
        "Repeated seeds: other pools and other members",
        ("cell and seed", "FPR", "mean TPR", "largest TPR"),
        tuple(rows),
        about="How far the numbers depend on the draw of records and models.",
    )
    stability = seeds_table(records)
    if stability is not None:
        yield stability
    if not is_private(study.results):
        yield "A head of known privacy under its ceiling: not run (the study has no private level)."


def _of_attack(about: OfAttack) -> Iterator[Block]:
    yield controls_table(about.attack.controls)


PART = Part("controls", "Controls", _of_audit, _of_study, _of_attack, depth="evidence")
