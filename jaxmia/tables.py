"""Tables for the terminal."""

from __future__ import annotations

import decimal
import math
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import rich.box
import rich.text
from rich.console import RenderableType
from rich.table import Table

from jaxmia.accounting import PrivacyGuarantee
from jaxmia.power_law import (
    PER_RECORD,
    LawOf,
    PowerLaw,
    PowerLawFit,
)
from jaxmia.published import published_lines
from jaxmia.required import RequiredShots, required_shots
from jaxmia.tradeoff import kairouz_ceiling
from jaxmia.tuning import Tuning


def results_tables(results: pd.DataFrame) -> Iterator[RenderableType]:
    """TPR at each FPR against classes and shots, one table for each attack and evaluation; or the privacy tables."""
    if np.isfinite(results["epsilon"]).any():
        yield from _privacy_levels_tables(results)
        return
    yield "TPR: median over seeds, with the outermost ends of their 95% intervals\n"
    for (attack, evaluation), rows in results.groupby(["attack", "evaluation"], sort=False):
        fprs = sorted(rows["fpr"].unique(), reverse=True)
        table = _table(
            f"{attack}, {evaluation} (seeds: {rows['seed'].nunique()})",
            ("C", "S", "acc.", *(f"at FPR {fpr:g}" for fpr in fprs)),
        )
        for (classes, shots), cells in rows.groupby(["classes", "shots"]):
            accuracy = cells["accuracy"].median()
            tprs = (_tpr_cell(cells[cells["fpr"] == fpr]) for fpr in fprs)
            table.add_row(str(classes), str(shots), _number(accuracy, ".3f"), *tprs)
        yield table


def _privacy_levels_tables(results: pd.DataFrame) -> Iterator[RenderableType]:
    """What each privacy level costs, what attacks reach, and what they could reach; one table for each evaluation."""
    first, audited = results.iloc[0], results.dropna(subset="epsilon_lower_bound")
    auditor = audited["attack"].iloc[0] if len(audited) else "no attack"
    yield (
        "TPR: median over seeds, with the outermost ends of their 95% intervals. ceiling: the largest TPR that any"
        f" attack can have.\nε: at delta {first['delta']:g}, {first['adjacency']}; inf: ordinary training. shown: ε"
        f" that an audit by {auditor} proves at 95% (median over seeds)\n"
    )
    for evaluation, rows in results.groupby("evaluation", sort=False):
        attacks = list(rows["attack"].unique())
        title = f"{evaluation} (seeds: {rows['seed'].nunique()})"
        table = _table(title, ("C", "S", "ε", "noise", "acc.", "shown", "FPR", *attacks, "ceiling"))
        for (classes, shots), of_size in rows.groupby(["classes", "shots"]):
            for epsilon, level in sorted(of_size.groupby("epsilon"), reverse=True):
                noise, accuracy = (level[name].median() for name in ("noise_multiplier", "accuracy"))
                shown = level[level["attack"] == auditor]["epsilon_lower_bound"].median()
                head = [
                    f"{classes}",
                    f"{shots}",
                    f"{epsilon:g}",
                    f"{noise:.3g}",
                    _number(accuracy, ".3f"),
                    _number(shown, ".2f"),
                ]
                for fpr, points in sorted(level.groupby("fpr"), reverse=True):
                    tprs = (_tpr_cell(points[points["attack"] == attack]) for attack in attacks)
                    table.add_row(*head, f"{fpr:g}", *tprs, _rounded_up(points["tpr_ceiling"].iloc[0], 3))
                    head = [""] * len(head)
                table.add_section()
        yield table


def _number(value: float, form: str) -> str:
    return "-" if np.isnan(value) else f"{value:{form}}"


