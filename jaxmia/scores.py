"""Scores: the log-odds of the true class of every candidate under every model. One array serves all attacks."""

from __future__ import annotations

import flax.struct
import jax


@flax.struct.dataclass
class Scores:
    """What the attacks see, from jaxmia's ensembles or from anyone's arrays.

    Attributes:
        log_odds: float[models, examples], z_y - logsumexp_{j != y} z_j = log p_y / (1 - p_y) of the true class.
        member: bool[models, examples], True where the example was in the model's training set.
        population_log_odds: float[models, population] of examples that no model trained on, or None.
    """

    log_odds: jax.Array
    member: jax.Array
    population_log_odds: jax.Array | None = None
