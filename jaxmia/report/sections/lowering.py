"""What would lower the numbers: the advisor's options, if it has run."""

from __future__ import annotations

from collections.abc import Iterator

from jaxmia.report.content import Block
from jaxmia.report.sections.part import Part
from jaxmia.report.subjects import Subject


def _of_any(about: Subject) -> Iterator[Block] | None:
    return None if about.advice is None else _blocks(about)


def _blocks(about: Subject) -> Iterator[Block]:
    advice = about.advice
    assert advice is not None
    yield (
        f"“jaxmia advise” computed what each lever does to ridge heads of ridge {advice.settings['ridge']:g} that train"
        f" on a random half of the records. {advice.beside} Its estimates are not of the released model itself: a head"
        " that was stopped early behaves like one with a larger ridge."
    )
    yield f"Advice: {advice.headline}."
    yield advice.table()


PART = Part("lowering", "What would lower it", _of_any, _of_any, _of_any)
