"""Settings of attacks and their options."""

from __future__ import annotations

import inspect
import itertools
import typing
from typing import Annotated, Any

import pydantic
from pydantic import Field

from jaxmia import attacks
from jaxmia._validate import check_choice
from jaxmia.studies.settings.base import AttackOption


class AttackSettings(pydantic.BaseModel):
    """An attack by name, with the options of its function."""

    model_config = pydantic.ConfigDict(frozen=True, extra="allow")
    name: str

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @pydantic.model_validator(mode="after")
    def _known(self) -> AttackSettings:
        check_choice("attack", self.name, attacks.REGISTRY)
        parameters = inspect.signature(attacks.REGISTRY[self.name]).parameters
        known = [
            key for key in parameters if key not in ("scores", "features", "person")
        ]  # these come from the data
        for option in self.options:
            check_choice(f"option of attack {self.name!r}", option, known)
        types = typing.get_type_hints(attacks.REGISTRY[self.name])
        for option, value in self.options.items():
            try:
                pydantic.TypeAdapter(types[option], config={"strict": True}).validate_python(value)
            except pydantic.ValidationError as error:
                rule = error.errors(include_url=False)[0]["msg"].removeprefix("Input should ")
                raise ValueError(f"option {option}={value!r} of attack {self.name!r} must {rule}") from None
        return self

    @property
    def full_options(self) -> dict[str, Any]:
        """Return all options, with defaults; attacks with equal full options are the same."""
        parameters = inspect.signature(attacks.REGISTRY[self.name]).parameters
        known = {name: each.default for name, each in parameters.items() if each.default is not each.empty}
        return {**known, **self.options}

    @property
    def options(self) -> dict[str, AttackOption]:
        """Return the keyword arguments of the attack's function."""
        return dict(self.model_extra or {})

    @property
    def label(self) -> str:
        """Return name and options as one word for tables, such as lira(variance=global)."""
        options = ",".join(f"{key}={value}" for key, value in sorted(self.options.items()))
        return f"{self.name}({options})" if options else self.name


def _different_attacks(entries: tuple[AttackSettings, ...]) -> tuple[AttackSettings, ...]:
    """Refuse an attack that is given twice: its rows would count twice, and laws would have too small errors."""
    for first, second in itertools.combinations(entries, 2):
        if (first.name, first.full_options) == (second.name, second.full_options):
            labels = dict.fromkeys((first.label, second.label))
            raise ValueError(f"attacks must differ, but {' and '.join(labels)} is given twice")
    return entries


Attacks = Annotated[
    tuple[AttackSettings, ...],
    Field(min_length=1, strict=False),
    pydantic.AfterValidator(_different_attacks),
]
