"""The candidates of a cell whose members are persons: whole persons, with all their records in the chosen classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from jaxmia._validate import InputError
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.persons import grouped, main_class

SHOTS_OF = ("records", "persons")


class _Persons(NamedTuple):
    """Persons with records in the chosen classes.

    Attributes:
        rows: int64[examples], of their records in the feature set.
        whose: int64[examples], places of persons.
        records: int64[persons].
        classes: int64[persons], the class that most of a person's records are of.
    """

    rows: np.ndarray
    whose: np.ndarray
    records: np.ndarray
    classes: np.ndarray


def check_persons(data: FeatureSet, chosen: Sequence[int], *, needed: int, shots_of: str) -> None:
    """Check that each class has as many persons, or their records, as a pool needs.

    Args:
        data: the feature set.
        chosen: labels of the classes.
        needed: multiplier x shots.
        shots_of: "persons" or "records": what shots count.

    Raises:
        InputError: naming the class and its count; or a person with more records than the pool has of a class.
    """
    persons = _persons(data, chosen)
    for label in chosen:
        records = persons.records[persons.classes == label]
        number = len(records) if shots_of == "persons" else int(records.sum())
        what = "persons" if shots_of == "persons" else "records of persons"
        if number < needed:
            raise InputError(
                f"multiplier x shots = {needed} {what} are needed for each class, but most records of only"
                f" {len(records)} persons{'' if shots_of == 'persons' else f', with {number} records,'} are of class"
                f" {data.class_names[label]!r}."
            )
        if shots_of == "records" and int(records.max()) > needed:
            raise InputError(
                f"multiplier x shots = {needed} records of class {data.class_names[label]!r} must hold any one person,"
                f" but one has {int(records.max())}: give more shots, or let them count persons."
            )


def person_rows(
    data: FeatureSet,
    chosen: Sequence[int],
    *,
    needed: int,
    shots_of: str,
    key: jax.Array,
    test_per_class: int,
) -> tuple[Int[np.ndarray, "examples"], Int[np.ndarray, "test"]]:
    """Draw persons for a pool, and a test split of the records of others.

    A person is drawn for the class that most of their records are of. Of persons, `needed` are drawn for each class;
    of records, persons until the next one would exceed `needed`. With one key, a smaller pool is a part of a larger.

    Args:
        data: the feature set.
        chosen: labels of the classes, ascending.
        needed: multiplier x shots.
        shots_of: "persons" or "records".
        key: of the draw.
        test_per_class: at most this many test records of each class.

    Returns:
        Rows of the pool and of the test split in the feature set, by class.
    """
    persons = _persons(data, chosen)
    rank = np.empty(len(persons.records), np.int64)
    drawn = np.zeros(len(persons.records), bool)
    for label, of_class in _by_class(persons, chosen):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, label), of_class.size))
        rank[of_class[order]] = np.arange(of_class.size)
        size = persons.records[of_class[order]] if shots_of == "records" else np.ones(of_class.size, int)
        drawn[of_class[order]] = np.cumsum(size) <= needed
    inside, labels = drawn[persons.whose], data.labels[persons.rows]
    order = np.lexsort((persons.rows, rank[persons.whose], labels))
    pool = persons.rows[order[inside[order]]]
    order = np.lexsort((persons.rows, -rank[persons.whose], labels))
    others = order[~inside[order]]
    place = np.arange(others.size) - np.searchsorted(labels[others], labels[others])
    return pool, persons.rows[others[place < test_per_class]]


def _persons(data: FeatureSet, chosen: Sequence[int]) -> _Persons:
    if data.person is None:
        raise InputError(
            "person must be given for membership by person: a key 'person' in the file of features, whose record each"
            " example is."
        )
    rows = np.flatnonzero(np.isin(data.labels, chosen))
    _, whose, records = grouped(data.person[rows])
    return _Persons(rows, whose, records, main_class(whose, data.labels[rows]))


def _by_class(persons: _Persons, chosen: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    for label in chosen:
        yield label, np.flatnonzero(persons.classes == label)
