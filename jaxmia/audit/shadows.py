"""The shadows of an audit: heads with the audited head's recipe, each on other records, saved on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
from typing import Any, cast

import jax
import numpy as np
import rich.console
from jaxtyping import Bool, Float

from jaxmia._hashes import content_key
from jaxmia._progress import grid_progress
from jaxmia._resumable import Blocks, keyed_folder
from jaxmia._validate import check
from jaxmia.audit.records import AuditRecords
from jaxmia.audit.settings import AuditConfig, AuditPrivacySettings
from jaxmia.data.membership import draw_membership
from jaxmia.data.persons import grouped
from jaxmia.privacy.accounting import check_records_per_person
from jaxmia.privacy.guarantee import PrivacyGuarantee, PrivacySpec
from jaxmia.studies.assess import white_box_methods
from jaxmia.studies.decisions import decision_names, decisions
from jaxmia.studies.folder.manifest import versions
from jaxmia.studies.recipe import Recipe, recipe_for
from jaxmia.studies.settings.experiment import ExperimentConfig
from jaxmia.studies.settings.train import TrainSettings, named_as_recorded
from jaxmia.training.ensemble import ShadowEnsemble, train_ensemble
from jaxmia.training.scoring import score

BLOCK = 32  # number of shadows per write
SHADOWS_FOLDER = "shadows"  # subfolder of an audit's folder
SHADOWS, FITTING = 0, 1  # random streams of the shadows and of the heads for fitting
SCORES, WEIGHTS = ("log_odds", "member"), ("kernel", "bias")  # arrays of a block of shadows


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """Trains heads with the audited head's recipe.

    Attributes:
        records: the records; heads train on subsets of them.
        seed: seed of all randomness.
        privacy: DP-SGD settings, or None.
        memory: largest number of bytes that training holds; default as in train_ensemble.
        by_person: whether heads are trained on all records of a person or on none.
    """

    records: AuditRecords
    seed: int
    privacy: AuditPrivacySettings | None
    memory: int | None = None
    by_person: bool = False

    def recipe(self, train: TrainSettings) -> Recipe:
        """Return the recipe of the heads, with batch sizes relative to their expected number of members.

        Raises:
            InputError: for a batch larger than the expected number of members.
        """
        classes = self.records.data.num_classes
        members = self.records.inclusion_rate * len(self.records.member)
        settings = {name: getattr(train, name) for name in TrainSettings.model_fields}
        shots = max(1, math.ceil(members / classes))
        config = ExperimentConfig.model_validate(
            {
                "train": TrainSettings.model_validate(settings),
                "grid": {"classes": [classes], "shots": [shots]},
            }
        )
        rate = 1.0
        if train.sampling == "poisson" and train.batch_size != "full":
            rule = f"be at most {members:.0f}, the expected members of a shadow (or 'full')"
            check(train.batch_size <= members, "train.batch_size", train.batch_size, rule)
            rate = train.batch_size / members
        recipe = recipe_for(config, classes=classes, shots=shots)
        hyper = recipe.hyper
        if rate < 1:
            hyper = dataclasses.replace(hyper, sampling_rate=rate)
        if self.privacy is None:
            return dataclasses.replace(recipe, hyper=hyper)
        guarantee = self._guarantee(self.privacy, rate, train.steps)
        hyper = dataclasses.replace(
            hyper,
            clipping_norm=self.privacy.clipping_norm,
            noise_multiplier=guarantee.noise_multiplier,
        )
        private = dataclasses.replace(recipe.config, private=True, privacy_unit=self.privacy.unit)
        return Recipe(private, hyper, guarantee)

    def _guarantee(self, privacy: AuditPrivacySettings, rate: float, steps: int) -> PrivacyGuarantee:
        spec = PrivacySpec(
            epsilon=privacy.epsilon,
            noise_multiplier=privacy.noise_multiplier,
            delta=privacy.delta,
            clipping_norm=privacy.clipping_norm,
        )
        recipe: dict[str, Any] = {"sampling_rate": rate, "steps": steps, "adjacency": privacy.adjacency}
        guarantee = spec.guarantee(**recipe, unit=privacy.unit)
        if not self.by_person:
            return guarantee
        most = int(grouped(cast(np.ndarray, self.records.data.person))[2].max())
        check_records_per_person(most)
        return guarantee if privacy.unit == "person" else guarantee.of_persons(most)

    def heads(self, train: TrainSettings, models: tuple[int, int], *, stream: int) -> ShadowEnsemble:
        """Return the heads first .. end - 1 of a random stream, each on a random subset of the records.

        Heads for fitting a recipe have their own stream, so no shadow influences the recipe.
        """
        recipe, key = self.recipe(train), jax.random.key(self.seed)
        masks = draw_membership(
            jax.random.fold_in(key, 2 * stream),
            self.records.data.labels,
            num_models=models[1] - models[0],
            first_model=models[0],
            inclusion_rate=self.records.inclusion_rate,
            person=self.records.data.person if self.by_person else None,
        )
        training = jax.random.fold_in(key, 2 * stream + 1)
        return train_ensemble(
            training, self.records.data, masks, recipe.hyper, recipe.config, memory=self.memory
        )

    def scores(
        self, train: TrainSettings, models: tuple[int, int], *, stream: int
    ) -> tuple[Float[np.ndarray, "models records"], Bool[np.ndarray, "models records"]]:
        """Return log-odds and membership of heads."""
        scores = score(self.heads(train, models, stream=stream), self.records.data)
        return np.asarray(scores.log_odds), np.asarray(scores.member)


def shadows_key(config: AuditConfig, records: AuditRecords, own: Float[np.ndarray, "records"]) -> str:
    """Return a key of everything that the shadows depend on, including the head's scores if the recipe is fitted."""
    fitted_to = own.tolist() if config.train.match else []
    settings = config.model_dump(mode="json", include={"train", "seed", "privacy"})
    settings["train"] = named_as_recorded(settings["train"])
    del settings["train"]["public"]  # a path; the records' content holds what it made of them
    if config.by_person:
        settings["membership"] = config.membership.model_dump(mode="json")
    return content_key(
        [records.data.content_hash(), records.member.tolist(), settings, fitted_to, versions()]
    )


