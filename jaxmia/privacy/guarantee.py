"""The privacy that a run is to have, and what its training then guarantees."""

from __future__ import annotations

import dataclasses
import math
from typing import cast

import numpy as np

from jaxmia._validate import InputError, check
from jaxmia.privacy.accounting import (
    accountant_of,
    check_delta,
    check_noise,
    dp_epsilon,
    noise_multiplier_for,
    tpr_ceiling,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivacyGuarantee:
    """What a recipe guarantees, and under which adjacency.

    Attributes:
        epsilon: achieved, an upper bound; inf without noise.
        delta: of the guarantee.
        adjacency: "add_or_remove_one" or "replace_one".
        noise_multiplier: standard deviation of the noise over the clipping norm.
        sampling_rate: q.
        steps: T.
    """

    epsilon: float
    delta: float
    adjacency: str
    noise_multiplier: float
    sampling_rate: float
    steps: int

    @property
    def accountant(self) -> str:
        """What epsilon was computed by, and how finely losses of a step were discretised, in words."""
        return accountant_of(
            noise_multiplier=self.noise_multiplier,
            sampling_rate=self.sampling_rate,
            steps=self.steps,
            adjacency=self.adjacency,
        )

    def record(self) -> dict[str, float | int | str]:
        """Attributes and accountant, for JSON, which has no infinity."""
        epsilon = "inf" if self.epsilon == math.inf else self.epsilon
        return dataclasses.asdict(self) | {"epsilon": epsilon, "accountant": self.accountant}

    def tpr_ceiling(self, fpr: np.ndarray | float) -> np.ndarray:
        """Return the largest TPR at an FPR that the recipe leaves to any attack: see jaxmia.tpr_ceiling."""
        return tpr_ceiling(
            fpr,
            noise_multiplier=self.noise_multiplier,
            sampling_rate=self.sampling_rate,
            steps=self.steps,
            adjacency=self.adjacency,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivacySpec:
    """The privacy that a run is to have: a target epsilon, or a noise multiplier.

    Attributes:
        epsilon: target, inf for clipping without noise; or None.
        noise_multiplier: standard deviation of the noise over the clipping norm; or None.
        delta: of the guarantee.
        clipping_norm: C, the largest norm of one example's gradient in the sum; it does not enter the accounting.
    """

    epsilon: float | None = None
    noise_multiplier: float | None = None
    delta: float = 1e-5
    clipping_norm: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what no run can have."""
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise InputError(
                f"Exactly one of epsilon={self.epsilon} and noise_multiplier={self.noise_multiplier} must be given."
            )
        if self.epsilon is not None:
            check(self.epsilon > 0, "epsilon", self.epsilon, "be positive, or inf for no noise")
        if self.noise_multiplier is not None:
            check_noise(self.noise_multiplier)
        check_delta(self.delta)
        check(0 < self.clipping_norm < math.inf, "clipping_norm", self.clipping_norm, "be a positive number")

    def guarantee(self, *, sampling_rate: float, steps: int, adjacency: str) -> PrivacyGuarantee:
        """Return the noise multiplier and the achieved epsilon for a sampling rate, steps and an adjacency.

        Raises:
            InputError: as dp_epsilon.
        """
        if self.epsilon is None:
            noise = cast(float, self.noise_multiplier)  # __post_init__ saw to it that one is given
        else:
            noise = noise_multiplier_for(
                epsilon=self.epsilon,
                delta=self.delta,
                sampling_rate=sampling_rate,
                steps=steps,
                adjacency=adjacency,
            )
        achieved = dp_epsilon(
            noise_multiplier=noise,
            sampling_rate=sampling_rate,
            steps=steps,
            delta=self.delta,
            adjacency=adjacency,
        )
        return PrivacyGuarantee(
            epsilon=achieved,
            delta=self.delta,
            adjacency=adjacency,
            noise_multiplier=noise,
            sampling_rate=sampling_rate,
            steps=steps,
        )
