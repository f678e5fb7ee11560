"""What was found, in plain words, on one page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pandas as pd

from jaxmia.privacy.tradeoff import kairouz_ceiling
from jaxmia.report.blocks import first_page
from jaxmia.report.blocks.actors import in_short
from jaxmia.report.blocks.persons import of_audit, of_study
from jaxmia.report.blocks.records import RecordsOf
from jaxmia.report.blocks.wording import white_box_of
from jaxmia.report.content import Block
from jaxmia.report.sections.part import Part
from jaxmia.report.study import cell_name, first_seeds, seed_names
from jaxmia.report.subjects import OfAttack, OfAudit, OfStudy, Subject
from jaxmia.tables.finding import Finding
from jaxmia.tables.rates import best_of

_FOUND_OF_AUDIT = "this model's members, found by the best attack"
_EVIDENCE = (
    "This report says what was tested on {what}, what the tests could have seen, and what they saw. It is evidence, not"
    " a verdict."
)


def _of_audit(about: OfAudit) -> Iterator[Block]:
    audit, context = about.audit, about.context
    content, (unit, members, mine) = audit.content, _units_of_audit(about)
    yield from first_page.warning_blocks(content["void"], audit.controls, content["warnings"])
    yield _EVIDENCE.format(what="one model")
    yield (
        f"Released: {context.release}; to whom: {context.recipients}. The model: {content['head']['file']}, trained on"
        f" {content['records']['members']:,} records of {_individuals(about)}, {audit.shots:,.0f} in each of"
        f" {content['records']['classes']} classes on average. Differential privacy: {context.guarantee}."
    )
    finding = finding_of_audit(about)
    found = f"this model's {unit}s, found by the best attack" if unit == "person" else _FOUND_OF_AUDIT
    against = first_page.numbers_at_limit(context, mine, members, found, unit)
    yield first_page.finding_block(finding, context, against)
    yield first_page.spread(members, context, unit)
    sees = "its weights and outputs" if white_box_of(about.attacks) else "its outputs"
    yield first_page.best_table(mine, audit.fprs, sees, unit)
    yield from in_short(about)
    yield from first_page.last_lines(about.attacks, context, about.advice)


def finding_of_audit(about: OfAudit) -> Finding:
    """What an audit found, for its sentences."""
    audit, context = about.audit, about.context
    unit, members, mine = _units_of_audit(about)
    fpr = first_page.resolved_fpr(mine, audit.fprs)
    ceilings = {each["fpr"]: each["tpr"] for each in audit.content["ceilings"]}
    bound, guarantee = ceilings.get(fpr), "the differential privacy of its training"
    most = audit.content["persons"]["most"] if unit == "person" else 1
    if context.epsilon:
        of_group = f", by group privacy for persons of up to {most} records" if most > 1 else ""
        guarantee = f"{context.guarantee}{of_group}"
    if context.epsilon:  # stated to this report, perhaps by another file than the audit's
        stated = _stated_ceiling(fpr, context.epsilon, context.delta, most)
        bound = stated if bound is None else min(bound, stated)
    return Finding(
        sees=_sees(about, white_box_of(about.attacks)),
        fpr=fpr,
        found=best_of(mine[mine["fpr"] == fpr]),
        worst=members.worst(fpr),
        worst_fpr=fpr,
        worst_name=members.first(fpr) if about.show_ids else "",
        unit=unit,
        void=bool(audit.content["void"]),
        bound=bound,
        guarantee=guarantee,
    )


def _units_of_audit(about: OfAudit) -> tuple[str, RecordsOf, pd.DataFrame]:
    """Return what the first page is of, records or persons, those that the head trained on, and rows of the attacks."""
    audit, persons = about.audit, of_audit(about.audit)
    if persons is None:
        return "record", audit.members(), audit.head_rows()
    return "person", persons.persons, audit.of_persons[audit.of_persons["targets"] == "row 0"]


def _stated_ceiling(fpr: float, epsilon: float, delta: float, records: int) -> float:
    """Return the largest TPR that a stated guarantee of one record leaves on a person with so many.

    Group privacy (Dwork and Roth 2014, doi 10.1561/0400000042, theorem 2.2): k epsilon, delta k e^((k - 1) epsilon).
    """
    group = delta * records * math.exp(min((records - 1) * epsilon, 700.0))
    return float(kairouz_ceiling(fpr, epsilon=records * epsilon, delta=min(1.0, group)))


def _sees(about: Subject, white_box: Sequence[str]) -> str:
    return first_page.SEEN["weights" if white_box else about.context.release]


def _individuals(about: OfAudit) -> str:
    number = about.context.individuals
    return f"{number:,} individuals" if number else "a number of individuals that was not stated"


def _of_study(about: OfStudy) -> Iterator[Block]:
    study, context = about.study, about.context
    unit, first, rows = _units_of_study(about)
    where = study.headline.iloc[0].to_dict()
    yield from first_page.warning_blocks(controls=study.controls)
    yield _EVIDENCE.format(what="models of this kind") + (
        " The models are heads trained for the study, not one released model: “jaxmia audit” tests that one."
    )
    yield (
        f"Would be released: {context.release}; to whom: {context.recipients}. The study:"
        f" {study.manifest['settings']['name']}; what follows is of its largest cell, {cell_name(where)}, with"
        f" {int(where['classes']) * int(where['shots']):,} training records in a model."
    )
    finding = finding_of_study(about)
    found = "models' members, found by the best attack"
    against = first_page.numbers_at_limit(context, rows, first, found, unit)
    yield first_page.finding_block(finding, context, against)
    yield first_page.spread(first, context, unit)
    yield first_page.best_table(rows, study.fprs, "the outputs of one model", unit)
    yield from in_short(about)
    yield from first_page.last_lines(about.attacks, context, about.advice)


def finding_of_study(about: OfStudy) -> Finding:
    """What a study found on its largest cell, for its sentences."""
    study, context = about.study, about.context
    unit, first, rows = _units_of_study(about)
    where = study.headline.iloc[0].to_dict()
    fpr = first_page.resolved_fpr(rows, study.fprs)
    ceilings = rows["tpr_ceiling"][rows["fpr"] == fpr]
    bound = float(ceilings.iloc[0]) if where["epsilon"] != float("inf") else None
    return Finding(
        sees=first_page.SEEN[context.release].replace("the model's", "the") + " of a model of this kind",
        fpr=fpr,
        found=best_of(rows[rows["fpr"] == fpr]),
        worst=first.worst(fpr),
        worst_fpr=fpr,
        worst_name=first.first(fpr) if about.show_ids else "",
        unit=unit,
        bound=bound,
        guarantee=f"ε = {where['epsilon']:g}, δ = {where['delta']:g}",
    )


def _units_of_study(about: OfStudy) -> tuple[str, RecordsOf, pd.DataFrame]:
    """Return what the first page is of, records or persons of the headline cell, and rows of the attacks on them."""
    study, first = about.study, first_seeds(about.records)[0]
    persons = next(of_study(study, [first]), None)
    if persons is None or not len(study.of_persons):
        return "record", first, _rows_of(study.headline, first)
    return "person", persons.persons, _rows_of(study.largest(study.of_persons), first)


def _rows_of(rows: pd.DataFrame, records: RecordsOf) -> pd.DataFrame:
    """Rows of results of the cell and seed of some records."""
    mine: pd.DataFrame = rows[seed_names(rows) == records.name]
    return mine


def _of_attack(about: OfAttack) -> Iterator[Block]:
    folder, context = about.attack, about.context
    manifest, members, rows = folder.manifest, folder.members(), folder.audited
    yield from first_page.warning_blocks(controls=folder.controls, warnings=manifest["notes"])
    one = manifest["target"] is not None
    yield _EVIDENCE.format(what="one model" if one else f"{manifest['models']} models")
    which = f"The model under audit is number {manifest['target']} of" if one else "The models are"
    yield (
        f"Released: {context.release}; to whom: {context.recipients}. {which} {manifest['models']} whose scores on"
        f" {manifest['examples']:,} records were given ({manifest['source']})."
    )
    finding = finding_of_attack(about)
    against = first_page.numbers_at_limit(context, rows, members, "members, found by the best attack")
    yield first_page.finding_block(finding, context, against)
    yield first_page.spread(members, context)
    yield first_page.best_table(rows, folder.fprs, "the model's outputs")
    yield from in_short(about)
    yield from first_page.last_lines(about.attacks, context, about.advice)


def finding_of_attack(about: OfAttack) -> Finding:
    """What attacks on anyone's scores found, for its sentences."""
    folder, one = about.attack, about.attack.manifest["target"] is not None
    members, rows = folder.members(), folder.audited
    fpr = first_page.resolved_fpr(rows, folder.fprs)
    sees = first_page.SEEN[about.context.release]
    return Finding(
        sees=sees if one else sees.replace("the model's", "the") + " of one of these models",
        fpr=fpr,
        found=best_of(rows[rows["fpr"] == fpr]),
        worst=members.worst(fpr),
        worst_fpr=fpr,
        worst_name=members.first(fpr) if about.show_ids else "",
    )


def finding_of(about: Subject) -> Finding:
    """What was found, for its sentences."""
    if isinstance(about, OfAudit):
        return finding_of_audit(about)
    return finding_of_study(about) if isinstance(about, OfStudy) else finding_of_attack(about)


PART = Part("summary", "Summary", _of_audit, _of_study, _of_attack, depth="summary")
