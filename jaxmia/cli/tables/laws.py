"""Tables of fitted and published laws, and of their predictions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import pandas as pd

from jaxmia.cli.tables.cells import span
from jaxmia.laws.law import PER_PERSON, PER_RECORD, UNITS_OF, LawKey, PowerLaw, PowerLawFit, regressors
from jaxmia.laws.published import published_lines
from jaxmia.tables import NONE, Table, Value, number
from jaxmia.tables.laws import predicted

_NO_SLOPE = {"saturated": "saturated", "undetermined": "too few"}  # by status


def laws_tables(laws: Mapping[LawKey, PowerLawFit]) -> Iterator[str | Table]:
    """Yield fitted and published laws, one table per attack and evaluation, and one for records' quantiles.

    Of several privacy levels only the least private is shown; power_law.json has all.
    """
    yield (
        "Power law: log10(TPR - FPR) = slope log10 S + slope_C log10 C + intercept, ± standard error\n"
        "left out: cells at or below chance, saturated (TPR 0.99 or more) or unresolved. published: pooled slopes of"
        " arXiv 2402.06674, C = 2\n"
    )
    least_private = max(name.epsilon for name in laws)
    shown = {name: fit for name, fit in laws.items() if name.epsilon == least_private}
    for name, fit in shown.items():
        if name.attack not in (PER_RECORD, PER_PERSON):
            yield law_table(name, fit)
    over: dict[LawKey, dict[LawKey, PowerLawFit]] = {}
    for name, fit in shown.items():
        if name.attack in (PER_RECORD, PER_PERSON):
            over.setdefault(name._replace(evaluation=""), {})[name] = fit
    for laws_over in over.values():
        yield _quantiles_table(laws_over)


def law_table(name: LawKey, fit: PowerLawFit) -> Table:
    """Return one law at each FPR, with the published slopes."""
    over_classes = any(law.slope_classes is not None for law in fit.lines)
    rows: list[tuple[Value, ...]] = []
    for law in fit.lines:
        comparable = name.evaluation == "pooled" and name[4:] == tuple(UNITS_OF.values())
        published = _published_slope(law.fpr) if comparable else "-"
        rows.append((f"{law.fpr:g}", *_law_cells(law, over_classes), published))
    headings = ("FPR", *_law_headings(over_classes))
    return Table(str(name), headings, tuple(rows), _errors_over(fit.lines))


def _quantiles_table(laws: Mapping[LawKey, PowerLawFit]) -> Table:
    """Laws of the quantiles over records, or persons, of their own TPR; published slopes are of records at FPR 0.1."""
    over_classes = any(law.slope_classes is not None for fit in laws.values() for law in fit.lines)
    first = next(iter(laws))
    title = str(first._replace(evaluation=f"quantiles over the {first.unit}s of a cell"))
    headings = (heading for heading in _law_headings(over_classes) if heading != "left out")  # for 80 columns
    slopes = published_lines().quantile_slopes
    rows: list[tuple[Value, ...]] = []
    for name, fit in laws.items():
        word = name.evaluation.removeprefix("quantile ")
        for law in fit.lines:
            comparable = law.fpr == 0.1 and name[4:] == tuple(UNITS_OF.values())
            published = slopes.get("max" if word == "maximum" else word) if comparable else None
            rows.append((word, f"{law.fpr:g}", *_law_cells(law, over_classes)[:-1], number(published)))
    note = _errors_over([law for fit in laws.values() for law in fit.lines])
    return Table(title, ("quantile", "FPR", *headings), tuple(rows), note, ruled=1)


def _errors_over(laws: Iterable[PowerLaw]) -> str:
    """Return the units that the standard errors of a table's laws treat as independent."""
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


