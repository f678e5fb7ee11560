"""Tables of attacks on scores, of audits and of triage."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import pandas as pd
from rich.console import RenderableType

from jaxmia.cli.tables.layout import (
    add_row,
    decimals,
    footnoted,
    new_table,
    realised_cell,
    tpr_cell,
    with_error,
)


def attack_tables(results: pd.DataFrame) -> Iterator[RenderableType]:
    """What each attack of attack_scores reaches at each resolved FPR, one table for each targets and evaluation."""
    yield "acc.: balanced accuracy at the best threshold. realised: the FPR reached.\n"
    for (targets, evaluation), rows in results.groupby(["targets", "evaluation"], sort=False):
        resolved = set(rows["fpr"][rows["status"] == "ok"])
        if not resolved:  # attack_problems() says why
            continue
        pooled = ("threshold",) if evaluation == "pooled" else ()  # elsewhere each target or pair has its own
        table = new_table(
            f"{evaluation}, targets: {targets}",
            ("attack", "AUC", "acc.", "FPR", "realised", "TPR, 95% interval", *pooled),
        )
        for attack, points in rows[rows["fpr"].isin(resolved)].groupby("attack", sort=False):
            areas = (f"{points[name].iloc[0]:.3f}" for name in ("auc", "balanced_accuracy"))
            head = (str(attack), *areas)
            for _, point in points.iterrows():
                row = point.to_frame().T
                cells = (f"{point['fpr']:g}", realised_cell(row), tpr_cell(row))
                add_row(table, *head, *cells, *(f"{point[name]:.3g}" for name in pooled))
                head = ("",) * len(head)
        yield footnoted(table)


def audit_tables(
    results: pd.DataFrame, records: pd.DataFrame, head: Mapping[str, float], shadows: Mapping[str, float]
) -> Iterator[RenderableType]:
    """What an audit found: the shadows beside the head, attacks on it, and its members most at risk."""
    beside = new_table("The head, and the shadows that stand for heads like it", ("", "head", "shadows"))
    for name, value in head.items():
        add_row(beside, name, f"{value:.3f}", f"{shadows[name]:.3f}")
    yield beside
    yield from attack_tables(results[results["targets"] != "others"])
    columns = [name for name in map(str, records) if re.fullmatch(r"tpr_[\d.e-]+", name)]
    members = records[records["member"]].head(10)
    guarantee = ("guarantee",) if "above_guarantee" in records else ()
    table = new_table(
        "Members most at risk, over re-trainings: TPR ± standard error. p: of this head, as a non-member",
        ("id", "class", *(f"at FPR {name.removeprefix('tpr_')}" for name in columns), "p", *guarantee),
    )
    for row in members.to_dict("records"):
        tprs = (with_error(row[name], row[f"{name}_error"]) for name in columns)
        above = ("above" if row["above_guarantee"] else "below",) if guarantee else ()
        add_row(table, row["id"], row["class_name"], *tprs, f"{row['p_value']:.3g}", *above)
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
    table = new_table("TPR over the records", ("", "D", *headings))
    some = records[["separation", *columns]]
    rows = {"mean": some.mean(), "median": some.median(), "99%": some.quantile(0.99), "maximum": some.max()}
    for name, row in rows.items():
        add_row(table, name, *(decimals(number, ".3g") for number in row))
    yield table
    first = records.head(top)
    table = new_table(f"The {len(first)} most vulnerable records", ("id", "class", "D", *headings))
    for _, row in first.iterrows():
        add_row(
            table,
            str(row["id"]),
            row["class_name"],
            *(decimals(row[name], ".3g") for name in ("separation", *columns)),
        )
    yield table


def attack_problems(results: pd.DataFrame) -> list[str]:
    """Why rows of attack_scores have no number: one line for each targets and evaluation."""
    missing = results[results["status"] != "ok"]
    return [
        f"Unresolved, {evaluation}, targets: {targets}: {' '.join(rows['reason'].unique())}"
        for (targets, evaluation), rows in missing.groupby(["targets", "evaluation"], sort=False)
    ]
