"""`jaxmia attack`."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from jaxmia.cli import output
from jaxmia.cli.options import Fprs, ReadLimit

EPILOG = """Example: `jaxmia attack scores.npz --out audits/mine --attack lira --attack rmia --fpr 0.01`

The file holds `member` and one of `log_odds`, `logits` or `probabilities`: see docs/scores.md. With `person`, the
person of each example, attacks are on persons too. The folder gets manifest.json, results.parquet, controls.parquet,
per_example.parquet, statistics/ and plots/, and per_person.parquet. With
`--release labels --release rounded:2` it gets actors.parquet: what each actor finds, by what it sees and knows."""


def attack(
    scores: Annotated[pathlib.Path, typer.Argument(metavar="SCORES", help="An .npz of scores.")],
    out: Annotated[pathlib.Path, typer.Option(metavar="DIR", help="A new or empty folder.")],
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--attack", metavar="NAME", help="May be repeated; by default all that need only scores."
        ),
    ] = None,
    fpr: Fprs = None,
    target: Annotated[
        int | None, typer.Option(metavar="ROW", help="Report on this model; the others are its shadows.")
    ] = None,
    release: Annotated[
        list[str] | None,
        typer.Option(
            "--release",
            metavar="WHAT",
            help="What an actor sees, for a table of actors: labels, top1, rounded:2, probabilities, logits; may be"
            " repeated.",
        ),
    ] = None,
    knowledge: Annotated[
        list[str] | None,
        typer.Option(
            "--knowledge",
            metavar="WHAT",
            help="What it knows: full, population, shadows:64, or several joined by commas; may be repeated.",
        ),
    ] = None,
    read_limit: ReadLimit = None,
) -> None:
    """Run attacks on scores of models that were trained anywhere: PyTorch, TensorFlow, ..."""
    from jaxmia.audit.attack_scores import FPRS, attack_scores
    from jaxmia.cli.tables import control_lines
    from jaxmia.report import found_sentences
    from jaxmia.tables.actors import actor_tables
    from jaxmia.tables.attacks import attack_tables

    of_actors = {"release": release or (), "knowledge": knowledge or ()}
    run = attack_scores(scores, out, attack=name or (), fpr=fpr or FPRS, target=target, **of_actors)
    num_models, num_examples = run.read.member.shape
    output.show("\n".join((f"{scores}: {num_models} models, {num_examples} examples", *run.read.notes)))
    output.warn(control_lines(run.controls))
    output.show(*attack_tables(run.results))
    if len(run.actors):
        output.show(*actor_tables(run.actors))
    output.show(" ".join(found_sentences(out)), f"All files are in {out}")