def sweep_tables(results: pd.DataFrame) -> Iterator[RenderableType]:
    """TPR of the first attack and evaluation, one line per feature set, recipe, privacy level, C and S."""
    attack, evaluation = results[["attack", "evaluation"]].iloc[0]
    rows = results[(results["attack"] == attack) & (results["evaluation"] == evaluation)]
    fprs = sorted(rows["fpr"].unique(), reverse=True)
    private = np.isfinite(rows["epsilon"]).any()
    columns = ["dataset", "recipe", "classes", "shots", *(["epsilon"] if private else [])]
    names = ("feature set", "recipe", "C", "S", *(["ε"] if private else []))
    table = _table(
        f"{attack}, {evaluation}: median TPR (seeds: {rows['seed'].nunique()})",
        (*names, "acc.", *(f"at FPR {fpr:g}" for fpr in fprs)),
    )
    for key, cells in rows.groupby(columns):
        tprs = (_tpr_cell(cells[cells["fpr"] == fpr]).partition(" ")[0] for fpr in fprs)
        values = (f"{value:g}" if isinstance(value, float) else str(value) for value in key)
        table.add_row(*values, _number(cells["accuracy"].median(), ".3f"), *tprs)
    yield table
    for fpr, of_fpr in rows.groupby("fpr"):
        reasons = of_fpr[of_fpr["status"] == "unresolved"]["reason"]
        if len(reasons):
            first = reasons.iloc[0].rstrip(".")
            yield f"FPR {fpr:g}: {len(reasons)} of {len(of_fpr)} cells unresolved; for the first, {first}.\n"


def tuning_table(name: str, search: Tuning) -> Table:
    """The trials of a search, with a mark on the chosen one."""
    private = search.chosen.clipping_norm is not None
    headings = ("trial", "learning rate", "batch", "epochs", "steps", *(["clip"] if private else []))
    table = _table(
        f"{name}: {search.num_training} + {search.num_validation} examples", (*headings, "acc.", "loss")
    )
    for number, trial in enumerate(search.trials):
        clip = [f"{trial.clipping_norm:.3g}"] if private else []
        loss = "diverged" if trial.loss is None else f"{trial.loss:.3f}"
        sizes = (str(value) for value in (trial.batch_size, trial.epochs, trial.steps))
        mark = "→ " if trial is search.chosen else ""
        table.add_row(
            f"{mark}{number}", f"{trial.learning_rate:.3g}", *sizes, *clip, f"{trial.accuracy:.3f}", loss
        )
    return table


def failures_table(failures: Iterable[tuple[str, str, str, str]]) -> Table:
    """Cells that could not be computed: feature set, recipe, cell, error."""
    failures = list(failures)
    table = _table(
        f"Failed: {len(failures)} cells; the same call with --resume tries them again",
        ("feature set", "recipe", "cell", "error"),
    )
    for column in table.columns:
        column.justify, column.overflow = "left", "fold"
    for row in failures:
        table.add_row(*map(rich.text.Text, row))
    return table


def problems(results: pd.DataFrame) -> list[str]:
    """What a reader of the tables must know: diverged heads, and why rows have no number."""
    cells = results.drop_duplicates(["classes", "shots", "seed", "epsilon"])
    lines = [
        f"{_cell_name(row)}: {row['num_diverged']} of {row['num_models']} heads diverged and are"
        " left out; manifest.json names them."
        for row in cells[cells["num_diverged"] > 0].to_dict("records")
    ]
    missing = results[results["status"] != "ok"].groupby(["evaluation", "fpr", "status"])
    for (evaluation, fpr, status), rows in missing:
        where = ", ".join(
            f"C={c} S={s}" for c, s in sorted({*zip(rows["classes"], rows["shots"], strict=True)})
        )
        lines.append(
            f"{evaluation}: FPR {fpr:g} is {status} at {where}: for the first, {rows['reason'].iloc[0].rstrip('.')}."
        )
    return lines


