"""Attacks that were not tested, and assumptions."""

from __future__ import annotations

from collections.abc import Iterator

from jaxmia.report.blocks.wording import white_box_of
from jaxmia.report.content import Block
from jaxmia.report.sections.part import Part
from jaxmia.report.subjects import OfAudit, OfStudy, Subject
from jaxmia.tables import Table, Value

_OTHER_ATTACKS = (
    "attribute inference",
    "reconstruction and model inversion",
    "regurgitation and exfiltration of training data",
    "attacks on the extractor's own training data",
)


def _of_any(about: Subject) -> Iterator[Block]:
    context, tested = about.context, about.attacks
    yield "The results are evidence of resistance to the tested attacks only."
    rows: list[tuple[Value, ...]] = [(name, "not run") for name in _OTHER_ATTACKS]
    white_box = "not run; someone who has the weights may find more than attacks on outputs do"
    if context.release in ("probabilities", "labels"):
        white_box = f"not run; stated to be released: {context.release}"
    if white_box_of(tested):
        rows.insert(0, ("white-box attacks on the weights by other methods", "not run"))
    else:
        rows.insert(0, ("white-box attacks on the weights", white_box))
    rows += [
        ("attackers with fewer or other data", "assumed weaker than the tests: not run"),
        ("several releases of models of the same records", "not run: risks add up"),
        ("several records of one individual", _several(about)),
        ("labels that are themselves personal data", "not run: only membership is tested"),
    ]
    yield Table(
        f"Not tested (tested: membership inference by {', '.join(tested)})",
        ("what", "status"),
        tuple(rows),
        about="What an attacker could also try, of which this report says nothing.",
    )


def _several(about: Subject) -> str:
    """Say whether persons were tested."""
    if isinstance(about, OfAudit):
        tested = about.audit.persons is not None
    else:
        tested = isinstance(about, OfStudy) and len(about.study.of_persons) > 0
    return "run: see “Persons, not records”" if tested else "not run: each record is tested by itself"


PART = Part("not-covered", "Not covered", _of_any, _of_any, _of_any)
