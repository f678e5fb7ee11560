"""One cell of a grid: its name, and the candidates, members and recipe that its heads are trained with.

Nothing here depends on folders, processes or progress: the same settings and features always give the same cell.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxmia._hashes import json_number
from jaxmia.data.bag_of_words import bag_of_words
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.membership import MembershipMasks, draw_membership
from jaxmia.data.normalization import Normalizer, normalized_pool
from jaxmia.data.persons import grouped
from jaxmia.data.pool import CandidatePool, candidate_pool, candidate_rows
from jaxmia.data.public import PublicProjection
from jaxmia.ridge.units import group_shapes
from jaxmia.studies.recipe import Recipe, recipe_for
from jaxmia.studies.settings.experiment import ExperimentConfig
from jaxmia.training.ensemble import empty_heads
from jaxmia.training.heads import Params
from jaxmia.training.size import EnsembleSize
from jaxmia.training.trainables import Plan, trainable


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
    """One ensemble of the grid.

    Attributes:
        classes: C.
        shots: S.
        seed: seed of all of the cell's randomness.
        epsilon: target epsilon of the training; inf for training without differential privacy.
    """

    classes: int
    shots: int
    seed: int
    epsilon: float = math.inf

    def __str__(self) -> str:
        """The name of the cell's folder."""
        private = "" if self.epsilon == math.inf else f"_epsilon-{self.epsilon:g}"
        return f"classes-{self.classes}_shots-{self.shots}_seed-{self.seed}{private}"

    def entry(self) -> dict[str, int | float | str]:
        """Return the cell's entry in the manifest; infinity, which JSON lacks, becomes a string."""
        return {**dataclasses.asdict(self), "epsilon": json_number(self.epsilon)}

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> Cell:
        """Return the cell of a manifest entry."""
        return cls(entry["classes"], entry["shots"], entry["seed"], float(entry["epsilon"]))


def cells_of(config: ExperimentConfig) -> list[Cell]:
    """Return all cells of an experiment's grid."""
    return [
        Cell(classes, shots, seed, epsilon)
        for classes in config.grid.classes
        for shots in config.grid.shots
        for seed in config.grid.seeds
        for epsilon in config.privacy.epsilon
    ]


def cell_keys(seed: int) -> dict[str, jax.Array]:
    """Return independent random keys for a cell's pool, membership, training and tuning, from its seed alone."""
    key = jax.random.key(seed)
    return {
        name: jax.random.fold_in(key, stream)
        for stream, name in enumerate(("pool", "membership", "training", "tuning"))
    }


def draw_pool(
    config: ExperimentConfig, data: FeatureSet, cell: Cell, statistics: Normalizer | None = None
) -> CandidatePool:
    """Return a cell's candidates and test split, normalised by the recipe; token ids become bags of words."""
    pool = candidate_pool(data, **_drawn(config, cell))
    if len(data.input_shape) == 1 and data.backbone is None:
        pool = bag_of_words(pool)
    if isinstance(statistics, PublicProjection):
        statistics = statistics.leading(config.train.components)
    return normalized_pool(pool, config.train.normalize, statistics)


def _drawn(config: ExperimentConfig, cell: Cell) -> dict[str, Any]:
    """The arguments of candidate_pool."""
    return {
        "classes": cell.classes,
        "shots": cell.shots,
        "multiplier": config.shadows.pool_multiplier,
        "key": cell_keys(cell.seed)["pool"],
        "test_per_class": config.data.test_per_class,
        "unit": config.membership.unit,
        "shots_of": config.membership.shots,
    }


def draw_masks(
    config: ExperimentConfig, pool: FeatureSet, seed: int, models: tuple[int, int]
) -> MembershipMasks:
    """Return the membership of the models first .. end - 1 of a cell.

    Args:
        config: settings of the experiment.
        pool: the candidates.
        seed: seed of the cell.
        models: (first, end).
    """
    return draw_membership(
        cell_keys(seed)["membership"],
        pool.labels,
        num_models=models[1] - models[0],
        first_model=models[0],
        design=config.shadows.design,
        inclusion_rate=1 / config.shadows.pool_multiplier,
        person=pool.person if config.membership.by_person else None,
    )


def num_candidates(config: ExperimentConfig, cell: Cell, data: FeatureSet | None = None) -> int:
    """Examples in the pool of a cell: C x S x pool_multiplier; by person, the records of the persons drawn.

    Without data, persons count as if each had one record.
    """
    if data is None or not config.membership.by_person:
        return cell.classes * cell.shots * config.shadows.pool_multiplier
    return len(candidate_rows(data, **_drawn(config, cell))[0])


def unit_shapes(config: ExperimentConfig, cell: Cell, data: FeatureSet) -> list[tuple[int, int]]:
    """Return number and places of the pool's records or persons, by groups (jaxmia.ridge.units)."""
    if not config.membership.by_person or data.person is None:
        return [(num_candidates(config, cell), 1)]
    rows = candidate_rows(data, **_drawn(config, cell))[0]
    return group_shapes(len(rows), data.person[rows])


