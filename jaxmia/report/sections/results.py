"""The results of every attack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxmia.plots import rocs_figure
from jaxmia.report.audit import Audit
from jaxmia.report.blocks.records import RecordsOf
from jaxmia.report.blocks.wording import INTERVALS
from jaxmia.report.content import Block, Picture
from jaxmia.report.drawing import accuracy_figure, average_roc_figure, drawn_for_pages, to_svg
from jaxmia.report.sections.part import Part
from jaxmia.report.study import CELL, Study, cell_name, seed_names
from jaxmia.report.subjects import OfAudit, OfStudy
from jaxmia.stats.calls import positive_predictive_value
from jaxmia.stats.resolution import clopper_pearson, resolvable
from jaxmia.stats.roc import Roc
from jaxmia.tables import Measured, Table, Value
from jaxmia.tables.rates import over_runs, over_seeds, rates, rates_headings, realised

_ROC_FPRS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # of the table under the curves


def _of_audit(about: OfAudit) -> Iterator[Block]:
    audit = about.audit
    if audit.content["records"]["others"]:
        yield _roc(audit)
    for targets, title in (("row 0", "This model"), ("all", "All models"), ("others", "Heads like it")):
        rows = audit.results[audit.results["targets"] == targets]
        if len(rows):
            yield _attack_table(rows, audit.fprs, f"{title}: every attack")
    mine = audit.of("row 0", "per_target")
    if len(mine):
        attack = mine["attack"].iloc[0]
        yield _ppv_table(mine[mine["attack"] == attack], about.context.priors, f"{attack}, this model")


def _attack_table(results: pd.DataFrame, fprs: list[float], title: str) -> Table:
    rows: list[tuple[Value, ...]] = []
    for (attack, evaluation), mine in results.groupby(["attack", "evaluation"], sort=False):
        rows.append((str(attack), str(evaluation), *rates(mine, fprs)))
    return Table(
        title,
        ("attack", "evaluation", *rates_headings(fprs)),
        tuple(rows),
        "per_target: one threshold for the model. pooled: one threshold for all models. calibrated: each record has"
        " its own threshold, at the FPR of its shadows' scores (calibrated_empirical: by ranks)."
        f" Intervals: 95%, {INTERVALS}; for one model, Clopper-Pearson.",
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


def _of_study(about: OfStudy) -> Iterator[Block]:
    study = about.study
    yield _average_roc(study, about.records)
    attack, evaluation = study.results[["attack", "evaluation"]].iloc[0]
    headline = study.headline
    rows: list[tuple[Value, ...]] = []
    for (dataset, recipe, label, how), cells in headline.groupby(
        ["dataset", "recipe", "attack", "evaluation"], sort=False
    ):
        where = cells.iloc[0]
        name = f"{dataset}, {recipe}, C = {where['classes']}, S = {where['shots']}"
        rows.append((name, str(label), str(how), over_runs(cells["auc"]), *rates(cells, study.fprs)))
    yield Table(
        "Every attack on the largest cells",
        ("cell", "attack", "evaluation", "AUC", *rates_headings(study.fprs)),
        tuple(rows),
        "pooled: one threshold for all records. calibrated: each record has its own threshold, at the FPR. Medians"
        " over seeds with the outermost ends of their 95% intervals. Training sets are subsets of one"
        " pool, which inflates results of attacks compared with independent training sets; “Declared in"
        " advance” names the correction.",
        sortable=True,
    )
    best = headline[(headline["attack"] == attack) & (headline["evaluation"] == evaluation)]
    yield _ppv_table(best.drop_duplicates("fpr"), about.context.priors, f"{attack}, {evaluation}")
    grid = study.results[(study.results["attack"] == attack) & (study.results["evaluation"] == evaluation)]
    rows = []
    for key, cells in grid.groupby(CELL, sort=False):
        rows.append((cell_name(dict(zip(CELL, key, strict=True))), *rates(cells, study.fprs)))
    yield Table(
        f"All cells: {attack}, {evaluation}",
        ("cell", *rates_headings(study.fprs)),
        tuple(rows),
        sortable=True,
    )
    if grid["accuracy"].notna().any():
        yield _accuracy(study, grid)


def _average_roc(study: Study, records: Sequence[RecordsOf]) -> Picture:
    headline = study.headline
    attack = headline["attack"].iloc[0]
    calibrated = headline[headline["attack"] == attack]
    how = [name for name in calibrated["evaluation"].unique() if name.startswith("calibrated")]
    calibrated = calibrated[calibrated["evaluation"] == (how or list(calibrated["evaluation"].unique()))[0]]
    named = seed_names(calibrated)
    points = calibrated.assign(label=named)
    rows = []
    for _, row in points.iterrows():
        one = row.to_frame().T
        rows.append((row["label"], f"{row['fpr']:g}", over_seeds(one), realised(one)))
    title = "ROC on log axes: the average record"
    alternative = (
        "True positive rate against false positive rate on log axes, averaged over records, above the diagonal"
        " of chance where attacks find members."
    )
    table = Table(
        f"Points: {attack}, {calibrated['evaluation'].iloc[0]}",
        ("cell", "FPR", "TPR", "FPR realised"),
        tuple(rows),
        "Points: attained with these shadows. Lines: estimates for unlimited shadows, the mean over"
        " records of each record's TPR at the FPR.",
    )
    curves = {
        of_cell.name: {fpr: float(of_cell.table[f"tpr_{fpr:g}"].mean()) for fpr in of_cell.fprs}
        for of_cell in records
    }
    with drawn_for_pages():
        figure = average_roc_figure(curves, points, title)
    return Picture(title, alternative, to_svg(figure, "roc", alternative), table)


def _accuracy(study: Study, grid: pd.DataFrame) -> Picture:
    fpr = study.fprs[0]
    rows = grid[(grid["fpr"] == fpr) & (grid["status"] == "ok")]
    points, table_rows = [], []
    for key, cells in rows.groupby(CELL, sort=False):
        where: dict[str, Any] = dict(zip(CELL, key, strict=True))
        label = cell_name(where).replace(f", S = {where['shots']}", "")
        accuracy, tpr = over_runs(cells["accuracy"]), over_seeds(cells)
        points.append({"label": label, "shots": where["shots"], "accuracy": accuracy.value, "tpr": tpr.value})
        table_rows.append((label, int(where["shots"]), accuracy, tpr))
    table = Table(
        "Accuracy and vulnerability",
        ("cell", "S", "accuracy", f"TPR at FPR {fpr:g}"),
        tuple(table_rows),
        "Medians over seeds; of accuracy the range over seeds.",
        sortable=True,
    )
    title = "Accuracy against vulnerability"
    alternative = f"TPR at FPR {fpr:g} against accuracy, a line over S for each feature set and recipe."
    with drawn_for_pages():
        figure = accuracy_figure(pd.DataFrame(points), fpr, title)
    return Picture(title, alternative, to_svg(figure, "accuracy", alternative), table)


def _ppv_table(rows: pd.DataFrame, priors: Sequence[float], name: str) -> Table:
    """Return the positive predictive value of calls at each prior.

    Args:
        rows: rows of results, one for each FPR.
        priors: shares of members among the candidates that the adversary asks about.
        name: name of attack and evaluation.
    """
    table: list[tuple[Value, ...]] = []
    for row in rows.to_dict("records"):
        cells: list[Value] = []
        for prior in priors:
            if row["status"] != "ok":
                cells.append(Measured(None, status=row["status"], reason=row["reason"]))
                continue
            rates = [row["tpr"], row["tpr_low"], row["tpr_high"]]
            believed = [float(positive_predictive_value(rate, row["fpr"], prior=prior)) for rate in rates]
            cells.append(Measured(believed[0], believed[1], believed[2]))
        table.append((f"FPR {row['fpr']:g}", *cells))
    return Table(
        f"Share of true members among calls: {name}",
        ("", *(f"prior {prior:g}" for prior in priors)),
        tuple(table),
        "Positive predictive value. Prior: the share of members among those that the adversary asks about.",
    )


PART = Part("results", "Results", _of_audit, _of_study)
