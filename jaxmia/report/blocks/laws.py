"""How much data would be enough: a study's laws and the published ones, and the examples that they require."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from jaxmia.laws.law import PER_RECORD, LawKey, PowerLawFit
from jaxmia.laws.published import PublishedLine, published_lines
from jaxmia.plots import power_law_figure
from jaxmia.report.content import Block, Picture
from jaxmia.report.drawing import drawn_for_pages, to_svg
from jaxmia.tables import Measured, Table, Value
from jaxmia.tables.laws import predicted, required_table, slope

EPSILONS = (0.25, 0.5, 0.75, 1.0)
EXTRAPOLATION = (
    "Required numbers of examples beyond the measured cells are extrapolations. They say where an attack of"
    " this kind would find no more than (ε, δ)-differential privacy allows, which is no guarantee of it."
)


def law_blocks(
    laws: Mapping[LawKey, PowerLawFit], results: pd.DataFrame, *, shots: float, classes: int
) -> list[Block]:
    """Return the laws of each recipe at the least privacy: a plot, slopes, a prediction at one size, required examples.

    Args:
        laws: laws of a study.
        results: results of the study, to which the laws were fitted.
        shots: S of the model that the report is about.
        classes: C of the model that the report is about.
    """
    blocks: list[Block] = [EXTRAPOLATION]
    attack, evaluation = results[["attack", "evaluation"]].iloc[0]
    least_private = results["epsilon"].max()
    for number, recipe in enumerate(results["recipe"].unique()):
        rows = results
        name = LawKey(attack, evaluation, least_private, recipe)
        for column, value in name.named().items():
            rows = rows[rows[column] == value]
        if name not in laws:
            continue
        blocks += _of_recipe(name, laws, rows, shots, classes, f"law-{number}")
    return blocks


def _of_recipe(
    name: LawKey,
    laws: Mapping[LawKey, PowerLawFit],
    rows: pd.DataFrame,
    shots: float,
    classes: int,
    key: str,
) -> list[Block]:
    fit = laws[name]
    table = _law_table(name, fit, shots, classes)
    blocks: list[Block] = []
    if (rows["advantage"] > 0).any():
        alternative = (
            f"Advantage (TPR minus FPR) of {name.attack} against examples per class on log axes: it falls about"
            " along straight lines; dotted lines are the published laws."
        )
        with drawn_for_pages():
            figure = power_law_figure(rows, fit, title="Vulnerability against examples per class")
        title = f"Vulnerability against examples per class: {name}"
        blocks.append(Picture(title, alternative, to_svg(figure, key, alternative), table))
    else:
        blocks.append(table)
    worst = laws.get(name._replace(attack=PER_RECORD, evaluation="maximum"))
    of_records = {"average record": fit} | ({"worst record": worst} if worst else {})
    delta = published_lines().delta
    title = f"Examples per class until attacks find no more than (ε, {delta:g})-DP allows, C = {classes}"
    blocks.append(required_table(title, of_records, epsilons=EPSILONS, delta=delta, classes=classes))
    return blocks


def _law_table(name: LawKey, fit: PowerLawFit, shots: float, classes: int) -> Table:
    rows: list[tuple[Value, ...]] = []
    for law in fit.lines:
        line = next((line for line in _published(name) if line.law.fpr == law.fpr), None)
        beside = Measured(line.law.slope_shots, *line.slope_shots_range) if line else "not published"
        cells = law.num_cells or 0
        over = law.errors_over if law.status == "ok" else "none"
        here = predicted(law, shots=shots, classes=classes)
        rows.append((f"FPR {law.fpr:g}", slope(law), over, beside, cells, here))
    return Table(
        f"The law: {name}",
        (
            *("", "slope of log advantage over log S", "intervals over", "published slope", "cells"),
            f"TPR predicted at S = {shots:g}, C = {classes}",
        ),
        tuple(rows),
        "Slopes have 95% intervals; the published slope has the range consistent with the rounding of"
        " its table. Units treated as independent: data sets, or pools (the cells of one seed are"
        " nested), by cluster-robust errors (CR1) with Student's t; single cells if there are fewer"
        " than 3 of these."
        " Cells with a TPR of 0.99 or more are saturated and left out. Predictions have 95% prediction intervals for"
        " one new cell.",
        about="How fast vulnerability falls as classes get more examples.",
    )


def _published(name: LawKey) -> list[PublishedLine]:
    if name.evaluation != "pooled":
        return []
    return [line for line in published_lines().lines if line.record == "average"]


def published_blocks(*, shots: float, classes: int) -> list[Block]:
    """Return the predictions of published laws, for an audit without a study of its own data.

    Args:
        shots: S, examples per class of the model.
        classes: C of the model.
    """
    published = published_lines()
    rows: list[tuple[Value, ...]] = []
    for line in published.lines:
        at = Measured(line.law.predict(shots=shots, classes=2).tpr, status="extrapolated")
        required = [
            Measured(line.required_shots[epsilon], status="published", form=",.0f")
            if epsilon in line.required_shots
            else "not published"
            for epsilon in EPSILONS
        ]
        rows.append((f"{line.record} record, FPR {line.law.fpr:g}", at, *required))
    headings = (f"TPR at S = {shots:g}", *(f"S for ε = {epsilon:g}" for epsilon in EPSILONS))
    return [
        "No study of these data was given. The following are published laws of other data, for two"
        " classes. “jaxmia run” or “jaxmia sweep” over numbers of examples fits laws to your data;"
        " “jaxmia report --study” includes them.",
        EXTRAPOLATION,
        Table(
            f"Published laws (C = 2; this model has {classes} classes and {shots:,.0f} examples per class)",
            ("", *headings),
            tuple(rows),
            f"{published.source} {published.setting}. Published without intervals.",
            about="What was published of other data, for orientation.",
        ),
    ]
