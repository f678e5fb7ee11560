"""The recipe of an audit's shadows: from the head's file, from the audit file, or to be fitted."""

from __future__ import annotations

import math

import pydantic

from jaxmia._validate import InputError
from jaxmia.audit.released import ReleasedHead
from jaxmia.audit.settings import AuditTrainSettings
from jaxmia.studies.settings.errors import describe_error

_COMPARED = ("optimizer", "ridge", "class_weight", "intercept", "link")


def shadows_recipe(
    train: AuditTrainSettings, head: ReleasedHead
) -> tuple[AuditTrainSettings, str, tuple[str, ...]]:
    """Return the recipe of the shadows.

    Args:
        train: settings of the audit file; match=true uses the recipe of the head's file, and fits one if the file has
            none.
        head: the head, with the recipe of its file, if any.

    Returns:
        The settings (match=true for a recipe to be fitted); their origin, "file", "given" or "fitted"; and warnings for
        readers of the results.

    Raises:
        InputError: if the file has a recipe that shadows cannot use.
    """
    told = dict(head.recipe or {})
    said: list[str] = []
    if head.unknown_recipe:
        then = "a recipe is fitted to it instead" if train.match else "they are trained with [train]"
        said.append(
            f"The shadows cannot use the head's recipe ({head.unknown_recipe}): {then}, and results over"
            " re-trainings are those of heads like the shadows."
        )
    own = _settings({"match": "optimizer" not in told} | told)
    if train.match:
        fixed = {name: getattr(train, name) for name in train.model_fields_set - {"match"}}
        chosen = _settings(own.model_dump(include=own.model_fields_set) | fixed)
    else:
        chosen = train
    differs = [name for name in _COMPARED if name in _told(told) and not _same(name, own, chosen)]
    if differs and told:
        theirs, ours = (
            ", ".join(f"{name} = {_shown(getattr(each, name))}" for name in differs) for each in (own, chosen)
        )
        said.append(
            f"The head's file says that it was trained with {theirs}, [train] says {ours}: the shadows"
            " have a different recipe. Without [train], or with match = true alone, they have the"
            " file's recipe."
        )
    source = "fitted" if chosen.match else "file" if train.match else "given"
    return chosen, source, tuple(said)


def _told(told: object) -> tuple[str, ...]:
    """Return the names of the settings to compare: all of a complete recipe, otherwise those that the file has."""
    names = tuple(told) if isinstance(told, dict) else ()
    return _COMPARED if "optimizer" in names else ("class_weight", "intercept")


def _settings(values: dict[str, object]) -> AuditTrainSettings:
    try:
        return AuditTrainSettings.model_validate(values)
    except pydantic.ValidationError as error:
        described = describe_error(error, AuditTrainSettings)
        raise InputError(f"the head's file has a recipe that shadows cannot use: {described}") from None


def _same(name: str, one: AuditTrainSettings, other: AuditTrainSettings) -> bool:
    own, theirs = getattr(one, name), getattr(other, name)
    if isinstance(own, float) and isinstance(theirs, float):
        return math.isclose(own, theirs, rel_tol=1e-6)
    return bool(own == theirs)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(f'{each:g}' for each in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value).lower()
