"""What is released, what the controller stated of it, and what the tests granted to the adversary."""

from __future__ import annotations

from collections.abc import Iterator

from jaxmia.report.blocks.privacy import is_private
from jaxmia.report.blocks.recipes import recipe_summary
from jaxmia.report.blocks.wording import WHITE_BOX_ASSUMES, white_box_of
from jaxmia.report.content import Block
from jaxmia.report.sections.part import Part
from jaxmia.report.study import cell_name
from jaxmia.report.subjects import OfAttack, OfAudit, OfStudy, Subject
from jaxmia.tables import Measured, Table, Value, facts


def _of_audit(about: OfAudit) -> Iterator[Block]:
    content, white_box = about.audit.content, white_box_of(about.attacks)
    weights = content["head"]["released_as"] == "weights"
    smallest, number = min(content["members_per_class"].items(), key=lambda pair: pair[1])
    answers: dict[str, Value] = {
        "what is released": about.context.release,
        "model audited": f"{content['head']['file']} ({'weights' if weights else 'outputs only'})",
        "training records N": content["records"]["members"],
        "individuals": about.context.individuals or "not stated",
        "examples per class, S": Measured(about.audit.shots, form=",.0f"),
        "smallest class": f"{smallest}: {number}",
        "white-box attacks on the weights": f"run: {', '.join(white_box)}; see “Results”"
        if white_box
        else Measured(None, status="not run", reason="attacks on outputs understate what weights give away"),
        "differential privacy": about.context.guarantee,
    }
    yield facts("The release", answers, about="Which model this report is about.")
    yield from _of_any(about)


def _of_study(about: OfStudy) -> Iterator[Block]:
    study, context, first = about.study, about.context, about.study.headline.iloc[0]
    tested = white_box_of(about.attacks)
    answers: dict[str, Value] = {
        "what would be released": context.release,
        "study": study.manifest["settings"]["name"],
        "largest cell": cell_name(first.to_dict()),
        "training records N of a model": int(first["classes"]) * int(first["shots"]),
        "individuals": context.individuals or "not stated",
        "examples per class, S": int(first["shots"]),
        **recipe_summary(study.results),
        "white-box attacks on the weights": f"run: {', '.join(tested)}; under “Results”"
        if tested
        else Measured(None, status="not run"),
        "differential privacy": "measured at several levels" if is_private(study.results) else "none",
    }
    yield facts("The study", answers, about="Which models this report is about.")
    yield from _of_any(about)


def _of_attack(about: OfAttack) -> Iterator[Block]:
    manifest = about.attack.manifest
    answers: dict[str, Value] = {
        "what is released": about.context.release,
        "scores": manifest["source"],
        "models": manifest["models"],
        "model under audit": "none: all models alike"
        if manifest["target"] is None
        else str(manifest["target"]),
        "records": manifest["examples"],
        "how the models were trained": "not known to this tool: their owner trained them and gave their scores",
    }
    yield facts("The scores", answers, about="Which models this report is about.")
    yield from _of_any(about)


def _of_any(about: Subject) -> Iterator[Block]:
    yield _stated(about)
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
        about="What the attacker of these tests has and knows.",
    )


def _stated(about: Subject) -> Table:
    context = about.context
    limit = context.limit
    return facts(
        "Stated by the controller",
        {
            "controller": context.controller,
            "what is released": context.release,
            "to whom": context.recipients,
            "individuals whom the records are of": context.individuals or "not stated",
            "direct identifiers in the training data": context.identifiers,
            "what an adversary is reasonably likely to know": context.knowledge,
            "declared limit": f"TPR {limit.tpr:g} at FPR {limit.fpr:g}" if limit else "not stated",
        },
        "These are the controller's words; no test here checks them.",
        about="What only the controller knows.",
    )


PART = Part(
    "context", "Release context and adversary knowledge", _of_audit, _of_study, _of_attack, depth="evidence"
)
