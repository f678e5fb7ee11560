"""Base of all settings: unknown keys are errors, and values are checked."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
from pydantic import Field

Fpr = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9]+([_-][A-Za-z0-9]+)*$", max_length=64)]
"""Name that is part of file names, joined by "__"."""
AttackOption = str | bool | int | float


class Settings(pydantic.BaseModel):
    """Base class of settings: frozen, strict, without unknown keys."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _different(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse repeated values, whose rows would count twice."""
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise ValueError(f"values must differ, but {twice[0]!r} is given {len(twice)} times")
    return values


Different = pydantic.AfterValidator(_different)
Fprs = Annotated[tuple[Fpr, ...], Field(min_length=1, strict=False), Different]


def _ascending(ends: tuple[Any, Any]) -> tuple[Any, Any]:
    if ends[0] > ends[1]:
        raise ValueError(f"a range must be [lowest, highest], got [{ends[0]}, {ends[1]}]")
    return ends


LogRange = Annotated[
    tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]],
    Field(strict=False),
    pydantic.AfterValidator(_ascending),
]
WholeLogRange = Annotated[tuple[Positive, Positive], Field(strict=False), pydantic.AfterValidator(_ascending)]
