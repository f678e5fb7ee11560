"""The table of actors of a folder, in full and in short."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from jaxmia.report.content import Block
from jaxmia.report.subjects import OfAttack, OfAudit, Subject
from jaxmia.studies.folder.tables import has_table, load_table
from jaxmia.tables.actors import actor_tables, cell_tables, short_table


def rows_of(about: Subject) -> pd.DataFrame | None:
    """Return the rows of actors of a folder, of a study those of its largest cells; None if it has none."""
    if isinstance(about, OfAttack):
        folder = about.attack.path
    else:
        folder = about.audit.path / "attack" if isinstance(about, OfAudit) else about.study.path
    if not has_table(folder, "actors"):
        return None
    rows = load_table(folder, "actors")
    return rows if isinstance(about, OfAttack | OfAudit) else about.study.largest(rows)


def in_short(about: Subject) -> Iterator[Block]:
    """Yield one table of all actors at the lowest FPR that is resolved, for the first page; nothing without actors."""
    rows = rows_of(about)
    table = None if rows is None else short_table(rows)
    if table is not None:
        yield table


def in_full(about: Subject) -> list[Block] | None:
    """Return the tables of all actors at all FPRs; None without actors."""
    rows = rows_of(about)
    if rows is None:
        return None
    return list(cell_tables(rows) if "shots" in rows else actor_tables(rows))
