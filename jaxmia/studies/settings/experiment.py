"""All settings of an experiment: its tables together, and what they ask of one another."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from jaxmia._validate import check_choice
from jaxmia.stats.p_values import EVALUATIONS
from jaxmia.studies.settings.attacks import Attacks, AttackSettings
from jaxmia.studies.settings.base import Fprs, Settings
from jaxmia.studies.settings.data import DataSettings, GridSettings, MembershipSettings, ShadowSettings
from jaxmia.studies.settings.privacy import PrivacySettings
from jaxmia.studies.settings.train import TrainSettings, named_as_recorded
from jaxmia.studies.settings.tuning import TuningSettings

_LATER = {  # settings of [train] that came later: folders from before are of these values, and name none
    "normalize": "none",
    "network": "linear",
    "widths": [],
    "inputs": "features",
    "components": 32,
    "ridge": 0.0,
    "tolerance": 1e-7,
    "class_weight": "none",
    "intercept": True,
    "link": "softmax",
}


class ExperimentConfig(Settings):
    """One experiment: a grid of cells, each an ensemble under attack."""

    name: Annotated[str, Field(min_length=1)] = "experiment"
    attack: Attacks = (
        AttackSettings(name="lira"),
        AttackSettings(name="threshold"),
    )
    evaluation: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = ("pooled", "calibrated")
    """Which pairs share a threshold: see jaxmia.stats.operating_points.tpr_at_fpr."""
    fpr: Fprs = (0.1, 0.01, 0.001)
    correction: Literal["none", "finite_pool"] = "none"
    """Of per-example vulnerability: "finite_pool" multiplies D by sqrt(1 - inclusion rate). Attacks have none."""
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
        private = self.privacy.private_levels
        if private and not self.train.plain:
            raise ValueError(
                f"privacy.epsilon={private} needs train.class_weight='none' and train.intercept=true, got"
                f" {self.train.class_weight!r} and {self.train.intercept}"
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
    def _recipes_are_searched_for_linear_heads(self) -> ExperimentConfig:
        if self.tuning is not None and self.train.network != "linear":
            raise ValueError(
                f"tuning needs train.network='linear', got {self.train.network!r} (or tuned = false)"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _private_training_is_of_linear_heads(self) -> ExperimentConfig:
        private = self.privacy.private_levels
        if private and self.train.network != "linear":
            raise ValueError(
                f"privacy.epsilon={private} needs train.network='linear', got {self.train.network!r}: DP-SGD is exact"
                " clipping of linear heads' gradients"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _what_is_drawn_by_person(self) -> ExperimentConfig:
        membership, private = self.membership, self.privacy.private_levels
        if not membership.by_person:
            return self
        if private:
            raise ValueError(
                f"privacy.epsilon={private} bounds what is told of one record: with membership.unit='person' leave it"
                " out"
            )
        if self.tuning is not None:
            raise ValueError("tuning needs membership.unit='record': its validation split is by record")
        if self.shadows.design == "fixed_size" and membership.shots == "records":
            raise ValueError(
                "shadows.design='fixed_size' needs membership.shots='persons' with unit='person': persons are counted"
            )
        paired = [attack.label for attack in self.attack if attack.options.get("paired")]
        if paired:
            raise ValueError(
                f"attack {paired[0]} needs membership.unit='record': it flips one record at a time"
            )
        return self

    def training_identity(self) -> dict[str, Any]:
        """The settings that every trained head depends on.

        The grid, privacy levels and the number of models only say which heads exist.
        """
        settings = self.model_dump(mode="json", include={"data", "shadows", "train", "privacy"})
        settings["train"] = named_as_recorded(settings["train"])
        if self.membership.by_person:  # folders from before it say nothing, and are by record
            settings["membership"] = self.membership.model_dump(mode="json")
        del settings["shadows"]["models"]
        del settings["privacy"]["epsilon"]
        del settings["data"]["features"]  # a place; what lies there is identified by its hash
        del settings["train"]["statistics"], settings["train"]["public"]  # the same
        if self.tuning is not None:  # which finds these
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
        if self.train.optimizer == "newton":  # before, two classes had the ridge of all rows: half as strong
            settings["train"]["two_class_penalty"] = "ridge / 2 ||w_1 - w_0||^2"
        return settings

    def evaluation_identity(self) -> dict[str, Any]:
        """The settings that a cell's rows depend on beside its heads."""
        return self.model_dump(mode="json", include={"attack", "correction", "evaluation", "fpr"}) | {
            "models": self.shadows.models
        }
