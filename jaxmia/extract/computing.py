"""Features of all items, block by block; blocks on disk are not computed again."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import rich.console
from jaxtyping import Float

from jaxmia._progress import item_progress
from jaxmia._resumable import Blocks
from jaxmia._validate import InputError
from jaxmia.extract.backbones import Backbone
from jaxmia.extract.images import UnusableError
from jaxmia.extract.rows import Source

BATCHES = 8  # batches per block, written at once


def compute(
    folder: pathlib.Path,
    source: Source,
    usable: Sequence[int],
    network: Backbone,
    batch_size: int,
    console: rich.console.Console | None,
) -> tuple[Float[np.ndarray, "items dim"], int]:
    """Return the features of rows, and the number of rows computed in this call.

    Args:
        folder: folder of the blocks.
        source: the rows.
        usable: indices of the usable rows.
        network: the network.
        batch_size: number of rows per batch.
        console: console for progress, or None for no output.

    Raises:
        InputError: if a row can no longer be read.
    """
    blocks = Blocks(folder, "items", len(usable), BATCHES * batch_size, ("features",))
    todo = blocks.missing()
    computed = sum(end - first for first, end in todo)
    with item_progress(console, "extracting", computed) as advance, ThreadPoolExecutor() as pool:
        for first, end in todo:
            features = _block(pool, source, network, usable[first:end], batch_size, advance)
            blocks.save((first, end), {"features": features})
    return blocks.load()["features"], computed


def _block(
    pool: ThreadPoolExecutor,
    source: Source,
    network: Backbone,
    places: Sequence[int],
    batch_size: int,
    advance: Callable[[int], None],
) -> Float[np.ndarray, "items dim"]:
    """Return the features of some rows; the next batch is prepared while the network computes."""
    order = np.arange(len(places))
    if source.modality == "text":  # batches of texts of similar length need little padding
        order = np.argsort([len(source.content(place)) for place in places], kind="stable")
    batches = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]

    def submit(batch: np.ndarray) -> list[Future[Any]]:
        return [pool.submit(_prepared, source, network, places[at]) for at in batch]

    found, ahead = [], submit(batches[0])
    for number in range(len(batches)):
        items = [future.result() for future in ahead]
        ahead = submit(batches[number + 1]) if number + 1 < len(batches) else []
        found.append(network.features(items))
        advance(len(items))
    return np.concatenate(found)[np.argsort(order)].astype(np.float32)


def _prepared(source: Source, network: Backbone, place: int) -> Any:
    try:
        return network.prepare(source.content(place))
    except (UnusableError, OSError) as error:
        raise InputError(f"{source.rows[place].id!r} changed while it was being read: {error}.") from None
