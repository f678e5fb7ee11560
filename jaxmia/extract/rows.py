"""The input of an extraction: labelled rows of any source."""

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
        text: column of texts, if there is one of that name.
        image: column of a data set's images.
        label: column of the class: a name or a whole number (also as 1.0).
        id: column of ids; without one, rows are numbered from 0.
        member: column that says whether a head was trained on the row (true and false, or 1 and 0); None if not stated.
        person: of whose record the row is (a name or a whole number), where a person may have several.
    """

    text: str = "text"
    image: str = "image"
    label: str = "label"
    id: str | None = None
    member: str | None = None
    person: str | None = None

    def roles(self, modality: Modality) -> dict[str, str]:
        """Return the required columns by role."""
        contents = {} if modality == "table" else {modality: getattr(self, modality)}
        named = contents | {"label": self.label, "id": self.id, "member": self.member}
        named["person"] = self.person
        return {role: name for role, name in named.items() if name is not None}


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One item without its content.

    Attributes:
        id: id of the item; never its content.
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
    """Rows, and access to their contents.

    Attributes:
        name: name of the file, folder or data set, without its path.
        modality: "image", "text" or "table", whose rows are values by column.
        rows: the rows, in order.
        content: function from an index to the row's content: the bytes of an image file, a text, or the whole row of a
            table, unchecked.
        columns: the columns that were read, by role, if any.
        class_names: class names in the order of labels, if the source has an order.
        notes: notes for readers of the results.
    """

    name: str
    modality: Modality
    rows: tuple[Row, ...]
    content: Callable[[int], Any]
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def row_of(number: int, record: Mapping[str, Any], columns: Columns) -> Row:
    """Return the row of a record; its `problem` says what is wrong with it."""
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
    """Return a class name: a string, or a whole number given as 1, 1.0 or "1.0"; "007" stays a string."""
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
