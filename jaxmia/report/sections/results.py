"""The results of every attack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxmia.plots import rocs_figure
from jaxmia.report.blocks.records import RecordsOf
from jaxmia.report.blocks.wording import WHITE_BOX_ASSUMES, white_box_of
from jaxmia.report.content import Block, Picture
from jaxmia.report.drawing import accuracy_figure, average_roc_figure, drawn_for_pages, to_svg
from jaxmia.report.sections.part import Part
from jaxmia.report.study import CELL, Study, cell_name, seed_names
from jaxmia.report.subjects import OfAttack, OfAudit, OfStudy
from jaxmia.stats.calls import positive_predictive_value
from jaxmia.stats.resolution import clopper_pearson, resolvable
from jaxmia.stats.roc import Roc
from jaxmia.tables import Measured, Table, Value
from jaxmia.tables.attacks import attack_tables
from jaxmia.tables.rates import best_of, best_row, over_runs, over_seeds, realised

_ROC_FPRS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # of the table under the curves
_ONE_THRESHOLD = ("per_target", "pooled")  # evaluations whose realised FPR is at most the one named


def _of_audit(about: OfAudit) -> Iterator[Block]:
    audit, tested = about.audit, white_box_of(about.attacks)
    if audit.content["records"]["others"]:
        yield _roc(audit.curves, "the released model")
    yield from attack_tables(audit.results)
    if tested:
        yield _white_box(audit.of("row 0", "per_target"), about.attacks, tested, audit.fprs)
    mine = audit.of("row 0", "per_target")
    if len(mine):
        yield _ppv_table(mine, audit.fprs, about.context.priors, "this model")


def _of_attack(about: OfAttack) -> Iterator[Block]:
    folder, one = about.attack, about.attack.manifest["target"] is not None
    yield _roc(folder.curves, "the model under audit" if one else "all models, one threshold for all")
    yield from attack_tables(folder.results)
    rows = folder.audited[folder.audited["evaluation"] == ("per_target" if one else "pooled")]
    yield _ppv_table(rows, folder.fprs, about.context.priors, folder.targets)


def _roc(curves: Mapping[str, Roc], what: str) -> Picture:
    rows: list[tuple[Value, ...]] = []
    for attack, curve in curves.items():
        rows.append((attack, *(_read_off(curve, fpr) for fpr in _ROC_FPRS)))
    title = f"ROC of the attacks on {what}, on log axes"
    alternative = (
        f"True positive rate against false positive rate on log axes for each attack on {what}; the diagonal is chance,"
        " and curves begin at the dotted line, the FPR below which too few non-members are left."
    )
    headings = (f"FPR {fpr:g} or less" for fpr in _ROC_FPRS)
    table = Table(
        "TPR read off the curves",
        ("attack", *headings),
        tuple(rows),
        about="How many members each attack finds, as it accepts more false alarms.",
    )
    with drawn_for_pages():
        figure = rocs_figure(curves, title="")
    return Picture(title, alternative, to_svg(figure, "roc", alternative), table)


def _read_off(curve: Roc, fpr: float) -> Measured:
    if not resolvable(fpr, curve.num_nonmembers):
        reason = f"fewer than 10/FPR of the {curve.num_nonmembers:,} non-member scores"
        return Measured(None, status="unresolved", reason=reason)
    reached = int(np.searchsorted(curve.fpr, fpr, side="right")) - 1
    tpr = float(curve.tpr[reached])
    low, high = clopper_pearson(round(tpr * curve.num_members), curve.num_members)
    return Measured(tpr, float(low), float(high))


def _white_box(
    mine: pd.DataFrame, attacks: Sequence[str], tested: Sequence[str], fprs: Sequence[float]
) -> Table:
    """What attacks on the weights find in this model, beside LiRA on its outputs."""
    lira = [name for name in attacks if name.partition("(")[0] == "lira"]
    rows: list[tuple[Value, ...]] = []
    for attack in [*lira, *tested]:
        of_attack = mine[mine["attack"] == attack]
        kind = "weights" if attack in tested else "outputs"
        found = (best_of(of_attack[of_attack["fpr"] == fpr]) for fpr in fprs)
        rows.append((attack, kind, *found))
    return Table(
        "White-box attacks on this model, beside LiRA",
        ("attack", "reads", *(f"TPR at FPR {fpr:g}" for fpr in fprs)),
        tuple(rows),
        f"{WHITE_BOX_ASSUMES} Intervals: 95%, of Clopper and Pearson.",
        about="Whether someone who has the weights finds more than someone who sees outputs.",
    )


def _of_study(about: OfStudy) -> Iterator[Block]:
    study = about.study
    yield _average_roc(study, about.records)
    attack, evaluation = study.results[["attack", "evaluation"]].iloc[0]
    headline = study.headline
    yield Table(
        "Every attack on the largest cells",
        ("cell", "attack", "evaluation", "AUC", "FPR", "realised", "TPR"),
        tuple(_attack_rows(headline)),
        "pooled: one threshold for all records. calibrated: each record has its own threshold, at the FPR. realised:"
        " the FPR reached. Medians over seeds with the outermost ends of their 95% intervals. Members are parts of one"
        " pool, which inflates what attacks reach against fresh draws; the correction applied is named under “Declared"
        " in advance”.",
        sortable=True,
        about="How many of the members each attack finds, when it accepts so many false alarms.",
    )
    first = headline[headline["seed"] == headline["seed"].iloc[0]]
    for (dataset, recipe), rows in first.groupby(["dataset", "recipe"], sort=False):
        name = f"{dataset}, {recipe}, C = {rows['classes'].iloc[0]}, S = {rows['shots'].iloc[0]}"
        kept = rows[rows["evaluation"].isin(_ONE_THRESHOLD)]
        if len(kept):
            yield _ppv_table(kept, study.fprs, about.context.priors, name)
    grid = study.results[(study.results["attack"] == attack) & (study.results["evaluation"] == evaluation)]
    yield _cells_table(grid, study.fprs, f"All cells: {attack}, {evaluation}")
    if grid["accuracy"].notna().any():
        yield _accuracy(study, grid)


def _attack_rows(headline: pd.DataFrame) -> Iterator[tuple[Value, ...]]:
    keys = ["dataset", "recipe", "attack", "evaluation"]
    for (dataset, recipe, label, how), cells in headline.groupby(keys, sort=False):
        where = cells.iloc[0]
        name = f"{dataset}, {recipe}, C = {where['classes']}, S = {where['shots']}"
        area = over_runs(cells, "auc")
        for fpr, rows in sorted(cells.groupby("fpr"), reverse=True):
            rates = (f"{fpr:g}", realised(rows), over_seeds(rows))
            yield (name, str(label), str(how), area, *rates)


def _cells_table(grid: pd.DataFrame, fprs: Sequence[float], title: str) -> Table:
    rows: list[tuple[Value, ...]] = []
    for key, cells in grid.groupby(CELL, sort=False):
        name = cell_name(dict(zip(CELL, key, strict=True)))
        for fpr in fprs:
            at = cells[cells["fpr"] == fpr]
            rows.append((name, f"{fpr:g}", realised(at), over_seeds(at)))
    return Table(
        title,
        ("cell", "FPR", "realised", "TPR"),
        tuple(rows),
        sortable=True,
        about="The same attack on every size and every level of privacy.",
    )


def _average_roc(study: Study, records: Sequence[RecordsOf]) -> Picture:
    headline = study.headline
    attack = headline["attack"].iloc[0]
    calibrated = headline[headline["attack"] == attack]
    how = [name for name in calibrated["evaluation"].unique() if name.startswith("calibrated")]
    calibrated = calibrated[calibrated["evaluation"] == (how or list(calibrated["evaluation"].unique()))[0]]
    points = calibrated.assign(label=seed_names(calibrated))
    estimated = {of_cell.name: of_cell for of_cell in records}
    rows: list[tuple[Value, ...]] = []
    for _, row in points.iterrows():
        one, of_cell = row.to_frame().T, estimated[row["label"]]
        found = (over_seeds(one), realised(one), of_cell.average(row["fpr"]))
        rows.append((row["label"], f"{row['fpr']:g}", *found))
    title = "ROC on log axes: what these shadows found, and the average record's estimate"
    alternative = (
        "True positive rate against false positive rate on log axes. Points, joined: what these shadows found. Dashed:"
        " what unlimited shadows are estimated to find, which lies above, with its interval."
    )
    table = Table(
        f"Points: {attack}, {calibrated['evaluation'].iloc[0]}; and the estimates",
        ("cell", "FPR", "TPR found", "FPR realised", "TPR estimated"),
        tuple(rows),
        "Found: with these shadows, whose few scores blur each record's threshold. Estimated: for unlimited shadows,"
        " the mean over records of each one's own TPR, every record at the FPR. The two are different quantities: with"
        " few shadows an estimate is several times what was found.",
        about="How much of what an attacker with more shadows could find, these shadows found.",
    )
    curves = {name: _estimates(of_cell, points) for name, of_cell in estimated.items()}
    with drawn_for_pages():
        figure = average_roc_figure({name: curve for name, curve in curves.items() if curve}, points)
    return Picture(title, alternative, to_svg(figure, "roc", alternative), table)


def _estimates(of_cell: RecordsOf, points: pd.DataFrame) -> list[tuple[float, float, float, float]]:
    """Estimates at the FPRs that were found at too, ascending: none left of what can be resolved."""
    mine = points[(points["label"] == of_cell.name) & (points["status"] == "ok")]
    found = {fpr: of_cell.average(fpr) for fpr in sorted(mine["fpr"])}
    return [
        (fpr, each.value, each.low, each.high)
        for fpr, each in found.items()
        if each.value is not None and each.low is not None and each.high is not None
    ]


def _accuracy(study: Study, grid: pd.DataFrame) -> Picture:
    fpr = study.fprs[0]
    rows = grid[(grid["fpr"] == fpr) & (grid["status"] == "ok")]
    points, table_rows = [], []
    for key, cells in rows.groupby(CELL, sort=False):
        where: dict[str, Any] = dict(zip(CELL, key, strict=True))
        label = cell_name(where).replace(f", S = {where['shots']}", "")
        accuracy, tpr = over_runs(cells, "accuracy"), over_seeds(cells)
        points.append({"label": label, "shots": where["shots"], "accuracy": accuracy.value, "tpr": tpr.value})
        table_rows.append((label, int(where["shots"]), accuracy, tpr))
    table = Table(
        "Accuracy and vulnerability",
        ("cell", "S", "accuracy", f"TPR at FPR {fpr:g}"),
        tuple(table_rows),
        "Medians over seeds; of accuracy the range over seeds.",
        sortable=True,
        about="Whether models that are more often right are also easier to attack.",
    )
    title = "Accuracy against vulnerability"
    alternative = f"TPR at FPR {fpr:g} against accuracy, a line over S for each feature set and recipe."
    with drawn_for_pages():
        figure = accuracy_figure(pd.DataFrame(points), fpr)
    return Picture(title, alternative, to_svg(figure, "accuracy", alternative), table)


def _ppv_table(rows: pd.DataFrame, fprs: Sequence[float], priors: Sequence[float], name: str) -> Table:
    """How far a call of the best attack is to be believed at each prior.

    Args:
        rows: of results, of attacks with one threshold.
        fprs: descending.
        priors: shares of members among those the adversary asks about.
        name: of whom.
    """
    table: list[tuple[Value, ...]] = []
    for fpr in fprs:
        mine = rows[rows["fpr"] == fpr]
        best = best_row(mine)
        if best is None:
            status, reason = mine[["status", "reason"]].iloc[0]
            missing = Measured(None, status=status, reason=reason)
            table.append((f"FPR {fpr:g}", "none", *(missing for _ in priors)))
            continue
        rates = [best["tpr"], best["tpr_low"], best["tpr_high"]]
        cells = []
        for prior in priors:
            believed = [float(positive_predictive_value(rate, fpr, prior=prior)) for rate in rates]
            cells.append(Measured(believed[0], believed[1], believed[2]))
        table.append((f"FPR {fpr:g}", str(best["attack"]), *cells))
    return Table(
        f"Of those called members by the best attack, how many are: {name}",
        ("", "attack", *(f"prior {prior:g}" for prior in priors)),
        tuple(table),
        "Positive predictive value, of the attack that finds most at the FPR. Prior: the share of members among those"
        " that the adversary asks about.",
        about="How far an attacker can believe an answer.",
    )


PART = Part("results", "Results", _of_audit, _of_study, _of_attack)
