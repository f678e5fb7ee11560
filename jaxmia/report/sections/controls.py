"""Negative controls (attacks on permuted labels), and repetitions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pandas as pd

from jaxmia.report.blocks.privacy import is_private
from jaxmia.report.blocks.stability import seeds_table
from jaxmia.report.content import Block
from jaxmia.report.sections.part import Part
from jaxmia.report.subjects import OfAudit, OfStudy
from jaxmia.tables import Measured, Table, Value
from jaxmia.tables.rates import best_and_realised


def _of_audit(about: OfAudit) -> Iterator[Block]:
    audit, study = about.audit, about.study
    yield chance_table(audit.controls)
    heads, others = (audit.of(name, "calibrated") for name in ("row 0", "others"))
    rows: list[tuple[Value, ...]] = []
    for fpr in audit.fprs:
        of_each = [each[each["fpr"] == fpr] for each in (heads, others)]
        rows.append((f"FPR {fpr:g}", *(cell for each in of_each for cell in best_and_realised(each))))
    yield Table(
        "This model compared with heads like it: the best attack, every record at the FPR",
        ("", "this model", "FPR realised", "its shadows", "FPR realised by them"),
        tuple(rows),
        "One model's result varies around that of its shadows. If it is far away, the shadows do not"
        " represent this model.",
    )
    if study is None:
        yield "Repeated seeds, and a head of known privacy under its ceiling: not run (no study was given)."
    else:
        yield f"Repeated seeds and heads of known privacy: see the study {study.path.name} and “Differential privacy”."


def _of_study(about: OfStudy) -> Iterator[Block]:
    study, records = about.study, about.records
    yield chance_table(study.controls)
    rows: list[tuple[Value, ...]] = []
    for of_cell in records:
        pairs = ((of_cell.average(fpr), of_cell.worst(fpr)) for fpr in study.fprs)
        rows.append((of_cell.name, *itertools.chain.from_iterable(pairs)))
    headings = [f"{word} TPR at FPR {fpr:g}" for fpr in study.fprs for word in ("mean", "largest")]
    yield Table("Repeated seeds: other pools and other members", ("cell and seed", *headings), tuple(rows))
    stability = seeds_table(records)
    if stability is not None:
        yield stability
    if not is_private(study.results):
        yield "A head of known privacy under its ceiling: not run (the study has no private level)."


def chance_table(controls: pd.DataFrame, of: str = "") -> Table:
    """The negative controls: attacks on permuted labels, of records or of persons."""
    rows: list[tuple[Value, ...]] = []
    for attack, mine in controls.groupby("attack", sort=False):
        resolved = mine[mine["status"] != "unresolved"]
        if resolved.empty:
            rows.append((str(attack), 0, 0, Measured(None, status="unresolved", reason="too few scores")))
            continue
        share = (resolved["advantage"].abs() / resolved["limit"]).max()
        failed = int((resolved["status"] == "failed").sum())
        rows.append((str(attack), len(resolved), failed, Measured(float(share))))
    return Table(
        f"Negative control{of and f', {of}'}: membership permuted, where an attack must be at chance",
        ("attack", "controls", "failed", "largest |TPR − FPR| over its limit"),
        tuple(rows),
        "Do not trust the results of an attack whose control failed. Limit: four standard errors.",
    )


PART = Part("controls", "Controls", _of_audit, _of_study)
