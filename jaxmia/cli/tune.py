"""`jaxmia tune`."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from jaxmia import _terminal as terminal
from jaxmia.cli import output
from jaxmia.cli.options import Memory, Override, ReadLimit, memory_budget

EPILOG = """Example: `jaxmia tune demo --out tuned.toml --set grid.shots=[64] --set tuning.trials=50`

A single recipe is written to [train], and the file needs no more tuning; several recipes are written as comments, and
`jaxmia run` finds them again. Needs Optuna: `pip install 'jaxmia[tune]'`."""


def tune(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A TOML file of an experiment, or a built-in one.")
    ],
    out: Annotated[pathlib.Path, typer.Option(metavar="FILE", help="The TOML file to write.")],
    override: Override = None,
    memory: Memory = None,
    read_limit: ReadLimit = None,
) -> None:
    """Search for the recipes of a grid and write an experiment file with them; no shadows are trained."""
    from jaxmia._atomic import check_writable, write_text
    from jaxmia.cli.tables import tuning_table
    from jaxmia.studies.run import tune_grid
    from jaxmia.studies.settings.toml import load_config
    from jaxmia.studies.tuning import privacy_notes, tuned_file, with_tuning

    settings = with_tuning(load_config(config, override or ()))
    budget = memory_budget(memory)
    check_writable(out)
    searches = {}
    for cell, search in tune_grid(settings, memory=budget, console=terminal.console(stderr=True)):
        searches[cell] = search
        output.show(tuning_table(str(cell), search))
    write_text(out, tuned_file(settings, searches))
    output.warn(privacy_notes(settings))
    output.show(f"Written: {out}. Run it with: jaxmia run {out} --out DIR")
