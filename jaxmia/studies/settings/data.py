"""[data], [membership], [grid] and [shadows]: where candidates come from, of what, the cells, and their ensembles."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
from pydantic import Field

from jaxmia.studies.settings.base import Different, Positive, Settings


class DataSettings(Settings):
    """The source of candidates."""

    features: str = "demo"
    """"demo" (the bundled set) or the path of an .npz with features and labels, or of a folder of activations for
    adapters, relative to the settings file."""
    test_per_class: Annotated[int, Field(ge=0)] = 200
    """Largest number of held-out examples of each class, for accuracy."""


class MembershipSettings(Settings):
    """The unit of membership, which is in a training set as a whole or not at all."""

    unit: Literal["record", "person"] = "record"
    """"person": all of a person's records or none. The features need `person`, the person of each record. Attacks are
    then on records and on persons."""
    shots: Literal["records", "persons"] = "records"
    """What S counts if unit is "person": persons, or their records."""

    @pydantic.model_validator(mode="after")
    def _persons_are_counted_by_person(self) -> MembershipSettings:
        if self.unit == "record" and self.shots == "persons":
            raise ValueError("shots='persons' needs unit='person'")
        return self

    @property
    def by_person(self) -> bool:
        """Whether persons are drawn."""
        return self.unit == "person"


class GridSettings(Settings):
    """The cells of the experiment: every combination of classes, shots and seeds."""

    shots: Annotated[tuple[Positive, ...], Field(min_length=1, strict=False), Different]
    """S, training examples per class. By person, membership.shots says what it counts; a person has the class of most
    of their records."""
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
    """M; each model is the target once, with the other M - 1 as its shadows."""
    design: Literal["bernoulli", "fixed_size"] = "bernoulli"
    """"bernoulli" (add/remove) or "fixed_size" (replace one)."""
    pool_multiplier: Annotated[int, Field(ge=2)] = 2
    """m; the pool has m x S candidates of each class and a model trains on 1/m of them."""