def control_lines(controls: pd.DataFrame) -> list[str]:
    """How many attacks were at chance on permuted labels, and one line for each that was not."""
    resolved = controls[controls["status"] != "unresolved"]
    if resolved.empty:
        return ["Negative control (permuted labels): not possible, too few scores or models."]
    failed = resolved[resolved["status"] == "failed"]
    used = (resolved["advantage"].abs() / resolved["limit"]).max()
    return [
        f"Negative control (permuted labels): {len(resolved) - len(failed)} of {len(resolved)} attacks at chance;"
        f" |TPR - FPR| up to {used:.2f} of its limit.",
        *(
            f"NEGATIVE CONTROL FAILED: {row['attack']}{_where(row)} reaches TPR - FPR = {row['advantage']:.4f} at"
            f" FPR {row['fpr']:g} on permuted labels (limit {row['limit']:.4f}): its results are not to be trusted."
            for row in failed.to_dict("records")
        ),
    ]


def _where(row: Mapping[Hashable, Any]) -> str:
    return f" at {_cell_name(row)}" if "shots" in row else ""


def _cell_name(row: Mapping[Hashable, Any]) -> str:
    private = f" epsilon={row['epsilon']:g}" if np.isfinite(row["epsilon"]) else ""
    return f"C={row['classes']} S={row['shots']} seed={row['seed']}{private}"


def attack_tables(results: pd.DataFrame) -> Iterator[RenderableType]:
    """What each attack of attack_scores reaches at each resolved FPR, one table for each targets and evaluation."""
    yield "acc.: balanced accuracy at the best threshold. realised: the FPR reached.\n"
    for (targets, evaluation), rows in results.groupby(["targets", "evaluation"], sort=False):
        resolved = set(rows["fpr"][rows["status"] == "ok"])
        if not resolved:  # attack_problems() says why
            continue
        pooled = ("threshold",) if evaluation == "pooled" else ()  # elsewhere each target or pair has its own
        table = _table(
            f"{evaluation}, targets: {targets}",
            ("attack", "AUC", "acc.", "FPR", "realised", "TPR, 95% interval", *pooled),
        )
        for attack, points in rows[rows["fpr"].isin(resolved)].groupby("attack", sort=False):
            areas = (f"{points[name].iloc[0]:.3f}" for name in ("auc", "balanced_accuracy"))
            head = (str(attack), *areas)
            for _, point in points.iterrows():
                cells = (f"{point['fpr']:g}", f"{point['fpr_realised']:.4f}", _tpr_cell(point.to_frame().T))
                table.add_row(*head, *cells, *(f"{point[name]:.3g}" for name in pooled))
                head = ("",) * len(head)
        yield table


def audit_tables(
    results: pd.DataFrame, records: pd.DataFrame, head: Mapping[str, float], shadows: Mapping[str, float]
) -> Iterator[RenderableType]:
    """What an audit found: the shadows beside the head, attacks on it, and its members most at risk."""
    beside = _table("The head, and the shadows that stand for heads like it", ("", "head", "shadows"))
    for name, value in head.items():
        beside.add_row(name, f"{value:.3f}", f"{shadows[name]:.3f}")
    yield beside
    yield from attack_tables(results[results["targets"] != "others"])
    columns = [name for name in map(str, records) if re.fullmatch(r"tpr_[\d.e-]+", name)]
    members = records[records["member"]].head(10)
    table = _table(
        "Members most at risk, over re-trainings: TPR ± standard error. p: of this head, as a non-member",
        ("id", "class", *(f"at FPR {name.removeprefix('tpr_')}" for name in columns), "p"),
    )
    for row in members.to_dict("records"):
        tprs = (_with_error(row[name], row[f"{name}_error"]) for name in columns)
        table.add_row(rich.text.Text(row["id"]), row["class_name"], *tprs, f"{row['p_value']:.3g}")
    yield table
    if "called" in records and records["called"].any():
        called = records[records["called"]]
        yield (
            f"At a false discovery rate of 0.1, {len(called)} of {len(records)} records are called members;"
            f" {int(called['member'].sum())} are.\n"
        )


