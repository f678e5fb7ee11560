"""Checks, before any training, for errors that would occur later in some cell of a grid."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from jaxmia._validate import check
from jaxmia.attacks.weights import check_memory, check_methods
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.pool import check_candidates
from jaxmia.ridge.influence import check_size
from jaxmia.studies.assess import (
    check_attacks,
    check_resolvable,
    needs_pairs,
    needs_prior,
    white_box_methods,
)
from jaxmia.studies.cell import Cell, input_dim, num_candidates, training_plan, unit_shapes
from jaxmia.studies.search import import_optuna
from jaxmia.studies.settings.experiment import ExperimentConfig
from jaxmia.studies.settings.train import TrainSettings
from jaxmia.studies.tuning import possible_settings


def check_experiment(
    config: ExperimentConfig, data: FeatureSet, cells: Sequence[Cell], memory: int | None
) -> None:
    """Raise InputError for anything that would fail later in a run.

    Args:
        config: settings of the experiment.
        data: the feature set.
        cells: cells of the grid.
        memory: largest number of bytes to hold on each device, as in train_ensemble.
    """
    for classes, shots in dict.fromkeys((cell.classes, cell.shots) for cell in cells):
        drawn = {"unit": config.membership.unit, "shots_of": config.membership.shots}
        check_candidates(
            data, classes=classes, shots=shots, multiplier=config.shadows.pool_multiplier, **drawn
        )
    check_plans(config, data, cells, memory)
    check_evaluations(config, cells)


def check_evaluations(config: ExperimentConfig, cells: Iterable[Cell]) -> None:
    """Raise InputError if an attack refuses its options, or no FPR can be resolved in any cell."""
    check_attacks(config.attack)
    largest = max(cell.shots * cell.classes for cell in cells) * (config.shadows.pool_multiplier - 1)
    check_resolvable(config.fpr, largest * config.shadows.models, "the largest cell")


def check_plans(
    config: ExperimentConfig, data: FeatureSet, cells: Sequence[Cell], memory: int | None
) -> None:
    """Raise InputError if a cell has a batch larger than its pool, or not even one of its models fits into memory.

    With tuning, checks all recipes that may be chosen, and that Optuna is installed. Also checks that attacks on
    weights can run on these models.
    """
    _check_weights(config, data, cells, memory)
    _check_objective(config, data, cells, memory)
    if config.tuning is not None:
        import_optuna()
    for cell in dict.fromkeys(dataclasses.replace(cell, seed=0) for cell in cells):
        if config.tuning is not None:  # noise and privacy levels need no more memory
            cell = dataclasses.replace(cell, epsilon=math.inf)
        for settings in possible_settings(config, classes=cell.classes, shots=cell.shots):
            training_plan(settings, data, cell, memory)


def _check_weights(
    config: ExperimentConfig, data: FeatureSet, cells: Sequence[Cell], memory: int | None
) -> None:
    """Raise InputError if white-box attacks do not support the models, or their matrices do not fit into memory."""
    methods = white_box_methods(config.attack)
    if not methods:
        return
    rule = "be 'linear' for attack 'whitebox', which uses heads' weights"
    check(config.train.network == "linear", "network", config.train.network, rule)
    dim = input_dim(data)
    check_methods(methods, classes=max(cell.classes for cell in cells), dim=dim)
    for cell in cells:
        sizes = {"classes": cell.classes, "dim": dim, "examples": num_candidates(config, cell, data)}
        check_memory(methods, **sizes, models=config.shadows.models, memory=memory)


def check_objective_known(train: TrainSettings, *, minimum: bool, objective: bool) -> None:
    """Raise InputError for class weights, or heads without a bias, that attacks on minima or weights do not know.

    Args:
        train: the recipe.
        minimum: whether an attack needs heads at the minimum of the plain objective.
        objective: whether an attack needs to know the objective.
    """
    if minimum:
        rule = "be 'none', and intercept true, for analytic, paired and 'shrunk', which assume that objective"
        check(train.plain, "train.class_weight", train.class_weight, rule)
    if objective:
        plain = train.class_weight == "none" and train.link == "softmax"
        rule = "be 'none', and link 'softmax', for whitebox, which assumes that objective"
        check(plain, "train.class_weight", train.class_weight, rule)


def _check_objective(
    config: ExperimentConfig, data: FeatureSet, cells: Sequence[Cell], memory: int | None
) -> None:
    """Raise InputError if attacks need an objective, or heads at its minimum, and the recipe has another."""
    need_minimum = needs_pairs(config.attack) or needs_prior(config.attack)
    need_objective = need_minimum or bool(white_box_methods(config.attack))
    check_objective_known(config.train, minimum=need_minimum, objective=need_objective)
    if not need_minimum:
        return
    rule = "be 'newton' for analytic attacks, paired=true or 'shrunk': they need heads at their minimum"
    check(config.train.optimizer == "newton", "train.optimizer", config.train.optimizer, rule)
    for cell in cells:
        candidates = num_candidates(config, cell, data)
        dim = min(data.features.shape[1], candidates)
        check_size(cell.classes, dim + 1, unit_shapes(config, cell, data), memory)
