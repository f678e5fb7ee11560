"""What an extraction reads: labelled rows, whatever they come from."""

from __future__ import annotations

import dataclasses
import decimal
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from jaxmia._text import printable
from jaxmia.data.labels import TRUTH
from jaxmia.extract.images import UnusableError

Modality = Literal["image", "text", "table"]
_WHOLE = re.compile(r"-?\d+\.0+")


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of the columns of a table or a data set.

    Attributes:
        text: of the texts, if there is one of that name.
        image: of the images of a data set.
        label: of the class: a name or a whole number (also as 1.0).
        id: of what a row is called in results; without one, its number from 0.
        member: of whether a head was trained on the row (true and false, or 1 and 0); without one, it is not stated.
        person: of whose record the row is (a name or a whole number), where a person may have several.
    """

    text: str = "text"
    image: str = "image"
    label: str = "label"
    id: str | None = None
    member: str | None = None
    person: str | None = None

    def roles(self, modality: Modality) -> dict[str, str]:
        """The columns that must be there, by what they are for."""
        contents = {} if modality == "table" else {modality: getattr(self, modality)}
        named = contents | {"label": self.label, "id": self.id, "member": self.member}
        named["person"] = self.person
        return {role: name for role, name in named.items() if name is not None}


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One item without its content.

    Attributes:
        id: what it is called; never its content.
        label: name of its class.
        member: whether a head was trained on it; None if not stated.
        problem: why it cannot be used; empty if no reason is known yet.
        person: whose record it is; None if not stated.
    """

    id: str
    label: str = ""
    member: bool | None = None
    problem: str = ""
    person: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Rows, and how to get at their contents.

    Attributes:
        name: of the file, folder or data set, without its place.
        modality: "image", "text" or "table", whose rows are values by column.
        rows: in order.
        content: of the row at a place: the bytes of an image file, a text, or the whole row of a table, unchecked.
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
            if given is None or given != given or not printable(given).strip():
                raise UnusableError("missing id")
            name = printable(given)
        label = _name(record[columns.label], "label")
        member = None if columns.member is None else _truth(record[columns.member])
        person = None if columns.person is None else _name(record[columns.person], "person")
        return Row(name, label, member, person=person)
    except UnusableError as error:
        return Row(name, problem=str(error))


def _name(value: Any, what: str) -> str:
    """A name, or a whole number, whether a table has it as 1, 1.0 or "1.0"; "007" stays a name."""
    if value is None or value != value or not printable(value).strip():
        raise UnusableError(f"missing {what}")
    if isinstance(value, (float, decimal.Decimal)):
        if not math.isfinite(value) or value != int(value):
            raise UnusableError(f"{what} is a fraction")
        return str(int(value))
    if not isinstance(value, (str, bytes, int)):
        raise UnusableError(f"{what} is neither a name nor a number")
    name = printable(value)
    return str(int(name.partition(".")[0])) if _WHOLE.fullmatch(name) else name


def _truth(value: Any) -> bool:
    if value is None or value != value or not printable(value).strip():
        raise UnusableError("missing member")
    word = printable(value).strip().lower()
    if word not in TRUTH:
        raise UnusableError("member is neither true nor false")
    return TRUTH[word]
