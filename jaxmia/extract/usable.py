"""The items of an extraction that can be used: checked, listed, and their classes and labels."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
import rich.console
from jaxtyping import Float

from jaxmia._atomic import write_text
from jaxmia._progress import item_progress
from jaxmia._validate import InputError, check
from jaxmia.extract.packages import check_installed
from jaxmia.extract.rows import Source
from jaxmia.extract.screening import Screened, screen


def usable_items(rows: Source, console: rich.console.Console | None) -> Screened:
    """Find the items that can be used."""
    if rows.modality == "image":
        check_installed("PIL")
    with item_progress(console, "checking", len(rows.rows)) as advance:
        return screen(rows, advance)


def list_problems(
    out: pathlib.Path, source: Source, screened: Screened, on_error: str
) -> pathlib.Path | None:
    """Write the list of unusable items; raises InputError if on_error is "stop"."""
    path = out.with_name(f"{out.stem}-errors.csv")
    if not screened.problems:
        path.unlink(missing_ok=True)
        return None
    write_text(path, screened.table())
    if on_error == "stop":
        name, reason = screened.problems[0]
        raise InputError(
            f"{len(screened.problems)} of {len(source.rows)} items of {source.name} cannot be used; the first is"
            f" {name!r}: {reason}. {path} lists them; --on-error skip leaves them out."
        )
    return path


def labels_of(source: Source, screened: Screened) -> tuple[tuple[str, ...], np.ndarray]:
    """Return class names in label order (numbers by value), and int32 labels of the usable items."""
    given = [source.rows[place].label for place in screened.usable]
    found = set(given)
    numbers = all(name.isdecimal() for name in found)
    names = source.class_names or tuple(sorted(found, key=lambda name: (int(name) if numbers else 0, name)))
    check(len(found) >= 2, f"{source.name}: classes", sorted(found), "be at least 2")
    label_of = {name: label for label, name in enumerate(names)}
    return names, np.array([label_of[name] for name in given], np.int32)


def notes_of(source: Source, screened: Screened, more: Sequence[str]) -> list[str]:
    """Return notes of the source, further ones, and one for each class without a usable item."""
    used = {source.rows[place].label for place in screened.usable}
    lost = sorted({row.label for row in source.rows if row.label} - used)
    left = [f"No item of class {name!r} can be used." for name in lost]
    return [*source.notes, *more, *left]


def check_finite(
    features: Float[np.ndarray, "items dim"], dtype: str, source: Source, screened: Screened
) -> None:
    """Raise InputError, with the first item's id, unless all features are finite in the file's data type."""
    limit = float(np.finfo(dtype).max)
    bad = np.flatnonzero(~(np.abs(features) <= limit).all(axis=1))
    if bad.size:
        name = source.rows[screened.usable[bad[0]]].id
        raise InputError(
            f"features must be finite in {dtype}; those of {bad.size} items are not (first: {name!r})."
        )
