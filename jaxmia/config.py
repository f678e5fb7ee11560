"""Experiment files: TOML to checked settings. Every error names the field by its path, the rule and the value."""

from __future__ import annotations

import importlib.resources
import inspect
import itertools
import json
import math
import os
import pathlib
import re
import tomllib
import types
import typing
from collections.abc import Sequence
from importlib.resources.abc import Traversable
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from jaxmia import attacks
from jaxmia._text import read_toml
from jaxmia._validate import InputError, check_choice, listed, shown, suggestion
from jaxmia.accounting import MIN_DELTA
from jaxmia.evaluation import EVALUATIONS
from jaxmia.power_law import DEFAULT_RECIPE

Fpr = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9]+([_-][A-Za-z0-9]+)*$", max_length=64)]
"""Part of file names, joined by "__"."""
_PATHS = ("features", "members", "statistics", "file")  # keys of settings that are paths, in whatever table
_NO_PATHS = ("", "demo", "pool")  # what stands there for no file
AttackOption = str | bool | int | float


class Settings(pydantic.BaseModel):
    """Frozen, strict, and closed to unknown keys."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _different(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse repeats: every value has rows of its own, which would then count twice."""
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise ValueError(f"values must differ, but {twice[0]!r} stands there {len(twice)} times")
    return values


Different = pydantic.AfterValidator(_different)
Fprs = Annotated[tuple[Fpr, ...], Field(min_length=1, strict=False), Different]


def _ascending(ends: tuple[Any, Any]) -> tuple[Any, Any]:
    if ends[0] > ends[1]:
        raise ValueError(f"a range must be [lowest, highest], got [{ends[0]}, {ends[1]}]")
    return ends


class DataSettings(Settings):
    """Where candidates come from."""

    features: str = "demo"
    """"demo" (the bundled set) or the path of an .npz with features and labels, from the file's folder."""
    test_per_class: Annotated[int, Field(ge=0)] = 200
    """At most this many held-out examples of each class, for accuracy."""


class GridSettings(Settings):
    """The cells of the experiment: every combination of classes, shots and seeds."""

    shots: Annotated[tuple[Positive, ...], Field(min_length=1, strict=False), Different]
    """S, training examples per class."""
    classes: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1, strict=False), Different]
    """C, number of classes; the largest classes are taken."""
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1, strict=False), Different
    ] = (0,)
    """All randomness of a cell follows from its seed."""

    @pydantic.field_validator("shots", "classes", "seeds")
    @classmethod
    def _sorted(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(values))


class ShadowSettings(Settings):
    """The ensemble of each cell."""

    models: Annotated[int, Field(ge=3)] = 257
    """M; each model is the target once, the other M - 1 its shadows."""
    design: Literal["bernoulli", "fixed_size"] = "bernoulli"
    """"bernoulli" (add/remove) or "fixed_size" (replace one)."""
    pool_multiplier: Annotated[int, Field(ge=2)] = 2
    """m; the pool has m x S candidates of each class and a model trains on 1/m of them."""