def triage_tables(records: pd.DataFrame, *, top: int) -> Iterator[RenderableType]:
    """What is to be expected of all records, and the most vulnerable ones."""
    columns = [name for name in records.columns if name.startswith("tpr_")]
    headings = [f"at FPR {float(name.removeprefix('tpr_')):g}" for name in columns]
    table = _table("TPR over the records", ("", "D", *headings))
    some = records[["separation", *columns]]
    rows = {"mean": some.mean(), "median": some.median(), "99%": some.quantile(0.99), "maximum": some.max()}
    for name, row in rows.items():
        table.add_row(name, *(_number(number, ".3g") for number in row))
    yield table
    first = records.head(top)
    table = _table(f"The {len(first)} most vulnerable records", ("id", "class", "D", *headings))
    for _, row in first.iterrows():
        table.add_row(
            str(row["id"]),
            row["class_name"],
            *(_number(row[name], ".3g") for name in ("separation", *columns)),
        )
    yield table


def attack_problems(results: pd.DataFrame) -> list[str]:
    """Why rows of attack_scores have no number: one line for each targets and evaluation."""
    missing = results[results["status"] != "ok"]
    return [
        f"Unresolved, {evaluation}, targets: {targets}: {' '.join(rows['reason'].unique())}"
        for (targets, evaluation), rows in missing.groupby(["targets", "evaluation"], sort=False)
    ]


