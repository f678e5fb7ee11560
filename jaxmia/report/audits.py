"""The sections of a report on the audit of one head."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import confint_proportions_2indep

from jaxmia._hashes import file_hash
from jaxmia._npz import read_npz
from jaxmia._validate import InputError
from jaxmia.audit.settings import ContextSettings
from jaxmia.plots import rocs_figure
from jaxmia.report.content import Block, Picture, Section
from jaxmia.report.drawing import drawn_for_pages, to_svg
from jaxmia.report.laws import published_blocks
from jaxmia.report.privacy import bounds_table
from jaxmia.report.records import EXTRAPOLATED, RecordsOf, blocks_of_records
from jaxmia.report.shared import (
    INTERVALS,
    WHITE_BOX_ASSUMES,
    chance_table,
    context_blocks,
    declared_rows,
    not_covered,
    ppv_table,
    reproduction_table,
    settings_shown,
    white_box_of,
)
from jaxmia.report.stability import attacks_table
from jaxmia.report.statement import statement_blocks
from jaxmia.report.studies import Study, study_law_blocks, study_privacy_blocks
from jaxmia.stats.resolution import clopper_pearson, resolvable
from jaxmia.stats.result import AttackResult
from jaxmia.stats.roc import Roc, roc
from jaxmia.studies.folder.tables import load_json, load_table
from jaxmia.tables import Measured, Table, Value, facts
from jaxmia.tables.rates import best_and_realised, best_of, rates, rates_headings
from jaxmia.vulnerability.stability import flags_of_attacks

_ROC_FPRS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # of the table under the curves


@dataclasses.dataclass(frozen=True)
class Audit:
    """A folder of an audit.

    Attributes:
        path: the folder.
        content: its audit.json.
        results: rows of the attacks, on the head ("row 0") and on its shadows ("others").
        controls: the negative controls.
        records: one row per record.
        curves: ROC of each attack on the head, empty without non-members.
    """

    path: pathlib.Path
    content: Mapping[str, Any]
    results: pd.DataFrame
    controls: pd.DataFrame
    records: pd.DataFrame
    curves: Mapping[str, Roc]

    @property
    def fprs(self) -> list[float]:
        """Declared FPRs, descending."""
        return sorted(self.content["settings"]["fpr"], reverse=True)

    @property
    def shots(self) -> float:
        """Members per class, on average."""
        return float(self.content["records"]["members"] / self.content["records"]["classes"])

    def of(self, targets: str, evaluation: str) -> pd.DataFrame:
        """Rows of results."""
        rows = self.results
        return rows[(rows["targets"] == targets) & (rows["evaluation"] == evaluation)]

    def members(self) -> RecordsOf:
        """The head's members, whom the release concerns."""
        shadows = self.content["shadows"]
        num_out = self.content["settings"]["shadows"]["models"] * (1 - shadows["inclusion_rate"])
        table = self.records[self.records["member"]].reset_index(drop=True)
        return RecordsOf("members of the released model, over re-trainings", table, self.fprs, num_out)


def load_audit_folder(folder: str | os.PathLike[str]) -> Audit:
    """Read a folder of `jaxmia audit`.

    Raises:
        InputError: if it is none, or cannot be read.
    """
    path = pathlib.Path(folder)
    content = load_json(path, "audit.json")
    if "void" not in content:
        raise InputError(
            f"folder={str(path)!r} holds an audit of an earlier jaxmia: run it again, its shadows are kept."
        )
    for name, expected in content["written"].items():
        if not (path / name).is_file() or file_hash(path / name) != expected:
            raise InputError(
                f"folder={str(path)!r} must be as jaxmia audit left it; {name} is not what its audit.json is of: run"
                " the audit again, its shadows are kept."
            )
    results, controls = (load_table(path / "attack", name) for name in ("results", "controls"))
    target = load_json(path / "attack", "manifest.json")["target"]
    curves = {}
    for attack in results["attack"].unique() if target is not None else ():
        names = ("statistic", "member", "defined")
        arrays = read_npz(path / "attack" / "statistics" / f"{attack}.npz", name="statistics", required=names)
        result = AttackResult(arrays["statistic"], arrays["member"], arrays["defined"])
        curves[str(attack)] = roc(result, evaluation="per_target", targets=[target])
    return Audit(path, content, results, controls, load_table(path, "records"), curves)


