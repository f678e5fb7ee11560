"""`jaxmia sweep`."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from jaxmia import _terminal as terminal
from jaxmia._validate import InputError
from jaxmia.cli import output
from jaxmia.cli.errors import print_error
from jaxmia.cli.options import Memory, Override, ReadLimit, Resume, memory_budget

EPILOG = """Example: `jaxmia sweep configs/study_smoke.toml --out sweeps/smoke --set grid.seeds=[0,1] --set
recipes.adam.steps=30`

The folder gets manifest.json, results/, per_example/ and controls/ (Parquet, one file per cell), power_law.json and
studies/."""


def sweep(
    config: Annotated[
        str,
        typer.Argument(metavar="CONFIG", help="A TOML file of a sweep or an experiment, or a built-in one."),
    ],
    out: Annotated[
        pathlib.Path, typer.Option(metavar="DIR", help="The sweep's folder; files already in it are kept.")
    ],
    override: Override = None,
    resume: Resume = False,
    memory: Memory = None,
    read_limit: ReadLimit = None,
    executor: Annotated[
        str, typer.Option(metavar="local|ray", help="Compute cells in this process, or as Ray tasks.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Address of a running Ray cluster; by default Ray starts here."),
    ] = None,
    cpus: Annotated[int, typer.Option(metavar="N", help="Cores for each Ray task.")] = 1,
    gpus: Annotated[
        float | None,
        typer.Option(metavar="X", help="GPUs for each Ray task; by default 1 if there are any."),
    ] = None,
) -> None:
    """Run a grid over feature sets, recipes, privacy levels, classes, shots and seeds.

    Failed cells are listed, and the next call tries them again. With Ray, DIR must be on storage that all nodes share.
    """
    from jaxmia.cli.tables import failures_table, laws_tables, sweep_tables
    from jaxmia.studies.executors import RayExecutor
    from jaxmia.studies.settings.toml import load_sweep
    from jaxmia.studies.sweep import SweepStoppedError, run_sweep
    from jaxmia.studies.tuning import privacy_notes

    settings = load_sweep(config, override or ())
    if executor != "ray" and (address, cpus, gpus) != (None, 1, None):
        raise InputError(f"executor={executor!r} must be 'ray' for --address, --cpus and --gpus.")
    try:
        result = run_sweep(
            settings,
            out,
            resume=resume,
            memory=memory_budget(memory),
            executor=RayExecutor(address, cpus=cpus, gpus=gpus) if executor == "ray" else executor,
            console=terminal.console(stderr=True),
        )
    except SweepStoppedError as error:
        print_error(error)
        raise typer.Exit(1) from None
    if result.laws:
        output.show(*sweep_tables(result.results()), *laws_tables(result.laws))
    output.warn(privacy_notes(settings))
    if result.failures:
        output.show(
            f"{result.heads_trained} heads trained; {result.cells_computed} cells computed; all files are in {out}",
            failures_table(result.failures),
        )
        raise typer.Exit(1)
    output.show_found(result.path)
    output.show_done("sweep", out, heads=result.heads_trained, cells=result.cells_computed)
