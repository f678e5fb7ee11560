"""Tests and results, on one page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jaxmia.report.audit import Audit
from jaxmia.report.blocks.privacy import is_private
from jaxmia.report.blocks.recipes import recipe_summary
from jaxmia.report.blocks.records import EXTRAPOLATED, RecordsOf
from jaxmia.report.blocks.wording import WHITE_BOX_ASSUMES, white_box_of
from jaxmia.report.content import Block
from jaxmia.report.sections.part import Part
from jaxmia.report.study import Study, cell_name, first_seeds, seed_names
from jaxmia.report.subjects import OfAudit, OfStudy
from jaxmia.tables import Measured, Table, Value, facts
from jaxmia.tables.rates import best_of

_NOT_COVERED = (
    "Not covered: attacks that are not listed under “Results”; the results are evidence of resistance to"
    " the tested attacks only."
)


def _of_audit(about: OfAudit) -> Iterator[Block]:
    content = about.audit.content
    if content["void"]:
        yield _numbered(
            "Void: the model does not fit these records, so the following results are meaningless",
            "finding",
            content["void"],
            "Found before anything was trained; the audit was forced to continue.",
        )
    yield (
        "This report says what was tested on one model, what the tests could have seen, and what they saw. It"
        " is evidence, not a verdict."
    )
    tested = white_box_of(about.attacks)
    yield _release(about, tested)
    yield _worst_and_average(about.audit)
    if tested:
        yield _white_box(about.audit, tested)
    if content["warnings"]:
        yield _numbered("Read this first", "warning", content["warnings"])
    yield _NOT_COVERED


def _numbered(title: str, heading: str, lines: Sequence[str], note: str = "") -> Table:
    rows = tuple((str(number), line) for number, line in enumerate(lines, start=1))
    return Table(title, ("", heading), rows, note)


def _release(about: OfAudit, white_box: Sequence[str]) -> Table:
    """Return the model, and the controller's statements about it."""
    content, context = about.audit.content, about.context
    weights = content["head"]["released_as"] == "weights"
    smallest, number = min(content["members_per_class"].items(), key=lambda pair: pair[1])
    answers: dict[str, Value] = {
        "what is released": context.release,
        "model audited": f"{content['head']['file']} ({'weights' if weights else 'outputs only'})",
        "training records N": content["records"]["members"],
        "individuals": context.individuals or "not stated",
        "examples per class, S": Measured(about.audit.shots, form=",.0f"),
        "smallest class": f"{smallest}: {number}",
        "white-box attacks on the weights": f"run: {', '.join(white_box)}; see the table of white-box attacks"
        if white_box
        else Measured(None, status="not run", reason="attacks on outputs understate what weights reveal"),
        "differential privacy": context.guarantee,
    }
    return facts("The release", answers)


def _worst_and_average(audit: Audit) -> Table:
    members, mine = audit.members(), audit.of("row 0", "per_target")
    rows: list[tuple[Value, ...]] = []
    for fpr in audit.fprs:
        found = best_of(mine[mine["fpr"] == fpr])
        rows.append((f"FPR {fpr:g}", members.worst(fpr), members.average(fpr), found))
    return Table(
        "The most vulnerable record, the average, and this model",
        ("", "TPR on the worst record", "TPR on the average record", "members found in this model"),
        tuple(rows),
        "Worst and average record: over re-trainings on other subsets of the records, every record at"
        " the FPR; the worst record's 95% interval holds for all records jointly. Members found: by the"
        " best of the tested"
        f" attacks on the released model; choosing it favours the attacker. {EXTRAPOLATED}",
    )


def _white_box(audit: Audit, tested: Sequence[str]) -> Table:
    """Return results of attacks on this model's weights, compared with LiRA on its outputs."""
    mine = audit.of("row 0", "per_target")
    lira = [name for name in audit.results["attack"].unique() if name.partition("(")[0] == "lira"]
    rows: list[tuple[Value, ...]] = []
    for attack in [*lira, *tested]:
        of_attack = mine[mine["attack"] == attack]
        kind = "weights" if attack in tested else "outputs"
        found = (best_of(of_attack[of_attack["fpr"] == fpr]) for fpr in audit.fprs)
        rows.append((attack, kind, *found))
    return Table(
        "White-box attacks on this model, compared with LiRA",
        ("attack", "reads", *(f"TPR at FPR {fpr:g}" for fpr in audit.fprs)),
        tuple(rows),
        f"{WHITE_BOX_ASSUMES} Intervals: 95%, Clopper-Pearson.",
    )


def _of_study(about: OfStudy) -> Iterator[Block]:
    yield (
        "This report says what was tested on models of this kind, what the tests could have seen, and what they"
        " saw. It is evidence, not a verdict. The models are heads trained for the study, not one released"
        " model: “jaxmia audit” tests that one."
    )
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
    yield facts("The study", answers)
    rows: list[tuple[Value, ...]] = []
    for records in first_seeds(about.records):
        for fpr in study.fprs:
            found = (records.worst(fpr), _best(study, records, fpr), records.average(fpr))
            rows.append((records.name, f"{fpr:g}", *found))
    yield Table(
        "The most vulnerable record, and the average",
        (
            *("largest cells", "FPR"),
            *("TPR on the worst record", "TPR of the best attack", "TPR on the average record"),
        ),
        tuple(rows),
        "Worst record: largest of all, with a 95% interval that holds for all records at once. Best attack: the"
        " largest TPR of all attacks, one threshold for all records; choosing it favours the attacker."
        f" {EXTRAPOLATED}",
    )
    yield _NOT_COVERED


def _best(study: Study, records: RecordsOf, fpr: float) -> Measured:
    """Return the best attack on a headline cell, under the first evaluation."""
    rows = study.headline
    named = seed_names(rows) == records.name
    return best_of(rows[named & (rows["fpr"] == fpr) & (rows["evaluation"] == rows["evaluation"].iloc[0])])


PART = Part("summary", "Summary", _of_audit, _of_study)
