"""The command line. Heavy imports stay inside the commands, so that --help answers at once."""

from __future__ import annotations

import contextvars
import os
import pathlib
import re
import sys
from typing import Annotated

import typer

from jaxmia import _terminal as terminal
from jaxmia._text import show_in_any_encoding
from jaxmia._validate import InputError, check, check_different

app = typer.Typer(
    name="jaxmia",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Could someone tell from a released model whether a given person was in its training data?

jaxmia trains hundreds of shadow heads over frozen features side by side, attacks them, and fits the law
between vulnerability and examples per class.

Start with `jaxmia run configs/demo.toml --out runs/demo` (or `jaxmia run demo --out runs/demo` anywhere).""",
)


def _set_read_limit(value: str | None) -> None:
    from jaxmia._npz import set_read_limit

    if value is not None:
        set_read_limit(value)


ReadLimit = Annotated[
    str | None,
    typer.Option(
        "--read-limit",
        metavar="SIZE",
        help="What the arrays of one file may hold, 16GiB by default: small files can unpack to any size.",
        callback=_set_read_limit,
    ),
]
Memory = Annotated[
    str | None,
    typer.Option("--memory", metavar="SIZE", help="What training may hold on each device, as in 8GiB."),
]
Folder = Annotated[pathlib.Path, typer.Argument(metavar="DIR", help="A run folder.")]


@app.command(
    epilog="""Example: `jaxmia run configs/demo.toml --out runs/demo --set train.steps=200 --set grid.seeds=[0,1]`

The folder gets manifest.json, results.parquet, per_example.parquet, controls.parquet, power_law.json, plots/ and
checkpoints/."""
)
def run(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A TOML file, or 'demo' or 'smoke' for a built-in one.")
    ],
    out: Annotated[pathlib.Path, typer.Option(metavar="DIR", help="The run folder; what it holds is kept.")],
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, as in train.steps=200."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an unfinished run.")] = False,
    memory: Memory = None,
    read_limit: ReadLimit = None,
    coordinator: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where process 0 of several listens; 'auto' where Slurm, Open MPI or a TPU pod started them.",
        ),
    ] = None,
    processes: Annotated[int | None, typer.Option(metavar="N", help="How many there are.")] = None,
    process: Annotated[int | None, typer.Option(metavar="I", help="Which one this is, from 0.")] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Print every attack, evaluation, law and note.")
    ] = False,
) -> None:
    """Train, attack and fit over a grid of shots, classes and seeds.

    A finished run started again does nothing; given more shots, seeds, models, attacks or FPRs, it adds what
    is missing.

    Several processes, started with --coordinator and the same other arguments, share the models and the folder.
    """
    from jaxmia._buckets import keep_programs
    from jaxmia._text import parse_bytes
    from jaxmia.cli.tables import (
        brief_note,
        brief_tables,
        control_lines,
        laws_tables,
        problems,
        results_tables,
    )
    from jaxmia.studies.distributed import ProcessError, start
    from jaxmia.studies.run import run_experiment
    from jaxmia.studies.settings.toml import load_config
    from jaxmia.studies.tuning import privacy_notes

    settings = load_config(config, override or ())
    budget = None if memory is None else parse_bytes(memory)
    index = start(coordinator, processes, process)
    console = terminal.console()
    keep_programs()
    try:
        result = run_experiment(
            settings, out, resume=resume, memory=budget, console=terminal.console(stderr=True)
        )
    except ProcessError as error:
        _print_error(error)
        raise typer.Exit(1) from None
    if index > 0:
        console.print(f"process {index}: {result.heads_trained} heads trained; process 0 has the tables")
        return
    notes = problems(result.results)
    if verbose:
        console.print(*results_tables(result.results), *laws_tables(result.laws))
    else:
        console.print(*brief_tables(result.results, result.laws))
        notes = brief_note(notes)
    for line in (*control_lines(result.controls), *notes, *privacy_notes(settings)):
        console.print(line, style="yellow")
    if not verbose:
        where = f"Other attacks, evaluations and laws: --verbose; on a page: jaxmia report {out}"
        console.print(where)
    if result.cells_computed:
        console.print(
            f"{result.heads_trained} heads trained; {result.cells_computed} cells computed; all files are in {out}"
        )
    else:
        console.print(f"{out} already holds all of this run: nothing was left to do.")


@app.command(
    epilog="""Example: `jaxmia sweep configs/study_smoke.toml --out sweeps/smoke --set grid.seeds=[0,1]`

The folder gets manifest.json, results/, per_example/ and controls/ (Parquet, one file per cell), power_law.json and
studies/."""
)
def sweep(
    config: Annotated[
        str,
        typer.Argument(metavar="CONFIG", help="A TOML file of a sweep or an experiment, or a built-in one."),
    ],
    out: Annotated[
        pathlib.Path, typer.Option(metavar="DIR", help="The sweep's folder; what it holds is kept.")
    ],
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, as in recipes.adam.steps=200."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an unfinished sweep.")] = False,
    memory: Memory = None,
    read_limit: ReadLimit = None,
    executor: Annotated[
        str, typer.Option(metavar="local|ray", help="Where cells are computed: here, or as Ray tasks.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Of a running Ray cluster; without it, Ray starts here."),
    ] = None,
    cpus: Annotated[int, typer.Option(metavar="N", help="Cores of each Ray task.")] = 1,
    gpus: Annotated[
        float | None, typer.Option(metavar="X", help="GPUs of each Ray task; by default 1 if there are any.")
    ] = None,
) -> None:
    """Run a grid over feature sets, recipes, privacy levels, classes, shots and seeds.

    Cells that fail are listed, and tried again by the next call. With Ray, DIR must be on storage that all nodes see.
    """
    from jaxmia._text import parse_bytes
    from jaxmia.cli.tables import failures_table, laws_tables, sweep_tables
    from jaxmia.studies.executors import RayExecutor
    from jaxmia.studies.settings.toml import load_sweep
    from jaxmia.studies.sweep import SweepStoppedError, run_sweep
    from jaxmia.studies.tuning import privacy_notes

    settings = load_sweep(config, override or ())
    if executor != "ray" and (address, cpus, gpus) != (None, 1, None):
        raise InputError(f"executor={executor!r} must be 'ray' for --address, --cpus and --gpus.")
    console = terminal.console()
    try:
        result = run_sweep(
            settings,
            out,
            resume=resume,
            memory=None if memory is None else parse_bytes(memory),
            executor=RayExecutor(address, cpus=cpus, gpus=gpus) if executor == "ray" else executor,
            console=terminal.console(stderr=True),
        )
    except SweepStoppedError as error:
        _print_error(error)
        raise typer.Exit(1) from None
    if result.laws:
        console.print(*sweep_tables(result.results()), *laws_tables(result.laws))
    for line in privacy_notes(settings):
        console.print(line, style="yellow")
    if result.cells_computed or result.failures:
        console.print(
            f"{result.heads_trained} heads trained; {result.cells_computed} cells computed; all files are in {out}"
        )
    else:
        console.print(f"{out} already holds all of this sweep: nothing was left to do.")
    if result.failures:
        console.print(failures_table(result.failures))
        raise typer.Exit(1)


@app.command(
    epilog="""Example: `jaxmia tune demo --out tuned.toml --set grid.shots=[64] --set grid.seeds=[0]`

With one recipe the file has it in [train] and needs no more tuning; with several it has them as comments, and
`jaxmia run` finds the same ones again. Needs Optuna: `pip install 'jaxmia[tune]'`."""
)
def tune(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A TOML file of an experiment, or a built-in one.")
    ],
    out: Annotated[pathlib.Path, typer.Option(metavar="FILE", help="The TOML file to write.")],
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, as in tuning.trials=50."),
    ] = None,
    memory: Memory = None,
    read_limit: ReadLimit = None,
) -> None:
    """Search for the recipes of a grid, train nothing else, and write an experiment file."""
    from jaxmia._atomic import check_writable, write_text
    from jaxmia._text import parse_bytes
    from jaxmia.cli.tables import tuning_table
    from jaxmia.studies.run import tune_grid
    from jaxmia.studies.settings.toml import load_config
    from jaxmia.studies.tuning import privacy_notes, tuned_file, with_tuning

    settings = with_tuning(load_config(config, override or ()))
    console = terminal.console()
    budget = None if memory is None else parse_bytes(memory)
    check_writable(out)
    searches = {}
    for cell, search in tune_grid(settings, memory=budget, console=terminal.console(stderr=True)):
        searches[cell] = search
        console.print(tuning_table(str(cell), search))
    write_text(out, tuned_file(settings, searches))
    for line in privacy_notes(settings):
        console.print(line, style="yellow")
    console.print(f"Written: {out}; to be run by jaxmia run {out} --out DIR")


@app.command(
    epilog="""Example: `jaxmia attack scores.npz --out audits/mine --attack lira --attack rmia --fpr 0.01`

The file holds `member` and one of `log_odds`, `logits` or `probabilities`: see docs/scores.md. The folder gets
manifest.json, results.parquet, controls.parquet, per_example.parquet, statistics/ and plots/."""
)
def attack(
    scores: Annotated[pathlib.Path, typer.Argument(metavar="SCORES", help="An .npz of scores.")],
    out: Annotated[pathlib.Path, typer.Option(metavar="DIR", help="A new or empty folder.")],
    name: Annotated[
        list[str] | None,
        typer.Option("--attack", metavar="NAME", help="By default all that work from scores alone."),
    ] = None,
    fpr: Annotated[
        list[float] | None, typer.Option(metavar="FPR", help="By default 0.1, 0.01 and 0.001.")
    ] = None,
    target: Annotated[
        int | None, typer.Option(metavar="ROW", help="Report on this model; the others are its shadows.")
    ] = None,
    read_limit: ReadLimit = None,
) -> None:
    """Run attacks on scores of models that were trained anywhere: PyTorch, TensorFlow, ..."""
    from jaxmia.audit.attack_scores import FPRS, attack_scores
    from jaxmia.cli.tables import attack_problems, attack_tables, control_lines

    run = attack_scores(scores, out, attack=name or (), fpr=fpr or FPRS, target=target)
    console = terminal.console()
    num_models, num_examples = run.read.scores.member.shape
    console.print(f"{scores}: {num_models} models, {num_examples} examples", *run.read.notes, sep="\n")
    console.print(*attack_tables(run.results))
    for line in (*control_lines(run.controls), *attack_problems(run.results)):
        console.print(line, style="yellow")
    console.print(f"All files are in {out}")


@app.command(
    epilog="""Example: `jaxmia triage features.npz --ridge 1 --top 20 --out records.csv`

A record's D is the distance between a head's log-odds with and without it, in standard deviations over re-trainings. An
attack that allows itself a false positive rate on that record finds it with the TPR shown. Estimates: mean TPR within
5% of that of 512 to 4 096 shadows wherever the two were compared at ridge 1 and 10, within 7% at 0.001 to 0.1, see
docs/frontier.md; what lies outside is said."""
)
def triage(
    features: Annotated[
        str, typer.Argument(metavar="FEATURES", help="An .npz of features and labels, or demo.")
    ],
    ridge: Annotated[
        float, typer.Option(help="1 / C of scikit-learn's LogisticRegression, for two classes too.")
    ] = 1.0,
    inclusion_rate: Annotated[float, typer.Option(help="Share of the records that a head trains on.")] = 0.5,
    fpr: Annotated[
        list[float] | None, typer.Option(metavar="FPR", help="By default 0.1, 0.01 and 0.001.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Records to show.")] = 20,
    classes: Annotated[int | None, typer.Option(help="C: take the largest classes (with --shots).")] = None,
    shots: Annotated[int | None, typer.Option(help="S: take 2 S records of each (with --classes).")] = None,
    seed: Annotated[int, typer.Option(help="Of that choice.")] = 0,
    out: Annotated[
        pathlib.Path | None, typer.Option(metavar="FILE", help="Also write all records, .csv or .parquet.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="For the Hessian, its factor and inverse; 8GiB by default."),
    ] = None,
    read_limit: ReadLimit = None,
) -> None:
    """Which records would a ridge head give away most? In seconds; a few heads are trained for the tails alone."""
    import time

    from jaxmia._text import parse_bytes
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
        memory=None if memory is None else parse_bytes(memory),
    )
    console = terminal.console()
    console.print(*triage_tables(result.records, top=top))
    for warning in result.found.warnings:
        console.print(warning, style="yellow")
    seconds = time.perf_counter() - clock
    console.print(
        f"{len(result.records)} records in {seconds:.1f} s: estimates, without shadows but for the tails. At ridge 1"
        " their mean TPR lay within 3% of 9 216 heads' at FPR 0.1 and 0.01, within 6% at 0.001 (docs/per_record.md)",
    )
    if out is not None:
        console.print(f"All records are in {out}")


@app.command(
    epilog="""Examples: `jaxmia extract photos/ --backbone timm:resnet50 --out photos.npz`;
`jaxmia extract notes.csv --backbone sentence-transformers:all-MiniLM-L6-v2 --label-column topic --out notes.npz`

Names are looked up on a hub; folders and files of weights need none. A killed extraction continues when it is started
again. Needs the extra: `pip install 'jaxmia[extract]'`."""
)
def extract(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder with a sub-folder of images per class; a .csv, .parquet or .jsonl of texts; or a data set of"
            " Hugging Face: a saved folder, or datasets:NAME_OR_FOLDER.",
        ),
    ],
    backbone: Annotated[
        str,
        typer.Option(
            metavar="KIND:NAME",
            help="timm:, sentence-transformers: or transformers:, and a name or a folder.",
        ),
    ],
    out: Annotated[pathlib.Path, typer.Option(metavar="FILE", help="The .npz to write.")],
    weights: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="FILE", help="A .safetensors, .pth or .pt for timm:NAME; tensors alone are read."
        ),
    ] = None,
    text_column: Annotated[str, typer.Option(metavar="NAME", help="Of the texts.")] = "text",
    image_column: Annotated[str, typer.Option(metavar="NAME", help="Of a data set's images.")] = "image",
    label_column: Annotated[str, typer.Option(metavar="NAME", help="Of the classes.")] = "label",
    id_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of what rows are called; else their numbers from 0.")
    ] = None,
    member_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of whether a head was trained on the row; for jaxmia audit."),
    ] = None,
    split: Annotated[str | None, typer.Option(metavar="NAME", help="Of a data set that has several.")] = None,
    subset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of a data set that has several.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(metavar="N", help="timm: pixels of a side; by default the network's own.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(metavar="X[,X,X]", help="timm: subtracted from pixels in 0 .. 1.")
    ] = None,
    std: Annotated[str | None, typer.Option(metavar="X[,X,X]", help="timm: divided by thereafter.")] = None,
    crop_pct: Annotated[
        float | None, typer.Option(metavar="X", help="timm: share of the side that the central crop keeps.")
    ] = None,
    interpolation: Annotated[
        str | None, typer.Option(metavar="NAME", help="timm: nearest, bilinear, bicubic or lanczos.")
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Items that the network sees at once.")] = 64,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="Of torch; 'auto' is a GPU if there is one.")
    ] = "auto",
    dtype: Annotated[
        str, typer.Option(metavar="float32|float16", help="Of the features in the file.")
    ] = "float32",
    on_error: Annotated[
        str,
        typer.Option(
            metavar="stop|skip", help="If items cannot be used; they are listed in FILE-errors.csv."
        ),
    ] = "stop",
) -> None:
    """Turn images or texts into features of a frozen pretrained network: the .npz that all else takes.

    Everything is checked before a network is loaded. The file records network, hash of its weights, preprocessing and
    versions, and has names of items, never their contents.
    """
    from jaxmia.extract import Columns, ImageOptions, extract_features, parse_numbers

    done = extract_features(
        source,
        backbone,
        out,
        weights=weights,
        columns=Columns(text_column, image_column, label_column, id_column, member_column),
        split=split,
        subset=subset,
        images=ImageOptions(
            image_size, parse_numbers("mean", mean), parse_numbers("std", std), crop_pct, interpolation
        ),
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        on_error=on_error,
        console=terminal.console(stderr=True),
    )
    console = terminal.console()
    for line in done.provenance["notes"]:
        console.print(line, style="yellow", soft_wrap=True)
    for line in done.summary():
        console.print(line, soft_wrap=True)


@app.command(
    epilog="""Example: `jaxmia audit --init audit.toml`, fill it in, then `jaxmia audit audit.toml --out audits/mine`

The folder gets audit.json, records.parquet (ids and numbers, never contents), attack/ and shadows/. A killed audit
continues when it is started again."""
)
def audit(
    config: Annotated[
        pathlib.Path | None, typer.Argument(metavar="CONFIG", help="A TOML file, as --init writes it.")
    ] = None,
    out: Annotated[pathlib.Path | None, typer.Option(metavar="DIR", help="The audit's folder.")] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting.")
    ] = None,
    init: Annotated[
        pathlib.Path | None, typer.Option(metavar="FILE", help="Write a commented file to fill in, and end.")
    ] = None,
    features: Annotated[
        pathlib.Path | None,
        typer.Option(metavar="NPZ", help="With --init: the records, for FPRs that they can resolve."),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Go on where head and records do not go together; the results say so."),
    ] = False,
    memory: Memory = None,
    read_limit: ReadLimit = None,
) -> None:
    """Audit one head that is to be released, trained by jaxmia or anything else: who can be told from it?

    Shadows trained like it on other parts of the same records attack the given head; the average over
    re-trainings tells which records are most at risk.
    """
    from jaxmia.audit.records import proposed_fprs
    from jaxmia.audit.settings import load_audit, write_template

    console = terminal.console()
    if init is not None:
        if config is not None or out is not None:
            raise InputError("--init must be given alone, or with --features.")
        fprs, note = proposed_fprs(features) if features is not None else ((), "")
        write_template(init, features=features, fprs=fprs, note=note)
        console.print(f"{init} is written: fill it in, then `jaxmia audit {init} --out DIR`.")
        return
    if config is None or out is None:
        raise InputError("CONFIG and --out must be given, or --init FILE to begin with.")
    check(features is None, "--features", str(features), "be given with --init; data.features is the audit's")
    from jaxmia._text import parse_bytes
    from jaxmia.audit.run import run_audit
    from jaxmia.cli.tables import attack_problems, audit_tables, control_lines

    result = run_audit(
        load_audit(config, tuple(override or ())),
        out,
        force=force,
        memory=None if memory is None else parse_bytes(memory),
        console=terminal.console(stderr=True),
    )
    if result.void:
        console.print("VOID: the head does not fit these records.", style="bold red")
        for line in result.void:
            console.print(line, style="red")
    console.print(
        *audit_tables(result.attack.results, result.records, result.match.head, result.match.shadows)
    )
    for line in result.notes:
        console.print(line)
    lines = (
        *control_lines(result.attack.controls),
        *attack_problems(result.attack.results),
        *result.warnings,
    )
    for line in lines:
        console.print(line, style="yellow")
    console.print(f"All files are in {out}")


@app.command(
    epilog="""Example: `jaxmia report audits/mine --study runs/mine`

The page needs no network, follows light and dark, and prints; the JSON beside it has the same content."""
)
def report(
    folder: Annotated[
        pathlib.Path, typer.Argument(metavar="DIR", help="The folder of an audit, a run or a sweep.")
    ],
    out: Annotated[
        pathlib.Path | None,
        typer.Option(metavar="FILE", help="The .html file; by default DIR/report.html."),
    ] = None,
    study: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="DIR",
            help="For an audit: a run or a sweep over the same records, for its law and what privacy costs.",
        ),
    ] = None,
    context: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="FILE",
            help="A TOML file with a table [context], as audit --init writes it; by default the audit's own.",
        ),
    ] = None,
) -> None:
    """Write the report that a data protection officer can file: what was tested, what could be seen, what was seen."""
    from jaxmia.report import write_report

    page, data = write_report(folder, out, study=study, context=context)
    terminal.console().print(f"Written: {page} and {data}")


@app.command()
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
            "--hold-out", metavar="NAME", help="A data set to leave out of the fit, and judge it on."
        ),
    ] = None,
    across: Annotated[
        bool, typer.Option("--across", help="Leave out each data set in turn, and judge the fit on it.")
    ] = False,
) -> None:
    """Fit the power law to one or more folders of runs and sweeps: averages, and quantiles over records."""
    from jaxmia._atomic import check_writable, write_json
    from jaxmia.cli.tables import elsewhere_tables, laws_tables
    from jaxmia.studies.laws import fit_laws, laws_elsewhere, laws_to_json, load_rows

    if held_out and across:
        raise InputError("--hold-out and --across must not be given together.")
    if out is not None:
        check_writable(out)
    results = load_rows(folders)
    console = terminal.console()
    judged = laws_elsewhere(results, held_out) if held_out or across else None
    laws = fit_laws(results[~results["dataset"].isin(held_out or ())])
    if out is not None:
        write_json(out, laws_to_json(laws))
    console.print(*laws_tables(laws))
    if judged is not None:
        console.print(*elsewhere_tables(judged))


@app.command()
def predict(
    folder: Annotated[
        pathlib.Path, typer.Argument(metavar="[DIR]", help="A run folder; by default the present folder.")
    ] = pathlib.Path(),
    shots: Annotated[
        float | None, typer.Option(help="S, examples per class: what would attacks find?")
    ] = None,
    epsilon: Annotated[
        list[float] | None,
        typer.Option(help="How many examples per class until attacks find no more than this ε lets them?"),
    ] = None,
    delta: Annotated[float, typer.Option(help="Of --epsilon.")] = 1e-5,
    classes: Annotated[int | None, typer.Option(help="C, number of classes.")] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Use the published laws instead of a run's.")
    ] = False,
) -> None:
    """Predict from a law: vulnerability at S shots, or the shots at which attacks find no more than ε lets them."""
    from jaxmia.cli.tables import prediction_tables, published_tables, required_tables
    from jaxmia.laws.fit import LawOf, PowerLawFit
    from jaxmia.laws.published import published_lines
    from jaxmia.studies.folder.tables import load_json
    from jaxmia.studies.laws import laws_from_json

    check_different("epsilon", epsilon or ())
    console = terminal.console()
    if published:
        console.print(*published_tables())
        if shots is None and not epsilon:
            return
        lines = published_lines().lines
        laws = {
            LawOf(f"published {record}", "pooled"): PowerLawFit(
                tuple(line.law for line in lines if line.record == record)
            )
            for record in dict.fromkeys(line.record for line in lines)
        }
    else:
        laws = laws_from_json(load_json(folder, "power_law.json"))
    if shots is None and not epsilon:
        raise InputError("--shots or --epsilon must be given, as in --shots 1000 or --epsilon 1.")
    if classes is None:
        if not published:
            raise InputError("--classes must be given, as in --classes 10.")
        classes = 2  # where the published lines hold
    if shots is not None:
        console.print(*prediction_tables(laws, shots=shots, classes=classes))
    if epsilon:
        console.print(*required_tables(laws, epsilons=epsilon, delta=delta, classes=classes))


@app.command(
    epilog="""Example: `jaxmia dp --epsilon 1 --delta 1e-5 --shots 100 --classes 10 --steps 200 --batch full`

Epsilons are those of the mechanism on paper. JAX's generators are not cryptographic: what is trained with them
simulates private training, and must not be released as private."""
)
def dp(
    steps: Annotated[int, typer.Option(help="T, steps of DP-SGD.")],
    epsilon: Annotated[float | None, typer.Option(help="Target; the noise is searched. 'inf': none.")] = None,
    noise_multiplier: Annotated[
        float | None, typer.Option(help="Noise over clipping norm; epsilon is computed.")
    ] = None,
    delta: Annotated[float, typer.Option(help="Of the guarantee.")] = 1e-5,
    batch: Annotated[
        str,
        typer.Option(metavar="full|N", help="Full batch, or expected members in a Poisson-sampled batch."),
    ] = "full",
    shots: Annotated[int | None, typer.Option(help="S, examples per class; needed by --batch N.")] = None,
    classes: Annotated[int | None, typer.Option(help="C, number of classes; needed by --batch N.")] = None,
    design: Annotated[
        str, typer.Option(help="bernoulli (adjacency: add or remove one) or fixed_size (replace one).")
    ] = "bernoulli",
    fpr: Annotated[list[float] | None, typer.Option(help="FPRs of the ceilings; may be repeated.")] = None,
) -> None:
    """Noise for a target epsilon, or epsilon of a noise multiplier, and the ceilings on any attack."""
    from jaxmia.cli.tables import privacy_tables
    from jaxmia.privacy.accounting import PrivacySpec, adjacency_for, delta_notes, sampling_rate_of

    check_different("fpr", fpr or ())
    spec = PrivacySpec(epsilon=epsilon, noise_multiplier=noise_multiplier, delta=delta)
    guarantee = spec.guarantee(
        sampling_rate=sampling_rate_of(batch, shots=shots, classes=classes),
        steps=steps,
        adjacency=adjacency_for(design),
    )
    console = terminal.console()
    console.print(*privacy_tables(guarantee, fpr or (0.1, 0.01, 0.001)))
    if shots is not None and classes is not None:
        for line in delta_notes(delta, shots * classes):
            console.print(line, style="yellow")


def main() -> None:
    """Run the command line; wrong input ends with one line on stderr and exit code 2."""
    show_in_any_encoding()
    sys.argv[1:] = [re.sub(r"^(--[a-z-]+=)?~(?=/|$)", _at_home, word) for word in sys.argv[1:]]
    try:
        contextvars.copy_context().run(app)  # a limit that an option sets ends with the command
    except InputError as error:
        _print_error(error)
        sys.exit(2)
    except BrokenPipeError:  # `jaxmia ... | head`: whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _print_error(_os_line(error))
        sys.exit(2)
    except Exception as error:
        line = _memory_line(error) or _missing_device()
        if not line:
            raise
        _print_error(line)
        sys.exit(2)


def _memory_line(error: Exception) -> str:
    """What was too large, if an error is of memory: NumPy's, or that of a device."""
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error):
        first = str(error).partition("\n")[0][:160].rstrip(".")
        what = first or "for an array"
        return f"not enough memory ({what}): --memory SIZE bounds what is held, where a command has it."
    return ""


def _missing_device() -> str:
    """Why JAX has no device, if JAX_PLATFORMS asks for one that is not there; JAX itself says it in many ways."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    if not asked or "jax" not in sys.modules:
        return ""
    try:
        sys.modules["jax"].devices()
    except Exception as error:
        first = str(error).partition("\n")[0].rstrip(".") or "JAX finds no device"
        return f"{first}. JAX_PLATFORMS={asked!r} asks for it: JAX_PLATFORMS=cpu, or unset, does without."
    return ""


def _at_home(match: re.Match[str]) -> str:
    """The home folder, where a shell has left ~ as it stands: in --out=~/mine."""
    return (match[1] or "") + os.path.expanduser("~")


def _os_line(error: OSError) -> str:
    """What the operating system refused, in one line."""
    reason = error.strerror or str(error) or type(error).__name__
    place = "" if error.filename is None else f"{error.filename}: "
    return f"{place}{reason[0].lower()}{reason[1:]}."


def _print_error(error: object) -> None:
    terminal.console(stderr=True).print(f"error: {error}", style="red", soft_wrap=True)


if __name__ == "__main__":
    main()
