"""All settings of an experiment: its tables, and the rules between them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import pydantic
from pydantic import Field

from jaxmia._validate import check_choice
from jaxmia.data.normalization import PROJECTIONS
from jaxmia.stats.p_values import EVALUATIONS
from jaxmia.studies.settings.actors import Knowledges, Releases
from jaxmia.studies.settings.attacks import Attacks, AttackSettings
from jaxmia.studies.settings.base import Fprs, Settings
from jaxmia.studies.settings.data import DataSettings, GridSettings, MembershipSettings, ShadowSettings
from jaxmia.studies.settings.privacy import PrivacySettings
from jaxmia.studies.settings.train import TrainSettings, named_as_recorded
from jaxmia.studies.settings.tuning import TuningSettings

_LATER = {  # newer settings of [train], with the values that older folders have without naming them
    "normalize": "none",
    "network": "linear",
    "widths": [],
    "blocks": 0,
    "rank": 8,
    "alpha": 0.0,
    "targets": [],
    "inputs": "features",
    "components": 32,
    "ridge": 0.0,
    "tolerance": 1e-7,
    "class_weight": "none",
    "intercept": True,
    "link": "softmax",
}


class ExperimentConfig(Settings):
    """The settings of one experiment: a grid of cells, each an ensemble with attacks on it.

    These are the keys and tables of an experiment file:

    - name, attack, evaluation, fpr (fractions) and correction are keys at the top.
    - data: the feature set, and the number of test examples per class.
    - membership: unit "record" or "person".
    - grid: numbers of classes C, shots S and seeds; the only table without defaults.
    - shadows: number of models, membership design, and pool size over S.
    - train: the recipe of all models.
    - privacy: epsilons, delta and clipping norm of DP-SGD.
    - tuning: the search for a recipe, if any.

    configs/demo.toml is an example, and docs/guide/runs.md explains it.
    """

    uses_train: ClassVar[bool] = True
    """Whether train is the recipe; a sweep has recipes of its own."""
    name: Annotated[str, Field(min_length=1)] = "experiment"
    attack: Attacks = (
        AttackSettings(name="lira"),
        AttackSettings(name="threshold"),
    )
    evaluation: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = ("pooled", "calibrated")
    """Which pairs share a threshold: see jaxmia.stats.operating_points.tpr_at_fpr."""
    fpr: Fprs = (0.1, 0.01, 0.001)
    release: Releases = ()
    """What actors see, for a table of them: "labels", "labels:QUERIES", "top1", "rounded:DECIMALS", "probabilities",
    "logits", "weights" (jaxmia.scores.release). Empty, with knowledge: no such table."""
    knowledge: Knowledges = ()
    """What they know, such as "full" or "population, shadows:64" (jaxmia.studies.settings.actors)."""
    correction: Literal["none", "finite_pool"] = "none"
    """Correction of per-example vulnerability: "finite_pool" multiplies D by sqrt(1 - inclusion rate). Attacks are not
    corrected."""
    data: DataSettings = DataSettings()
    membership: MembershipSettings = MembershipSettings()
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
        train, private = self.train, self.privacy.private_levels
        if private and train.batch_size != "full" and train.sampling != "poisson":
            raise ValueError(
                f"privacy.epsilon={private} needs train.batch_size='full' or train.sampling='poisson', got"
                f" batch_size={train.batch_size} with sampling={train.sampling!r}: batches in a shared"
                " order are not independent samples of each model's members, so privacy amplification"
                " by sampling does not hold"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _private_recipes_are_of_features_of_norm_one(self) -> ExperimentConfig:
        recipe, train = self.privacy.recipe, self.train
        if recipe == "given" or not self.uses_train:
            return self
        if train.normalize not in ("unit", *PROJECTIONS):
            raise ValueError(
                f"privacy.recipe={recipe!r} needs train.normalize='unit', 'public' or 'random', features of norm 1, got"
                f" {train.normalize!r}"
            )
        if recipe == "auto" and train.normalize == "random":
            raise ValueError("privacy.recipe='auto' needs train.normalize='public' or 'unit', got 'random'")
        if self.tuning is not None:
            raise ValueError(f"privacy.recipe={recipe!r} is chosen without the members, got [tuning]")
        return self

    def before_tuning(self) -> ExperimentConfig:
        """Return the settings with the full batch, which every cell supports, if batches are tuned."""
        if self.tuning is None:
            return self
        return self.model_copy(update={"train": self.train.model_copy(update={"batch_size": "full"})})

    @pydantic.model_validator(mode="after")
    def _weights_are_of_ordinary_training(self) -> ExperimentConfig:
        private = self.privacy.private_levels
        if private and self.train.class_weight != "none":
            raise ValueError(
                f"privacy.epsilon={private} needs train.class_weight='none', got {self.train.class_weight!r}"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _minima_are_neither_private_nor_searched(self) -> ExperimentConfig:
        private = self.privacy.private_levels
        if self.train.optimizer == "newton" and (private or self.tuning is not None):
            what = f"privacy.epsilon={private}" if private else "tuning"
            raise ValueError(f"{what} needs train.optimizer='adam' or 'sgd', got 'newton'")
        return self

    @pydantic.model_validator(mode="after")
    def _recipes_are_searched_for_heads_and_adapters(self) -> ExperimentConfig:
        if self.tuning is not None and self.train.network in ("mlp", "conv"):
            raise ValueError(
                "tuning needs train.network='linear' or an adapter, got"
                f" {self.train.network!r} (or tuned = false)"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _private_training_is_of_heads_and_adapters(self) -> ExperimentConfig:
        private = self.privacy.private_levels
        if private and self.train.network in ("mlp", "conv"):
            raise ValueError(
                f"privacy.epsilon={private} needs train.network='linear' or an adapter, got"
                f" {self.train.network!r}: DP-SGD supports no networks from random parameters"
            )
        if private and self.train.adapts and self.privacy_unit == "person":
            raise ValueError(
                f"privacy.epsilon={private} needs privacy.unit='record' for"
                f" train.network={self.train.network!r}: gradients of adapters are clipped by record"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _what_is_drawn_by_person(self) -> ExperimentConfig:
        membership = self.membership
        if not membership.by_person:
            if self.privacy.unit == "person":
                raise ValueError(
                    "privacy.unit='person' needs membership.unit='person': who was in, and who was not"
                )
            return self
        if self.tuning is not None:
            raise ValueError("tuning needs membership.unit='record': its validation split is by record")
        if self.shadows.design == "fixed_size" and membership.shots == "records":
            raise ValueError(
                "shadows.design='fixed_size' needs membership.shots='persons' with unit='person': persons are counted"
            )
        return self

    @property
    def has_actors(self) -> bool:
        """Whether a table of actors is asked for."""
        return bool(self.release or self.knowledge)

    @property
    def privacy_unit(self) -> str:
        """Whom private levels protect, and whose gradients are clipped: "record" or "person"."""
        return self.privacy.unit or self.membership.unit

    def training_identity(self) -> dict[str, Any]:
        """Return the settings that every trained head depends on.

        The grid, the privacy levels and the number of models only determine which heads exist.
        """
        settings = self.model_dump(mode="json", include={"data", "shadows", "train", "privacy"})
        settings["train"] = named_as_recorded(settings["train"])
        if self.membership.by_person:  # folders from before it say nothing, and are by record
            settings["membership"] = self.membership.model_dump(mode="json")
        settings["privacy"]["unit"] = self.privacy_unit
        if self.privacy.recipe == "given":  # folders from before other recipes say nothing
            del settings["privacy"]["recipe"]
        if self.privacy_unit == "record":  # folders from before it say nothing
            del settings["privacy"]["unit"]
        del settings["shadows"]["models"]
        del settings["privacy"]["epsilon"]
        del settings["data"]["features"]  # a path; its content is identified by a hash
        del settings["train"]["statistics"], settings["train"]["public"]  # the same
        if self.tuning is not None:  # tuning chooses these
            for table, name in (
                ("train", "learning_rate"),
                ("train", "batch_size"),
                ("train", "steps"),
                ("privacy", "clipping_norm"),
            ):
                del settings[table][name]
            settings["tuning"] = self.tuning.model_dump(mode="json")
        for name, default in _LATER.items():
            if settings["train"][name] == default:
                del settings["train"][name]
        # Earlier versions penalised all rows: half the ridge for two classes.
        if self.train.optimizer == "newton":
            settings["train"]["two_class_penalty"] = "ridge / 2 ||w_1 - w_0||^2"
        return settings

    def evaluation_identity(self) -> dict[str, Any]:
        """Return the settings that a cell's rows depend on in addition to its heads."""
        named = {"release", "knowledge"} if self.has_actors else set()  # older folders say nothing
        evaluated = {"attack", "correction", "evaluation", "fpr"} | named
        return self.model_dump(mode="json", include=evaluated) | {"models": self.shadows.models}
