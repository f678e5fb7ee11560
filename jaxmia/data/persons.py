"""Check the person of each example, and count and group the records of persons."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxmia._text import printable
from jaxmia._validate import InputError, check

UNITS = ("record", "person")
"""What membership is drawn of, and what attacks tell."""
_NO_NAMES = ("nan", "NaN", "NaT", "None", "<NA>")  # what missing values become as text


def checked_persons(person: np.ndarray, examples: int) -> np.ndarray:
    """Return persons as an array of integers or strings.

    Raises:
        InputError: unless there is one for each example, none of them missing.
    """
    person = np.asarray(person)
    check(
        person.shape == (examples,), "person.shape", person.shape, f"be ({examples},), one for each example"
    )
    if person.dtype.kind in "Of":
        missing = [value is None or value != value for value in person.tolist()]
        if any(missing):
            raise InputError(
                f"person[{missing.index(True)}] is missing, and {sum(missing) - 1} more: every example must have a"
                " person."
            )
    if person.dtype.kind == "O":
        whole = all(isinstance(value, (int, np.integer)) for value in person.tolist())
        person = person.astype(np.int64 if whole else str)
    check(person.dtype.kind in "iuUS", "person.dtype", str(person.dtype), "be integers or strings")
    if person.dtype.kind == "S":
        person = np.array([printable(name) for name in person.tolist()], dtype=str)
    if person.dtype.kind == "U":
        person = np.char.strip(person)
        empty = np.flatnonzero(np.char.str_len(person) == 0)
        if empty.size:
            raise InputError(
                f"person[{empty[0]}] is empty, and {empty.size - 1} more: every example must have a person."
            )
        none = np.flatnonzero(np.isin(person, _NO_NAMES))
        if none.size:
            raise InputError(
                f"person[{none[0]}]={str(person[none[0]])!r} is what a missing value becomes as text, and so are"
                f" {none.size - 1} more: every example must have a person."
            )
    return person


class PersonCounts(NamedTuple):
    """How the records of a set are spread over persons.

    Attributes:
        persons: how many there are.
        records: all their records.
        single: persons with one record.
        in_several_classes: persons with records in more than one class.
        most: the largest number of records of one person.
    """

    persons: int
    records: int
    single: int
    in_several_classes: int
    most: int

    def __str__(self) -> str:
        """In a sentence without its full stop."""
        return (
            f"{self.records} records of {self.persons} persons: {self.single} with one record, the most"
            f" {self.most}, {self.in_several_classes} in several classes"
        )


def count_persons(person: np.ndarray, labels: np.ndarray) -> PersonCounts:
    """Count persons and how their records are spread.

    Args:
        person: [examples], as checked_persons returns it.
        labels: int[examples], classes.
    """
    whose, records = grouped(person)[1:]
    pairs = np.unique(np.stack([whose, np.asarray(labels, np.int64)]), axis=1)
    classes = np.bincount(pairs[0], minlength=len(records))
    return PersonCounts(
        len(records),
        len(whose),
        int(np.count_nonzero(records == 1)),
        int(np.count_nonzero(classes > 1)),
        int(records.max()),
    )


def grouped(person: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the persons ascending by name, the place among them of each example, and their numbers of records."""
    names, whose = np.unique(person, return_inverse=True)
    return names, whose, np.bincount(whose)


def main_class(whose: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the class that most of each person's records are of, the first of several: int64[persons].

    Args:
        whose: int[examples], places of persons from 0, none of them without a record.
        labels: int[examples], classes.
    """
    classes = int(labels.max()) + 1
    pairs, numbers = np.unique(whose.astype(np.int64) * classes + labels, return_counts=True)
    order = np.lexsort((pairs % classes, -numbers, pairs // classes))
    first = np.unique((pairs // classes)[order], return_index=True)[1]
    return (pairs % classes)[order][first]


def split_persons(person: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Return the names of persons with some records that are members and others that are not.

    Args:
        person: [examples], as checked_persons returns it.
        member: bool[examples].
    """
    names, whose, records = grouped(person)
    inside = np.bincount(whose, weights=member)
    return np.asarray(names[(inside > 0) & (inside < records)])