def open_folder(path: pathlib.Path, key: str) -> contextlib.AbstractContextManager[None]:
    """Create the audit's folder, or check that its shadows have this key; locked against other processes.

    Raises:
        InputError: if it is a file, holds other files or another audit, is in use, or cannot be written.
    """
    other = (
        "the audit of another recipe or set of records, or one whose recipe was fitted to another head: give a new"
        " folder."
    )
    name = f"out={str(path)!r}"
    return keyed_folder(path, {"key": key}, inside=SHADOWS_FOLDER, name=name, content="an audit", other=other)


def shadow_scores(
    trainer: Trainer,
    config: AuditConfig,
    train: TrainSettings,
    path: pathlib.Path,
    console: rich.console.Console | None,
) -> dict[str, np.ndarray]:
    """Return log-odds and membership of all shadows; their weights if an attack uses them, decisions if an actor does.

    Blocks of shadows are read from disk or else trained and saved. Blocks without weights or decisions, saved before
    they were used, are trained again with the same result.

    Raises:
        InputError: if some diverged.
    """
    names = (*SCORES, *WEIGHTS) if white_box_methods(config.attack) else SCORES
    names = (*names, *decision_names(config.releases))
    blocks = Blocks(path / SHADOWS_FOLDER, "models", config.shadows.models, BLOCK, names)
    todo = blocks.missing()
    with grid_progress(console, float(sum(end - first for first, end in todo))) as bar:
        for block in todo:
            bar.cell(f"shadows {block[0]} ... {block[1] - 1}")
            heads = trainer.heads(train, block, stream=SHADOWS)
            scores = score(heads, trainer.records.data)
            arrays = {"log_odds": scores.log_odds, "member": scores.member, **heads.params["params"]}
            arrays |= decisions(config.releases, heads, trainer.records.data)
            blocks.save(block, arrays)
            bar.heads(block[1] - block[0], float(block[1] - block[0]))
    shadows = blocks.load()
    diverged = int(np.count_nonzero(~np.isfinite(shadows["log_odds"]).all(axis=1)))
    check(diverged == 0, "shadows that diverged", diverged, "be 0: the recipe does not train")
    return shadows
