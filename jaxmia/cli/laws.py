"""`jaxmia fit` and `jaxmia predict`."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from jaxmia._validate import InputError, check_different
from jaxmia.cli import output

if TYPE_CHECKING:
    from jaxmia.laws.law import LawKey, PowerLawFit

FIT_EPILOG = "Example: `jaxmia fit sweeps/one sweeps/two --across --out laws.json`"
PREDICT_EPILOG = "Example: `jaxmia predict runs/demo --classes 10 --shots 1000 --epsilon 1`"


def fit(
    folders: Annotated[
        list[pathlib.Path],
        typer.Argument(metavar="DIR...", help="Folders of runs and sweeps, joined into one fit."),
    ],
    out: Annotated[
        pathlib.Path | None, typer.Option(metavar="FILE", help="Also write the laws as JSON.")
    ] = None,
    held_out: Annotated[
        list[str] | None,
        typer.Option(
            "--hold-out", metavar="NAME", help="A data set to leave out of the fit, and to test it on."
        ),
    ] = None,
    across: Annotated[
        bool, typer.Option("--across", help="Leave out each data set in turn, and test the fit on it.")
    ] = False,
) -> None:
    """Fit the power law to one or more folders of runs and sweeps: averages, and quantiles over records."""
    from jaxmia._atomic import check_writable, write_json
    from jaxmia.cli.tables import held_out_tables, laws_tables
    from jaxmia.studies.laws import fit_laws, laws_to_json, leave_one_dataset_out, load_rows

    if held_out and across:
        raise InputError("--hold-out and --across must not be given together.")
    if out is not None:
        check_writable(out)
    results = load_rows(folders)
    judged = leave_one_dataset_out(results, held_out) if held_out or across else None
    laws = fit_laws(results[~results["dataset"].isin(held_out or ())])
    if out is not None:
        write_json(out, laws_to_json(laws))
    output.show(*laws_tables(laws))
    if judged is not None:
        output.show(*held_out_tables(judged))


def predict(
    folder: Annotated[
        pathlib.Path, typer.Argument(metavar="[DIR]", help="A run folder; by default the working directory.")
    ] = pathlib.Path(),
    shots: Annotated[
        float | None, typer.Option(help="S, examples per class: predict what attacks find.")
    ] = None,
    epsilon: Annotated[
        list[float] | None,
        typer.Option(help="Predict the examples per class at which attacks find no more than this ε allows."),
    ] = None,
    delta: Annotated[float, typer.Option(help="Delta for --epsilon.")] = 1e-5,
    classes: Annotated[int | None, typer.Option(help="C, number of classes.")] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Use the published laws instead of a run's.")
    ] = False,
) -> None:
    """Predict from a law: vulnerability at S shots, or the shots at which attacks find no more than ε allows."""
    from jaxmia.cli.tables import prediction_tables, published_tables, required_tables
    from jaxmia.studies.folder.tables import load_json
    from jaxmia.studies.laws import laws_from_json

    check_different("epsilon", epsilon or ())
    if published:
        output.show(*published_tables())
        if shots is None and not epsilon:
            return
        laws: Mapping[LawKey, PowerLawFit] = _published_laws()
        classes = 2 if classes is None else classes  # the published lines are for two classes
    else:
        laws = laws_from_json(load_json(folder, "power_law.json"))
    if shots is None and not epsilon:
        raise InputError("--shots or --epsilon must be given, as in --shots 1000 or --epsilon 1.")
    if classes is None:
        raise InputError("--classes must be given, as in --classes 10.")
    if shots is not None:
        output.show(*prediction_tables(laws, shots=shots, classes=classes))
    if epsilon:
        output.show(*required_tables(laws, epsilons=epsilon, delta=delta, classes=classes))


def _published_laws() -> dict[LawKey, PowerLawFit]:
    """Return the published lines of the average and of the worst record, as laws."""
    from jaxmia.laws.law import LawKey, PowerLawFit
    from jaxmia.laws.published import published_lines

    lines = published_lines().lines
    return {
        LawKey(f"published {record}", "pooled"): PowerLawFit(
            tuple(line.law for line in lines if line.record == record)
        )
        for record in dict.fromkeys(line.record for line in lines)
    }