def _table(title: str, headings: Iterable[str]) -> Table:
    table = Table(
        title=title,
        box=rich.box.SIMPLE_HEAD,
        pad_edge=False,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _tpr_cell(rows: pd.DataFrame) -> str:
    resolved = rows[rows["status"] == "ok"]
    if resolved.empty:
        return ", ".join(sorted(rows["status"].unique())) or "-"
    low, high = resolved["tpr_low"].min(), resolved["tpr_high"].max()
    mark = "*" if len(resolved) < len(rows) else ""  # some seeds have no number: problems() says which
    return f"{resolved['tpr'].median():.3f}{mark} {low:.3f}-{high:.3f}"


def laws_tables(laws: Mapping[LawOf, PowerLawFit]) -> Iterator[RenderableType]:
    """The fitted laws beside the published ones, one table for each attack and evaluation, one for records' quantiles.

    Of several privacy levels the least private is shown; power_law.json has all.
    """
    yield (
        "Power law: log10(TPR - FPR) = slope log10 S + slope_C log10 C + intercept, ± standard error\n"
        "left out: cells at or below chance, or unresolved. published: pooled slopes of arXiv 2402.06674, C = 2\n"
    )
    least_private = max(name.epsilon for name in laws)
    shown = {name: fit for name, fit in laws.items() if name.epsilon == least_private}
    for name, fit in shown.items():
        if name.attack == PER_RECORD:
            continue
        over_classes = any(law.slope_classes is not None for law in fit.lines)
        table = _table(str(name), ("FPR", *_law_headings(over_classes)))
        for law in fit.lines:
            published = _published_slope(law.fpr) if name.evaluation == "pooled" else "-"
            table.add_row(f"{law.fpr:g}", *_law_cells(law, over_classes), published)
        yield table
    for recipe in dict.fromkeys(name.recipe for name in shown if name.attack == PER_RECORD):
        yield _quantiles_table({name: fit for name, fit in shown.items() if name.recipe == recipe})


def _quantiles_table(laws: Mapping[LawOf, PowerLawFit]) -> Table:
    """Laws of the quantiles over records of their own TPR, under one recipe; published slopes are at FPR 0.1."""
    of_records = {name: fit for name, fit in laws.items() if name.attack == PER_RECORD}
    over_classes = any(law.slope_classes is not None for fit in of_records.values() for law in fit.lines)
    title = str(next(iter(of_records))._replace(evaluation="quantiles over the records of a cell"))
    headings = [heading for heading in _law_headings(over_classes) if heading != "left out"]  # for 80 columns
    table = _table(title, ("quantile", "FPR", *headings))
    slopes = published_lines().quantile_slopes
    for name, fit in of_records.items():
        word = name.evaluation.removeprefix("quantile ")
        for law in fit.lines:
            published = slopes.get("max" if word == "maximum" else word) if law.fpr == 0.1 else None
            beside = "-" if published is None else f"{published:.3f}"
            table.add_row(word, f"{law.fpr:g}", *_law_cells(law, over_classes)[:-1], beside)
            word = ""
        table.add_section()
    return table


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
    slopes = [_with_error(law.slope_shots, law.slope_shots_stderr)]
    if over_classes:
        slopes.append(_with_error(law.slope_classes, law.slope_classes_stderr))
    return (
        *(slopes if law.status == "ok" else ("too few", *slopes[1:])),
        _with_error(law.intercept, law.intercept_stderr),
        "-" if law.r_squared is None else f"{law.r_squared:.3f}",
        str(law.num_cells),
        str((law.num_censored or 0) + (law.num_unresolved or 0)),
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
        table = _table(title, ("left out", "FPR", "slope", "R² of fit", "R² there", "factor", "cells there"))
        for dataset, of_set in of_law.groupby("dataset", sort=False):
            word = str(dataset)
            numbers = of_set[["slope_shots", "r_squared", "r_squared_elsewhere", "factor"]].astype(float)
            for fpr, count, values in zip(
                of_set["fpr"], of_set["num_cells"], numbers.to_numpy(), strict=True
            ):
                table.add_row(word, f"{fpr:g}", *(_number(value, ".3f") for value in values), str(count))
                word = ""
        yield table


def required_tables(
    laws: Mapping[LawOf, PowerLawFit], *, epsilons: Sequence[float], delta: float, classes: int
) -> Iterator[RenderableType]:
    """Examples per class at which attacks find no more than (epsilon, delta)-DP would let them: this run, published.

    One table for each law, with its 95% calibration interval beside what was published, which is known at two classes.
    """
    yield (
        f"Examples per class, S, at which TPR meets the ceiling of (ε, {delta:g})-DP, C = {classes}: an attack of this"
        " kind finds no more; it is no guarantee\n[95% interval]. x: outside the fitted cells. published: C = 2\n"
    )
    for name, fit in laws.items():
        record = {"pooled": "average", "maximum": "worst"}.get(name.evaluation)
        table = _table(str(name), ("FPR", "ε", "ceiling", "S", "95% interval", "published", "note"))
        for law in fit.lines:
            for epsilon in epsilons:
                cells = _required_cells(law, epsilon=epsilon, delta=delta, classes=classes)
                number = published_lines().shots(record, fpr=law.fpr, epsilon=epsilon, delta=delta)
                beside = "-" if number is None else _two_digits(number)
                table.add_row(f"{law.fpr:g}", f"{epsilon:g}", *cells[:3], beside, cells[3])
        yield table


def _required_cells(
    law: PowerLaw, *, epsilon: float, delta: float, classes: int
) -> tuple[str, str, str, str]:
    if law.status != "ok":
        return "-", "-", "-", f"{law.status}: {law.reason}"
    fit = PowerLawFit((law,))
    found = required_shots(fit, epsilon=epsilon, delta=delta, fpr=law.fpr, classes=classes)
    mark = "x" if found.extrapolated else ""
    shots = "-" if found.shots is None else f"{_two_digits(found.shots)}"
    return f"{found.ceiling:.4f}", shots, _shots_interval(found), " ".join(filter(None, (mark, found.reason)))


def _shots_interval(found: RequiredShots) -> str:
    if found.low is None or found.high is None:
        return "-"
    return f"{_two_digits(found.low)} ... {_two_digits(found.high)}"


def _two_digits(number: float) -> str:
    """Two significant digits, as the paper's table has them."""
    rounded = float(f"{number:.1e}")
    if rounded >= 1e6:
        return f"{rounded:.1e}"
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


def _with_error(value: float | None, error: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if error is None else f"{value:.3f}±{error:.3f}"


def _published_slope(fpr: float) -> str:
    for line in published_lines().lines:
        if line.record == "average" and line.law.fpr == fpr:
            return _range(line.slope_shots_range)
    return "-"


def published_tables() -> Iterator[RenderableType]:
    """The published lines, and the published required shots."""
    published = published_lines()
    epsilons = sorted({epsilon for line in published.lines for epsilon in line.required_shots})
    yield f"{published.source}\n{published.setting}\n"
    lines = _table(
        "Lines that the published table leaves possible", ("record", "FPR", "slope", "intercept, C = 2")
    )
    lines.caption = published.derivation
    shots = _table(
        f"Examples per class at the ceiling of (ε, {published.delta:g})-DP, C = 2",
        ("record", "FPR", *(f"ε = {epsilon:g}" for epsilon in epsilons)),
    )
    for line in published.lines:
        name = (line.record, f"{line.law.fpr:g}")
        lines.add_row(*name, _range(line.slope_shots_range), _range(line.intercept_range))
        required = (line.required_shots.get(epsilon) for epsilon in epsilons)
        shots.add_row(*name, *("-" if number is None else f"{number:,.0f}" for number in required))
    yield from (lines, shots)


def _range(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.3f}…{interval[1]:.3f}"


def prediction_tables(laws: Mapping[LawOf, PowerLawFit], *, shots: float, classes: int) -> Iterator[Table]:
    """What laws predict at one S and C, with 95% prediction intervals, one table for each law."""
    for name, fit in laws.items():
        table = _table(
            f"{name}: at S = {shots:g}, C = {classes} (95% interval for one new cell)",
            ("FPR", "TPR", "advantage", "interval", "note"),
        )
        for fpr in fit:
            table.add_row(f"{fpr:g}", *_prediction_cells(fit[fpr], shots, classes))
        yield table


def _prediction_cells(law: PowerLaw, shots: float, classes: int) -> tuple[str, ...]:
    if law.status != "ok":
        return "-", "-", "-", f"{law.status}: {law.reason}"
    prediction = law.predict(shots=shots, classes=classes)
    interval = "-" if prediction.low is None else f"{prediction.low:.5f} ... {prediction.high:.5f}"
    notes = {"outside the fitted cells": prediction.extrapolated, "TPR cut at 1": prediction.capped}
    note = ", ".join(words for words, holds in notes.items() if holds)
    return f"{prediction.tpr:.5f}", f"{prediction.advantage:.5f}", interval, note


def privacy_tables(guarantee: PrivacyGuarantee, fprs: Sequence[float]) -> Iterator[Table]:
    """What a DP-SGD recipe guarantees, and the ceilings that it puts on any attack; bounds are rounded up."""
    recipe = _table("DP-SGD", ("", ""))
    recipe.show_header, recipe.columns[0].justify = False, "left"
    for name, value in (
        ("noise multiplier", _rounded_up(guarantee.noise_multiplier)),
        ("sampling rate", f"{guarantee.sampling_rate:g}"),
        ("steps", str(guarantee.steps)),
        ("epsilon, achieved", _rounded_up(guarantee.epsilon)),
        ("delta", f"{guarantee.delta:g}"),
        ("adjacency", guarantee.adjacency),
    ):
        recipe.add_row(name, value)
    yield recipe
    ceilings = _table(
        "The largest TPR that any attack on one record can have",
        ("FPR", "trade-off curve", "advantage", f"Kairouz, at delta {guarantee.delta:g} alone"),
    )
    for fpr, ceiling in zip(fprs, guarantee.tpr_ceiling(np.asarray(fprs, float)), strict=True):
        single = 1.0
        if math.isfinite(guarantee.epsilon):
            single = float(kairouz_ceiling(fpr, epsilon=guarantee.epsilon, delta=guarantee.delta))
        ceilings.add_row(
            f"{fpr:g}", _rounded_up(ceiling), _rounded_up(max(ceiling - fpr, 0.0)), _rounded_up(single)
        )
    ceilings.caption = (
        "Of the mechanism on paper. JAX's generators are not cryptographic: heads trained with them are for"
        " measurement, not for release."
    )
    yield ceilings


def _rounded_up(value: float, digits: int = 5) -> str:
    """So many significant digits, rounded up: a bound stays a bound, and noise stays enough."""
    rounded = decimal.Context(prec=digits, rounding=decimal.ROUND_CEILING).create_decimal_from_float(
        float(value)
    )
    return f"{float(rounded):g}"
