"""Audit files: the head, the records, the head's recipe, and facts that only its controller knows."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from jaxmia._validate import InputError
from jaxmia.privacy.accounting import MIN_DELTA
from jaxmia.studies.settings.actors import Knowledges, Releases, asked_for
from jaxmia.studies.settings.attacks import Attacks, AttackSettings
from jaxmia.studies.settings.base import Fprs, Settings
from jaxmia.studies.settings.errors import describe_error
from jaxmia.studies.settings.toml import read_settings
from jaxmia.studies.settings.train import TrainSettings

NOT_STATED = "not stated"
Prior = Annotated[float, Field(gt=0, lt=1)]
TEMPLATE = """\
# An audit by `jaxmia audit THIS_FILE --out DIR`: could someone tell from the head below who was in its training data?
name = "audit"
# Declared in advance. An FPR f takes 10/f non-members of the head's own: 0.1 takes 100, 0.01 1 000, 0.001 10 000; with
# fewer it is resolved on the shadows alone, over re-trainings, and listed as unresolved for the head itself.
fpr = [0.1] # @fpr
# "whitebox" is for released weights; "analytic" needs no shadows, but [train] optimizer = "newton".
attack = ["lira", "rmia", "bavaria_t", "threshold"]
# Who attacks: a table of what each actor finds, by what it sees of the head and what it knows (docs/actors.md).
# release = ["labels", "labels:64", "top1", "rounded:2", "probabilities", "logits", "weights"]
# knowledge = ["full", "population", "shadows:64", "shadows:0"]

[data]
# An .npz with features (float [records, dim], the inputs of the head), labels (integers [records]), class_names and
# optionally ids (names of the records for the report; never their contents). Give all records that you have: those the
# head was trained on, and others, without which the head's false positive rate cannot be measured.
features = "features.npz" # @features
# bool [records], true where the head was trained on the record: key `member` of this .npz; if empty, of the features.
members = ""

[head]
# .safetensors (PyTorch's state dict), .skops (scikit-learn: LogisticRegression, Pipelines and searches of it, ...), or
# .npz with weight [classes, dim] and bias [classes]; or .npz with logits or probabilities [records, classes] if only
# these are released. Pickles are never loaded.
file = "head.safetensors"
weight = "" # name of the last linear layer's weight, if the file holds more than a head
bias = "" # name of its bias, if the names do not show it; "none" for a head without bias
# certificate = "head.certificate.json" # of a head by `jaxmia release`: recipe, noise and guarantee are then its

[train]
# The head's recipe, as in an experiment file: optimizer, steps, batch_size, learning_rate, weight_decay, ...
# scikit-learn's LogisticRegression is optimizer = "newton" with ridge = 1 / C, also for two classes. class_weight
# ("balanced" or a list) and intercept = false are supported. With match = true alone, or without [train], the recipe of
# a .skops file is used (C, class_weight, fit_intercept). If the file has none, a recipe is fitted: shadows' scores on
# members and non-members are matched to the head's.
match = true
# normalize = "public" # where the head's inputs are features projected on components of public ones; also "unit"
# public = "public.npz" # none of the records may be among them
# components = 32

# [privacy] # for a head trained by DP-SGD: its shadows use DP-SGD too. Give its [train], without match.
# noise_multiplier = 1.1 # standard deviation of the noise over the clipping norm; or the target epsilon of the noise
# clipping_norm = 1.0
# delta = 1e-5
# unit = "record" # whose gradient was clipped; "person" for all records of one together

[shadows]
models = 256

[membership]
# "person" where a person has several records, all in the training data or none: `person` in the features says whose
# each is. Shadows then train on whole persons, and attacks are on persons beside records.
unit = "record" # @unit

