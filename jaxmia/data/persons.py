"""Check the person of each example."""

from __future__ import annotations

import numpy as np

from jaxmia._validate import InputError, check


def checked_persons(person: np.ndarray, examples: int) -> np.ndarray:
    """Return persons as an array of integers or strings.

    Raises:
        InputError: unless there is one for each example, none of them missing.
    """
    person = np.asarray(person)
    check(
        person.shape == (examples,), "person.shape", person.shape, f"be ({examples},), one for each example"
    )
    if person.dtype.kind == "O":
        missing = [value is None or value != value for value in person]
        if any(missing):
            raise InputError(f"person[{missing.index(True)}] is missing: every example must have a person.")
        person = person.astype(str)
    check(person.dtype.kind in "iuUS", "person.dtype", str(person.dtype), "be integers or strings")
    if person.dtype.kind in "US":
        empty = np.flatnonzero(np.char.str_len(np.char.strip(person)) == 0)
        if empty.size:
            raise InputError(f"person[{empty[0]}] is empty: every example must have a person.")
    return person
