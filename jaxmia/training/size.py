"""What is known of an ensemble before it is trained, by which its training is planned."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class EnsembleSize:
    """Sizes of an ensemble and of its pool.

    Attributes:
        num_models: M.
        num_examples: n, candidates.
        num_classes: C.
        dim: of the features.
        inclusion_rate: r.
        input_shape: of one example, as in FeatureSet.
        sampling_rate: q of Poisson sampling.
        members: the fewest and the most that a model has; None for what they are expected to be.
        num_devices: that share the models.
    """

    num_models: int
    num_examples: int
    num_classes: int
    dim: int
    inclusion_rate: float
    input_shape: tuple[int, ...] = ()
    sampling_rate: float = 1.0
    members: tuple[int, int] | None = None
    num_devices: int = 1

    @property
    def expected_members(self) -> float:
        """Members of a model on average."""
        return self.num_examples * self.inclusion_rate

    @property
    def models_per_device(self) -> int:
        """Models of the device that has most of them."""
        return -(-self.num_models // self.num_devices)

    def fewest_and_most(self) -> tuple[int, int]:
        """Members of the models that have fewest and most, or what both are expected to be."""
        return self.members or (math.floor(self.expected_members), math.ceil(self.expected_members))
