"""A study: one feature set under one recipe, with the identity of its heads and rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxmia._hashes import content_key
from jaxmia._validate import InputError
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.normalization import Normalizer
from jaxmia.laws.law import DEFAULT_RECIPE
from jaxmia.studies.cell import Cell
from jaxmia.studies.folder.manifest import versions
from jaxmia.studies.normalizer import given_normalizer
from jaxmia.studies.search import import_optuna
from jaxmia.studies.settings.experiment import ExperimentConfig

_ROWS = 9  # increase it when columns of rows change: cells are then assessed again from their heads


@dataclasses.dataclass(frozen=True)
class Study:
    """One feature set under one recipe.

    Attributes:
        config: settings of the experiment.
        identity: everything that the trained heads depend on: settings, versions, and hashes of features and given
            statistics.
        statistics: statistics to standardise with, if given.
        names: names of the feature set and the recipe in a sweep; None for a run.
    """

    config: ExperimentConfig
    identity: Mapping[str, Any]
    statistics: Normalizer | None = None
    names: tuple[str, str] | None = None

    def cell_key(self, cell: Cell) -> str:
        """Return a hash of everything that the rows of a cell depend on."""
        names = {} if self.names is None else self.columns
        settings = self.config.evaluation_identity()
        return content_key([content_key(self.identity), cell.entry(), settings, names, _ROWS])

    @property
    def columns(self) -> dict[str, str]:
        """Return the first columns of every row, which name the data and the recipe."""
        dataset, recipe = self.names or (self.config.data.features, DEFAULT_RECIPE)
        return {"dataset": dataset, "recipe": recipe}


def study_of(config: ExperimentConfig, data: FeatureSet, names: tuple[str, str] | None = None) -> Study:
    """Return the study of a feature set under an experiment's recipe.

    Args:
        config: settings of the experiment.
        data: the feature set.
        names: names of the feature set and the recipe in a sweep.

    Raises:
        InputError: as given_normalizer, for membership by person without persons, or if recipes are tuned and Optuna is
            not installed.
    """
    if config.membership.by_person and data.person is None:
        raise InputError(
            f"membership.unit='person' needs to know whose each record is: {config.data.features} must hold the key"
            " 'person', [examples], integers or strings."
        )
    statistics = given_normalizer(config.train, data, all_components=config.privacy.recipe == "auto")
    given = {} if statistics is None else {"statistics": {"sha256": statistics.content_hash()}}
    identity = {
        "settings": config.training_identity(),
        "features": {"sha256": data.content_hash()},
        **given,
        "versions": versions() if config.tuning is None else versions(import_optuna().__name__),
    }
    return Study(config, identity, statistics, names)
