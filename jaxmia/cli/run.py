"""`jaxmia run`."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from jaxmia import _terminal as terminal
from jaxmia.cli import output
from jaxmia.cli.clock import Clock, profiled
from jaxmia.cli.errors import print_error
from jaxmia.cli.options import Memory, Override, ReadLimit, Resume, memory_budget

if TYPE_CHECKING:
    from jaxmia.studies.run import RunResult

EPILOG = """Example: `jaxmia run configs/demo.toml --out runs/demo --set train.steps=200 --set grid.seeds=[0,1]`

The folder gets manifest.json, results.parquet, per_example.parquet, controls.parquet, power_law.json, plots/ and
checkpoints/."""


def run(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A TOML file, or 'demo' or 'smoke' for a built-in one.")
    ],
    out: Annotated[
        pathlib.Path, typer.Option(metavar="DIR", help="The run folder; files already in it are kept.")
    ],
    override: Override = None,
    resume: Resume = False,
    memory: Memory = None,
    read_limit: ReadLimit = None,
    coordinator: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="For a run by several processes: the address at which process 0 listens; 'auto' if Slurm, Open MPI or"
            " a TPU pod started them.",
        ),
    ] = None,
    processes: Annotated[int | None, typer.Option(metavar="N", help="Number of processes.")] = None,
    process: Annotated[int | None, typer.Option(metavar="I", help="Index of this process, from 0.")] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Print every attack, evaluation, law and note.")
    ] = False,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="Print where the time went, and write DIR/profile.pstats (cProfile's) of this call.",
        ),
    ] = False,
) -> None:
    """Train, attack and fit over a grid of shots, classes and seeds.

    A finished run started again does nothing; with more shots, seeds, models, attacks or FPRs it computes only what is
    missing.

    Several processes, started with --coordinator and otherwise the same arguments, share the models and the folder.
    """
    from jaxmia._buckets import keep_programs
    from jaxmia.studies.distributed import ProcessError, start
    from jaxmia.studies.run import run_experiment
    from jaxmia.studies.settings.toml import load_config
    from jaxmia.studies.tuning import privacy_notes

    settings = load_config(config, override or ())
    budget = memory_budget(memory)
    index = start(coordinator, processes, process)
    keep_programs()
    try:
        with profiled(out if profile and index == 0 else None) as clock:
            result = run_experiment(
                settings, out, resume=resume, memory=budget, console=terminal.console(stderr=True)
            )
    except ProcessError as error:
        print_error(error)
        raise typer.Exit(1) from None
    if index > 0:
        output.show(f"process {index}: {result.heads_trained} heads trained; process 0 has the tables")
        return
    _show_result(result, verbose=verbose, notes=privacy_notes(settings))
    output.show_found(result.path, whole=verbose)
    if profile:
        _show_times(result, clock)
    if not verbose:
        output.show(f"More: --verbose; as a page: jaxmia report {out}")
    output.show_done("run", out, heads=result.heads_trained, cells=result.cells_computed)


def _show_times(result: RunResult, clock: Clock) -> None:
    """Print where the time of all cells went, and the rest of this call's if it computed all of them."""
    from jaxmia.cli.tables import times_tables
    from jaxmia.studies.folder.tables import load_json

    cells = load_json(result.path, "manifest.json")["cells"]
    output.show(*times_tables(cells, clock.seconds if result.cells_computed == len(cells) else None))


def _show_result(result: RunResult, *, verbose: bool, notes: Iterable[str]) -> None:
    """Print tables, the negative control, and warnings."""
    from jaxmia.cli.tables import (
        brief_note,
        brief_tables,
        control_lines,
        diverged,
        laws_tables,
        results_tables,
    )
    from jaxmia.studies.folder.tables import has_table, load_table
    from jaxmia.tables.actors import cell_tables

    lines = diverged(result.results)
    if verbose:
        output.show(*results_tables(result.results), *laws_tables(result.laws))
    else:
        output.show(*brief_tables(result.results, result.laws))
        lines = brief_note(lines)
    if has_table(result.path, "actors"):
        output.show(*cell_tables(load_table(result.path, "actors")))
    output.warn((*control_lines(result.controls), *lines, *notes))
