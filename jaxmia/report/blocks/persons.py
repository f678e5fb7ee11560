"""What a report says of persons with several records: how much more is told of them than of any one record."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from jaxmia.report.audit import Audit
from jaxmia.report.blocks.records import EXTRAPOLATED, LISTED, RecordsOf
from jaxmia.report.blocks.wording import INTERVALS
from jaxmia.report.study import CELL, Study, cell_name
from jaxmia.studies.folder.tables import has_table, read_tables
from jaxmia.studies.unit_rows import RATES, rates_by_fpr
from jaxmia.tables import Measured, Table, Value
from jaxmia.tables.rates import best_of, rates, rates_headings


@dataclasses.dataclass(frozen=True)
class PersonsOf:
    """Persons of an audit or a cell, and their records.

    Attributes:
        persons: as records are: one row per person, with num_records and record_tpr_FPR beside.
        records: the records of the same audit or cell.
    """

    persons: RecordsOf
    records: RecordsOf


def of_audit(audit: Audit) -> PersonsOf | None:
    """Return the persons whose records the head was trained on; None in an audit by record."""
    if audit.persons is None:
        return None
    table = audit.persons[audit.persons["trained_on"] > 0].reset_index(drop=True)
    records, name = (
        audit.members(),
        "persons whose records the released model was trained on, over re-trainings",
    )
    return PersonsOf(
        RecordsOf(name, table.rename(columns={"person": "id"}), audit.fprs, records.num_out), records
    )


def of_study(study: Study, records: Sequence[RecordsOf]) -> Iterator[PersonsOf]:
    """Yield the persons of the cells of some records; nothing of a study by record."""
    if not has_table(study.path, "per_person"):
        return
    columns = [*CELL, "seed", "person", "class_name", "num_records", "record_tpr", "fpr", *RATES]
    columns += ["separation", "separation_error", "num_out"]
    by_name = {each.name: each for each in records}
    for table in read_tables(study.path, "per_person", columns):
        for key, rows in table.groupby([*CELL, "seed"], sort=False):
            name = f"{cell_name(dict(zip(CELL, key, strict=False)))}, seed {key[-1]}"
            if name not in by_name:
                continue
            first = rows[rows["fpr"] == rows["fpr"].iloc[0]].reset_index(drop=True)
            known = first[["person", "class_name", "num_records", "separation", "separation_error"]]
            alone = {
                f"record_tpr_{fpr:g}": rows["record_tpr"][rows["fpr"] == fpr].to_numpy() for fpr in study.fprs
            }
            held = pd.concat([known.rename(columns={"person": "id"}), rates_by_fpr(rows, study.fprs)], axis=1)
            persons = RecordsOf(name, held.assign(**alone), study.fprs, float(first["num_out"].mean()))
            yield PersonsOf(persons, by_name[name])


def worst_table(found: Sequence[PersonsOf]) -> Table:
    """The most vulnerable person beside the most vulnerable record, and the averages."""
    rows: list[tuple[Value, ...]] = []
    for each in found:
        for fpr in each.persons.fprs:
            of_each = [side.worst(fpr) for side in (each.persons, each.records)]
            averages = [side.average(fpr) for side in (each.persons, each.records)]
            rows.append((each.persons.name, f"{fpr:g}", *of_each, *averages))
    return Table(
        "The most vulnerable person",
        (
            "",
            "FPR",
            "TPR on the worst person",
            "on the worst record",
            "on the average person",
            "on the average record",
        ),
        tuple(rows),
        "Over re-trainings, every person and every record at the FPR. A person is told from all of their records"
        " together, weighted by what each reveals; a record by itself. 95% intervals of the worst hold for all"
        f" persons, or all records, at once. extrapolated: {EXTRAPOLATED}.",
        about="How often an attacker recognises the person most at risk, and the average one, from all their records.",
    )


def ranked_table(found: PersonsOf) -> Table:
    """The persons most at risk, each beside the most vulnerable of their records."""
    persons = found.persons
    by = [f"tpr_{persons.fprs[0]:g}", "separation"]
    ranked = persons.table.sort_values(by, ascending=False, kind="stable").head(LISTED)
    rows: list[tuple[Value, ...]] = []
    for place, row in enumerate(ranked.to_dict("records"), start=1):
        pairs = [
            cell
            for fpr in persons.fprs
            for cell in (persons.at(row, fpr), _known(row, f"record_tpr_{fpr:g}"))
        ]
        rows.append((place, str(row["id"]), str(row["class_name"]), int(row["num_records"]), *pairs))
    headings = [f"{word} at FPR {fpr:g}" for fpr in persons.fprs for word in ("TPR", "best record")]
    return Table(
        f"The {len(rows)} persons most at risk: {persons.name}",
        ("rank", "person", "class", "records", *headings),
        tuple(rows),
        "Best record: TPR on the most vulnerable of the person's records by itself. Names only; contents are not in"
        " this report. Each interval is of one person by itself.",
        sortable=True,
        about="Whose membership an attacker recognises most often, over re-trainings.",
    )


def _known(row: Mapping[Any, Any], name: str) -> Measured:
    value = float(row[name])
    return Measured(None if value != value else value)


def by_number_table(found: PersonsOf) -> Table:
    """Mean TPR of persons by their number of records."""
    persons = found.persons
    rows: list[tuple[Value, ...]] = []
    number = persons.table["num_records"].clip(upper=10)
    for records, mine in persons.table.groupby(number, sort=True):
        of_number = dataclasses.replace(persons, table=mine.reset_index(drop=True))
        word = "10 or more" if records == 10 else str(records)
        rows.append((word, len(mine), *(of_number.average(fpr) for fpr in persons.fprs)))
    return Table(
        f"Vulnerability by the number of a person's records: {persons.name}",
        ("records", "persons", *(f"mean TPR at FPR {fpr:g}" for fpr in persons.fprs)),
        tuple(rows),
        about="Whether persons with more records are more at risk.",
    )


def attacks_table(
    of_records: pd.DataFrame, of_persons: pd.DataFrame, fprs: Sequence[float], title: str
) -> Table:
    """Every attack on records and on persons, one below the other."""
    both = pd.concat([of_records.assign(unit="record"), of_persons], ignore_index=True)
    both = both[both["evaluation"].isin(of_persons["evaluation"])]
    rows: list[tuple[Value, ...]] = []
    for (attack, evaluation, unit), mine in both.groupby(["attack", "evaluation", "unit"], sort=False):
        rows.append((str(attack), str(evaluation), f"{unit}s", *rates(mine, fprs)))
    order = {(row[0], row[1]): place for place, row in reversed(list(enumerate(rows)))}
    rows.sort(key=lambda row: order[row[0], row[1]])
    return Table(
        title,
        ("attack", "evaluation", "of", *rates_headings(fprs)),
        tuple(rows),
        "Attacks on persons add up what an attack says of a person's records (threshold: the mean; rmia: ranks of"
        " products of ratios); under calibrated, joint LiRA weighs the records. FPR and resolution count persons."
        f" Intervals: 95%, {INTERVALS}.",
        sortable=True,
        about="How many members each attack finds among records, and among persons.",
    )


def found_table(audit: Audit) -> Table:
    """Persons and records of this model that the best attack finds."""
    rows: list[tuple[Value, ...]] = []
    for fpr in audit.fprs:
        cells = []
        for rows_of in (audit.of_persons, audit.results):
            mine = rows_of[(rows_of["targets"] == "row 0") & (rows_of["evaluation"] == "per_target")]
            cells.append(best_of(mine[mine["fpr"] == fpr]))
        rows.append((f"FPR {fpr:g}", *cells))
    return Table(
        "Found in this model by the best of the tested attacks",
        ("", "persons", "records"),
        tuple(rows),
        "Choosing the best attack favours the attacker.",
        about="The share of the members that the best attack recognised.",
    )
