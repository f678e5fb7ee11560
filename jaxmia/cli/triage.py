"""`jaxmia triage`."""

from __future__ import annotations

import pathlib
import time
from typing import Annotated

import typer

from jaxmia.cli import output
from jaxmia.cli.options import Classes, Fprs, HessianMemory, ReadLimit, Shots, Unit, memory_budget

EPILOG = """Example: `jaxmia triage features.npz --ridge 1 --top 20 --out records.csv`

A record's D is the distance between a head's log-odds with and without it, in standard deviations over re-trainings. An
attack with the given false positive rate on that record finds it with the TPR shown. These are estimates: the mean TPR
was within 5% of that of 512 to 4 096 shadows in all comparisons at ridge 1 and 10, and within 7% at 0.001 to 0.1
(docs/frontier.md); a warning marks data outside this range."""


def triage(
    features: Annotated[
        str, typer.Argument(metavar="FEATURES", help="An .npz of features and labels, or demo.")
    ],
    ridge: Annotated[
        float, typer.Option(help="1 / C of scikit-learn's LogisticRegression, also for two classes.")
    ] = 1.0,
    inclusion_rate: Annotated[float, typer.Option(help="Share of the records that a head trains on.")] = 0.5,
    unit: Unit = "record",
    fpr: Fprs = None,
    top: Annotated[int, typer.Option(min=1, help="Records or persons to show.")] = 20,
    classes: Classes = None,
    shots: Shots = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice of these records.")] = 0,
    out: Annotated[
        pathlib.Path | None, typer.Option(metavar="FILE", help="Also write all rows, .csv or .parquet.")
    ] = None,
    memory: HessianMemory = None,
    read_limit: ReadLimit = None,
) -> None:
    """Which records or persons would a ridge head expose most? Only a few heads are trained, for the tails."""
    from jaxmia.cli.tables import triage_tables
    from jaxmia.ridge.triage import FPRS, triage_features

    clock = time.perf_counter()
    result = triage_features(
        features,
        ridge=ridge,
        inclusion_rate=inclusion_rate,
        fpr=fpr or FPRS,
        classes=classes,
        shots=shots,
        seed=seed,
        out=out,
        memory=memory_budget(memory),
        unit=unit,
    )
    output.show(*triage_tables(result.records, top=top))
    output.warn(result.found.warnings)
    seconds, persons = time.perf_counter() - clock, unit == "person"
    compared = "At ridge 1 their mean TPR was within 3% of that of 9 216 heads at FPR 0.1 and 0.01, within 6%"
    compared += " at 0.001 (docs/per_record.md)"
    if persons:
        compared = "docs/persons.md compares them with shadows"
    what = "persons" if persons else "records"
    output.show(
        f"{len(result.records)} {what} in {seconds:.1f} s. These are estimates, with shadows for the tails only."
        f" {compared}"
    )
    if out is not None:
        output.show(f"All {what} are in {out}")
