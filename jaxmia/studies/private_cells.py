"""The settings that private cells are trained with where privacy.recipe chooses the recipe, from public quantities."""

from __future__ import annotations

import functools
import math

from jaxmia._hashes import file_hash
from jaxmia.data.feature_set import DEMO_NAME, FeatureSet, load_features
from jaxmia.privacy.accounting import adjacency_for
from jaxmia.private.recipes import PrivateRecipe, class_means
from jaxmia.private.recommend import Recommendation, Target, recommend
from jaxmia.studies.cell import Cell
from jaxmia.studies.settings.experiment import ExperimentConfig


def private_settings(config: ExperimentConfig, data: FeatureSet, cell: Cell) -> ExperimentConfig:
    """Return the settings of a cell: its private recipe in place of [train]'s steps.

    Nothing is read of the data but their dimension.

    Args:
        config: settings of the experiment.
        data: the features.
        cell: the cell.

    Raises:
        InputError: as recommend, for "auto".
    """
    if config.privacy.recipe == "given" or cell.epsilon == math.inf:
        return config
    train, dim = config.train, data.features.shape[1]
    adjacency = adjacency_for(config.shadows.design)
    target = Target(cell.classes, cell.shots, cell.epsilon, config.privacy.delta, adjacency)
    if config.privacy.recipe == "auto":
        public = train.public if train.normalize == "public" else None
        content = None if public in (None, DEMO_NAME) else file_hash(public)
        return with_recommendation(config, _recommended(target, public, content, dim))
    dim = dim if train.normalize == "unit" else train.components
    noise = target.noise_multiplier(1)
    return with_recipe(
        config, class_means(classes=cell.classes, shots=cell.shots, dim=dim, noise_multiplier=noise)
    )


@functools.lru_cache(maxsize=256)
def _recommended(target: Target, public: str | None, content: str | None, dim: int) -> Recommendation:
    """Recommend once for all seeds of a cell; content is the hash of the file, which may change during a process."""
    del content
    return recommend(target, public=None if public is None else load_features(public), dim=dim)


def with_recommendation(config: ExperimentConfig, found: Recommendation) -> ExperimentConfig:
    """Return the settings with a recommended recipe and its number of components."""
    config = with_recipe(config, found.recipe)
    if found.components is None:
        return config
    train = config.train.model_copy(update={"components": found.components})
    return config.model_copy(update={"train": train})


def with_recipe(config: ExperimentConfig, recipe: PrivateRecipe) -> ExperimentConfig:
    """Return the settings with a private recipe in place of [train]'s."""
    train = {
        "optimizer": "sgd",
        "schedule": "constant",
        "batch_size": "full",
        "sampling": "shared",
        "momentum": 0.0,
        "weight_decay": 0.0,
        "ridge": 0.0,
        "intercept": False,
        "steps": recipe.steps,
        "learning_rate": recipe.learning_rate,
    }
    privacy = {"clipping_norm": recipe.clipping_norm}
    return config.model_copy(
        update={
            "train": config.train.model_copy(update=train),
            "privacy": config.privacy.model_copy(update=privacy),
        }
    )
