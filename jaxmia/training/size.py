"""The sizes of an ensemble, from which its training is planned."""

from __future__ import annotations

import dataclasses
import math

from jaxmia.data.backbone import Backbone


@dataclasses.dataclass(frozen=True)
class EnsembleSize:
    """Sizes of an ensemble and of its pool.

    Attributes:
        num_models: number of models M.
        num_examples: number of candidates n.
        num_classes: C.
        dim: dimension of the features.
        inclusion_rate: r.
        input_shape: shape of one example, as in FeatureSet.
        sampling_rate: q of Poisson sampling.
        members: smallest and largest number of members of any model; None to use the expected number.
        num_devices: number of devices that share the models.
        records_per_person: largest number of records of a person if private training's unit is the person, else 1.
        backbone: transformer that adapters are trained inside, as in FeatureSet.
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
    records_per_person: int = 1
    backbone: Backbone | None = None

    @property
    def expected_members(self) -> float:
        """Return the expected number of members of a model."""
        return self.num_examples * self.inclusion_rate

    @property
    def models_per_device(self) -> int:
        """Return the largest number of models on one device."""
        return -(-self.num_models // self.num_devices)

    def fewest_and_most(self) -> tuple[int, int]:
        """Return the smallest and largest number of members of any model, or the expected number for both."""
        return self.members or (math.floor(self.expected_members), math.ceil(self.expected_members))