def audit_sections(
    audit: Audit, context: ContextSettings, study: Study | None, beside: str = ""
) -> list[Section]:
    """All sections but the annex.

    Args:
        audit: the folder.
        context: what the controller stated.
        study: of the same records, for the law and for privacy.
        beside: what its data are beside those of the audit.
    """
    shots, classes = audit.shots, int(audit.content["records"]["classes"])
    law = published_blocks(shots=shots, classes=classes)
    if study is not None:
        law = [beside, *study_law_blocks(study, shots=shots, classes=classes)]
    attacks = list(audit.results["attack"].unique())
    return [
        Section("summary", "Summary", tuple(_summary(audit, context))),
        Section(
            "context", "Release context and adversary knowledge", tuple(context_blocks(context, attacks))
        ),
        Section("data", "Data and model", tuple(_data(audit, context))),
        Section("declared", "Declared in advance", (_declared(audit, context),)),
        Section("results", "Results", tuple(_results(audit, context))),
        Section("records", "Most vulnerable records", tuple(_of_records(audit))),
        Section("law", "How much data would be enough", tuple(law)),
        Section("privacy", "Differential privacy", tuple(_privacy(audit, context, study))),
        Section("controls", "Controls", tuple(_controls(audit, study))),
        Section("not-covered", "Not covered", tuple(not_covered(attacks, context))),
        Section("reproduction", "Reproduction", (_reproduction(audit),)),
    ]


def _summary(audit: Audit, context: ContextSettings) -> Iterator[Block]:
    content = audit.content
    if content["void"]:
        yield Table(
            "Void: the model does not fit these records, and what follows says nothing of it",
            ("", "finding"),
            tuple((str(number), text) for number, text in enumerate(content["void"], start=1)),
            "Found before anything was trained; the audit was forced to go on.",
        )
    yield (
        "This report says what was tested on one model, what the tests could have seen, and what they saw. It"
        " is evidence, not a verdict."
    )
    weights = content["head"]["released_as"] == "weights"
    white_box: Value = Measured(
        None, status="not run", reason="attacks on outputs understate what weights give away"
    )
    tested = white_box_of(audit.results["attack"].unique())
    if tested:
        white_box = f"run: {', '.join(tested)}; see the table of white-box attacks"
    answers: dict[str, Value] = {
        "what is released": context.release,
        "model audited": f"{content['head']['file']} ({'weights' if weights else 'outputs only'})",
        "training records N": content["records"]["members"],
        "individuals": context.individuals or "not stated",
        "examples per class, S": Measured(audit.shots, form=",.0f"),
        "smallest class": _smallest(audit),
        "white-box attacks on the weights": white_box,
        "differential privacy": context.guarantee,
    }
    yield facts("The release", answers)
    members = audit.members()
    rows = []
    for fpr in audit.fprs:
        rows.append((f"FPR {fpr:g}", members.worst(fpr), members.average(fpr), _best(audit, fpr)))
    yield Table(
        "The most vulnerable record, the average, and this model",
        ("", "TPR on the worst record", "TPR on the average record", "members found in this model"),
        tuple(rows),
        "Worst and average record: over re-trainings on other parts of the records, every record at the FPR;"
        " the worst one's 95% interval holds for all records at once. Members found: by the best of the tested"
        f" attacks on the released model; choosing it favours the attacker. {EXTRAPOLATED}",
    )
    if tested:
        yield _white_box(audit)
    if content["warnings"]:
        yield Table(
            "What a reader must know first",
            ("", "warning"),
            tuple((str(number), text) for number, text in enumerate(content["warnings"], start=1)),
        )
    yield (
        "Not covered: attacks that are not listed under “Results”; the results are evidence of resistance to"
        " the tested attacks only."
    )


def _white_box(audit: Audit) -> Table:
    """What attacks on the weights find in this model, beside LiRA on its outputs."""
    mine = audit.of("row 0", "per_target")
    names = list(audit.results["attack"].unique())
    rows: list[tuple[Value, ...]] = []
    for attack in [*(name for name in names if name.partition("(")[0] == "lira"), *white_box_of(names)]:
        of_attack = mine[mine["attack"] == attack]
        kind = "weights" if white_box_of([attack]) else "outputs"
        found = (best_of(of_attack[of_attack["fpr"] == fpr]) for fpr in audit.fprs)
        rows.append((attack, kind, *found))
    return Table(
        "White-box attacks on this model, beside LiRA",
        ("attack", "reads", *(f"TPR at FPR {fpr:g}" for fpr in audit.fprs)),
        tuple(rows),
        f"{WHITE_BOX_ASSUMES} Intervals: 95%, of Clopper and Pearson.",
    )


def _smallest(audit: Audit) -> str:
    name, number = min(audit.content["members_per_class"].items(), key=lambda pair: pair[1])
    return f"{name}: {number}"


def _best(audit: Audit, fpr: float) -> Measured:
    mine = audit.of("row 0", "per_target")
    return best_of(mine[mine["fpr"] == fpr])


