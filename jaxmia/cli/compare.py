"""`jaxmia compare`."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from jaxmia.cli import output

EPILOG = """Example: `jaxmia compare audits/before audits/after --html change.html`

Each folder is compared with the first. With --out, the folder gets changes.parquet, records.parquet and
compare.json."""


def compare(
    folders: Annotated[
        list[pathlib.Path],
        typer.Argument(
            metavar="DIR DIR ...", help="Folders of audits, runs, sweeps or attacks; the first is earlier."
        ),
    ],
    out: Annotated[
        pathlib.Path | None, typer.Option(metavar="DIR", help="A new or empty folder for the tables.")
    ] = None,
    html: Annotated[
        pathlib.Path | None, typer.Option(metavar="FILE", help="Also write an HTML page.")
    ] = None,
) -> None:
    """Compare audits, runs or attacks: what differs, with intervals, and which records' risk rose."""
    from jaxmia.report.compare import check_page
    from jaxmia.report.compare import compare as compared

    if html is not None:
        check_page(html)
    found = compared(*folders)
    output.show(*found.tables())
    if out is not None:
        output.show(f"All files are in {found.write(out)}")
    if html is not None:
        output.show(f"Written: {found.write_page(html)}")
