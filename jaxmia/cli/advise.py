"""`jaxmia advise`."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from jaxmia.cli import output
from jaxmia.cli.options import Classes, HessianMemory, ReadLimit, Shots, Unit, memory_budget

EPILOG = """Example: `jaxmia advise features.npz --fpr 0.01 --max-tpr 0.1 --out advice`

Each option is estimated for a ridge head (scikit-learn's LogisticRegression with C = 1 / ridge) that trains on a random
half of the records. docs/advise.md compares the estimates with shadow heads. The limit holds for the most vulnerable
record. An option is within it if the whole interval is."""


def advise(
    features: Annotated[
        str, typer.Argument(metavar="FEATURES", help="An .npz of features and labels, or demo.")
    ],
    fpr: Annotated[float, typer.Option(help="False positive rate of every record or person.")] = 0.01,
    unit: Unit = "record",
    max_tpr: Annotated[float, typer.Option(help="The limit for every record's or person's TPR.")] = 0.1,
    release: Annotated[
        str, typer.Option(help="What an attacker sees: labels, probabilities or weights.")
    ] = "probabilities",
    ridge: Annotated[float, typer.Option(help="Ridge of the given head: 1 / C of scikit-learn's.")] = 1.0,
    epsilon: Annotated[
        list[float] | None,
        typer.Option(help="Epsilon of private heads, may be repeated; 1, 2, 4, 8 by default."),
    ] = None,
    delta: Annotated[float, typer.Option(help="Delta of private heads.")] = 1e-5,
    leave_out: Annotated[
        list[float] | None,
        typer.Option(help="Shares of the most vulnerable records or persons; .01, .05, .1, .2 by default."),
    ] = None,
    confirm: Annotated[
        int, typer.Option(help="Number of shadow heads to measure the recommended option with; 0 for none.")
    ] = 0,
    classes: Classes = None,
    shots: Shots = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice of records and of the few heads.")] = 0,
    out: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep options here (advice.csv, advice.png); a stopped run continues from them.",
        ),
    ] = None,
    memory: HessianMemory = None,
    read_limit: ReadLimit = None,
) -> None:
    """What would make this head safe enough, and what would it cost in accuracy?"""
    from jaxmia._atomic import check_writable
    from jaxmia._terminal import console
    from jaxmia.advice.advise import advise as ask
    from jaxmia.advice.settings import EPSILONS, LEAVE_OUT, AdviceSettings
    from jaxmia.cli.tables import advice_tables
    from jaxmia.data.activations import check_no_folder
    from jaxmia.data.feature_set import load_features
    from jaxmia.data.pool import some_records
    from jaxmia.ridge.triage import ids_of

    settings = AdviceSettings(
        fpr=fpr,
        max_tpr=max_tpr,
        release=release,
        unit=unit,
        ridge=ridge,
        epsilons=EPSILONS if epsilon is None else epsilon,
        delta=delta,
        leave_out=LEAVE_OUT if leave_out is None else leave_out,
        confirm=confirm,
        seed=seed,
        memory=memory_budget(memory),
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        check_writable(out / "advice.csv")
    check_no_folder(features, "advise")
    data = load_features(features)
    ids = ids_of(features, data)
    data, rows = some_records(data, classes=classes, shots=shots, key=seed, unit=unit)
    found = ask(data, settings, ids=ids[rows], out=out, console=console(stderr=True))
    output.show(*advice_tables(found))
    output.warn(found.warnings)
    output.show(f"Advice: {found.headline()}.")
    if out is not None:
        found.save(out)
        output.show(f"All options are in {out / 'advice.csv'}, drawn in {out / 'advice.png'}")