class TrainSettings(Settings):
    """The recipe of every head."""

    optimizer: Literal["adam", "sgd", "newton"] = "adam"
    """"newton" trains to the minimum of the summed loss + ridge / 2 * ||kernel||^2, in at most so many steps, as
    scikit-learn's LogisticRegression with C = 1 / ridge; it takes the full batch and no learning rate."""
    ridge: Annotated[float, Field(ge=0)] = 0.0
    """Of newton, above 0: 1 / C, for two classes too (the penalty is of the one row w_1 - w_0 of scikit-learn)."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-7
    """Of newton: the norm of the objective's gradient at which a head is done, over the number of members times the
    root mean square norm of their features (with the bias's 1)."""
    schedule: Literal["constant", "cosine"] = "constant"
    steps: Positive = 100
    batch_size: Positive | Literal["full"] = "full"
    """Expected members per step."""
    sampling: Literal["shared", "independent", "poisson"] = "shared"
    """How batches are drawn: "shared" (one order of the candidates for all models), "independent" (every model shuffles
    on its own) or "poisson" (every model draws each of its members at every step). The full batch needs none."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of sgd."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """L2 coefficient: mean loss + weight_decay / 2 * ||kernel||^2, over the rows of all classes, also of two."""
    class_weight: (
        Literal["none", "balanced"]
        | Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=2, strict=False)]
    ) = "none"
    """How often a member's loss counts: "balanced" (members over classes x members of the class, of every head's own
    members, as scikit-learn's) or a weight for each class; by weights, sgd and adam take the mean as PyTorch does."""
    intercept: bool = True
    """Whether heads have a bias (scikit-learn's fit_intercept)."""
    link: Literal["softmax", "one_vs_rest"] = "softmax"
    """"one_vs_rest", of newton: a head for each class against the rest, and their sigmoids normalised, as
    scikit-learn's OneVsRestClassifier."""
    products: Literal["float32", "tensorfloat32", "bfloat16"] = "float32"
    """In what the two matrix products of a step multiply; they accumulate in float32. "float32" is that on every
    device; "tensorfloat32" keeps 10 bits where the device has such arithmetic (A100 and later). "bfloat16" takes about
    half of the time where the processor has such arithmetic, and moves scores by less than a tenth of what a
    seed does."""
    normalize: Literal["none", "unit", "standardize"] = "none"
    """Of candidates and test split alike: "unit" (every example to norm 1) or "standardize" (every dimension centred
    and scaled, then divided by sqrt(dim)): see jaxmia.features.normalized_pool."""
    statistics: Annotated[str, Field(min_length=1)] = "pool"
    """What to standardise by: "pool" (mean and deviation of the cell's candidates) or an .npz with mean and scale."""
    network: Literal["linear", "mlp", "conv"] = "linear"
    """What is trained: "linear" (a linear head from zero), or from random parameters "mlp" (dense layers with ReLU) or
    "conv" (a convolution, 7 x 7 pixels at stride 4, then dense layers)."""
    widths: Annotated[tuple[Positive, ...], Field(strict=False)] = ()
    """Of the hidden layers of a network; the first of a conv net is its channels."""
    inputs: Literal["features", "raw"] = "features"
    """What it is trained on: the extractor's features, or what the extractor was given: pixels, or token ids as a bag
    of tokens."""

    @property
    def plain(self) -> bool:
        """Whether heads are softmax heads with a bias whose members count alike: what attacks that know more take."""
        return self.class_weight == "none" and self.intercept and self.link == "softmax"

    @pydantic.model_validator(mode="after")
    def _networks_have_what_they_need(self) -> TrainSettings:
        what = f"network={self.network!r}"
        if (self.network == "linear") != (not self.widths):
            rule = "none for network='linear'" if self.widths else f"at least one hidden layer for {what}"
            raise ValueError(f"widths={list(self.widths)} must name {rule}")
        if self.network == "conv" and self.inputs != "raw":
            raise ValueError(f"{what} needs inputs='raw' (pixels), got inputs={self.inputs!r}")
        if self.network != "linear" and self.products != "float32":
            raise ValueError(f"products={self.products!r} is for network='linear', got {what}")
        if self.network != "linear" and self.sampling == "poisson":
            raise ValueError(f"sampling='poisson' is for network='linear', got {what}")
        if self.network != "linear" and not self.plain:
            raise ValueError(f"class_weight and intercept are for network='linear', got {what}")
        if self.inputs == "raw" and self.statistics != "pool":
            raise ValueError(f"statistics={self.statistics!r} is for inputs='features', got inputs='raw'")
        return self

    @pydantic.model_validator(mode="after")
    def _newton_has_a_ridge_and_no_more(self) -> TrainSettings:
        if self.link == "one_vs_rest" and not isinstance(self.class_weight, str):
            raise ValueError("class_weight must be 'none' or 'balanced' for link='one_vs_rest', got a list")
        if self.optimizer != "newton":
            if self.link != "softmax":
                raise ValueError(f"link={self.link!r} needs optimizer='newton', got {self.optimizer!r}")
            if self.ridge:
                raise ValueError(
                    f"ridge={self.ridge} is for optimizer='newton', got optimizer={self.optimizer!r}"
                )
            return self
        if not self.ridge:
            raise ValueError("ridge=0.0 must be above 0 for optimizer='newton'")
        unused = (
            "schedule",
            "batch_size",
            "sampling",
            "learning_rate",
            "weight_decay",
            "products",
            "network",
        )
        for name in unused:
            value, default = getattr(self, name), type(self).model_fields[name].default
            if value != default:
                raise ValueError(f"{name}={value!r} must be {default!r} for optimizer='newton'")
        return self

    @pydantic.model_validator(mode="after")
    def _statistics_are_to_standardize_by(self) -> TrainSettings:
        if self.statistics != "pool" and self.normalize != "standardize":
            raise ValueError(
                f"statistics={self.statistics!r} is for normalize='standardize', got normalize={self.normalize!r}"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _momentum_is_for_sgd(self) -> TrainSettings:
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(
                f"momentum={self.momentum} is for optimizer='sgd', got optimizer={self.optimizer!r}"
            )
        return self


class PrivacySettings(Settings):
    """Differential privacy of training; epsilon is an axis of the grid."""

    epsilon: Annotated[
        tuple[Annotated[float, Field(gt=0, allow_inf_nan=True)], ...], Field(min_length=1, strict=False)
    ] = (math.inf,)
    """Levels to train at, by DP-SGD with as much noise as they need; inf is ordinary training, neither clipped nor
    noisy. The adjacency follows from shadows.design."""
    delta: Annotated[float, Field(ge=MIN_DELTA, lt=1)] = 1e-5
    clipping_norm: Annotated[float, Field(gt=0)] = 1.0
    """The largest norm of one example's gradient."""

    @pydantic.field_validator("epsilon")
    @classmethod
    def _named_apart(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        """Cells are named by six digits of their level: two that agree in these would share a folder."""
        levels = tuple(sorted(values))
        for low, high in itertools.pairwise(levels):
            if f"{low:g}" == f"{high:g}":
                raise ValueError(
                    f"levels must differ in their first six digits, but {low!r} and {high!r} do not"
                )
        return levels

    @pydantic.field_validator("epsilon", mode="before")
    @classmethod
    def _from_json(cls, values: Any) -> Any:
        """A manifest's settings: JSON has no infinity."""
        if not isinstance(values, (list, tuple)):
            return values
        return tuple(math.inf if value == "inf" else value for value in values)

    @pydantic.field_serializer("epsilon", when_used="json")
    def _as_json(self, values: tuple[float, ...]) -> list[float | str]:
        return ["inf" if value == math.inf else value for value in values]


LogRange = Annotated[
    tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]],
    Field(strict=False),
    pydantic.AfterValidator(_ascending),
]
WholeLogRange = Annotated[tuple[Positive, Positive], Field(strict=False), pydantic.AfterValidator(_ascending)]


class TuningSettings(Settings):
    """The search for a recipe (jaxmia.tuning).

    Ranges are searched on a log scale, both ends included; a range of one value is that value. What is found takes the
    place of train.learning_rate, train.batch_size, train.steps and, for private cells, privacy.clipping_norm.
    """

    trials: Positive = 20
    round_size: Positive = 5
    """Trials that are trained side by side, before the next are asked for."""
    per: Literal["cell", "shots"] = "cell"
    """"cell": every cell has a search of its own; "shots": all seeds of a (C, S, epsilon) share that of seed 0."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the training set that trials are judged by and not trained on."""
    objective: Literal["accuracy", "loss"] = "loss"
    """What they are judged by: the lowest mean cross-entropy, or the highest accuracy (of equal ones the lowest loss).
    Heads start at zero, where accuracy tells hardly any learning rates apart: see docs/tuning.md."""
    learning_rate: LogRange = (1e-7, 1e-2)
    batch_size: WholeLogRange = (10, 10_000)
    """Expected members per step, cut at S x C, the full batch."""
    epochs: WholeLogRange = (1, 200)
    clipping_norm: LogRange = (0.2, 10.0)
    """Of private cells."""
    max_steps: Positive = 1000
    """Of a trial and of the recipe, whatever epochs and batch would give: what bounds the cost."""


class AttackSettings(pydantic.BaseModel):
    """An attack by name, with the options of its function."""

    model_config = pydantic.ConfigDict(frozen=True, extra="allow")
    name: str

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @pydantic.model_validator(mode="after")
    def _known(self) -> AttackSettings:
        check_choice("attack", self.name, attacks.REGISTRY)
        parameters = inspect.signature(attacks.REGISTRY[self.name]).parameters
        known = [key for key in parameters if key not in ("scores", "features")]  # these come with the data
        for option in self.options:
            check_choice(f"option of attack {self.name!r}", option, known)
        types = typing.get_type_hints(attacks.REGISTRY[self.name])
        for option, value in self.options.items():
            try:
                pydantic.TypeAdapter(types[option], config={"strict": True}).validate_python(value)
            except pydantic.ValidationError as error:
                rule = error.errors(include_url=False)[0]["msg"].removeprefix("Input should ")
                raise ValueError(f"option {option}={value!r} of attack {self.name!r} must {rule}") from None
        return self

    @property
    def full_options(self) -> dict[str, Any]:
        """With the defaults of those that are not given: attacks of equal ones say the same."""
        parameters = inspect.signature(attacks.REGISTRY[self.name]).parameters
        known = {name: each.default for name, each in parameters.items() if each.default is not each.empty}
        return {**known, **self.options}

    @property
    def options(self) -> dict[str, AttackOption]:
        """Keyword arguments of the attack's function."""
        return dict(self.model_extra or {})

    @property
    def label(self) -> str:
        """Name and options as one word, for tables: lira(variance=global)."""
        options = ",".join(f"{key}={value}" for key, value in sorted(self.options.items()))
        return f"{self.name}({options})" if options else self.name


def _different_attacks(entries: tuple[AttackSettings, ...]) -> tuple[AttackSettings, ...]:
    """Refuse an attack that stands there twice: its rows would count twice, and errors of laws shrink."""
    for first, second in itertools.combinations(entries, 2):
        if (first.name, first.full_options) == (second.name, second.full_options):
            labels = dict.fromkeys((first.label, second.label))
            raise ValueError(f"attacks must differ, but {' and '.join(labels)} stands there twice")
    return entries


Attacks = Annotated[
    tuple[AttackSettings, ...],
    Field(min_length=1, strict=False),
    pydantic.AfterValidator(_different_attacks),
]


class ExperimentConfig(Settings):
    """One experiment: a grid of cells, each an ensemble under attack."""

    name: Annotated[str, Field(min_length=1)] = "experiment"
    attack: Attacks = (
        AttackSettings(name="lira"),
        AttackSettings(name="threshold"),
    )
    evaluation: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = ("pooled", "calibrated")
    """Which pairs share a threshold: see jaxmia.evaluation.tpr_at_fpr."""
    fpr: Fprs = (0.1, 0.01, 0.001)
    correction: Literal["none", "finite_pool"] = "none"
    """Of per-example vulnerability: "finite_pool" multiplies D by sqrt(1 - inclusion rate). Attacks know none."""
    data: DataSettings = DataSettings()
    grid: GridSettings
    shadows: ShadowSettings = ShadowSettings()
    train: TrainSettings = TrainSettings()
    privacy: PrivacySettings = PrivacySettings()
    tuning: TuningSettings | None = None

    @pydantic.field_validator("evaluation")
    @classmethod
    def _known_evaluations(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            check_choice("evaluation", name, EVALUATIONS)
        return tuple(dict.fromkeys(names))

    @pydantic.model_validator(mode="after")
    def _private_batches_are_secret(self) -> ExperimentConfig:
        train, private = self.train, [epsilon for epsilon in self.privacy.epsilon if epsilon < math.inf]
        if private and train.batch_size != "full" and train.sampling != "poisson":
            raise ValueError(
                f"privacy.epsilon={private} needs train.batch_size='full' or train.sampling='poisson', got"
                f" batch_size={train.batch_size} with sampling={train.sampling!r}: batches in a shared order are no"
                " independent sample of each model's members, so that no epsilon amplified by sampling holds"
            )
        return self

    def before_tuning(self) -> ExperimentConfig:
        """The settings with the full batch, if batches are tuned: the one that every cell can have."""
        if self.tuning is None:
            return self
        return self.model_copy(update={"train": self.train.model_copy(update={"batch_size": "full"})})

    @pydantic.model_validator(mode="after")
    def _weights_are_of_ordinary_training(self) -> ExperimentConfig:
        private = [epsilon for epsilon in self.privacy.epsilon if epsilon < math.inf]
        if private and not self.train.plain:
            raise ValueError(
                f"privacy.epsilon={private} needs train.class_weight='none' and train.intercept=true, got"
                f" {self.train.class_weight!r} and {self.train.intercept}"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _minima_are_neither_private_nor_searched(self) -> ExperimentConfig:
        private = [epsilon for epsilon in self.privacy.epsilon if epsilon < math.inf]
        if self.train.optimizer == "newton" and (private or self.tuning is not None):
            what = f"privacy.epsilon={private}" if private else "tuning"
            raise ValueError(f"{what} needs train.optimizer='adam' or 'sgd', got 'newton'")
        return self

    @pydantic.model_validator(mode="after")
    def _recipes_are_searched_for_linear_heads(self) -> ExperimentConfig:
        if self.tuning is not None and self.train.network != "linear":
            raise ValueError(
                f"tuning needs train.network='linear', got {self.train.network!r} (or tuned = false)"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _private_training_is_of_linear_heads(self) -> ExperimentConfig:
        private = [epsilon for epsilon in self.privacy.epsilon if epsilon < math.inf]
        if private and self.train.network != "linear":
            raise ValueError(
                f"privacy.epsilon={private} needs train.network='linear', got {self.train.network!r}: DP-SGD is exact"
                " clipping of linear heads' gradients"
            )
        return self

    def training_identity(self) -> dict[str, Any]:
        """The settings that every trained head depends on.

        The grid, privacy levels and the number of models only say which heads exist.
        """
        settings = self.model_dump(mode="json", include={"data", "shadows", "train", "privacy"})
        del settings["shadows"]["models"]
        del settings["privacy"]["epsilon"]
        del settings["data"]["features"]  # a place; what lies there is identified by its hash
        del settings["train"]["statistics"]  # the same
        if self.train.normalize == "none":  # folders from before there was a choice are of this
            del settings["train"]["normalize"]
        if self.tuning is not None:  # which finds these
            for table, name in (
                ("train", "learning_rate"),
                ("train", "batch_size"),
                ("train", "steps"),
                ("privacy", "clipping_norm"),
            ):
                del settings[table][name]
            settings["tuning"] = self.tuning.model_dump(mode="json")
        later = {
            "network": "linear",
            "widths": [],
            "inputs": "features",
            "ridge": 0.0,
            "tolerance": 1e-7,
            "class_weight": "none",
            "intercept": True,
            "link": "softmax",
        }
        for name, default in later.items():  # the same
            if settings["train"][name] == default:
                del settings["train"][name]
        return settings

    def evaluation_identity(self) -> dict[str, Any]:
        """The settings that a cell's rows depend on beside its heads."""
        return self.model_dump(mode="json", include={"attack", "correction", "evaluation", "fpr"}) | {
            "models": self.shadows.models
        }


class DatasetSettings(DataSettings):
    """One feature set of a sweep."""

    name: Name
    features: str
    """"demo" or the path of an .npz, from the file's folder; ~ is the home folder."""
    classes: (
        Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1, strict=False), Different]
        | None
    ) = None
    """C of this set, where the grid's do not fit."""
    shots: Annotated[tuple[Positive, ...], Field(min_length=1, strict=False), Different] | None = None
    """S of this set, where the grid's do not fit."""
    recipes: Annotated[tuple[Name, ...], Field(min_length=1, strict=False), Different] | None = None
    """Recipes that train on this set, where not all fit: a conv net needs pixels."""
    optional: bool = False
    """Whether the sweep goes on without the set if its file is absent."""


class RecipeSettings(TrainSettings):
    """One recipe of a sweep."""

    name: Name
    tuned: bool = True
    """Whether the sweep's [tuning], if it has any, is for this recipe."""


class SweepConfig(ExperimentConfig):
    """A grid over feature sets and recipes as well: every recipe trains on every set that names no others.

    data and train are not used.
    """

    name: Annotated[str, Field(min_length=1)] = "sweep"
    datasets: Annotated[tuple[DatasetSettings, ...], Field(min_length=1, strict=False)]
    recipes: Annotated[tuple[RecipeSettings, ...], Field(min_length=1, strict=False)]

    @pydantic.field_validator("datasets", "recipes")
    @classmethod
    def _different_names(cls, entries: tuple[Any, ...]) -> tuple[Any, ...]:
        names = [entry.name.casefold() for entry in entries]  # they become file names
        twice = [entry.name for entry in entries if names.count(entry.name.casefold()) > 1]
        if twice:
            raise ValueError(f"names must differ, but {twice[0]!r} stands there {len(twice)} times")
        return entries

    @pydantic.model_validator(mode="after")
    def _recipes_of_a_set_are_there(self) -> SweepConfig:
        known = [recipe.name for recipe in self.recipes]
        for dataset in self.datasets:
            for name in dataset.recipes or ():
                check_choice(f"recipe of dataset {dataset.name!r}", name, known)
        return self

    def recipes_of(self, dataset: DatasetSettings) -> tuple[RecipeSettings, ...]:
        """The recipes that train on a feature set."""
        return tuple(each for each in self.recipes if dataset.recipes is None or each.name in dataset.recipes)

    def experiment(self, dataset: DatasetSettings, recipe: RecipeSettings) -> ExperimentConfig:
        """The settings of one feature set under one recipe.

        Raises:
            InputError: if the recipe does not go with the sweep's privacy levels.
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


def builtin_configs() -> dict[str, Traversable]:
    """The experiment files that come with jaxmia, by name: configs/ of the checkout or of the installed package."""
    package = importlib.resources.files("jaxmia")
    folders = (package / "configs", package / ".." / "configs")
    folder = next((folder for folder in folders if folder.is_dir()), None)
    files = folder.iterdir() if folder is not None else ()
    return {file.name.removesuffix(".toml"): file for file in files if file.name.endswith(".toml")}


def load_config(source: str | os.PathLike[str], overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read an experiment file; overrides are "table.key=value" with a TOML value (bare words are strings).

    Args:
        source: path of a TOML file, or the name of a built-in one ("demo").
        overrides: applied in order.

    Raises:
        InputError: for a missing file, bad TOML, an unknown key (the nearest is suggested) or a wrong value.
    """
    settings = read_settings(source, overrides)
    if {"datasets", "recipes"} & settings.keys():
        raise InputError(
            f"config={str(source)!r} must be of an experiment; it is of a sweep: use jaxmia sweep."
        )
    return parse_config(settings)


def load_sweep(source: str | os.PathLike[str], overrides: Sequence[str] = ()) -> SweepConfig:
    """Read a sweep file, or an experiment file as a sweep of one feature set and one recipe; otherwise as load_config.

    Overrides reach the entries of [[datasets]] and [[recipes]] by name or place: "recipes.adam.steps=200".
    """
    return parse_sweep(read_settings(source, overrides))


def parse_sweep(settings: dict[str, Any]) -> SweepConfig:
    """Check the settings of a sweep, or of an experiment, given as nested dictionaries.

    [data] and [train] hold what the entries of [[datasets]] and [[recipes]] have in common; without entries they are
    the only one.

    Args:
        settings: as in the TOML file.

    Raises:
        InputError: as parse_config.
    """
    settings = dict(settings)
    for shared_name, name, one in (("data", "datasets", _only_dataset), ("train", "recipes", _only_recipe)):
        shared = settings.pop(shared_name, {})
        if not isinstance(shared, dict):
            raise InputError(f"{shared_name}={shared!r}: must be a table.")
        entries = settings.setdefault(name, [one(shared)])
        if isinstance(entries, list):  # of tables, or what the model refuses
            settings[name] = [_merged(shared, entry) for entry in entries]
    try:
        return SweepConfig.model_validate(settings)
    except pydantic.ValidationError as error:
        raise InputError(describe_error(error, SweepConfig)) from None


def _only_dataset(data: dict[str, Any]) -> dict[str, Any]:
    features = str(data.get("features", "demo"))
    name = re.sub(r"[^A-Za-z0-9]+", "-", pathlib.PurePath(features).stem).strip("-")
    return {"name": name or "data", "features": features}


def _only_recipe(train: dict[str, Any]) -> dict[str, Any]:
    return {"name": DEFAULT_RECIPE}


def _merged(shared: dict[str, Any], entry: Any) -> Any:
    return {**shared, **entry} if isinstance(entry, dict) else entry


def read_settings(source: str | os.PathLike[str], overrides: Sequence[str]) -> dict[str, Any]:
    """A TOML file, or a built-in one, as nested dictionaries, with overrides; unchecked.

    Paths that stand in the file start at its folder, those of overrides and of a built-in one at the present folder;
    ~ is the home folder.

    Raises:
        InputError: for a missing file, bad TOML, or an override that names nothing.
    """
    path = pathlib.Path(source).expanduser()
    file: Traversable = path
    if not path.is_file():
        builtin = builtin_configs()
        if str(source) not in builtin:
            raise InputError(
                f"config={str(source)!r} must be a TOML file or one of {', '.join(sorted(builtin))}; there is none."
            )
        file = builtin[str(source)]
    folder = path.absolute().parent if file is path else pathlib.Path.cwd()
    settings: dict[str, Any] = _placed(read_toml(file, "config"), folder)
    for override in overrides:
        _apply(override, settings)
    return settings


def _placed(settings: Any, folder: pathlib.Path) -> Any:
    """Settings, at any depth, whose paths start at a folder."""
    if isinstance(settings, list):
        return [_placed(entry, folder) for entry in settings]
    if not isinstance(settings, dict):
        return settings
    return {
        key: place_of(value, folder) if key in _PATHS and isinstance(value, str) else _placed(value, folder)
        for key, value in settings.items()
    }


def place_of(path: str, folder: pathlib.Path) -> str:
    """A path of a settings file, from a folder; words that stand for no file stay."""
    return path if path in _NO_PATHS else str(folder / os.path.expanduser(path))


def parse_config(settings: dict[str, Any]) -> ExperimentConfig:
    """Check settings given as nested dictionaries, as in the TOML file.

    Raises:
        InputError: naming the path of the first wrong field, the rule and the value, and how many more are wrong.
    """
    try:
        return ExperimentConfig.model_validate(settings)
    except pydantic.ValidationError as error:
        raise InputError(describe_error(error, ExperimentConfig)) from None


def to_toml(config: ExperimentConfig) -> str:
    """The settings as a TOML file that load_config reads back to the same."""
    settings = config.model_dump(exclude_none=True)
    tables = [name for name, value in settings.items() if isinstance(value, dict)]
    lines = [f"{name} = {_toml_value(value)}" for name, value in settings.items() if name not in tables]
    for name in tables:
        lines += [
            "",
            f"[{name}]",
            *(f"{key} = {_toml_value(value)}" for key, value in settings[name].items()),
        ]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):  # keys are names of options
        return "{ " + ", ".join(f"{key} = {_toml_value(each)}" for key, each in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, float):
        return repr(value)  # of infinity too
    return json.dumps(value)  # strings, integers and booleans are written alike


def _apply(override: str, settings: dict[str, Any]) -> None:
    path, separator, text = override.partition("=")
    if not separator or not path.strip():
        raise InputError(f"--set {override!r} must have the form table.key=value, as in train.steps=200.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word: train.optimizer=sgd
    *tables, key = path.strip().split(".")
    place: Any = settings
    for table in tables:
        if isinstance(place, list):  # of [[recipes]]: the word names one of them
            entries = _by_name(place)
            check_choice(f"--set {override!r}: name", table, entries)
            place = entries[table]
        else:
            place = place.setdefault(table, {})
        if not isinstance(place, (dict, list)):
            raise InputError(f"--set {override!r} must name a key of a table; {table!r} is a value.")
    if isinstance(place, list):
        raise InputError(f"--set {override!r} must name a key of one of {listed(_by_name(place))}.")
    place[key] = _placed({key: value}, pathlib.Path.cwd())[key]


def _by_name(entries: list[Any]) -> dict[str, Any]:
    tables = {str(place): entry for place, entry in enumerate(entries) if isinstance(entry, dict)}
    return tables | {str(entry["name"]): entry for entry in tables.values() if "name" in entry}


def describe_error(error: pydantic.ValidationError, model: type[pydantic.BaseModel]) -> str:
    """The first thing that is wrong with settings, in one line: its path, the rule and the value."""
    errors = error.errors(include_url=False)
    first = errors[0]
    path = ".".join(str(part) for part in first["loc"])
    more = f" ({len(errors) - 1} more wrong)" if len(errors) > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, first["loc"][:-1])
        return f"unknown key {path!r}; known here: {', '.join(known)}.{suggestion(str(first['loc'][-1]), known)}{more}"
    if first["type"] == "missing":
        return f"{path} is required, got nothing.{more}"
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    if first["type"] == "value_error":  # a validator's own words already name the value
        return f"{path}: {message}.{more}" if path else f"{message}.{more}"
    return f"{path}={shown(first['input'])}: {message[0].lower()}{message[1:]}.{more}"


def _fields_at(model: Any, location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        # An entry of a list of tables has the fields of its one type.
        model = typing.get_args(model)[0] if isinstance(part, int) else model.model_fields[part].annotation
        if isinstance(model, types.UnionType):  # an optional table
            model = typing.get_args(model)[0]
    return list(model.model_fields)
