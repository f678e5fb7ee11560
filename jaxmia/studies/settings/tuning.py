"""[tuning]: the search for a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from jaxmia.studies.settings.base import LogRange, Positive, Settings, WholeLogRange


class TuningSettings(Settings):
    """The search for a recipe (jaxmia.studies.tuning).

    Ranges are searched on a log scale, both ends included; a range of one value is that value. What is found takes the
    place of train.learning_rate, train.batch_size, train.steps and, for private cells, privacy.clipping_norm.
    """

    trials: Positive = 20
    round_size: Positive = 5
    """Trials that are trained side by side, before the next are proposed."""
    per: Literal["cell", "shots"] = "cell"
    """"cell": every cell has a search of its own; "shots": all seeds of a (C, S, epsilon) share that of seed 0."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the training set that trials are validated on and not trained on."""
    objective: Literal["accuracy", "loss"] = "loss"
    """What they are compared by: the lowest mean cross-entropy, or the highest accuracy (ties: the lowest loss). Heads
    start at zero, where accuracy tells hardly any learning rates apart: see docs/tuning.md."""
    learning_rate: LogRange = (1e-7, 1e-2)
    batch_size: WholeLogRange = (10, 10_000)
    """Expected members per step, cut at S x C, the full batch."""
    epochs: WholeLogRange = (1, 200)
    clipping_norm: LogRange = (0.2, 10.0)
    """Of private cells."""
    max_steps: Positive = 1000
    """Of a trial and of the recipe, whatever epochs and batch would give: what bounds the cost."""
