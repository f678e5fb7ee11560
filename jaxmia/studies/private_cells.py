"""The settings that private cells are trained with where privacy.recipe chooses the recipe, from public quantities."""

from __future__ import annotations

import math

from jaxmia.data.feature_set import FeatureSet
from jaxmia.privacy.accounting import adjacency_for, noise_multiplier_for
from jaxmia.private.recipes import PrivateRecipe, class_means
from jaxmia.studies.cell import Cell
from jaxmia.studies.settings.experiment import ExperimentConfig


def private_settings(config: ExperimentConfig, data: FeatureSet, cell: Cell) -> ExperimentConfig:
    """Return the settings of a cell: its private recipe in place of [train]'s steps.

    Nothing is read of the data but their dimension.

    Args:
        config: settings of the experiment.
        data: the features.
        cell: the cell.
    """
    if config.privacy.recipe == "given" or cell.epsilon == math.inf:
        return config
    projected = config.train.normalize != "unit"
    dim = config.train.components if projected else data.features.shape[1]
    noise = noise_multiplier_for(
        epsilon=cell.epsilon,
        delta=config.privacy.delta,
        sampling_rate=1.0,
        steps=1,
        adjacency=adjacency_for(config.shadows.design),
    )
    recipe = class_means(classes=cell.classes, shots=cell.shots, dim=dim, noise_multiplier=noise)
    return with_recipe(config, recipe)


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
