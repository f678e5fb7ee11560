"""`jaxmia extract`."""

from __future__ import annotations

import pathlib
from typing import Annotated, Any

import typer

from jaxmia import _terminal as terminal
from jaxmia._validate import check
from jaxmia.cli import output

EPILOG = """Examples: `jaxmia extract photos/ --backbone timm:resnet50 --out photos.npz`;
`jaxmia extract notes.csv --backbone sentence-transformers:all-MiniLM-L6-v2 --label-column topic --out notes.npz`;
`jaxmia extract visits.csv --backbone tabular --label-column outcome --drop name --out visits.npz`

For adapters (FiLM, LoRA, last blocks) inside the network: `jaxmia extract notes.csv --backbone
sentence-transformers:FOLDER --activations 5 --out notes`.

Names are looked up on a hub; folders and files of weights need none. A killed extraction continues when it is started
again. Needs the extra: `pip install 'jaxmia[extract]'`; tables `pip install 'jaxmia[audit]'`."""

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder with a sub-folder of images per class; a .csv, .parquet or .jsonl of texts; or a data set of"
        " Hugging Face: a saved folder, or datasets:NAME_OR_FOLDER.",
    ),
]
Network = Annotated[
    str,
    typer.Option(
        metavar="KIND:NAME",
        help="timm:, sentence-transformers: or transformers:, and a name or a folder; or tabular, for a"
        " table without a network (tabular:FILE.skops uses a fitted transformer).",
    ),
]
Weights = Annotated[
    pathlib.Path | None,
    typer.Option(metavar="FILE", help="A .safetensors, .pth or .pt for timm:NAME; only tensors are read."),
]
TextColumn = Annotated[str, typer.Option(metavar="NAME", help="Column of the texts.")]
ImageColumn = Annotated[str, typer.Option(metavar="NAME", help="Column of a data set's images.")]
LabelColumn = Annotated[str, typer.Option(metavar="NAME", help="Column of the classes.")]
IdColumn = Annotated[
    str | None, typer.Option(metavar="NAME", help="Column of ids; by default rows are numbered from 0.")
]
MemberColumn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Column that says whether a head was trained on the row; for jaxmia audit."
    ),
]
PersonColumn = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Column that says whose record the row is; for audits by person."),
]
PersonFolders = Annotated[
    bool,
    typer.Option(
        "--person-folders", help="Images lie in CLASS/PERSON/: folders in those of classes are persons."
    ),
]
Drop = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="tabular: a column to leave out; may be repeated.")
]
Categories = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="tabular: a column whose numbers are names; may be repeated."),
]
Fourier = Annotated[
    int, typer.Option(metavar="D", help="tabular: random Fourier features; 0 for the columns themselves.")
]
Seed = Annotated[int, typer.Option(metavar="N", help="tabular: seed of the random Fourier features.")]
SaveTransformer = Annotated[
    pathlib.Path | None,
    typer.Option(metavar="FILE", help="tabular: write the fitted scikit-learn transformer, a .skops."),
]
Split = Annotated[str | None, typer.Option(metavar="NAME", help="Split of a data set that has several.")]
Subset = Annotated[str | None, typer.Option(metavar="NAME", help="Subset of a data set that has several.")]
ImageSize = Annotated[
    int | None, typer.Option(metavar="N", help="timm: pixels of a side; by default the network's own.")
]
Mean = Annotated[str | None, typer.Option(metavar="X[,X,X]", help="timm: subtracted from pixels in 0 .. 1.")]
Std = Annotated[str | None, typer.Option(metavar="X[,X,X]", help="timm: pixels are then divided by it.")]
CropPct = Annotated[
    float | None, typer.Option(metavar="X", help="timm: share of the side that the central crop keeps.")
]
Interpolation = Annotated[
    str | None, typer.Option(metavar="NAME", help="timm: nearest, bilinear, bicubic or lanczos.")
]
BatchSize = Annotated[int, typer.Option(metavar="N", help="Items in a batch of the network.")]
Device = Annotated[
    str, typer.Option(metavar="NAME", help="PyTorch's device; 'auto' takes a GPU if there is one.")
]
Dtype = Annotated[str, typer.Option(metavar="float32|float16", help="Data type of the features in the file.")]
OnError = Annotated[
    str,
    typer.Option(
        metavar="stop|skip", help="What to do about items that cannot be read; FILE-errors.csv lists them."
    ),
]


Activations = Annotated[
    int | None,
    typer.Option(
        metavar="K",
        help="For adapters: write a folder with the inputs of block K, counted from 0, and the weights from there on;"
        " 0 is full depth. SOURCE may then be an .npz with raw, token ids.",
    ),
]
Tokens = Annotated[
    int | None,
    typer.Option(metavar="N", help="With --activations: longest text in tokens; longer ones are cut."),
]


def extract(
    source: Source,
    backbone: Network,
    out: Annotated[
        pathlib.Path, typer.Option(metavar="FILE", help="The .npz to write; with --activations a folder.")
    ],
    weights: Weights = None,
    text_column: TextColumn = "text",
    image_column: ImageColumn = "image",
    label_column: LabelColumn = "label",
    id_column: IdColumn = None,
    member_column: MemberColumn = None,
    person_column: PersonColumn = None,
    person_folders: PersonFolders = False,
    split: Split = None,
    subset: Subset = None,
    image_size: ImageSize = None,
    mean: Mean = None,
    std: Std = None,
    crop_pct: CropPct = None,
    interpolation: Interpolation = None,
    drop: Drop = None,
    categories: Categories = None,
    fourier: Fourier = 256,
    seed: Seed = 0,
    save_transformer: SaveTransformer = None,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    dtype: Dtype = "float32",
    activations: Activations = None,
    tokens: Tokens = None,
    on_error: OnError = "stop",
) -> None:
    """Turn images, texts or a table into features, usually of a pretrained network, the input of all other commands.

    Everything is checked before a network is loaded. The file records the network, the hash of its weights, the
    preprocessing and versions. It has the ids of items, never their contents.
    """
    from jaxmia.extract import Columns, ImageOptions, TabularOptions, extract_features, parse_numbers

    console = terminal.console(stderr=True)
    shared: dict[str, Any] = {
        "weights": weights,
        "columns": Columns(text_column, image_column, label_column, id_column, member_column, person_column),
        "split": split,
        "subset": subset,
        "person_folders": person_folders,
        "images": ImageOptions(
            image_size, parse_numbers("mean", mean), parse_numbers("std", std), crop_pct, interpolation
        ),
        "on_error": on_error,
        "console": console,
    }
    if activations is not None:
        from jaxmia.extract.activations import extract_activations

        kept = extract_activations(source, backbone, out, activations=activations, tokens=tokens, **shared)
        output.warn(kept.notes, wrap=False)
        for line in kept.summary():
            terminal.console().print(line, soft_wrap=True)
        return
    check(tokens is None, "tokens", tokens, "be given with --activations only")
    done = extract_features(
        source,
        backbone,
        out,
        table=TabularOptions(fourier, seed, tuple(drop or ()), tuple(categories or ()), save_transformer),
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        **shared,
    )
    output.warn(done.provenance["notes"], wrap=False)
    for line in done.summary():
        terminal.console().print(line, soft_wrap=True)