[context] # goes into the report as you state it; what is missing appears there as "not stated"
controller = "not stated"
release = "not stated" # weights, probabilities or labels
recipients = "not stated"
individuals = 0 # that the records are of; 0: not stated, or counted if the features say whose each record is
identifiers = "not stated" # direct identifiers in the training data, and what was done with them
knowledge = "not stated" # what an adversary is reasonably likely to know already
epsilon = 0.0 # of the differential privacy that the head was trained with; 0: none
delta = 1e-5
adjacency = "not stated" # of that guarantee: "add_or_remove_one" or "replace_one"
# Whether chance alone chose the members among the records, each with the same probability: true or false. A guarantee
# can be contradicted only then: records that were chosen may differ from others in more than membership.
randomised = "not stated"
# The most that you declare acceptable: on no record a TPR above tpr at this FPR, which is one of those above.
# limit = { fpr = 0.1, tpr = 0.2 }
priors = [0.5, 0.1, 0.01] # shares of members among those that an adversary asks about: how far a call is to be believed
"""


class AuditDataSettings(Settings):
    """The records: those that the head was trained on, and others."""

    features: str
    members: str = ""


class HeadSettings(Settings):
    """The head under audit: see jaxmia.audit.released.load_released."""

    file: str
    weight: str = ""
    bias: str = ""
    certificate: str = ""
    """Of `jaxmia release`: the recipe of the shadows, their noise and the stated guarantee are then its."""


class AuditTrainSettings(TrainSettings):
    """The recipe of the shadows, or match=true for that of the head's file or a fitted one."""

    match: bool = False

    @pydantic.model_validator(mode="after")
    def _match_stands_alone(self) -> AuditTrainSettings:
        beside = {"match", "class_weight", "intercept", "normalize", "public", "components"}
        given = sorted(self.model_fields_set - beside)
        if self.match and given:
            raise ValueError(f"match=true fits the recipe, so {', '.join(given)} must be left out")
        if self.network in ("mlp", "conv") or self.inputs != "features":
            raise ValueError(
                f"network={self.network!r} and inputs={self.inputs!r} must be 'linear' or an adapter, and 'features'"
            )
        if self.normalize == "standardize":
            raise ValueError(
                f"normalize={self.normalize!r} must be 'none' (features are the inputs of the head), or 'unit',"
                " 'public' or 'random', which the head's inputs are made by"
            )
        return self


class AuditPrivacySettings(Settings):
    """DP-SGD settings of the head, used for its shadows too (jaxmia.training.dpsgd)."""

    noise_multiplier: Annotated[float, Field(gt=0)] | None = None
    """Standard deviation of the noise over the clipping norm. Give either this or epsilon."""
    epsilon: Annotated[float, Field(gt=0)] | None = None
    """Target epsilon, from which the noise follows for the steps and batches of [train]."""
    delta: Annotated[float, Field(ge=MIN_DELTA, lt=1)] = 1e-5
    clipping_norm: Annotated[float, Field(gt=0)] = 1.0
    """The L2 norm to which each example's gradient is clipped."""
    adjacency: Literal["add_or_remove_one", "replace_one"] = "add_or_remove_one"
    """The adjacency of epsilon."""
    unit: Literal["record", "person"] = "record"
    """The unit that is clipped, sampled and protected by epsilon: a record, or a person with all records."""

    @pydantic.model_validator(mode="after")
    def _one_of_noise_and_epsilon(self) -> AuditPrivacySettings:
        if (self.noise_multiplier is None) == (self.epsilon is None):
            raise ValueError(
                f"one of noise_multiplier={self.noise_multiplier} and epsilon={self.epsilon} must be given"
            )
        return self


class AuditShadowSettings(Settings):
    """The shadows."""

    models: Annotated[int, Field(ge=16)] = 256
    """Settings of the shadows, heads with the audited head's recipe on other random subsets of the records."""


class AuditMembershipSettings(Settings):
    """The unit of membership."""

    unit: Literal["record", "person"] = "record"
    """"person": all of a person's records or none, by the key `person` of the features."""


class LimitSettings(Settings):
    """What the controller declares acceptable: on no record a TPR above this at this FPR."""

    fpr: Annotated[float, Field(gt=0, lt=1)]
    tpr: Annotated[float, Field(gt=0, le=1)]


