"""Output of commands."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable

from jaxmia import _terminal as terminal
from jaxmia.cli.rendering import rendered
from jaxmia.tables import Table


def show(*blocks: str | Table) -> None:
    """Print lines and tables on stdout."""
    terminal.console().print(*rendered(blocks))


def warn(lines: Iterable[str], *, wrap: bool = True) -> None:
    """Print warnings in yellow."""
    console = terminal.console()
    for line in lines:
        console.print(line, style="yellow", soft_wrap=not wrap)


def show_found(out: pathlib.Path, *, whole: bool = True) -> None:
    """Print what the report on a run or a sweep says was found, unless it has too few models for single records.

    If not whole, print the first sentence only.
    """
    from jaxmia.report import found_sentences
    from jaxmia.studies.folder.tables import read_tables

    if any(len(rows) for rows in read_tables(out, "per_example", ["fpr"])):
        show(" ".join(found_sentences(out)[: None if whole else 1]))


def show_done(kind: str, out: pathlib.Path, *, heads: int, cells: int) -> None:
    """Print a summary of a run or a sweep.

    Args:
        kind: "run" or "sweep".
        out: its folder.
        heads: number of heads trained by this call.
        cells: number of cells computed by this call.
    """
    if cells:
        show(f"{heads} heads trained; {cells} cells computed; all files are in {out}")
    else:
        show(f"{out} already holds all results of this {kind}: nothing to do.")
