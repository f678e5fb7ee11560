"""What an extraction reads: labelled rows, whatever they come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from jaxmia.extract.images import UnusableError

Modality = Literal["image", "text"]
_TRUTH = {"1": True, "true": True, "0": False, "false": False}


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of the columns of a table or a data set.

    Attributes:
        text: of the texts, if there is one of that name.
        image: of the images of a data set.
        label: of the class: a name or a whole number.
        id: of what a row is called in results; without one, its number from 0.
        member: of whether a head was trained on the row (true and false, or 1 and 0); without one, nothing is said.
    """

    text: str = "text"
    image: str = "image"
    label: str = "label"
    id: str | None = None
    member: str | None = None

    def roles(self, modality: Modality) -> dict[str, str]:
        """The columns that must be there, by what they are for."""
        named = {modality: getattr(self, modality), "label": self.label, "id": self.id, "member": self.member}
        return {role: name for role, name in named.items() if name is not None}


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One item without its content.

    Attributes:
        id: what it is called; never its content.
        label: name of its class.
        member: whether a head was trained on it; None if no one says.
        problem: why it cannot be used; empty if nothing is known against it yet.
    """

    id: str
    label: str = ""
    member: bool | None = None
    problem: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Rows, and how to get at their contents.

    Attributes:
        name: of the file, folder or data set, without its place.
        modality: "image" or "text".
        rows: in order.
        content: of the row at a place: the bytes of an image file, or a text; whatever stands there, checked by no one.
        columns: what was read from which column, if it has any.
        class_names: in the order of labels, if the source has one.
        notes: for the reader of the results.
    """

    name: str
    modality: Modality
    rows: tuple[Row, ...]
    content: Callable[[int], Any]
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def row_of(number: int, record: Mapping[str, Any], columns: Columns) -> Row:
    """The row of a record; what is wrong with it is its problem."""
    name = str(number)
    try:
        if columns.id is not None:
            given = record[columns.id]
            if given is None or not str(given).strip():
                raise UnusableError("missing id")
            name = str(given)
        label = _class_name(record[columns.label])
        member = None if columns.member is None else _truth(record[columns.member])
        return Row(name, label, member)
    except UnusableError as error:
        return Row(name, problem=str(error))


def _class_name(value: Any) -> str:
    if value is None or value != value or not str(value).strip():
        raise UnusableError("missing label")
    if isinstance(value, float):
        if not value.is_integer():
            raise UnusableError("label is a fraction")
        return str(int(value))
    if not isinstance(value, (str, int)):
        raise UnusableError("label is neither a name nor a number")
    return str(value)


def _truth(value: Any) -> bool:
    if value is None or value != value or not str(value).strip():
        raise UnusableError("missing member")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    word = str(value).strip().lower()
    if word not in _TRUTH:
        raise UnusableError("member is neither true nor false")
    return _TRUTH[word]
