"""A training recipe: static settings that shape the program (TrainConfig), and traced ones (Hyperparams)."""

from __future__ import annotations

import dataclasses
import math

import flax.struct
import numpy as np
from jaxtyping import Array

from jaxmia._validate import check, check_at_least, check_choice
from jaxmia.training.adapters.adapter import Adapter
from jaxmia.training.network import Network

OPTIMIZERS = ("adam", "sgd", "newton")
SCHEDULES = ("constant", "cosine")
PRIVACY_UNITS = ("record", "person")
SAMPLINGS = ("shared", "independent", "poisson")
MATMUL_DTYPES = ("float32", "tensorfloat32", "bfloat16")
CLASS_WEIGHTS = ("none", "balanced")
LINKS = ("softmax", "one_vs_rest")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The static settings of a recipe, which shape the compiled program.

    Attributes:
        optimizer: "adam", or "sgd" (with Hyperparams.momentum); or "newton": trains to the minimum of the objective
            with Hyperparams.ridge (jaxmia.training.newton), on the full batch and without a learning rate.
        schedule: "constant", or "cosine" decay of the learning rate to zero over the steps.
        steps: number of optimiser steps T; for "newton" the largest number.
        tolerance: for "newton": stationarity (jaxmia.training.newton) at which a head has converged.
        class_weight: "none"; "balanced": members / (classes x members of the class), from each model's own members, as
            in scikit-learn; or one weight per class. The weight multiplies a member's loss: "newton" sums the weighted
            losses, as scikit-learn does; "sgd" and "adam" divide by the sum of weights, as PyTorch does.
        intercept: whether heads have a bias; without one it stays 0.
        link: "softmax"; or, for "newton", "one_vs_rest": one two-class head per class, with normalised sigmoids, as in
            scikit-learn's OneVsRestClassifier. For two classes both are equal.
        batch_size: members per step, or None for the full batch.
        sampling: "shared": all models use one batch order. A batch has the same candidates for all models, and each
            model uses those that are its members, batch_size on average. "independent": every model shuffles its own
            members, as in separate training runs, and a batch has exactly batch_size. "poisson": at every step each
            model samples each of its own members independently with probability Hyperparams.sampling_rate, and
            batch_size is None.
        private: train by DP-SGD (jaxmia.training.dpsgd), on the full batch or by Poisson sampling.
        privacy_unit: unit of private training, whose gradient is clipped and which Poisson sampling draws: "record", or
            "person", all records of a person together, by FeatureSet.person (jaxmia.training.persons).
        odometer: for private training on the full batch: also sum each member's squared clipped gradient norms over the
            steps, for jaxmia.privacy.accounting.individual_mu; for the unit "person", those of the member's person.
        matmul_dtype: dtype of the factors in the two matrix products of a step: "float32" on every device;
            "tensorfloat32", float32 with 10 bits on devices that support it; or "bfloat16". Products accumulate in
            float32, and everything else is float32.
        network: network to train from random parameters, without privacy and in float32; an adapter to train inside a
            frozen transformer, with a linear head from zero; None for a linear head from zero.
    """

    optimizer: str = "adam"
    schedule: str = "constant"
    steps: int = 100
    batch_size: int | None = None
    sampling: str = "shared"
    private: bool = False
    privacy_unit: str = "record"
    odometer: bool = False
    matmul_dtype: str = "float32"
    network: Network | Adapter | None = None
    tolerance: float = 1e-7
    class_weight: str | tuple[float, ...] = "none"
    intercept: bool = True
    link: str = "softmax"

    def __post_init__(self) -> None:
        """Check the values and their combinations; raises InputError."""
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_at_least("steps", self.steps, 1)
        check_choice("sampling", self.sampling, SAMPLINGS)
        if self.sampling == "independent":
            check(self.batch_size is not None, "batch_size", None, "be given for sampling='independent'")
        check_choice("matmul_dtype", self.matmul_dtype, MATMUL_DTYPES)
        if self.batch_size is not None:
            check_at_least("batch_size", self.batch_size, 1)
            rule = "be None for sampling='poisson', whose batches follow from Hyperparams.sampling_rate"
            check(self.sampling != "poisson", "batch_size", self.batch_size, rule)
            rule = "be None for private training: shuffled batches are no Poisson sample of a model's members"
            check(not self.private, "batch_size", self.batch_size, rule)
        check_choice("privacy_unit", self.privacy_unit, PRIVACY_UNITS)
        rule = "be 'record' without private training"
        check(self.private or self.privacy_unit == "record", "privacy_unit", self.privacy_unit, rule)
        full = self.private and self.sampling == "shared"
        check(
            full or not self.odometer,
            "odometer",
            self.odometer,
            "be False but in full-batch private training",
        )
        if self.optimizer == "newton":
            rule = "be {!r} for optimizer='newton', which minimises the objective itself"
            for name in ("schedule", "batch_size", "sampling", "private", "matmul_dtype", "network"):
                default = type(self).__dataclass_fields__[name].default
                check(getattr(self, name) == default, name, getattr(self, name), rule.format(default))
            check(0 < self.tolerance < 1, "tolerance", self.tolerance, "lie strictly between 0 and 1")
        self._check_weighting()
        if isinstance(self.network, Adapter):
            rule = "be {!r} for adapters, whose gradients are clipped by record and have no odometer"
            for name, only in (("privacy_unit", "record"), ("odometer", False)):
                check(getattr(self, name) == only, name, getattr(self, name), rule.format(only))
        elif self.network is not None:
            rule = "be {!r} for a network, which is not a linear head"
            for name, only in (("private", False), ("matmul_dtype", "float32")):
                check(getattr(self, name) == only, name, getattr(self, name), rule.format(only))
            check(self.sampling != "poisson", "sampling", "poisson", "be another for a network")

    def _check_weighting(self) -> None:
        if isinstance(self.class_weight, str):
            check_choice("class_weight", self.class_weight, CLASS_WEIGHTS)
        else:
            above = all(0 < each < math.inf for each in self.class_weight)
            check(above, "class_weight", self.class_weight, "be finite numbers above 0, one for each class")
        check_choice("link", self.link, LINKS)
        if self.link == "one_vs_rest":
            check(
                self.optimizer == "newton", "optimizer", self.optimizer, "be 'newton' for link='one_vs_rest'"
            )
            rule = "be 'none' or 'balanced' for link='one_vs_rest'"
            check(isinstance(self.class_weight, str), "class_weight", self.class_weight, rule)
        if self.private or self.network is not None:
            what = "private training" if self.private else "a network"
            check(self.class_weight == "none", "class_weight", self.class_weight, f"be 'none' for {what}")
        if self.network is not None:
            check(self.intercept, "intercept", self.intercept, "be True for a network")

    @property
    def plain(self) -> bool:
        """Whether heads are softmax heads with a bias and equal weights, as white-box and analytic attacks require."""
        return self.class_weight == "none" and self.intercept and self.link == "softmax"

    @property
    def shares_order(self) -> bool:
        """Whether every step has one batch of candidates for all models."""
        return self.batch_size is not None and self.sampling == "shared"

    @property
    def follows_span(self) -> bool:
        """Whether heads that start at zero stay in the span of their examples and rotate with the features.

        This holds for gradient steps with momentum and decay. It fails for Adam, which scales single coordinates; for
        noise, which has all directions; and for bfloat16, which rounds rotated features differently.
        """
        return self.optimizer in ("sgd", "newton") and not self.private and self.matmul_dtype == "float32"


@flax.struct.dataclass
class Hyperparams:
    """The settings that a sweep varies; traced, so that new values reuse the compiled program.

    For train_ensemble a value may be an array [models] with one value per model; below each is the value of one head.

    Attributes:
        learning_rate: peak step size.
        momentum: momentum of "sgd"; "adam" ignores it.
        weight_decay: L2 coefficient: the objective is the mean member loss + weight_decay / 2 * ||kernel||^2, over the
            rows of all classes, also for two classes (scikit-learn's C is 1 / (weight_decay members), and twice this
            for two classes). None means 0 and saves two reads of the kernel at every step; train_ensemble replaces 0 by
            None.
        sampling_rate: q of Poisson sampling; 1 without it.
        clipping_norm: c of private training, the L2 norm to which each example's gradient is clipped; else None.
        noise_multiplier: sigma of private training, the noise's standard deviation over clipping_norm; else None.
        ridge: lambda of "newton", above 0: the objective is the summed member loss + ridge / 2 * ||kernel||^2, or for
            two classes + ridge / 2 * ||w_1 - w_0||^2, which is scikit-learn's with C = 1 / ridge; else None.
        steps: number of steps of this head, at most TrainConfig.steps; the cosine schedule decays over them. None means
            TrainConfig.steps.
    """

    learning_rate: float | Array
    momentum: float | Array = 0.0
    weight_decay: float | Array | None = 0.0
    sampling_rate: float | Array = 1.0
    clipping_norm: float | Array | None = None
    noise_multiplier: float | Array | None = None
    steps: int | Array | None = None
    ridge: float | Array | None = None


def check_hyperparams(hyper: Hyperparams, config: TrainConfig) -> None:
    """Refuse settings that training would ignore or that would break the privacy of private training; runs on the host.

    Raises:
        InputError: for a learning rate or weight decay that is negative or not finite, or a momentum outside [0, 1);
            for a sampling rate outside (0, 1] or without Poisson
            sampling; for a clipping norm or noise multiplier that is missing or out of range in private training, or
            given without it; for steps outside 1 .. config.steps; for "newton" without a ridge above 0 or with settings
            that it does not use, and for a ridge without "newton".
    """
    _check_ranges(hyper)
    newton, ridge = config.optimizer == "newton", hyper.ridge
    if newton:
        given = ridge is not None and all(0 < each < math.inf for each in _each(ridge))
        check(given, "ridge", ridge, "be a finite number above 0 for optimizer='newton'")
        decays = hyper.weight_decay is not None and np.any(hyper.weight_decay)
        check(
            not decays, "weight_decay", hyper.weight_decay, "be 0 for optimizer='newton', which has a ridge"
        )
        check(hyper.steps is None, "steps", hyper.steps, "be TrainConfig.steps for optimizer='newton'")
    else:
        check(ridge is None, "ridge", ridge, "be None unless optimizer='newton'")
    for rate in _each(hyper.sampling_rate):
        check(0 < rate <= 1, "sampling_rate", rate, "lie in (0, 1]")
        check(
            rate == 1 or config.sampling == "poisson", "sampling_rate", rate, "be 1 unless sampling='poisson'"
        )
    for steps in [] if hyper.steps is None else _each(hyper.steps):
        check(
            1 <= steps <= config.steps, "steps", steps, f"lie between 1 and TrainConfig.steps={config.steps}"
        )
    clip, noise = hyper.clipping_norm, hyper.noise_multiplier
    if config.private:
        clips = clip is not None and all(0 < each < math.inf for each in _each(clip))
        noisy = noise is not None and all(0 <= each < math.inf for each in _each(noise))
        check(clips, "clipping_norm", clip, "be a finite number above 0 when private=True")
        check(noisy, "noise_multiplier", noise, "be a finite number of at least 0 when private=True")
    else:
        check(clip is None, "clipping_norm", clip, "be None unless private=True")
        check(noise is None, "noise_multiplier", noise, "be None unless private=True")


def _check_ranges(hyper: Hyperparams) -> None:
    for name in ("learning_rate", "weight_decay"):
        value = getattr(hyper, name)
        fits = value is None or all(0 <= each < math.inf for each in _each(value))
        check(fits, name, value, "be a finite number of at least 0")
    fits = all(0 <= each < 1 for each in _each(hyper.momentum))
    check(fits, "momentum", hyper.momentum, "be at least 0 and below 1")


def check_class_weights(class_weight: str | tuple[float, ...], num_classes: int) -> None:
    """Raise InputError if class weights are given as numbers and there is not one for each class."""
    fits = isinstance(class_weight, str) or len(class_weight) == num_classes
    check(fits, "class_weight", class_weight, f"hold a weight for each of {num_classes} classes")


def _each(value: float | Array) -> list[float]:
    return list(np.asarray(value).ravel().tolist())
