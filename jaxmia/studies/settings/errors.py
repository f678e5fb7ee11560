"""Errors in settings, in one line: the path of the field, the rule and the value."""

from __future__ import annotations

import types
import typing
from typing import Any

import pydantic

from jaxmia._validate import shown, suggestion


def describe_error(error: pydantic.ValidationError, model: type[pydantic.BaseModel]) -> str:
    """Return the first error in settings, in one line: the path of the field, the rule and the value."""
    errors = error.errors(include_url=False)
    first = errors[0]
    path = ".".join(str(part) for part in first["loc"])
    more = f" ({len(errors) - 1} more wrong)" if len(errors) > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, first["loc"][:-1])
        return f"unknown key {path!r}; known here: {', '.join(known)}.{suggestion(str(first['loc'][-1]), known)}{more}"
    if first["type"] == "missing":
        return f"{path} must be given; it is missing.{more}"
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    if first["type"] == "value_error":  # the validator's message already names the value
        return f"{path}: {message}.{more}" if path else f"{message}.{more}"
    return f"{path}={shown(first['input'])}: {message[0].lower()}{message[1:]}.{more}"


def _fields_at(model: Any, location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        # An entry of a list of tables has the fields of the list's type.
        model = typing.get_args(model)[0] if isinstance(part, int) else model.model_fields[part].annotation
        if isinstance(model, types.UnionType):  # an optional table
            model = typing.get_args(model)[0]
    return list(model.model_fields)
