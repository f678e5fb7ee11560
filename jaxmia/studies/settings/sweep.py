"""Settings of a sweep: experiments over feature sets and recipes."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import pydantic
from pydantic import Field

from jaxmia._validate import InputError, check_choice
from jaxmia.studies.settings.base import Different, Name, Positive
from jaxmia.studies.settings.data import DataSettings
from jaxmia.studies.settings.errors import describe_error
from jaxmia.studies.settings.experiment import ExperimentConfig
from jaxmia.studies.settings.train import TrainSettings


class DatasetSettings(DataSettings):
    """One feature set of a sweep."""

    name: Name
    features: str
    """"demo" or the path of an .npz, relative to the settings file; ~ is the home folder."""
    classes: (
        Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1, strict=False), Different]
        | None
    ) = None
    """C of this set, in place of the grid's."""
    shots: Annotated[tuple[Positive, ...], Field(min_length=1, strict=False), Different] | None = None
    """S of this set, in place of the grid's."""
    recipes: Annotated[tuple[Name, ...], Field(min_length=1, strict=False), Different] | None = None
    """Names of the recipes that train on this set, if not all: a conv net needs pixels."""
    optional: bool = False
    """Whether the sweep continues without the set if its file is absent."""


class RecipeSettings(TrainSettings):
    """One recipe of a sweep."""

    name: Name
    tuned: bool = True
    """Whether the sweep's [tuning], if any, applies to this recipe."""


class SweepConfig(ExperimentConfig):
    """A grid that includes feature sets and recipes; every recipe trains on every set, unless a set names its recipes.

    data and train are not used.
    """

    uses_train: ClassVar[bool] = False
    name: Annotated[str, Field(min_length=1)] = "sweep"
    datasets: Annotated[tuple[DatasetSettings, ...], Field(min_length=1, strict=False)]
    recipes: Annotated[tuple[RecipeSettings, ...], Field(min_length=1, strict=False)]

    @pydantic.field_validator("datasets", "recipes")
    @classmethod
    def _different_names(cls, entries: tuple[Any, ...]) -> tuple[Any, ...]:
        names = [entry.name.casefold() for entry in entries]  # they become file names
        twice = [entry.name for entry in entries if names.count(entry.name.casefold()) > 1]
        if twice:
            raise ValueError(f"names must differ, but {twice[0]!r} is given {len(twice)} times")
        return entries

    @pydantic.model_validator(mode="after")
    def _recipes_of_a_set_are_there(self) -> SweepConfig:
        known = [recipe.name for recipe in self.recipes]
        for dataset in self.datasets:
            for name in dataset.recipes or ():
                check_choice(f"recipe of dataset {dataset.name!r}", name, known)
        return self

    def recipes_of(self, dataset: DatasetSettings) -> tuple[RecipeSettings, ...]:
        """Return the recipes that train on a feature set."""
        return tuple(each for each in self.recipes if dataset.recipes is None or each.name in dataset.recipes)

    def experiment(self, dataset: DatasetSettings, recipe: RecipeSettings) -> ExperimentConfig:
        """Return the settings of one feature set under one recipe.

        Raises:
            InputError: if the recipe is incompatible with the sweep's privacy levels.
        """
        grid = {"classes": dataset.classes, "shots": dataset.shots}
        try:
            return ExperimentConfig.model_validate(
                {name: getattr(self, name) for name in ExperimentConfig.model_fields}
                | {
                    "data": dataset.model_dump(include=set(DataSettings.model_fields)),
                    "grid": self.grid.model_dump() | {name: value for name, value in grid.items() if value},
                    "train": recipe.model_dump(exclude={"name", "tuned"}),
                    "tuning": self.tuning if recipe.tuned else None,
                }
            )
        except pydantic.ValidationError as error:
            raise InputError(f"recipe {recipe.name!r}: {describe_error(error, ExperimentConfig)}") from None

    def record(self) -> dict[str, Any]:
        """All settings, JSON-ready."""
        return self.model_dump(mode="json", exclude={"data", "train"})
