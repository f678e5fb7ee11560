"""Tables of audits and of triage."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import pandas as pd

from jaxmia.tables import Table, Value, number
from jaxmia.tables.attacks import attack_tables


def audit_tables(
    results: pd.DataFrame, records: pd.DataFrame, head: Mapping[str, float], shadows: Mapping[str, float]
) -> Iterator[str | Table]:
    """Yield the results of an audit: head and shadows compared, attacks on the head, and its members most at risk."""
    yield Table(
        "The head and its shadows, which have its recipe",
        ("", "head", "shadows"),
        tuple((name, number(value), number(shadows[name])) for name, value in head.items()),
    )
    yield from attack_tables(results[results["targets"] != "others"])
    yield _members_table(records)
    if "called" in records and records["called"].any():
        called = records[records["called"]]
        yield (
            f"At a false discovery rate of 0.1, {len(called)} of {len(records)} records are called members;"
            f" {int(called['member'].sum())} are.\n"
        )


def _members_table(records: pd.DataFrame) -> Table:
    columns = [name for name in map(str, records) if re.fullmatch(r"tpr_[\d.e-]+", name)]
    guarantee = ("guarantee",) if "above_guarantee" in records else ()
    rows: list[tuple[Value, ...]] = []
    for row in records[records["member"]].head(10).to_dict("records"):
        tprs = (number(row[name], error=row[f"{name}_error"]) for name in columns)
        above = ("above" if row["above_guarantee"] else "below",) if guarantee else ()
        rows.append((str(row["id"]), str(row["class_name"]), *tprs, number(row["p_value"], ".3g"), *above))
    return Table(
        "Members most at risk: mean TPR over re-trainings ± standard error. p: how often a non-member scores this high",
        ("id", "class", *(f"at FPR {name.removeprefix('tpr_')}" for name in columns), "p", *guarantee),
        tuple(rows),
    )


def persons_tables(persons: pd.DataFrame) -> Iterator[str | Table]:
    """The persons most at risk of those whose records an audit's head was trained on, beside their records."""
    columns = [name for name in map(str, persons) if re.fullmatch(r"tpr_[\d.e-]+", name)]
    rows: list[tuple[Value, ...]] = []
    for row in persons[persons["trained_on"] > 0].head(10).to_dict("records"):
        tprs = [number(row[name], error=row[f"{name}_error"]) for name in columns]
        alone = number(row[f"record_{columns[0]}"])
        size = int(row["num_records"])
        rows.append(
            (str(row["person"]), str(row["class_name"]), size, *tprs, alone, number(row["p_value"], ".3g"))
        )
    yield Table(
        "Persons most at risk: mean TPR over re-trainings on all of their records together",
        (
            *("person", "class", "records"),
            *(f"at FPR {name.removeprefix('tpr_')}" for name in columns),
            "best record",
            "p",
        ),
        tuple(rows),
        f"best record: TPR on the most vulnerable of their records by itself, at FPR {columns[0].removeprefix('tpr_')}",
    )
    if "called" in persons and persons["called"].any():
        called = persons[persons["called"].fillna(False).astype(bool)]
        yield (
            f"At a false discovery rate of 0.1, {len(called)} of {len(persons)} persons are called members;"
            f" {int(called['member'].sum())} are.\n"
        )


def triage_tables(records: pd.DataFrame, *, top: int) -> Iterator[Table]:
    """Yield the distribution over all records or persons, and the most vulnerable ones."""
    persons = "person" in records
    what, names = ("records", {"id": "id", "class_name": "class"})
    if persons:
        what, names = ("persons", {"person": "person", "num_records": "records", "class_name": "class"})
    rates = [name for name in records.columns if name.startswith("tpr_")]
    headings = [f"at FPR {float(name.removeprefix('tpr_')):g}" for name in rates]
    if persons:  # the largest of a person's records by itself
        rates += [f"record_{rates[0]}"]
        headings += [f"one record, {headings[0]}"]
    some = records[["separation", *rates]]
    rows = {"mean": some.mean(), "median": some.median(), "99%": some.quantile(0.99), "maximum": some.max()}
    yield Table(
        f"TPR over the {what}",
        ("", "D", *headings),
        tuple((name, *(number(value, ".3g") for value in row)) for name, row in rows.items()),
        note="One record: the most vulnerable of a person's records by itself." if persons else "",
    )
    first = records.head(top)
    yield Table(
        f"The {len(first)} most vulnerable {what}",
        (*names.values(), "D", *headings),
        tuple(
            (
                *(str(row[name]) for name in names),
                *(number(row[name], ".3g") for name in ("separation", *rates)),
            )
            for _, row in first.iterrows()
        ),
    )
