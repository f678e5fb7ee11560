"""What was found, in plain words, on one page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from jaxmia.privacy.tradeoff import kairouz_ceiling
from jaxmia.report.blocks import first_page
from jaxmia.report.blocks.actors import in_short
from jaxmia.report.blocks.records import RecordsOf
from jaxmia.report.blocks.wording import white_box_of
from jaxmia.report.content import Block
from jaxmia.report.sections.part import Part
from jaxmia.report.study import Study, cell_name, first_seeds, seed_names
from jaxmia.report.subjects import OfAttack, OfAudit, OfStudy, Subject
from jaxmia.tables.finding import Finding
from jaxmia.tables.rates import best_of

_EVIDENCE = (
    "This report says what was tested on {what}, what the tests could have seen, and what they saw. It is evidence, not"
    " a verdict."
)


def _of_audit(about: OfAudit) -> Iterator[Block]:
    audit, context = about.audit, about.context
    content, members, mine = audit.content, audit.members(), audit.head_rows()
    yield from first_page.warning_blocks(content["void"], audit.controls, content["warnings"])
    yield _EVIDENCE.format(what="one model")
    yield (
        f"Released: {context.release}; to whom: {context.recipients}. The model: {content['head']['file']}, trained on"
        f" {content['records']['members']:,} records of {_individuals(about)}, {audit.shots:,.0f} in each of"
        f" {content['records']['classes']} classes on average. Differential privacy: {context.guarantee}."
    )
    finding = finding_of_audit(about)
    against = first_page.numbers_at_limit(
        context, mine, members, "this model's members, found by the best attack"
    )
    yield first_page.finding_block(finding, context, against)
    yield first_page.spread(members, context)
    sees = "its weights and outputs" if white_box_of(about.attacks) else "its outputs"
    yield first_page.best_table(mine, audit.fprs, sees)
    yield from in_short(about)
    yield from first_page.last_lines(about.attacks, context, about.advice)


def finding_of_audit(about: OfAudit) -> Finding:
    """What an audit found, for its sentences."""
    audit, context = about.audit, about.context
    members, mine = audit.members(), audit.head_rows()
    fpr = first_page.resolved_fpr(mine, audit.fprs)
    ceilings = {each["fpr"]: each["tpr"] for each in audit.content["ceilings"]}
    bound = ceilings.get(fpr)
    if context.epsilon:  # stated to this report, perhaps by another file than the audit's
        stated = float(kairouz_ceiling(fpr, epsilon=context.epsilon, delta=context.delta))
        bound = stated if bound is None else min(bound, stated)
    return Finding(
        sees=_sees(about, white_box_of(about.attacks)),
        fpr=fpr,
        found=best_of(mine[mine["fpr"] == fpr]),
        worst=members.worst(fpr),
        worst_fpr=fpr,
        worst_name=members.first(fpr) if about.show_ids else "",
        void=bool(audit.content["void"]),
        bound=bound,
        guarantee=context.guarantee if context.epsilon else "the differential privacy of its training",
    )


def _sees(about: Subject, white_box: Sequence[str]) -> str:
    return first_page.SEEN["weights" if white_box else about.context.release]


def _individuals(about: OfAudit) -> str:
    number = about.context.individuals
    return f"{number:,} individuals" if number else "a number of individuals that was not stated"


def _of_study(about: OfStudy) -> Iterator[Block]:
    study, context = about.study, about.context
    first = first_seeds(about.records)[0]
    rows = _rows_of(study, first)
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
    against = first_page.numbers_at_limit(context, rows, first, "models' members, found by the best attack")
    yield first_page.finding_block(finding, context, against)
    yield first_page.spread(first, context)
    yield first_page.best_table(rows, study.fprs, "the outputs of one model")
    yield from in_short(about)
    yield from first_page.last_lines(about.attacks, context, about.advice)


def finding_of_study(about: OfStudy) -> Finding:
    """What a study found on its largest cell, for its sentences."""
    study, context, first = about.study, about.context, first_seeds(about.records)[0]
    rows, where = _rows_of(study, first), study.headline.iloc[0].to_dict()
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
        bound=bound,
        guarantee=f"ε = {where['epsilon']:g}, δ = {where['delta']:g}",
    )


def _rows_of(study: Study, records: RecordsOf) -> pd.DataFrame:
    """Rows of results of the headline cell and seed of some records."""
    rows = study.headline
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
