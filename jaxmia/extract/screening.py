"""Check every item before a network is loaded, so that all unusable items are listed first."""

from __future__ import annotations

import collections
import csv
import dataclasses
import hashlib
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from jaxmia.extract.images import UnusableError, decode
from jaxmia.extract.rows import Source

_CHUNK = 256  # items in flight


@dataclasses.dataclass(frozen=True)
class Screened:
    """The result of checking a source's items.

    Attributes:
        usable: places of the rows that can be used.
        problems: ids of the others and why, in order.
        content_hash: SHA-256 over ids, classes, membership, contents and persons of what can be used.
    """

    usable: tuple[int, ...]
    problems: tuple[tuple[str, str], ...]
    content_hash: str

    def counts(self) -> dict[str, int]:
        """Return the number of items with each problem; details in parentheses are left out."""
        kinds = collections.Counter(reason.partition(" (")[0] for _, reason in self.problems)
        return dict(sorted(kinds.items()))

    def table(self) -> str:
        """Return a CSV of ids and reasons."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", "reason"])
        writer.writerows(self.problems)
        return text.getvalue()


def screen(source: Source, advance: Callable[[int], None]) -> Screened:
    """Read and check all contents once: images must decode, texts must not be empty; tables are checked later.

    Args:
        source: the rows.
        advance: called with the number of rows just checked.
    """
    usable: list[int] = []
    problems: list[tuple[str, str]] = []
    seen: set[str] = set()
    digest = hashlib.sha256()
    with ThreadPoolExecutor() as pool:
        for first in range(0, len(source.rows), _CHUNK):
            places = range(first, min(first + _CHUNK, len(source.rows)))
            for place, (problem, content_hash) in zip(
                places, pool.map(lambda place: _examine(source, place), places), strict=True
            ):
                row = source.rows[place]
                if not problem and row.id in seen:
                    problem = "duplicate id"
                if problem:
                    problems.append((row.id, problem))
                    continue
                seen.add(row.id)
                usable.append(place)
                whose = () if row.person is None else (row.person,)
                digest.update(repr((row.id, row.label, row.member, content_hash, *whose)).encode())
            advance(len(places))
    return Screened(tuple(usable), tuple(problems), digest.hexdigest())


def _examine(source: Source, place: int) -> tuple[str, str]:
    """Return an item's problem, and the hash of its content."""
    row = source.rows[place]
    if row.problem:
        return row.problem, ""
    try:
        content = source.content(place)
        if content is None:
            raise UnusableError(f"missing {source.modality}")
        if source.modality == "image":
            decode(content)
            return "", hashlib.sha256(content).hexdigest()
        if source.modality == "table":
            return "", hashlib.sha256(repr(content).encode("utf-8", "surrogatepass")).hexdigest()
        if not isinstance(content, str):
            raise UnusableError("text is no string")
        if not content.strip():
            raise UnusableError("empty text")
        return "", hashlib.sha256(content.encode()).hexdigest()
    except UnusableError as error:
        return str(error), ""
    except UnicodeEncodeError:
        return "text is not Unicode", ""
    except OSError as error:
        return f"unreadable file ({error.strerror})", ""
