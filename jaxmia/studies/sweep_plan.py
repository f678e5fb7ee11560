"""The plan of a sweep: its feature sets, its studies, and the possible cells of each study."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

from jaxmia._validate import InputError, check_choice
from jaxmia.data.feature_set import DEMO_NAME, IN_MEMORY, FeatureSet, check_given, load_features
from jaxmia.data.pool import check_candidates
from jaxmia.studies.cell import Cell
from jaxmia.studies.checks import check_evaluations, check_plans
from jaxmia.studies.settings.sweep import DatasetSettings, RecipeSettings, SweepConfig
from jaxmia.studies.study import Study, study_of

Names = tuple[str, str]  # names of a feature set and a recipe
Inputs = tuple[str, str]  # name of a feature set, and "features" or "raw"


class LeftOut(NamedTuple):
    """Cells that a feature set is too small for.

    Attributes:
        dataset: name of the feature set.
        classes: C.
        shots: S.
        reason: why the cells are left out.
    """

    dataset: str
    classes: int
    shots: int
    reason: str


class SweepPlan(NamedTuple):
    """The studies and cells of a sweep.

    Attributes:
        data: the feature sets.
        studies: each feature set under each of its recipes, if any cell is possible.
        cells: the cells of each study that its feature set is large enough for.
        left_out: cells that a feature set is too small for.
        skipped: optional feature sets whose file is absent.
    """

    data: Mapping[Inputs, FeatureSet]
    studies: Mapping[Names, Study]
    cells: Mapping[Names, list[Cell]]
    left_out: tuple[LeftOut, ...]
    skipped: tuple[str, ...]


def inputs_of(study: Study) -> Inputs:
    """Return the inputs that a study trains on."""
    return study.columns["dataset"], study.config.train.reads


def plan_sweep(config: SweepConfig, given: Mapping[str, FeatureSet] | None = None) -> SweepPlan:
    """Read the feature sets of a sweep, and return its studies and cells.

    Args:
        config: settings.
        given: feature sets that are in memory, by name; no file of theirs is read.

    Raises:
        InputError: if a feature set cannot be read, a recipe does not fit its data, or no cell is possible.
    """
    data, skipped = _load_datasets(config, given or {})
    studies = {
        (dataset.name, recipe.name): _study(config, dataset, recipe, data[dataset.name, recipe.reads])
        for dataset in config.datasets
        if dataset.name not in skipped
        for recipe in config.recipes_of(dataset)
    }
    cells, left_out = _cells(studies, data)
    studies = {names: study for names, study in studies.items() if cells[names]}
    return SweepPlan(data, studies, cells, left_out, skipped)


def check_sweep(plan: SweepPlan, memory: int | None) -> None:
    """Raise InputError for errors that would occur in every cell, or certainly in one.

    Args:
        plan: plan of the sweep.
        memory: largest number of bytes to hold on each device, as in train_ensemble.
    """
    for names, study in plan.studies.items():
        try:
            check_plans(study.config, plan.data[inputs_of(study)], plan.cells[names], memory)
        except InputError as error:
            raise InputError(f"dataset {names[0]!r}, recipe {names[1]!r}: {error}") from None
    config = next(iter(plan.studies.values())).config
    check_evaluations(config, itertools.chain(*plan.cells.values()))


def _load_datasets(
    config: SweepConfig, given: Mapping[str, FeatureSet]
) -> tuple[dict[Inputs, FeatureSet], tuple[str, ...]]:
    """Return the feature sets, with each input of a file read once, and the names of absent optional ones."""
    for name in given:
        check_choice("features: name", name, [dataset.name for dataset in config.datasets])
    data: dict[Inputs, FeatureSet] = {}
    skipped = []
    read: dict[Inputs, FeatureSet] = {}
    for dataset in config.datasets:
        path = dataset.features
        recipes = config.recipes_of(dataset)
        if dataset.name in given:
            for recipe in recipes:
                check_given(f"features[{dataset.name!r}]", given[dataset.name], inputs=recipe.reads)
                data[dataset.name, recipe.reads] = given[dataset.name]
            continue
        if path == IN_MEMORY:
            raise InputError(
                f"dataset {dataset.name!r} is in memory: give features={{{dataset.name!r}: ...}}."
            )
        if dataset.optional and path != DEMO_NAME and not pathlib.Path(path).exists():
            skipped.append(dataset.name)
            continue
        try:
            for inputs in dict.fromkeys(recipe.reads for recipe in recipes):
                place = path, inputs
                data[dataset.name, inputs] = read[place] = read.get(place) or load_features(
                    path, inputs=inputs
                )
        except InputError as error:
            raise InputError(f"dataset {dataset.name!r}: {error}") from None
    if not data:
        raise InputError(
            f"datasets={skipped} must name at least one existing set; all are optional and absent."
        )
    return data, tuple(skipped)


def _study(config: SweepConfig, dataset: DatasetSettings, recipe: RecipeSettings, data: FeatureSet) -> Study:
    settings = config.experiment(dataset, recipe)
    try:
        return study_of(settings, data, (dataset.name, recipe.name))
    except InputError as error:
        raise InputError(f"recipe {recipe.name!r}, dataset {dataset.name!r}: {error}") from None


def _cells(
    studies: Mapping[Names, Study], data: Mapping[Inputs, FeatureSet]
) -> tuple[dict[Names, list[Cell]], tuple[LeftOut, ...]]:
    """Return the cells of each study that its feature set is large enough for, and the others."""
    cells: dict[Names, list[Cell]] = {names: [] for names in studies}
    left_out: dict[LeftOut, None] = {}
    for names, study in studies.items():
        config = study.config
        for classes, shots in itertools.product(config.grid.classes, config.grid.shots):
            try:
                check_candidates(
                    data[inputs_of(study)],
                    classes=classes,
                    shots=shots,
                    multiplier=config.shadows.pool_multiplier,
                    unit=config.membership.unit,
                    shots_of=config.membership.shots,
                )
            except InputError as error:
                left_out[LeftOut(names[0], classes, shots, str(error))] = None
                continue
            cells[names] += [
                Cell(classes, shots, seed, epsilon)
                for seed in config.grid.seeds
                for epsilon in config.privacy.epsilon
            ]
    if not any(cells.values()):
        first = next(iter(left_out))
        raise InputError(
            f"grid: no feature set has enough examples for any cell; {first.dataset}: {first.reason}"
        )
    return cells, tuple(left_out)
