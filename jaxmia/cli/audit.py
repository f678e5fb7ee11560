"""`jaxmia audit`."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Annotated

import typer

from jaxmia import _terminal as terminal
from jaxmia._validate import InputError, check
from jaxmia.cli import output
from jaxmia.cli.options import Memory, Override, ReadLimit, memory_budget

if TYPE_CHECKING:
    from jaxmia.audit.result import AuditResult

EPILOG = """Example: `jaxmia audit --init audit.toml`, fill it in, then `jaxmia audit audit.toml --out audits/mine`

The folder gets audit.json, records.parquet (ids and numbers, never contents), attack/ and shadows/, and by person
persons.parquet. A killed audit continues when it is started again."""


def audit(
    config: Annotated[
        pathlib.Path | None, typer.Argument(metavar="CONFIG", help="A TOML file, as --init writes it.")
    ] = None,
    out: Annotated[pathlib.Path | None, typer.Option(metavar="DIR", help="The audit's folder.")] = None,
    override: Override = None,
    init: Annotated[
        pathlib.Path | None, typer.Option(metavar="FILE", help="Write a commented file to fill in, and exit.")
    ] = None,
    features: Annotated[
        pathlib.Path | None,
        typer.Option(metavar="NPZ", help="With --init: the records, to propose FPRs that they can resolve."),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Continue although the head does not fit the records; the results say so."
        ),
    ] = False,
    memory: Memory = None,
    read_limit: ReadLimit = None,
) -> None:
    """Audit one head before its release, trained by jaxmia or anything else: whose membership does it reveal?

    Shadows with the head's recipe are trained on other subsets of the same records, to attack the head. Averages over
    re-trainings show which records are most at risk.
    """
    if init is not None:
        if config is not None or out is not None:
            raise InputError("--init must be given alone, or with --features.")
        _write_template(init, features)
        return
    if config is None or out is None:
        raise InputError("CONFIG and --out must be given, or --init FILE to begin with.")
    check(features is None, "--features", str(features), "be given with --init; data.features is the audit's")
    from jaxmia.audit.run import run_audit
    from jaxmia.audit.settings import load_audit
    from jaxmia.report import found_sentences

    result = run_audit(
        load_audit(config, tuple(override or ())),
        out,
        force=force,
        memory=memory_budget(memory),
        console=terminal.console(stderr=True),
    )
    _show_result(result)
    output.show(" ".join(found_sentences(out)), f"All files are in {out}")


def _write_template(path: pathlib.Path, features: pathlib.Path | None) -> None:
    from jaxmia.audit.records import proposed_fprs
    from jaxmia.audit.settings import write_template
    from jaxmia.data.feature_set import load_features

    fprs, note = proposed_fprs(features) if features is not None else ((), "")
    by_person = features is not None and load_features(features).person is not None
    write_template(path, features=features, fprs=fprs, note=note, by_person=by_person)
    output.show(f"{path} is written: fill it in, then `jaxmia audit {path} --out DIR`.")


def _show_result(result: AuditResult) -> None:
    """Print whether the audit is void, its tables, and what a reader of them must know."""
    from jaxmia.cli.tables import audit_tables, control_lines, persons_tables
    from jaxmia.tables.actors import actor_tables

    console = terminal.console()
    if result.void:
        console.print("VOID: the head does not fit these records.", style="bold red")
        for line in result.void:
            console.print(line, style="red")
    attacked, match = result.attack, result.match
    output.warn((*control_lines(attacked.controls), *result.warnings))
    output.show(*audit_tables(attacked.results, result.records, match.head, match.shadows))
    if len(attacked.actors):
        output.show(*actor_tables(attacked.actors))
    if result.persons is not None:
        output.show(*persons_tables(result.persons))
    for line in result.notes:
        output.show(line)
