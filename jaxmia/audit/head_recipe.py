"""The recipe of an audit's shadows: that of the head's own file, that of the audit file, or one to be fitted."""

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
    """What the shadows are to be trained by.

    Args:
        train: of the audit file; match=true takes that of the head's file, and fits one where it holds none.
        head: with the recipe of its file, if any.

    Returns:
        The settings, match=true for a recipe that is to be fitted; where they are from, "file", "given" or "fitted";
        and what a reader of the results must know.

    Raises:
        InputError: if the file holds a recipe that shadows cannot have.
    """
    told = dict(head.recipe or {})
    said: list[str] = []
    if head.unknown_recipe:
        then = "a recipe is fitted to it instead" if train.match else "they are trained as [train] says"
        said.append(
            f"The head's own recipe cannot be that of its shadows ({head.unknown_recipe}): {then}, and what is said"
            " over re-trainings is of heads like them."
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
            f"The head's file says that it was trained with {theirs}, [train] says {ours}: the shadows are other heads."
            " Without [train], or with match = true alone, they are trained as the file says."
        )
    source = "fitted" if chosen.match else "file" if train.match else "given"
    return chosen, source, tuple(said)


def _told(told: object) -> tuple[str, ...]:
    """The settings to compare: all of a whole recipe, else those that the file holds of any recipe."""
    names = tuple(told) if isinstance(told, dict) else ()
    return _COMPARED if "optimizer" in names else ("class_weight", "intercept")


def _settings(values: dict[str, object]) -> AuditTrainSettings:
    try:
        return AuditTrainSettings.model_validate(values)
    except pydantic.ValidationError as error:
        described = describe_error(error, AuditTrainSettings)
        raise InputError(f"the head's file tells a recipe that shadows cannot have: {described}") from None


def _same(name: str, one: AuditTrainSettings, other: AuditTrainSettings) -> bool:
    own, theirs = getattr(one, name), getattr(other, name)
    if isinstance(own, float) and isinstance(theirs, float):
        return math.isclose(own, theirs, rel_tol=1e-6)
    return bool(own == theirs)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(f'{each:g}' for each in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value).lower()
