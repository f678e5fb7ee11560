"""The privacy that a run asks for (PrivacySpec), and the guarantee of its training (PrivacyGuarantee)."""

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
    """The guarantee of a recipe, with its adjacency.

    Attributes:
        epsilon: achieved epsilon, an upper bound; inf without noise.
        delta: delta of the guarantee.
        adjacency: "add_or_remove_one" or "replace_one".
        noise_multiplier: standard deviation of the noise over the clipping norm.
        sampling_rate: q, the probability that a member joins the batch of a step.
        steps: number of steps T.
        unit: whom it protects, whom "one" in the adjacency means: "record" or "person".
        records_per_person: 1 if training clips and samples by that unit; for persons, though training clips and samples
            by record, the most records of one: group privacy.
    """

    epsilon: float
    delta: float
    adjacency: str
    noise_multiplier: float
    sampling_rate: float
    steps: int
    unit: str = "record"
    records_per_person: int = 1

    @property
    def accountant(self) -> str:
        """Return how epsilon was computed, and the spacing of the grid of losses, in words."""
        return accountant_of(
            noise_multiplier=self.noise_multiplier,
            sampling_rate=self.sampling_rate,
            steps=self.steps,
            adjacency=self.adjacency,
            records_per_person=self.records_per_person,
        )

    def record(self) -> dict[str, float | int | str]:
        """Return attributes and accountant for JSON; infinity, which JSON lacks, becomes a string."""
        epsilon = "inf" if self.epsilon == math.inf else self.epsilon
        said = dataclasses.asdict(self) | {"epsilon": epsilon, "accountant": self.accountant}
        if self.unit == "record":  # as ever
            del said["unit"], said["records_per_person"]
        return said

    def tpr_ceiling(self, fpr: np.ndarray | float) -> np.ndarray:
        """Return the largest TPR that any attack can have at an FPR: see jaxmia.tpr_ceiling."""
        return tpr_ceiling(
            fpr,
            noise_multiplier=self.noise_multiplier,
            sampling_rate=self.sampling_rate,
            steps=self.steps,
            adjacency=self.adjacency,
            records_per_person=self.records_per_person,
        )

    def of_persons(self, records_per_person: int) -> PrivacyGuarantee:
        """Return what this training by record guarantees to persons with up to so many records: group privacy.

        Raises:
            InputError: as dp_epsilon.
        """
        epsilon = dp_epsilon(
            noise_multiplier=self.noise_multiplier,
            sampling_rate=self.sampling_rate,
            steps=self.steps,
            delta=self.delta,
            adjacency=self.adjacency,
            records_per_person=records_per_person,
        )
        return dataclasses.replace(
            self, epsilon=epsilon, unit="person", records_per_person=records_per_person
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivacySpec:
    """The privacy that a run asks for: either a target epsilon or a noise multiplier.

    Attributes:
        epsilon: target epsilon, inf for clipping without noise; or None.
        noise_multiplier: standard deviation of the noise over the clipping norm; or None.
        delta: delta of the guarantee.
        clipping_norm: C, the norm to which each example's gradient is clipped; it does not affect the accounting.
    """

    epsilon: float | None = None
    noise_multiplier: float | None = None
    delta: float = 1e-5
    clipping_norm: float = 1.0

    def __post_init__(self) -> None:
        """Check the values; raises InputError."""
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

    def guarantee(
        self,
        *,
        sampling_rate: float,
        steps: int,
        adjacency: str,
        unit: str = "record",
        records_per_person: int = 1,
    ) -> PrivacyGuarantee:
        """Return the noise multiplier and the achieved epsilon for a sampling rate, steps and an adjacency.

        Args:
            sampling_rate: q.
            steps: T.
            adjacency: "add_or_remove_one" or "replace_one".
            unit: as in PrivacyGuarantee.
            records_per_person: likewise; epsilon is then of persons.

        Raises:
            InputError: as dp_epsilon.
        """
        if self.epsilon is None:
            noise = cast(float, self.noise_multiplier)  # __post_init__ checks that exactly one is given
        else:
            noise = noise_multiplier_for(
                epsilon=self.epsilon,
                delta=self.delta,
                sampling_rate=sampling_rate,
                steps=steps,
                adjacency=adjacency,
                records_per_person=records_per_person,
            )
        achieved = dp_epsilon(
            noise_multiplier=noise,
            sampling_rate=sampling_rate,
            steps=steps,
            delta=self.delta,
            adjacency=adjacency,
            records_per_person=records_per_person,
        )
        return PrivacyGuarantee(
            epsilon=achieved,
            delta=self.delta,
            adjacency=adjacency,
            noise_multiplier=noise,
            sampling_rate=sampling_rate,
            steps=steps,
            unit=unit,
            records_per_person=records_per_person,
        )
