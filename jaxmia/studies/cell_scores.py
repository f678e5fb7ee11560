"""From the heads of a cell to its scores: log-odds of every candidate under every model, and other attack inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from jaxmia.ridge.paired import paired_scores
from jaxmia.scores import Scores, WeightsUnder, split_diverged
from jaxmia.studies.assess import needs_pairs
from jaxmia.studies.attack_inputs import analytic_prior, weights_under
from jaxmia.studies.cell import PreparedCell
from jaxmia.studies.decisions import decision_fields, decisions
from jaxmia.studies.settings.actors import asked_for
from jaxmia.training.ensemble import ShadowEnsemble
from jaxmia.training.scoring import accuracy, gradient_norms, score


def score_heads(prepared: PreparedCell, heads: ShadowEnsemble) -> dict[str, Shaped[np.ndarray, "models ..."]]:
    """Return the scores of some of a cell's models, one row per model.

    Args:
        prepared: the cell.
        heads: heads of these models.

        Returns: log_odds [models, examples]; flipped_log_odds [models, examples], if an attack uses them; gradient_norm
        [models, examples]; accuracy [models], on the test split; and decisions, if an actor sees no more
        (jaxmia.studies.decisions).
    """
    pool, settings = prepared.pool, prepared.settings
    scored = {"gradient_norm": gradient_norms(heads, pool.data), "accuracy": accuracy(heads, pool.test)}
    scored |= decisions(asked_for(settings.release, settings.knowledge)[0], heads, pool.data)
    if not needs_pairs(settings.attack):
        return scored | {"log_odds": np.asarray(score(heads, pool.data).log_odds)}
    person = pool.data.person if settings.membership.by_person else None
    paired = paired_scores(
        heads, pool.data, ridge=settings.train.ridge, memory=prepared.memory, person=person
    )
    return scored | {
        "log_odds": np.asarray(paired.log_odds),
        "flipped_log_odds": np.asarray(paired.flipped_log_odds),
    }


def weights_of_cell(prepared: PreparedCell, heads: ShadowEnsemble) -> WeightsUnder | None:
    """Return a function from membership to white-box statistics of all heads; None without white-box attacks."""
    settings, memory = prepared.settings, prepared.memory
    return weights_under(
        settings.attack, prepared.pool.data, settings.train, heads, members=prepared.members, memory=memory
    )


def scores_of_cell(
    prepared: PreparedCell,
    scored: Mapping[str, Shaped[np.ndarray, "models ..."]],
    of_weights: WeightsUnder | None,
) -> tuple[Scores, Int[np.ndarray, "diverged"]]:
    """Return the scores that the attacks on a cell use.

    Args:
        prepared: the cell.
        scored: arrays from score_heads, for all models.
        of_weights: result of weights_of_cell.

    Returns:
        Scores of the models that did not diverge, and the ids of those that did.
    """
    settings, member = (
        prepared.settings,
        np.asarray(prepared.masks((0, prepared.settings.shadows.models)).member),
    )
    rate, memory, pool = prepared.inclusion_rate, prepared.memory, prepared.pool.data
    person = pool.person if settings.membership.by_person else None
    prior: dict[str, Any] = analytic_prior(
        settings.attack, pool, settings.train, inclusion_rate=rate, memory=memory, person=person
    )
    return split_diverged(
        Scores(
            scored["log_odds"],
            member,
            flipped_log_odds=scored.get("flipped_log_odds"),
            white_box=None if of_weights is None else of_weights(member),
            weights_under=of_weights,
            classes=pool.num_classes,
            **decision_fields(scored),
            **prior,
        )
    )
