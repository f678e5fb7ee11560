"""Guarantees and cost of differential privacy."""

from __future__ import annotations

from collections.abc import Iterator

from jaxmia.report.blocks.privacy import (
    bounds_table,
    certificate_blocks,
    is_private,
    other_attacks_table,
    privacy_blocks,
)
from jaxmia.report.blocks.statement import statement_blocks
from jaxmia.report.content import Block
from jaxmia.report.sections.part import Part
from jaxmia.report.study import Study
from jaxmia.report.subjects import OfAudit, OfStudy


def _of_audit(about: OfAudit) -> Iterator[Block]:
    audit, context, study = about.audit, about.context, about.study
    certificate = audit.content.get("certificate")
    if certificate is not None:
        yield from certificate_blocks(certificate)
        yield from statement_blocks(audit.of("row 0", "per_target"), context)
    elif context.epsilon:
        yield (
            f"The controller states that the model was trained with {context.guarantee}. This report"
            " does not check the training; attacks can test the guarantee only if members were chosen"
            " at random."
        )
        yield from statement_blocks(audit.of("row 0", "per_target"), context)
    else:
        yield "No differential privacy was stated: the model has no guarantee, and no ceiling but 1."
    if study is not None:
        yield from _cost(study)
        return
    yield (
        "What a guarantee would cost in accuracy was not measured: “jaxmia run” with privacy.epsilon = [inf, 8,"
        " 4, 1] over these records measures it, and “jaxmia report --study” includes it."
    )
    yield bounds_table(audit.fprs, context.delta)
    yield other_attacks_table(context.delta)


def _of_study(about: OfStudy) -> Iterator[Block]:
    yield from _cost(about.study)


def _cost(study: Study) -> list[Block]:
    """Return the cost of privacy, if the study measured it."""
    delta = float(study.results["delta"].iloc[0])
    if is_private(study.results):
        of_persons = len(study.of_persons) > 0  # whom levels, ceilings and audits are of
        results = study.of_persons if of_persons else study.results
        return [*privacy_blocks(results), bounds_table(study.fprs, delta), other_attacks_table(delta)]
    how = (
        "The heads were trained without differential privacy, and what it would cost was not measured: a run"
        " with privacy.epsilon = [inf, 8, 4, 1] measures it."
    )
    return [how, bounds_table(study.fprs, delta), other_attacks_table(delta)]


PART = Part("privacy", "Differential privacy", _of_audit, _of_study)