class ContextSettings(Settings):
    """Facts that only the controller knows, for the report."""

    controller: str = NOT_STATED
    release: Literal["weights", "probabilities", "labels", "not stated"] = "not stated"
    recipients: str = NOT_STATED
    individuals: Annotated[int, Field(ge=0)] = 0
    """0: not stated."""
    identifiers: str = NOT_STATED
    knowledge: str = NOT_STATED
    epsilon: Annotated[float, Field(ge=0)] = 0.0
    """Epsilon of the head's differential privacy; 0: none stated."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    adjacency: Literal["add_or_remove_one", "replace_one", "not stated"] = "not stated"
    """Adjacency of that guarantee: see jaxmia.privacy.accounting."""
    randomised: Literal[True, False, "not stated"] = "not stated"
    """Whether the members were chosen at random among the records, each with the same probability."""
    priors: Annotated[tuple[Prior, ...], Field(min_length=1, strict=False)] = (0.5, 0.1, 0.01)
    limit: LimitSettings | None = None
    """None: none was declared."""

    @property
    def guarantee(self) -> str:
        """Return the stated differential privacy, in words."""
        if not self.epsilon:
            return "none stated"
        adjacent = "" if self.adjacency == NOT_STATED else f" ({self.adjacency.replace('_', ' ')})"
        return f"(ε = {self.epsilon:g}, δ = {self.delta:g})-differential privacy{adjacent}"


class AuditConfig(Settings):
    """The settings of an audit of one head: the keys and tables of an audit file.

    - name, attack, fpr (fractions) and seed are keys at the top.
    - data: the records, and which of them are members.
    - head: the file of the head.
    - train: the recipe of the shadows; `match` fits it to the head.
    - privacy: DP-SGD of the head, if it was trained with it.
    - shadows: their number.
    - membership: unit "record" or "person".
    - context: facts for the report, such as a stated guarantee or a limit.

    `jaxmia audit --init FILE` writes a file with comments.
    """

    name: Annotated[str, Field(min_length=1)] = "audit"
    attack: Attacks = (
        AttackSettings(name="lira"),
        AttackSettings(name="rmia"),
        AttackSettings(name="bavaria_t"),
        AttackSettings(name="threshold"),
    )
    fpr: Fprs = (0.1, 0.01, 0.001)
    release: Releases = ()
    """What actors see, for a table of them (jaxmia.scores.release)."""
    knowledge: Knowledges = ()
    """What they know (jaxmia.studies.settings.actors)."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    data: AuditDataSettings
    head: HeadSettings
    train: AuditTrainSettings = AuditTrainSettings(match=True)
    privacy: AuditPrivacySettings | None = None
    """DP-SGD settings; None if the head was trained without clipping and noise."""
    shadows: AuditShadowSettings = AuditShadowSettings()
    membership: AuditMembershipSettings = AuditMembershipSettings()
    context: ContextSettings = ContextSettings()

    @property
    def releases(self) -> tuple[str, ...]:
        """What the actors of the audit see; empty without a table of actors."""
        return asked_for(self.release, self.knowledge)[0]

    @property
    def by_person(self) -> bool:
        """Whether a person is a member with all records or with none."""
        return self.membership.unit == "person"

    @pydantic.model_validator(mode="after")
    def _noise_for_persons_is_for_whole_persons(self) -> AuditConfig:
        if self.privacy is not None and self.privacy.unit == "person" and not self.by_person:
            raise ValueError("privacy.unit='person' needs membership.unit='person'")
        return self

    @pydantic.model_validator(mode="after")
    def _the_limit_is_at_a_declared_fpr(self) -> AuditConfig:
        limit = self.context.limit
        if limit is not None and limit.fpr not in self.fpr:
            raise ValueError(
                f"context.limit.fpr={limit.fpr} must be one of fpr={list(self.fpr)}, to be tested"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _private_training_is_a_given_recipe(self) -> AuditConfig:
        train = self.train
        if self.privacy is None:
            return self
        if train.match:
            raise ValueError(
                "train.match=true fits a recipe without noise: with [privacy] give the recipe (optimizer, steps,"
                " learning_rate, batch_size)"
            )
        if train.optimizer == "newton":
            raise ValueError(
                "train.optimizer='newton' must be 'adam' or 'sgd' with [privacy]: DP-SGD takes steps"
            )
        if train.batch_size != "full" and train.sampling != "poisson":
            raise ValueError(
                "[privacy] needs train.batch_size='full' or train.sampling='poisson', got"
                f" batch_size={train.batch_size} with sampling={train.sampling!r}: privacy amplification"
                " by sampling does not hold for batches in a shared order"
            )
        return self


def write_template(
    path: pathlib.Path,
    *,
    features: pathlib.Path | None = None,
    fprs: tuple[float, ...] = (),
    note: str = "",
    by_person: bool = False,
) -> None:
    """Write an audit file with comments, to be filled in.

    Args:
        path: a new file.
        features: path of the records' features.
        fprs: proposed FPRs.
        note: comment on the FPRs.
        by_person: propose persons as the unit of membership.

    Raises:
        InputError: if the file exists already, or cannot be written.
    """
    text = TEMPLATE
    if features is not None:
        place = os.path.relpath(features, path.resolve().parent)
        text = text.replace('"features.npz" # @features', json.dumps(place))
    text = text.replace("[0.1] # @fpr", f"{list(fprs) or [0.1]}{f' # {note}' if note else ''}")
    text = text.replace('"record" # @unit', '"person"' if by_person else '"record"')
    text = text.replace(" # @features", "")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"init={str(path)!r} must be a new file; there is one already.") from None
    except OSError as error:
        raise InputError(
            f"init={str(path)!r} must be a file that can be written: {error.strerror}."
        ) from None


def load_audit(source: str | os.PathLike[str], overrides: tuple[str, ...] = ()) -> AuditConfig:
    """Return the settings of an audit file.

    Args:
        source: path of a TOML file.
        overrides: "table.key=value", applied in order, as in load_config.


    Raises:
        InputError: for a missing file, bad TOML, an unknown key (the nearest is suggested) or a wrong value.
    """
    if not pathlib.Path(source).expanduser().is_file():
        raise InputError(
            f"config={str(source)!r} must be a TOML file; `jaxmia audit --init FILE` writes one."
        )
    settings = read_settings(source, overrides)
    try:
        return AuditConfig.model_validate(settings)
    except pydantic.ValidationError as error:
        raise InputError(describe_error(error, AuditConfig)) from None
