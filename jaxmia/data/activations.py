"""A folder of activations: what `jaxmia extract --activations K` writes, and adapters are trained on."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np

from jaxmia._hashes import file_hash
from jaxmia._npz import check_read_size, read_npz
from jaxmia._validate import InputError, check
from jaxmia.data.backbone import Backbone, shape_of_facts

ACTIVATIONS, WEIGHTS, FEATURES, FACTS = "activations.npy", "weights.npz", "features.npz", "backbone.json"
FORMAT = 1


@dataclasses.dataclass(frozen=True, eq=False)
class ActivationsFolder:
    """The inputs of a transformer's block for every example, and the weights from this block on.

    Attributes:
        rows: memory-mapped; K > 0: float16[examples, tokens, 1 + dim], of each token 1, or 0 for padding, and its
            activations. K = 0: int32[examples, tokens], token ids, or pixels, float16[examples, height, width,
            channels].
        backbone: the transformer.
    """

    rows: np.ndarray
    backbone: Backbone


def features_file(source: str | os.PathLike[str]) -> pathlib.Path:
    """Return the .npz with labels and the extractor's features: in a folder of activations, else the source itself."""
    path = pathlib.Path(source)
    return path / FEATURES if (path / FACTS).is_file() else path


def check_no_folder(source: object, what: str) -> None:
    """Raise InputError for a folder of activations where only linear heads are meant.

    Args:
        source: name of a file or folder, or data in memory.
        what: name of the command and its reason.
    """
    if isinstance(source, (str, os.PathLike)) and features_file(source) != pathlib.Path(source):
        raise InputError(
            f"features={os.fspath(source)!r} are activations for adapters, to which {what} does not apply: it is for"
            f" linear heads. Give {features_file(source)} for heads on the same features."
        )


def read_activations(path: pathlib.Path, examples: int) -> ActivationsFolder:
    """Return the content of a folder; activations stay on disk until they are used.

    Args:
        path: the folder.
        examples: number of examples in its features.

    Raises:
        InputError: for a missing or damaged file, or one that differs from what was extracted.
    """
    facts = _facts(path / FACTS)
    for name, stated in facts["sha256"].items():
        if not (path / name).is_file():
            raise InputError(f"{path / name} must be a file of the folder of activations; there is none.")
        found = file_hash(path / name)
        check(
            found == stated,
            f"{path / name}: sha256",
            found[:12],
            f"be {stated[:12]}: it was changed or damaged",
        )
    weights = read_npz(path / WEIGHTS, name="weights", required=(), optional=None)
    check_read_size(path / ACTIVATIONS, (path / ACTIVATIONS).stat().st_size)
    try:
        rows = np.load(path / ACTIVATIONS, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise InputError(f"{path / ACTIVATIONS} must be a complete .npy file ({error}).") from None
    check(
        len(rows) == examples,
        f"{path / ACTIVATIONS}: examples",
        len(rows),
        f"be {examples}, as {FEATURES} has",
    )
    shape = shape_of_facts(facts["shape"])
    return ActivationsFolder(rows, Backbone(shape, weights, int(facts["frozen"]), str(facts["name"])))


def _facts(path: pathlib.Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        known: dict[str, Any] = {
            name: facts[name] for name in ("format", "shape", "frozen", "name", "sha256")
        }
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{path.parent} must be a folder that `jaxmia extract --activations K` wrote; its {path.name} is missing or"
            " damaged."
        ) from None
    check(known["format"] == FORMAT, f"{path}: format", known["format"], f"be {FORMAT}: extract again")
    return known
