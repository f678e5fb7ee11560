"""[privacy]: the target epsilons of training."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from jaxmia.privacy.accounting import MIN_DELTA
from jaxmia.studies.settings.base import Settings


class PrivacySettings(Settings):
    """Differential privacy of training; epsilon is an axis of the grid."""

    epsilon: Annotated[
        tuple[Annotated[float, Field(gt=0, allow_inf_nan=True)], ...], Field(min_length=1, strict=False)
    ] = (math.inf,)
    """Target epsilons of DP-SGD, whose noise is calibrated; inf is training without clipping and noise. The adjacency
    follows from shadows.design."""
    delta: Annotated[float, Field(ge=MIN_DELTA, lt=1)] = 1e-5
    clipping_norm: Annotated[float, Field(gt=0)] = 1.0
    """The largest norm of the gradient of one example, or of all records of one person."""
    recipe: Literal["given", "class_means", "auto"] = "given"
    """Recipe of private levels: "given" is DP-SGD by [train]; "class_means" is one release of the classes' noisy mean
    features, for features of norm 1 (jaxmia.private.recipes); "auto" chooses recipe and number of public components
    from public quantities alone (jaxmia.private.recommend)."""
    unit: Literal["record", "person"] | None = None
    """The unit that is clipped, sampled and protected; by default membership.unit. With "record" while membership is by
    person, epsilon is of records, and group privacy gives the guarantee of persons."""

    @property
    def private_levels(self) -> list[float]:
        """Return the levels of private training: all but inf."""
        return [epsilon for epsilon in self.epsilon if epsilon < math.inf]

    @pydantic.field_validator("epsilon")
    @classmethod
    def _named_apart(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        """Refuse levels that agree in six digits: cells are named by these, and would share a folder."""
        levels = tuple(sorted(values))
        for low, high in itertools.pairwise(levels):
            if f"{low:g}" == f"{high:g}":
                raise ValueError(
                    f"levels must differ in their first six digits, but {low!r} and {high!r} do not"
                )
        return levels

    @pydantic.field_validator("epsilon", mode="before")
    @classmethod
    def _from_json(cls, values: Any) -> Any:
        """Read levels from a manifest, where a string stands for infinity."""
        if not isinstance(values, (list, tuple)):
            return values
        return tuple(math.inf if value == "inf" else value for value in values)

    @pydantic.field_serializer("epsilon", when_used="json")
    def _as_json(self, values: tuple[float, ...]) -> list[float | str]:
        return ["inf" if value == math.inf else value for value in values]
