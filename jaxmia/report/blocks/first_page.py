"""What the first page says: warnings, the finding in plain words, the declared limit, levers, what was not tested."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from jaxmia.audit.settings import NOT_STATED, ContextSettings
from jaxmia.report.advice import AdviceFolder
from jaxmia.report.blocks.records import RecordsOf, distribution_svg
from jaxmia.report.content import Block, Lines, Picture
from jaxmia.tables import Measured, Table, Value
from jaxmia.tables.attacks import failed_controls
from jaxmia.tables.finding import Finding, Limit, limit_sentence, sentences
from jaxmia.tables.rates import best_and_realised, best_of, best_row

SEEN = {
    "weights": "the model's weights",
    "probabilities": "the model's probabilities",
    "labels": "the model's decisions",
    NOT_STATED: "the model's outputs",
}
"""What an attacker has, by what is released."""
LEVERS = (
    "more records in each class, the smallest first",
    "training with differential privacy, which bounds every attack",
    "releasing labels or rounded probabilities in place of weights or exact probabilities",
    "stronger regularisation, fewer steps, fewer parameters",
    "leaving out the records most at risk, or adding others like them",
)
NOT_TESTED = (
    "attribute inference, reconstruction, model inversion, and regurgitation",
    "what several releases, or several models of the same records, reveal together",
    "attackers who know more than these tests granted",
)


def warning_blocks(
    void: Sequence[str] = (), controls: pd.DataFrame | None = None, warnings: Sequence[str] = ()
) -> list[Block]:
    """What must be known before any number, ordered by what it voids: all, one attack's results, or parts of them.

    Args:
        void: why the model does not fit the records.
        controls: the negative controls.
        warnings: of the audit, what puts all of it in question first.
    """
    blocks: list[Block] = []
    if void:
        title = "Void: the model does not fit these records, and what follows says nothing of it"
        found = (*void, "Found before anything was trained; the audit was forced to go on.")
        blocks.append(Lines(title, found, "warning"))
    failed = [] if controls is None else failed_controls(controls)
    if failed:
        blocks.append(
            Lines("Void: results of an attack whose negative control failed", tuple(failed), "warning")
        )
    if warnings:
        blocks.append(Lines("What a reader must know first", tuple(warnings), "warning"))
    return blocks


def finding_block(finding: Finding, context: ContextSettings, against: Mapping[str, Measured]) -> Lines:
    """The finding, and how it stands to the declared limit.

    Args:
        finding: what was found.
        context: with the limit, if one was declared.
        against: TPRs at the limit's FPR by whose they are.
    """
    lines = sentences(finding)
    if finding.void:
        return Lines("What was found", tuple(lines), "finding")
    if context.limit is None:
        lines.append("The controller declared no limit to compare with ([context] limit).")
    else:
        lines.append(limit_sentence(Limit(context.limit.fpr, context.limit.tpr), dict(against)))
    return Lines("What was found", (" ".join(lines[:-1]), lines[-1]), "finding")


def resolved_fpr(rows: pd.DataFrame, fprs: Sequence[float]) -> float:
    """The lowest FPR at which some attack has a number; the largest one where none has."""
    resolved = set(rows["fpr"][rows["status"] == "ok"])
    return min((fpr for fpr in fprs if fpr in resolved), default=max(fprs))


def limit_of(context: ContextSettings) -> Limit | None:
    """The declared limit."""
    return None if context.limit is None else Limit(context.limit.fpr, context.limit.tpr)


def numbers_at_limit(
    context: ContextSettings, rows: pd.DataFrame, records: RecordsOf, found: str, unit: str = "record"
) -> dict[str, Measured]:
    """What is held against the declared limit: the worst record, and what the best attack found.

    Args:
        context: with a limit or none.
        rows: of the attacks on the model.
        records: whom the release concerns.
        found: what the attacks' number is of.
        unit: "record" or "person".
    """
    limit = context.limit
    if limit is None or limit.fpr not in records.fprs:
        return {}
    numbers = {f"the {unit} most at risk": records.worst(limit.fpr)}
    mine = rows[rows["fpr"] == limit.fpr]
    if best_row(mine) is not None:  # unresolved on one model, the worst record's number holds alone
        numbers[found] = best_of(mine)
    return numbers


def spread(records: RecordsOf, context: ContextSettings, unit: str = "record") -> Picture:
    """The one picture of the first page: how vulnerability is spread, with the declared limit; its table beside it."""
    rows: list[tuple[Value, ...]] = [
        (f"FPR {fpr:g}", records.average(fpr), records.worst(fpr)) for fpr in records.fprs
    ]
    table = Table(
        f"The most vulnerable {unit}, and the average",
        ("", f"TPR on the average {unit}", f"TPR on the worst {unit}"),
        tuple(rows),
        f"Estimated for unlimited shadows, over re-trainings, every {unit} at the FPR. 95% intervals; the worst one's"
        f" holds for all {unit}s at once.",
        about=f"How often an attacker recognises the average {unit} and the one most at risk.",
    )
    svg, alternative = distribution_svg(records, "spread", limit_of(context), 1.9)
    return Picture(f"How vulnerability is spread over {unit}s", alternative, svg, table)


def best_table(results: pd.DataFrame, fprs: Sequence[float], sees: str, unit: str = "record") -> Table:
    """What the attacker who was tested finds: the best attack at each FPR, and the FPR that it really had.

    Args:
        results: rows of the attacks.
        fprs: descending.
        sees: what the attacker has.
        unit: "record" or "person".
    """
    rows: list[tuple[Value, ...]] = []
    for fpr in fprs:
        mine = results[results["fpr"] == fpr]
        best = best_row(mine)
        name = "none" if best is None else f"{best['attack']}, {best['evaluation']}"
        rows.append((f"FPR {fpr:g}", name, *best_and_realised(mine)))
    knows = "the record, its label" if unit == "record" else "all of a person's records, their labels"
    return Table(
        f"The attacker who was tested: sees {sees}, knows {knows}, and records like it",
        ("", "best attack", "TPR found", "FPR realised"),
        tuple(rows),
        "Found with the shadows at hand, by the best of the tested attacks; choosing it favours the attacker. More"
        " shadows may find more: the estimates for unlimited shadows may lie above.",
        about="The share of the members that the best attack recognised.",
    )


def last_lines(
    attacks: Iterable[str], context: ContextSettings, advice: AdviceFolder | None = None
) -> list[Block]:
    """What would lower the numbers, by name or as the advisor computed it, and what was not tested."""
    weights = () if context.release in ("probabilities", "labels") else ("attacks on the weights",)
    tested = weights if not any(name.partition("(")[0] == "whitebox" for name in attacks) else ()
    lowering = Lines("What would lower it (levers by name, not measured here)", LEVERS)
    if advice is not None:
        title = "What would lower it (estimated for heads like this one: “What would lower it”)"
        lowering = Lines(title, advice.sentences())
    return [
        lowering,
        Lines(
            "Not tested (the results are evidence of resistance to the tested attacks only)",
            (*tested, *NOT_TESTED),
        ),
    ]