def _data(audit: Audit, context: ContextSettings) -> Iterator[Block]:
    content, records = audit.content, audit.content["records"]
    parameters = content["head"]["parameters"]
    ratio: Value = "not known: only outputs are released"
    if parameters:
        ratio = Measured(records["members"] / parameters, form=".3g")
    answers: dict[str, Value] = {
        "training records": records["members"],
        "other records of the same kind": records["others"],
        "classes": records["classes"],
        "dimension of the features": records["dim"],
        "kind of model": "linear head over a frozen extractor",
        "how the file was read": " ".join(content["head"]["read"]),
        "parameters": parameters or "not known: only outputs are released",
        "training records per parameter": ratio,
        "direct identifiers": context.identifiers,
        "contents and format": "features of a frozen extractor; the raw data were not seen by this tool",
    }
    yield facts("Data and model", answers)
    yield facts(
        "How well it generalises",
        _accuracies(audit),
        "95% intervals of Clopper and Pearson; of the gap, of Newcombe.",
    )
    shadows = content["shadows"]
    recipe: dict[str, Value] = settings_shown(shadows["recipe"])
    source = "fitted to the model with the membership that is audited" if shadows["fitted"] else "as given"
    if shadows["source"] == "file":
        source = "as the model's own file says"
    mismatch = float(shadows["mismatch"])
    note = (
        f"Recipe of the shadows, {source}. Mismatch of their log-odds with the model's: {mismatch:.3f} of its"
        " interquartile range."
    )
    yield facts("Training recipe", recipe, note)
    per_class = content["members_per_class"].items()
    yield Table("Training records of each class", ("class", "records"), tuple(per_class), sortable=True)


def _accuracies(audit: Audit) -> dict[str, Value]:
    answers: dict[str, Value] = {}
    shares, content = [], audit.content
    for side in ("members", "others"):
        correct, number = content["correct"][side], content["records"][side]
        if number == 0:
            answers[f"accuracy on {side}"] = Measured(None, status="unresolved", reason="there are none")
            continue
        low, high = clopper_pearson(correct, number)
        shares.append(correct / number)
        answers[f"accuracy on {side}"] = Measured(shares[-1], float(low), float(high))
    if len(shares) == 2:
        (k, n), (j, m) = (
            (content["correct"][side], content["records"][side]) for side in ("members", "others")
        )
        low, high = confint_proportions_2indep(k, n, j, m, compare="diff", method="newcomb")
        answers["generalisation gap"] = Measured(shares[0] - shares[1], float(low), float(high))
    return answers


def _declared(audit: Audit, context: ContextSettings) -> Table:
    settings, shadows = audit.content["settings"], audit.content["shadows"]
    reasons = audit.of("row 0", "per_target")["reason"]
    return declared_rows(
        fprs=audit.fprs,
        shadows=(
            f"{settings['shadows']['models']} shadows, each on a share of {shadows['inclusion_rate']:.3g} of the"
            " records"
        ),
        attacks=list(audit.results["attack"].unique()),
        nonmembers=f"{audit.content['records']['others']:,} of the released model",
        unresolved=[reason for reason in reasons.unique() if reason],
        priors=context.priors,
        seeds=str(settings["seed"]),
        correction="none: shadows train on other parts of the same records, which makes records look more"
        f" vulnerable than with fresh draws: D up to {shadows['overstated']:.2g} times",
    )


def _results(audit: Audit, context: ContextSettings) -> Iterator[Block]:
    if audit.content["records"]["others"]:
        yield _roc(audit)
    for targets, title in (("row 0", "This model"), ("all", "All models"), ("others", "Heads like it")):
        rows = audit.results[audit.results["targets"] == targets]
        if len(rows):
            yield _attack_table(rows, audit.fprs, f"{title}: every attack")
    mine = audit.of("row 0", "per_target")
    if len(mine):
        attack = mine["attack"].iloc[0]
        yield ppv_table(mine[mine["attack"] == attack], context.priors, f"{attack}, this model")


def _attack_table(results: pd.DataFrame, fprs: list[float], title: str) -> Table:
    rows: list[tuple[Value, ...]] = []
    for (attack, evaluation), mine in results.groupby(["attack", "evaluation"], sort=False):
        rows.append((str(attack), str(evaluation), *rates(mine, fprs)))
    return Table(
        title,
        ("attack", "evaluation", *rates_headings(fprs)),
        tuple(rows),
        "per_target: one threshold in the model. pooled: one for all models. calibrated: every record at the"
        " FPR itself, by its own shadows' scores (calibrated_empirical: by ranks). Intervals: 95%,"
        f" {INTERVALS}; of one model, Clopper and Pearson's.",
        sortable=True,
    )


