"""Tables of laws, fitted and published, and of what they predict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import pandas as pd
from rich.console import RenderableType
from rich.table import Table

from jaxmia.cli.tables.layout import add_row, decimals, new_table, span, with_error
from jaxmia.laws.fit import PER_RECORD, LawOf, PowerLaw, PowerLawFit
from jaxmia.laws.published import published_lines

_NO_SLOPE = {"saturated": "saturated", "undetermined": "too few"}  # by status


def laws_tables(laws: Mapping[LawOf, PowerLawFit]) -> Iterator[RenderableType]:
    """The fitted laws beside the published ones, one table for each attack and evaluation, one for records' quantiles.

    Of several privacy levels the least private is shown; power_law.json has all.
    """
    yield (
        "Power law: log10(TPR - FPR) = slope log10 S + slope_C log10 C + intercept, ± standard error\n"
        "left out: cells at or below chance, saturated (TPR 0.99 or more) or unresolved. published: pooled slopes of"
        " arXiv 2402.06674, C = 2\n"
    )
    least_private = max(name.epsilon for name in laws)
    shown = {name: fit for name, fit in laws.items() if name.epsilon == least_private}
    for name, fit in shown.items():
        if name.attack == PER_RECORD:
            continue
        yield law_table(name, fit)
    for recipe in dict.fromkeys(name.recipe for name in shown if name.attack == PER_RECORD):
        yield _quantiles_table({name: fit for name, fit in shown.items() if name.recipe == recipe})


def law_table(name: LawOf, fit: PowerLawFit) -> Table:
    """One law at each FPR, beside the published slopes."""
    over_classes = any(law.slope_classes is not None for law in fit.lines)
    table = new_table(str(name), ("FPR", *_law_headings(over_classes)))
    for law in fit.lines:
        published = _published_slope(law.fpr) if name.evaluation == "pooled" else "-"
        add_row(table, f"{law.fpr:g}", *_law_cells(law, over_classes), published)
    table.caption = _errors_over(fit.lines)
    return table


def _quantiles_table(laws: Mapping[LawOf, PowerLawFit]) -> Table:
    """Laws of the quantiles over records of their own TPR, under one recipe; published slopes are at FPR 0.1."""
    of_records = {name: fit for name, fit in laws.items() if name.attack == PER_RECORD}
    over_classes = any(law.slope_classes is not None for fit in of_records.values() for law in fit.lines)
    title = str(next(iter(of_records))._replace(evaluation="quantiles over the records of a cell"))
    headings = [heading for heading in _law_headings(over_classes) if heading != "left out"]  # for 80 columns
    table = new_table(title, ("quantile", "FPR", *headings))
    slopes = published_lines().quantile_slopes
    for name, fit in of_records.items():
        word = name.evaluation.removeprefix("quantile ")
        for law in fit.lines:
            published = slopes.get("max" if word == "maximum" else word) if law.fpr == 0.1 else None
            beside = "-" if published is None else f"{published:.3f}"
            add_row(table, word, f"{law.fpr:g}", *_law_cells(law, over_classes)[:-1], beside)
            word = ""
        table.add_section()
    table.caption = _errors_over([law for fit in of_records.values() for law in fit.lines])
    return table


def _errors_over(laws: Iterable[PowerLaw]) -> str:
    """What the standard errors of a table's laws take as independent."""
    over = dict.fromkeys(law.errors_over for law in laws if law.status == "ok")
    return f"standard errors over {', '.join(over)}" if over else ""


def _law_headings(over_classes: bool) -> tuple[str, ...]:
    return (
        "slope",
        *(("slope_C",) if over_classes else ()),
        "intercept",
        "R²",
        "cells",
        "left out",
        "published",
    )


