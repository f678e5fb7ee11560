"""Further ensembles of a cell, for actors who do not know the recipe or who see several releases of the same data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Int

from jaxmia.scores import Scores
from jaxmia.studies.cell import PreparedCell, cell_keys
from jaxmia.studies.decisions import decision_fields, decisions
from jaxmia.studies.settings.actors import asked_for, parse_knowledge
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.scoring import accuracy, score
from jaxmia.training.settings import Hyperparams

FACTORS = (0.1, 0.25, 0.63, 1.6, 4.0, 10.0)  # of the learning rate, or of the ridge; never the recipe itself
_RETRAINED = 1 << 20  # streams of the training key, beyond every model's id


@dataclasses.dataclass(frozen=True, eq=False)
class Variants:
    """Scores of further ensembles with the membership of a cell's models.

    Attributes:
        retrained: of the same recipe, with other random streams.
        recipes: one for each of FACTORS.
        accuracy: float[recipes, models] on the test split.
    """

    retrained: Sequence[Scores] = ()
    recipes: Sequence[Scores] = ()
    accuracy: np.ndarray | None = None


NO_VARIANTS = Variants()


def variants_of(prepared: PreparedCell, diverged: Int[np.ndarray, "diverged"]) -> Variants:
    """Train and score what a cell's actors need besides its own heads; nothing if none needs more.

    Heads are not kept: a run that is killed here trains these again.

    Args:
        prepared: the cell.
        diverged: models of the cell that are left out.
    """
    settings = prepared.settings
    known = [parse_knowledge(each) for each in asked_for(settings.release, settings.knowledge)[1]]
    more = max((each.releases for each in known), default=1) - 1
    retrained = [_scored(prepared, diverged, stream=_RETRAINED + each)[0] for each in range(more)]
    if all(each.recipe == "known" for each in known):
        return Variants(retrained)
    others = [
        _scored(prepared, diverged, hyper=_scaled(prepared.recipe.hyper, factor, settings.train.optimizer))
        for factor in FACTORS
    ]
    finite = [each for each in others if np.isfinite(np.asarray(each[0].log_odds)).all()]
    if not finite:
        return Variants(retrained)
    return Variants(retrained, [each for each, _ in finite], np.stack([values for _, values in finite]))


def _scaled(hyper: Hyperparams, factor: float, optimizer: str) -> Hyperparams:
    """Return a recipe with another learning rate; of heads at their minimum, with another ridge."""
    if optimizer == "newton":
        return dataclasses.replace(hyper, ridge=None if hyper.ridge is None else hyper.ridge * factor)
    return dataclasses.replace(hyper, learning_rate=hyper.learning_rate * factor)


def _scored(
    prepared: PreparedCell,
    diverged: Int[np.ndarray, "diverged"],
    *,
    stream: int | None = None,
    hyper: Hyperparams | None = None,
) -> tuple[Scores, np.ndarray]:
    """Train one further ensemble; return its scores and accuracies, without the models that are left out."""
    key, pool = cell_keys(prepared.cell.seed)["training"], prepared.pool
    masks = prepared.masks((0, prepared.settings.shadows.models))
    heads = train_ensemble(
        key if stream is None else jax.random.fold_in(key, stream),
        pool.data,
        masks,
        prepared.recipe.hyper if hyper is None else hyper,
        prepared.recipe.config,
        memory=prepared.memory,
    )
    names = asked_for(prepared.settings.release, prepared.settings.knowledge)[0]
    arrays = {
        name: np.delete(values, diverged, axis=0)
        for name, values in decisions(names, heads, pool.data).items()
    }
    scores = Scores(
        np.delete(np.asarray(score(heads, pool.data).log_odds), diverged, axis=0),
        np.delete(np.asarray(masks.member), diverged, axis=0),
        classes=pool.data.num_classes,
        **decision_fields(arrays),
    )
    return scores, np.delete(accuracy(heads, pool.test), diverged)
