"""Convert labels, memberships and ids of any type to the arrays that jaxmia uses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from jaxmia._text import printable
from jaxmia._validate import InputError, check, listed, shown

TRUTH = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


def class_places(
    labels: np.ndarray, class_names: Sequence[str] | None, num_examples: int
) -> tuple[Int[np.ndarray, "examples"], tuple[str, ...]]:
    """Return each example's class as an index into the class names, and these names.

    Args:
        labels: [examples]: whole numbers, strings or bools.
        class_names: if given, labels are indices into them (integers) or names (strings); if not, the distinct labels
            are the classes, in sorted order.
        num_examples: required length of labels.

    Raises:
        InputError: for another shape or type, duplicate names, or labels without a name.
    """
    _check_shape(labels, num_examples)
    values = label_values(labels)
    if class_names is None:
        present, places = np.unique(values, return_inverse=True)
        return places.astype(np.int32), tuple(map(str, present.tolist()))
    names = tuple(printable(name) for name in class_names)
    twice = (
        next((name for name in names if names.count(name) > 1), None)
        if len(set(names)) < len(names)
        else None
    )
    if twice is not None:
        raise InputError(f"class_names must differ, but {shown(twice)} is given {names.count(twice)} times.")
    if values.dtype.kind == "U":
        return _places_of_names(values, names), names
    wrong = np.flatnonzero((values < 0) | (values >= len(names)))
    if wrong.size:
        raise InputError(
            f"labels must lie in 0..{len(names) - 1} (one per class name), got {wrong.size} outside (first: row"
            f" {wrong[0]} has {values[wrong[0]]}).{_shifted(values, len(names))}"
        )
    return values.astype(np.int32), names


def _check_shape(labels: np.ndarray, num_examples: int) -> None:
    advice = ""
    if labels.ndim == 2 and len(labels) == num_examples:
        advice = "labels.ravel()" if labels.shape[1] == 1 else "labels.argmax(axis=1), if they are one-hot"
        advice = f": give {advice}"
    check(
        labels.shape == (num_examples,),
        "labels.shape",
        labels.shape,
        f"be [{num_examples}], one per example{advice}",
    )


def label_values(labels: np.ndarray) -> np.ndarray:
    """Return labels as integers or strings.

    Raises:
        InputError: for values that are neither whole numbers nor strings nor bools.
    """
    if labels.dtype.kind in "iu":
        return labels
    if labels.dtype.kind == "b":
        return labels.astype(str)
    if labels.dtype.kind in "US":
        return _texts(labels)
    if labels.dtype.kind == "O" and all(isinstance(label, (str, bytes)) for label in labels):
        return _texts(labels)
    if labels.dtype.kind == "f":
        return _whole(labels)
    raise InputError(
        f"labels.dtype={str(labels.dtype)!r} must be whole numbers or strings: labels as integers, with class_names if"
        " you like."
    )


def _whole(labels: np.ndarray) -> np.ndarray:
    wrong = np.flatnonzero(~np.isfinite(labels) | (labels != np.rint(labels)) | (np.abs(labels) >= 2**53))
    if wrong.size:
        raise InputError(
            f"labels must be whole numbers or strings, got {wrong.size} that are none (first: row {wrong[0]} has"
            f" {labels[wrong[0]]}): give integers, with class_names if you like."
        )
    return labels.astype(np.int64)


def _texts(labels: np.ndarray) -> np.ndarray:
    values = np.array([printable(label) for label in labels.tolist()], dtype=str)
    missing = np.flatnonzero(np.char.str_len(values) == 0)
    check(missing.size == 0, "labels that are empty", missing.size, "be 0: every record has a class")
    return values


def _places_of_names(values: np.ndarray, names: tuple[str, ...]) -> Int[np.ndarray, "examples"]:
    place_of = {name: place for place, name in enumerate(names)}
    unknown = sorted(set(values.tolist()) - place_of.keys())
    if unknown:
        raise InputError(
            f"labels={shown(unknown[0])} must be among class_names: {listed(names)}"
            f" ({len(unknown)} labels are not); or leave class_names out."
        )
    return np.array([place_of[value] for value in values.tolist()], np.int32)


def _shifted(values: np.ndarray, classes: int) -> str:
    """Return a hint for labels that start at 1, or that have as many distinct values as there are classes."""
    if int(values.min()) == 1 and int(values.max()) == classes:
        return " Labels from 1: give labels - 1."
    if len(np.unique(values)) == classes:
        return " For names in the order of the values: give np.unique(labels, return_inverse=True)[1]."
    return " Or leave class_names out: the values that occur are the classes."


def truth(member: np.ndarray, name: str, num_examples: int) -> Bool[np.ndarray, "examples"]:
    """Return membership as bool, from bools, from 0 and 1 as integers or floats, or from "true" and "false".

    Raises:
        InputError: for another shape or other values.
    """
    rule = f"be {(num_examples,)}, one for each record"
    check(member.shape == (num_examples,), f"{name}.shape", member.shape, rule)
    if member.dtype.kind == "b":
        return member
    present = np.unique(member) if member.dtype.kind in "iufUS" else np.array(["?"])
    words = {value: printable(value).strip().lower() for value in present.tolist()}
    wrong = [value for value, word in words.items() if word not in TRUTH]
    if wrong:
        raise InputError(
            f"{name} must be bool, or 0 and 1, got {listed(map(shown, wrong[:4]))} ({member.dtype}):"
            " true where the head was trained on the record."
        )
    return np.array([TRUTH[words[value]] for value in member.tolist()], bool)


def record_ids(ids: np.ndarray | None, num_examples: int) -> np.ndarray:
    """Return names of the records as strings without control characters; their row numbers if ids is None.

    Raises:
        InputError: for another shape.
    """
    if ids is None:
        return np.arange(num_examples)
    check(ids.shape == (num_examples,), "ids.shape", ids.shape, f"be {(num_examples,)}, one for each record")
    return np.array([printable(value) for value in ids.tolist()], dtype=str)