def _law_cells(law: PowerLaw, over_classes: bool) -> tuple[str, ...]:
    """All of a law's columns but the first and the published slope."""
    slopes = [with_error(law.slope_shots, law.slope_shots_stderr)]
    if over_classes:
        slopes.append(with_error(law.slope_classes, law.slope_classes_stderr))
    return (
        *(slopes if law.status == "ok" else (_NO_SLOPE[law.status], *slopes[1:])),
        with_error(law.intercept, law.intercept_stderr),
        "-" if law.r_squared is None else f"{law.r_squared:.3f}",
        str(law.num_cells),
        str((law.num_censored or 0) + (law.num_unresolved or 0) + (law.num_saturated or 0)),
    )


def elsewhere_tables(rows: pd.DataFrame) -> Iterator[RenderableType]:
    """What laws say of data sets that were left out of the fit, one table for each law: rows of laws_elsewhere."""
    yield (
        "Fitted without a data set, judged on it. R² there: below 0 if that set's own mean says more than the law."
        " factor: its advantage over what the law says (geometric mean)\n"
    )
    for (attack, evaluation, epsilon, recipe), of_law in rows.groupby(
        ["attack", "evaluation", "epsilon", "recipe"], sort=False
    ):
        title = str(LawOf(str(attack), str(evaluation), float(str(epsilon)), str(recipe)))
        table = new_table(
            title, ("left out", "FPR", "slope", "R² of fit", "R² there", "factor", "cells there")
        )
        for dataset, of_set in of_law.groupby("dataset", sort=False):
            word = str(dataset)
            numbers = of_set[["slope_shots", "r_squared", "r_squared_elsewhere", "factor"]].astype(float)
            for fpr, count, values in zip(
                of_set["fpr"], of_set["num_cells"], numbers.to_numpy(), strict=True
            ):
                add_row(table, word, f"{fpr:g}", *(decimals(value, ".3f") for value in values), str(count))
                word = ""
        yield table


def _published_slope(fpr: float) -> str:
    for line in published_lines().lines:
        if line.record == "average" and line.law.fpr == fpr:
            return span(line.slope_shots_range)
    return "-"


def published_tables() -> Iterator[RenderableType]:
    """The published lines, and the published required shots."""
    published = published_lines()
    epsilons = sorted({epsilon for line in published.lines for epsilon in line.required_shots})
    yield f"{published.source}\n{published.setting}\n"
    lines = new_table(
        "Lines that the published table leaves possible", ("record", "FPR", "slope", "intercept, C = 2")
    )
    lines.caption = published.derivation
    shots = new_table(
        f"Examples per class at the ceiling of (ε, {published.delta:g})-DP, C = 2",
        ("record", "FPR", *(f"ε = {epsilon:g}" for epsilon in epsilons)),
    )
    for line in published.lines:
        name = (line.record, f"{line.law.fpr:g}")
        add_row(lines, *name, span(line.slope_shots_range), span(line.intercept_range))
        required = (line.required_shots.get(epsilon) for epsilon in epsilons)
        add_row(shots, *name, *("-" if number is None else f"{number:,.0f}" for number in required))
    yield from (lines, shots)


def prediction_tables(laws: Mapping[LawOf, PowerLawFit], *, shots: float, classes: int) -> Iterator[Table]:
    """What laws predict at one S and C, with 95% prediction intervals, one table for each law."""
    for name, fit in laws.items():
        table = new_table(
            f"{name}: at S = {shots:g}, C = {classes} (95% interval for one new cell)",
            ("FPR", "TPR", "advantage", "interval", "note"),
        )
        for fpr in fit:
            add_row(table, f"{fpr:g}", *_prediction_cells(fit[fpr], shots, classes))
        yield table


def _prediction_cells(law: PowerLaw, shots: float, classes: int) -> tuple[str, ...]:
    if law.status != "ok":
        return "-", "-", "-", f"{law.status}: {law.reason}"
    prediction = law.predict(shots=shots, classes=classes)
    interval = "-" if prediction.low is None else f"{prediction.low:.5f} ... {prediction.high:.5f}"
    notes = {"outside the fitted cells": prediction.extrapolated, "TPR cut at 1": prediction.capped}
    note = ", ".join(words for words, holds in notes.items() if holds)
    return f"{prediction.tpr:.5f}", f"{prediction.advantage:.5f}", interval, note