def _law_cells(law: PowerLaw, over_classes: bool) -> tuple[Value, ...]:
    """Return all of a law's columns except the first and the published slope."""
    determined = law.status == "ok"
    slope = number(law.slope_shots, error=law.slope_shots_stderr) if determined else _NO_SLOPE[law.status]
    return (
        slope,
        *((number(law.slope_classes, error=law.slope_classes_stderr),) if over_classes else ()),
        number(law.intercept, error=law.intercept_stderr),
        number(law.r_squared),
        NONE if law.num_cells is None else law.num_cells,
        (law.num_censored or 0) + (law.num_unresolved or 0) + (law.num_saturated or 0),
    )


def held_out_tables(rows: pd.DataFrame) -> Iterator[str | Table]:
    """Yield predictions for data sets that were left out of the fit, one table per law, from leave_one_dataset_out."""
    yield (
        "Each law is fitted without one data set and tested on it. R² there: below 0 if the set's own mean predicts"
        " better than the law. factor: measured over predicted advantage (geometric mean)\n"
    )
    known = [name for name in UNITS_OF if name in rows]
    for (attack, evaluation, epsilon, recipe, *units), of_law in rows.groupby(
        ["attack", "evaluation", "epsilon", "recipe", *known], sort=False
    ):
        of = dict(zip(known, map(str, units), strict=True))
        title = str(LawKey(str(attack), str(evaluation), float(str(epsilon)), str(recipe), **of))
        lines: list[tuple[Value, ...]] = []
        for row in of_law.to_dict("records"):
            names = ("slope_shots", "r_squared", "r_squared_elsewhere", "factor")
            numbers = (number(row[name]) for name in names)
            lines.append((str(row["dataset"]), f"{row['fpr']:g}", *numbers, int(row["num_cells"])))
        yield Table(
            title,
            ("left out", "FPR", "slope", "R² of fit", "R² there", "factor", "cells there"),
            tuple(lines),
        )


def _published_slope(fpr: float) -> str:
    for line in published_lines().lines:
        if line.record == "average" and line.law.fpr == fpr:
            return span(line.slope_shots_range)
    return "-"


def published_tables() -> Iterator[str | Table]:
    """Yield the published lines and the published required shots."""
    published = published_lines()
    epsilons = sorted({epsilon for line in published.lines for epsilon in line.required_shots})
    yield f"{published.source}\n{published.setting}\n"
    lines: list[tuple[Value, ...]] = []
    shots: list[tuple[Value, ...]] = []
    for line in published.lines:
        name = (line.record, f"{line.law.fpr:g}")
        lines.append((*name, span(line.slope_shots_range), span(line.intercept_range)))
        shots.append((*name, *(number(line.required_shots.get(epsilon), ",.0f") for epsilon in epsilons)))
    yield Table(
        "Laws that agree with the published table",
        ("record", "FPR", "slope", "intercept, C = 2"),
        tuple(lines),
        published.derivation,
    )
    yield Table(
        f"Examples per class at the ceiling of (ε, {published.delta:g})-DP, C = 2",
        ("record", "FPR", *(f"ε = {epsilon:g}" for epsilon in epsilons)),
        tuple(shots),
    )


def prediction_tables(laws: Mapping[LawKey, PowerLawFit], *, shots: float, classes: int) -> Iterator[Table]:
    """Yield predictions at one S and C, with 95% prediction intervals, one table per law."""
    check_classes(laws, classes)
    for name, fit in laws.items():
        rows: list[tuple[Value, ...]] = []
        for law in fit.lines:
            found = dataclasses.replace(predicted(law, shots=shots, classes=classes), form=".5f")
            advantage = NONE if found.value is None else number(found.value - law.fpr, ".5f")
            rows.append((f"{law.fpr:g}", found, advantage))
        yield Table(
            f"{name}: at S = {shots:g}, C = {classes} (95% interval for one new cell)",
            ("FPR", "TPR, 95% interval", "advantage"),
            tuple(rows),
        )


def check_classes(laws: Mapping[LawKey, PowerLawFit], classes: int) -> None:
    """Raise InputError if a law does not cover this number of classes."""
    for fit in laws.values():
        for law in fit.lines:
            if law.status == "ok":
                regressors(law, 0.0, classes)
