"""The controller's statements, and the knowledge that the tests grant the adversary."""

from __future__ import annotations

from collections.abc import Iterator

from jaxmia.report.blocks.wording import WHITE_BOX_ASSUMES, white_box_of
from jaxmia.report.content import Block
from jaxmia.report.sections.part import Part
from jaxmia.report.subjects import Subject
from jaxmia.tables import facts


def _of_any(about: Subject) -> Iterator[Block]:
    context = about.context
    yield facts(
        "Stated by the controller",
        {
            "controller": context.controller,
            "what is released": context.release,
            "to whom": context.recipients,
            "individuals whom the records are of": context.individuals or "not stated",
            "direct identifiers in the training data": context.identifiers,
            "what an adversary is reasonably likely to know": context.knowledge,
        },
        "These are the controller's words; no test here checks them.",
    )
    white_box = white_box_of(about.attacks)
    yield facts(
        "Granted to the adversary by the tests",
        {
            "question": "was this record in the training data?",
            "the record": "its features and its label, exactly",
            "the model": "its outputs (logits or probabilities) on that record, unlimited and without noise"
            + ("; for white-box attacks its weights" if white_box else ""),
            "other data": "records of the same kind, to train models like it",
            "the training recipe": "known",
        },
        "This is more than most adversaries have: what the tests find is at the upper end for score-based attacks of"
        " these kinds." + (f" {WHITE_BOX_ASSUMES}" if white_box else ""),
    )


PART = Part("context", "Release context and adversary knowledge", _of_any, _of_any)
