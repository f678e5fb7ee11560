"""`jaxmia dp`."""

from __future__ import annotations

from typing import Annotated

import typer

from jaxmia import _terminal as terminal
from jaxmia._validate import InputError, check, check_choice, check_different
from jaxmia.cli import output
from jaxmia.cli.options import Fprs

EPILOG = """Example: `jaxmia dp --epsilon 1 --delta 1e-5 --shots 100 --classes 10 --steps 200 --batch full`

`jaxmia dp --epsilon 1 --unit person --records-per-person 5 --steps 200` compares clipping by person with clipping by
record and what group privacy leaves of it.

`jaxmia dp --recommend --shots 32 --classes 10 --epsilon 1 --public public.npz` chooses a private recipe by rehearsing
on public features of other classes, and spends no privacy; without them, --dim 384 and an assumed signal decide.

Epsilons are those of the mathematical mechanism. JAX's generators are not cryptographic: models trained with them
simulate private training, and must not be released as private."""


def dp(
    steps: Annotated[int | None, typer.Option(help="T, steps of DP-SGD; not with --recommend.")] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Target epsilon, for which to calibrate the noise; 'inf' for none.")
    ] = None,
    noise_multiplier: Annotated[
        float | None, typer.Option(help="Noise over clipping norm, for which to compute epsilon.")
    ] = None,
    delta: Annotated[float, typer.Option(help="Delta of the guarantee.")] = 1e-5,
    batch: Annotated[
        str,
        typer.Option(metavar="full|N", help="Full batch, or expected size of a Poisson-sampled batch."),
    ] = "full",
    shots: Annotated[int | None, typer.Option(help="S, examples per class; needed by --batch N.")] = None,
    classes: Annotated[int | None, typer.Option(help="C, number of classes; needed by --batch N.")] = None,
    design: Annotated[
        str, typer.Option(help="bernoulli (adjacency: add or remove one) or fixed_size (replace one).")
    ] = "bernoulli",
    unit: Annotated[
        str,
        typer.Option(metavar="record|person", help="Whom it protects; person: all records of one together."),
    ] = "record",
    records_per_person: Annotated[
        int | None,
        typer.Option(
            metavar="K", help="With --unit person: the most records of one, to compare clipping by record."
        ),
    ] = None,
    fpr: Fprs = None,
    recommend: Annotated[
        bool,
        typer.Option(
            "--recommend", help="Choose recipe, steps, rate, clip and dimension from public quantities alone."
        ),
    ] = False,
    public: Annotated[
        str | None,
        typer.Option(
            metavar="NPZ", help="With --recommend: public features of other classes to rehearse on."
        ),
    ] = None,
    dim: Annotated[
        int | None, typer.Option(help="With --recommend, without --public: dimension of the features.")
    ] = None,
) -> None:
    """Compute the noise for a target epsilon, or epsilon of a noise multiplier, and the ceilings on any attack."""
    from jaxmia.cli.tables import person_table, privacy_tables
    from jaxmia.privacy.accounting import adjacency_for, delta_notes, sampling_rate_of
    from jaxmia.privacy.guarantee import PrivacySpec

    check_different("fpr", fpr or ())
    if recommend:
        _recommend(epsilon, delta, shots, classes, design, steps, public, dim)
        return
    for name, value in (("public", public), ("dim", dim)):
        check(value is None, name, value, "be left out without --recommend")
    if steps is None:
        raise InputError("steps=None must be given: T, steps of DP-SGD (or --recommend).")
    check_choice("unit", unit, ("record", "person"))
    rule = "be left out for --unit record"
    check(unit == "person" or records_per_person is None, "records_per_person", records_per_person, rule)
    spec = PrivacySpec(epsilon=epsilon, noise_multiplier=noise_multiplier, delta=delta)
    guarantee = spec.guarantee(
        sampling_rate=sampling_rate_of(batch, shots=shots, classes=classes),
        steps=steps,
        adjacency=adjacency_for(design),
        unit=unit,
    )
    fprs = fpr or (0.1, 0.01, 0.001)
    of_persons = [] if records_per_person is None else [person_table(guarantee, records_per_person, fprs)]
    output.show(*privacy_tables(guarantee, fprs), *of_persons)
    if shots is not None and classes is not None:
        output.warn(delta_notes(delta, shots * classes))


def _recommend(
    epsilon: float | None,
    delta: float,
    shots: int | None,
    classes: int | None,
    design: str,
    steps: int | None,
    public: str | None,
    dim: int | None,
) -> None:
    """Recommend a private recipe, and show it as settings of an experiment."""
    from jaxmia._progress import item_progress
    from jaxmia.cli.tables import recommendation_tables, recommended_settings
    from jaxmia.data.feature_set import load_features
    from jaxmia.privacy.accounting import adjacency_for
    from jaxmia.private.recommend import Target, recommend, rehearsals

    if epsilon is None or shots is None or classes is None:
        raise InputError("--recommend needs --epsilon, --shots and --classes.")
    check(steps is None, "steps", steps, "be left out: --recommend chooses it")
    rule = "be given by one of --public and --dim"
    check((public is None) != (dim is None), "dimension of the features", dim, rule)
    features = None if public is None else load_features(public)
    size = features.features.shape[1] if features is not None else int(dim or 0)
    check(size >= 1, "dim", dim, "be at least 1")
    target = Target(classes, shots, epsilon, delta, adjacency_for(design))
    console = terminal.console(stderr=True) if features is not None else None
    with item_progress(console, "rehearsing", rehearsals(size)) as advance:
        found = recommend(target, public=features, dim=size, on_work=advance)
    output.show(*recommendation_tables(target, found))
    output.show(recommended_settings(found, public))
