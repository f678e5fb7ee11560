"""`jaxmia report`."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from jaxmia.cli import output

EPILOG = """Example: `jaxmia report audits/mine --study runs/mine`

The page needs no network, follows light and dark, and prints; the JSON beside it has the same content, and a CSV the
ids of the 50 records most at risk."""


def report(
    folder: Annotated[
        pathlib.Path, typer.Argument(metavar="DIR", help="The folder of an audit, a run, a sweep or attacks.")
    ],
    out: Annotated[
        pathlib.Path | None,
        typer.Option(metavar="FILE", help="The .html file; by default DIR/report.html."),
    ] = None,
    study: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="DIR",
            help="For an audit: a run or a sweep over the same records, for its law and for the cost of privacy.",
        ),
    ] = None,
    context: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="FILE",
            help="A TOML file with a table [context], as audit --init writes it; by default the audit's own.",
        ),
    ] = None,
    advice: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="DIR", help="A folder of jaxmia advise over the same records, for what would lower it."
        ),
    ] = None,
    no_ids: Annotated[
        bool, typer.Option("--no-ids", help="Name no record in page, JSON and PDF; the CSV does.")
    ] = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="Write a PDF too; needs jaxmia[pdf].")] = False,
) -> None:
    """Write a report for a data protection officer: what was tested, what the tests can detect, and the results."""
    from jaxmia.report import write_report

    page, data = write_report(
        folder, out, study=study, context=context, show_ids=not no_ids, pdf=pdf, advice=advice
    )
    written = [page, data, page.with_suffix(".csv"), *([page.with_suffix(".pdf")] if pdf else [])]
    output.show(f"Written: {', '.join(map(str, written[:-1]))} and {written[-1]}")