def expected_members(config: ExperimentConfig, cell: Cell, candidates: int) -> int:
    """Records that a model of a cell is expected to train on: C x S, or its share of so many candidates by person."""
    if not config.membership.by_person:
        return cell.classes * cell.shots
    return max(1, round(candidates / config.shadows.pool_multiplier))


def input_dim(data: FeatureSet) -> int:
    """Return the models' input dimension; for bags of words, before a pool is drawn, an upper bound by all tokens."""
    words = len(data.input_shape) == 1 and data.backbone is None
    return int(data.features.max()) if words else data.features.shape[1]


def training_plan(
    config: ExperimentConfig,
    data: FeatureSet,
    cell: Cell,
    memory: int | None,
    candidates: int | None = None,
) -> Plan:
    """Return the plan for training the heads or networks of a cell.

    Args:
        config: settings of the experiment.
        data: the feature set, or the pool's data.
        cell: the cell.
        memory: largest number of bytes to hold on each device, as in train_ensemble.
        candidates: in the pool, where it is drawn.

    Raises:
        InputError: if a batch exceeds a model's members, not even one model fits into memory, or the network does not
            fit the inputs.
    """
    candidates = num_candidates(config, cell, data) if candidates is None else candidates
    most = most_records(config, data)
    recipe = cell_recipe(config, cell, candidates, most)
    size = EnsembleSize(
        num_models=config.shadows.models,
        num_examples=candidates,
        num_classes=cell.classes,
        dim=input_dim(data),
        inclusion_rate=1 / config.shadows.pool_multiplier,
        input_shape=data.input_shape,
        sampling_rate=float(recipe.hyper.sampling_rate),
        num_devices=jax.local_device_count(),
        records_per_person=most if recipe.config.privacy_unit == "person" else 1,
        backbone=data.backbone,
    )
    plan: Plan = trainable(recipe.config.network).plan(recipe.config, memory, size)
    return plan


def cell_recipe(config: ExperimentConfig, cell: Cell, candidates: int, records_per_person: int = 1) -> Recipe:
    """The recipe of a cell with so many candidates, the most of one person."""
    members = expected_members(config, cell, candidates) if config.membership.by_person else None
    return recipe_for(
        config,
        classes=cell.classes,
        shots=cell.shots,
        epsilon=cell.epsilon,
        members=members,
        records_per_person=records_per_person,
    )


def most_records(config: ExperimentConfig, data: FeatureSet) -> int:
    """The most records of a person in a feature set; 1 where membership is by record."""
    if not config.membership.by_person or data.person is None:
        return 1
    return int(grouped(data.person)[2].max())


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedCell:
    """A cell with the data and the recipe that its heads are trained with.

    Attributes:
        cell: its place in the grid.
        settings: settings of the experiment, with the tuned recipe if recipes are tuned.
        pool: candidates and test split.
        recipe: recipe of every head.
        memory: largest number of bytes to hold on each device, as in train_ensemble.
    """

    cell: Cell
    settings: ExperimentConfig
    pool: CandidatePool
    recipe: Recipe
    memory: int | None = None

    @property
    def inclusion_rate(self) -> float:
        """Return the share of the candidates that a model trains on."""
        return 1 / self.settings.shadows.pool_multiplier

    @property
    def plan(self) -> Plan:
        """Return the plan for training the cell's models."""
        candidates = len(self.pool.data.labels)
        return training_plan(self.settings, self.pool.data, self.cell, self.memory, candidates)

    @property
    def members(self) -> int:
        """Records that a model is expected to train on."""
        return expected_members(self.settings, self.cell, len(self.pool.data.labels))

    @property
    def person(self) -> np.ndarray | None:
        """Whose record each candidate is, where membership is drawn by person."""
        return self.pool.data.person if self.settings.membership.by_person else None

    def masks(self, models: tuple[int, int]) -> MembershipMasks:
        """Return the membership of the models first .. end - 1."""
        return draw_masks(self.settings, self.pool.data, self.cell.seed, models)

    def empty_heads(self, num_models: int) -> Params:
        """Return parameters of zeros, in the shapes that training returns."""
        return empty_heads(self.pool.data, num_models=num_models, network=self.recipe.config.network)


def prepare_cell(
    settings: ExperimentConfig,
    data: FeatureSet,
    cell: Cell,
    statistics: Normalizer | None = None,
    *,
    memory: int | None = None,
) -> PreparedCell:
    """Return a cell with its candidates drawn and its recipe computed.

    Args:
        settings: settings of the experiment, with the tuned recipe if recipes are tuned.
        data: the feature set.
        cell: the cell of the grid.
        statistics: statistics to standardise with, if given.
        memory: as in train_ensemble.
    """
    pool = draw_pool(settings, data, cell, statistics)
    recipe = cell_recipe(settings, cell, len(pool.data.labels), most_records(settings, data))
    return PreparedCell(cell, settings, pool, recipe, memory)