def _roc(audit: Audit) -> Picture:
    rows: list[tuple[Value, ...]] = []
    for attack, curve in audit.curves.items():
        rows.append((attack, *(_read_off(curve, fpr) for fpr in _ROC_FPRS)))
    title = "ROC of the attacks on this model, on log axes"
    alternative = (
        "True positive rate against false positive rate on log axes for each attack on the released model; the"
        " diagonal is chance, and a dotted line marks the FPR below which too few non-members are left."
    )
    headings = (f"FPR {fpr:g} or less" for fpr in _ROC_FPRS)
    table = Table("TPR read off the curves", ("attack", *headings), tuple(rows))
    with drawn_for_pages():
        figure = rocs_figure(audit.curves, title="Attacks on the released model")
    return Picture(title, alternative, to_svg(figure, "roc", alternative), table)


def _read_off(curve: Roc, fpr: float) -> Measured:
    if not resolvable(fpr, curve.num_nonmembers):
        return Measured(None, status="unresolved")
    reached = int(np.searchsorted(curve.fpr, fpr, side="right")) - 1
    tpr = float(curve.tpr[reached])
    low, high = clopper_pearson(round(tpr * curve.num_members), curve.num_members)
    return Measured(tpr, float(low), float(high))


def _of_records(audit: Audit) -> Iterator[Block]:
    yield (
        "What an attacker finds of each member on average over re-trainings on other parts of the records. Ids"
        " only; contents are not in this report."
    )
    yield from blocks_of_records(audit.members(), "records")
    flags = flags_of_attacks(audit.path / "attack", list(audit.results["attack"].unique()), audit.fprs[0])
    if len(flags) > 1:
        member = read_npz(audit.path / "scores.npz", name="scores", required=("member",))["member"][0]
        yield attacks_table(flags, member, audit.fprs[0])
    else:
        yield f"Stability over attacks: not resolved, too few shadows or attacks at FPR {audit.fprs[0]:g}."
    if "called" in audit.records:
        called = audit.records[audit.records["called"]]
        answers: dict[str, Value] = {
            "records called members": len(called),
            "of these, members": int(called["member"].sum()),
        }
        yield facts(
            "Calls at a false discovery rate of 0.1", answers, "By ranks among the known non-members."
        )


def _privacy(audit: Audit, context: ContextSettings, study: Study | None) -> Iterator[Block]:
    if context.epsilon:
        yield (
            f"The controller states that the model was trained with {context.guarantee}. Nothing here checks the"
            " training; attacks can test it only if chance alone chose the members."
        )
        yield from statement_blocks(audit.of("row 0", "per_target"), context)
    else:
        yield "No differential privacy was stated: the model has no guarantee, and no ceiling but 1."
    if study is not None:
        yield from study_privacy_blocks(study)
        return
    yield (
        "What a guarantee would cost in accuracy was not measured: “jaxmia run” with privacy.epsilon = [inf, 8,"
        " 4, 1] over these records measures it, and “jaxmia report --study” takes it in."
    )
    yield bounds_table(audit.fprs, context.delta)


def _controls(audit: Audit, study: Study | None) -> Iterator[Block]:
    yield chance_table(audit.controls)
    heads, others = (audit.of(name, "calibrated") for name in ("row 0", "others"))
    rows: list[tuple[Value, ...]] = []
    for fpr in audit.fprs:
        of_each = [each[each["fpr"] == fpr] for each in (heads, others)]
        rows.append((f"FPR {fpr:g}", *(cell for each in of_each for cell in best_and_realised(each))))
    yield Table(
        "This model beside heads like it: the best attack, every record at the FPR",
        ("", "this model", "FPR realised", "its shadows", "FPR realised by them"),
        tuple(rows),
        "One model's figure scatters about that of its shadows; far from it, the shadows are not heads like it.",
    )
    if study is None:
        yield "Repeated seeds, and a head of known privacy under its ceiling: not run (no study was given)."
    else:
        yield f"Repeated seeds and heads of known privacy: see the study {study.path.name} and “Differential privacy”."


def _reproduction(audit: Audit) -> Table:
    content = audit.content
    answers: dict[str, Value] = {
        "command": f"jaxmia audit AUDIT.toml --out {audit.path.name} (settings: audit.json)",
        "finished": content["finished"],
        "device": content["device"],
        "platform": content["platform"],
        "sha256 of features": content["features"]["sha256"],
        "sha256 of the model": content["head"]["sha256"],
        "seed": content["settings"]["seed"],
    }
    return reproduction_table(answers, content["versions"], content["settings"])
