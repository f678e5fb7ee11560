"""[tuning]: the search for a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from jaxmia.studies.settings.base import LogRange, Positive, Settings, WholeLogRange


class TuningSettings(Settings):
    """The search for a recipe (jaxmia.studies.tuning).

    Ranges are searched on a log scale, both ends included; a range with equal ends fixes the value. The best trial
    replaces train.learning_rate, train.batch_size, train.steps and, for private cells, privacy.clipping_norm.
    """

    trials: Positive = 20
    round_size: Positive = 5
    """Number of trials that are trained at once, before the next are proposed."""
    per: Literal["cell", "shots"] = "cell"
    """"cell": every cell has its own search; "shots": all seeds of a (C, S, epsilon) share the search of seed 0."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the training set that is held out to validate trials."""
    objective: Literal["accuracy", "loss"] = "loss"
    """Ranking of trials: by the lowest mean cross-entropy, or by the highest accuracy (ties by the lowest loss). Heads
    start at zero, where accuracy hardly depends on the learning rate: see docs/tuning.md."""
    learning_rate: LogRange = (1e-7, 1e-2)
    batch_size: WholeLogRange = (10, 10_000)
    """Expected members per step, cut at S x C, the full batch."""
    epochs: WholeLogRange = (1, 200)
    clipping_norm: LogRange = (0.2, 10.0)
    """Clipping norm, for private cells."""
    max_steps: Positive = 1000
    """Largest number of steps of a trial and of the recipe, whatever epochs and batch size imply; bounds the cost."""
