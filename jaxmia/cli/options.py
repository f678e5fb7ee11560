"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from jaxmia._text import parse_bytes


def _set_read_limit(value: str | None) -> None:
    from jaxmia._npz import set_read_limit

    if value is not None:
        set_read_limit(value)


ReadLimit = Annotated[
    str | None,
    typer.Option(
        "--read-limit",
        metavar="SIZE",
        help="Largest size of the arrays of one input file; 16GiB by default. A small file can unpack to any size.",
        callback=_set_read_limit,
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory", metavar="SIZE", help="Largest size that training holds on each device, as in 8GiB."
    ),
]
Override = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a setting, as in train.steps=200; may be repeated."
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an unfinished run or sweep.")]
Classes = Annotated[int | None, typer.Option(help="C: take the largest classes (with --shots).")]
Shots = Annotated[int | None, typer.Option(help="S: take 2 S records of each (with --classes).")]
Unit = Annotated[
    str,
    typer.Option(
        help="record, or person: all of a person's records are then members together, and --shots counts persons."
    ),
]
HessianMemory = Annotated[
    str | None,
    typer.Option(
        "--memory", metavar="SIZE", help="For the Hessian, its factor and inverse; 8GiB by default."
    ),
]
Fprs = Annotated[
    list[float] | None,
    typer.Option(
        "--fpr", metavar="FPR", help="False positive rate, may be repeated; 0.1, 0.01 and 0.001 by default."
    ),
]


def memory_budget(memory: str | None) -> int | None:
    """Return the bytes of --memory, or None if it was not given."""
    return None if memory is None else parse_bytes(memory)
