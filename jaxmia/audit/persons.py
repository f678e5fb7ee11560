"""Persons in attacks on scores and in audits: whose members are split, and the rows of persons."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxmia._validate import InputError
from jaxmia.attacks.by_person import attack_persons, calibrated_persons
from jaxmia.audit.records import AuditRecords
from jaxmia.audit.rows import by_vulnerability
from jaxmia.audit.settings import AuditConfig
from jaxmia.data.person_table import persons_of
from jaxmia.data.persons import grouped, split_persons
from jaxmia.scores import Scores
from jaxmia.scores.external import ExternalScores
from jaxmia.stats.calls import call_members, conformal_p_values
from jaxmia.stats.p_values import calibrated_p_values
from jaxmia.stats.result import AttackResult
from jaxmia.studies.unit_rows import per_person_rows, rates_by_fpr


class PersonsRead(NamedTuple):
    """Scores of the persons that attacks can be run on.

    Attributes:
        scores: log_odds and member [models, kept].
        person: [kept], the person of each.
        kept: bool[examples], False for records of persons that are split between members and non-members.
        note: how many persons were left out, or empty.
    """

    scores: Scores
    person: np.ndarray
    kept: np.ndarray
    note: str

    def of_records(self, result: AttackResult) -> AttackResult:
        """Return what an attack says of the records that are kept."""
        if self.kept.all():
            return result
        arrays: dict[str, Any] = {
            name: np.asarray(getattr(result, name))[:, self.kept]
            for name in ("statistic", "member", "defined")
        }
        return dataclasses.replace(result, **arrays)


def persons_read(read: ExternalScores) -> PersonsRead | None:
    """Return what attacks on persons see of scores; None if nobody said whose the records are.

    Persons with some records in the training set of the model under audit and others out of it are neither members nor
    non-members of it: they are left out, with a note.

    Raises:
        InputError: if persons are split under another model, or no person is left.
    """
    if read.person is None:
        return None
    kept, note = np.ones(len(read.person), bool), ""
    if read.target is not None:
        split = split_persons(read.person, np.asarray(read.member)[read.target])
        if len(split):
            kept, note = ~np.isin(read.person, split), split_note(len(split), len(np.unique(read.person)))
        if not kept.any():
            raise InputError(f"{note} No person is left.")
    member = np.asarray(read.member)[:, kept]
    return PersonsRead(Scores(np.asarray(read.log_odds)[:, kept], member), read.person[kept], kept, note)


def split_note(number: int, persons: int) -> str:
    """Say how many persons are split between members and non-members of the head under audit."""
    return (
        f"{number} of {persons} persons have some records among the members and others among the non-members: they are"
        " left out of attacks on persons, where a person is a member with all records or with none."
    )


def check_persons(config: AuditConfig, records: AuditRecords) -> None:
    """Raise InputError for an audit by person of records of which nobody said whose they are."""
    if config.by_person and records.data.person is None:
        raise InputError(
            f"membership.unit='person' needs to know whose each record is: {config.data.features} must hold the key"
            " 'person', [records], integers or strings."
        )


def warnings_of_persons(config: AuditConfig, records: AuditRecords) -> Iterator[str]:
    """Warn of persons who are split, of an audit by record of persons with several, and of a guarantee per record."""
    if records.data.person is None:
        return
    counts = persons_under_head(records)
    several = counts["persons"] - counts["single"]
    if counts["split"] and config.by_person:
        yield split_note(counts["split"], counts["persons"])
    if several and not config.by_person:
        yield (
            f"{several} of {counts['persons']} persons have several records, and the audit is by record: what is told"
            ' of a person from all of them together is more. [membership] unit = "person" audits persons.'
        )
    if config.by_person and config.context.epsilon:
        yield (
            f"The head is stated to have {config.context.guarantee}, which bounds what is told of one record. Of a"
            " person with several it bounds what group privacy leaves."
        )


def persons_under_head(records: AuditRecords) -> dict[str, Any]:
    """Return how many persons an audit's records are of, and how many of them the head was trained on: for audit.json.

    Args:
        records: with data.person.
    """
    person = records.data.person
    assert person is not None
    _, whose, number = grouped(person)
    inside = np.bincount(whose, weights=records.member, minlength=len(number))
    return {
        "persons": len(number),
        "trained_on": int(np.count_nonzero(inside)),
        "split": int(np.count_nonzero((inside > 0) & (inside < number))),
        "single": int(np.count_nonzero(number == 1)),
        "most": int(number.max()),
    }


def person_rows(
    records: AuditRecords, stacked: Scores, of_records: pd.DataFrame, fprs: Sequence[float], *, fdr: float
) -> pd.DataFrame:
    """Return one row per person, the most vulnerable over re-trainings first.

    Columns: person, num_records, class_name (of most records), num_classes; trained_on, the number of their records
    that the head was trained on; member (missing where it was trained on some of them); z and p_value of the given head
    by joint LiRA, and called, by ranks of the sums of ratios among known non-members at a false discovery rate of fdr;
    tpr_FPR and so on over re-trainings, and record_tpr_FPR, the largest of their records each by itself.

    Args:
        records: of an audit by person.
        stacked: scores of the head, row 0, and its shadows.
        of_records: jaxmia.audit.rows.record_rows in the order of records.
        fprs: fractions.
        fdr: false discovery rate of the calls.
    """
    person = records.data.person
    assert person is not None
    names, whose, number = grouped(person)
    inside = np.bincount(whose, weights=records.member, minlength=len(number)).astype(np.int64)
    table = persons_of(person, records.data.labels, records.data.class_names)
    table["trained_on"] = inside
    table["member"] = pd.array(inside > 0, dtype="boolean")
    table.loc[(inside > 0) & (inside < number), "member"] = pd.NA
    read = persons_read(ExternalScores(stacked.log_odds, stacked.member, target=0, person=person))
    assert read is not None
    here = np.isin(names, read.person)
    table.loc[here, ["z", "p_value"]] = _under_head(read)
    called = _called(read, fdr)
    if called is not None:
        table["called"] = pd.array(np.zeros(len(names), bool), dtype="boolean")
        table.loc[here, "called"] = called
    shadows = Scores(np.asarray(stacked.log_odds)[1:], np.asarray(stacked.member)[1:])
    over = per_person_rows(shadows, person, fprs, table, inclusion_rate=records.inclusion_rate)
    first = over[over["fpr"] == fprs[0]].reset_index(drop=True)
    table = pd.concat([table, rates_by_fpr(over, fprs)], axis=1)
    table["separation"], table["separation_error"] = first["separation"], first["separation_error"]
    for fpr in fprs:
        own = of_records[f"tpr_{fpr:g}"].to_numpy(float)
        largest = np.full(len(names), -np.inf)
        np.maximum.at(largest, whose, np.nan_to_num(own, nan=-np.inf))
        table[f"record_tpr_{fpr:g}"] = np.where(np.isfinite(largest), largest, np.nan)
    return by_vulnerability(table, fprs)


def _under_head(read: PersonsRead) -> np.ndarray:
    """Return joint LiRA's z and p-value [persons, 2] of the head, row 0; NaN where it cannot be had."""
    z_form = calibrated_persons("lira", read.scores, read.person)
    if z_form is None:
        return np.full((len(np.unique(read.person)), 2), np.nan)
    return np.stack([z_form.statistic[0], calibrated_p_values(z_form)[0]], axis=1)


def _called(read: PersonsRead, fdr: float) -> np.ndarray | None:
    """Return which persons are called members of the head, row 0; None without known non-members."""
    ratio = attack_persons("lira", read.scores, read.person)
    own, member = ratio.statistic[0], ratio.member[0]
    if member.all():
        return None
    return np.asarray(call_members(conformal_p_values(own, own[~member]), fdr))
