"""The heads of a cell: load those that the folder has, train and save the others."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from jaxmia.studies.cell import PreparedCell, cell_keys
from jaxmia.studies.distributed import ModelRange
from jaxmia.studies.folder.run import RunFolder
from jaxmia.studies.folder.states import DamagedError
from jaxmia.training.ensemble import ShadowEnsemble, train_ensemble


@dataclasses.dataclass
class CellHeads:
    """Loads and trains the heads of one cell.

    Attributes:
        prepared: the cell.
        folder: folder of the checkpoints.
        on_chunk: called after each chunk with the number of heads trained.
        trained: number of heads trained so far.
        seconds_training: time spent on training, in seconds.
        repaired: notes on damaged checkpoints that were replaced.
    """

    prepared: PreparedCell
    folder: RunFolder
    on_chunk: Callable[[int], None]
    trained: int = 0
    seconds_training: float = 0.0
    repaired: list[str] = dataclasses.field(default_factory=list)

    def load_or_train(self, part: ModelRange) -> ShadowEnsemble:
        """Return the heads of a range of models, loaded from disk or else trained and checkpointed.

        Heads of a damaged checkpoint are trained again in the same chunks, which gives the same bytes.
        """
        if not part.trained:
            return self._train(part.models)
        prepared = self.prepared
        template = prepared.empty_heads(part.end - part.first)
        try:
            return ShadowEnsemble(
                self.folder.load_heads(prepared.cell, part.models, template),
                prepared.masks(part.models),
                network=prepared.recipe.config.network,
                link=prepared.settings.train.link,
            )
        except DamagedError as error:
            self.repaired.append(f"{error}; its heads were trained again")
            return self._train(part.models)

    def _train(self, models: tuple[int, int]) -> ShadowEnsemble:
        """Train and checkpoint the models first .. end - 1."""
        prepared, clock = self.prepared, time.perf_counter()
        trained = train_ensemble(
            cell_keys(prepared.cell.seed)["training"],
            prepared.pool.data,
            prepared.masks(models),
            prepared.recipe.hyper,
            prepared.recipe.config,
            memory=prepared.memory,
            on_chunk=self.on_chunk,
        )
        self.seconds_training += time.perf_counter() - clock
        self.folder.save_heads(prepared.cell, models, trained.params)
        self.trained += models[1] - models[0]
        return trained
