"""Checks of user input on the host, before anything compiles: each failure names the thing, the rule and the value."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import numpy as np

_LONGEST = 200  # letters of a value in a message
_LISTED = 20  # values


class InputError(ValueError):
    """Something the user gave is wrong. The command line prints it as one line and exits with 2."""


def check(condition: bool | np.bool_, name: str, value: object, rule: str) -> None:
    """Raise InputError "NAME=VALUE must RULE." unless the condition holds."""
    if not condition:
        raise InputError(f"{name}={shown(value)} must {rule}.")


def shown(value: object) -> str:
    """The repr of a value, cut where a reader would stop: messages stay one line whatever was given."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 20]} ... ({len(text)} letters)"


def listed(values: Iterable[object]) -> str:
    """The first of some values, joined by commas, and how many more there are."""
    words = [word if len(word) <= _LONGEST else f"{word[:_LONGEST]}..." for word in map(str, values)]
    more = f" ... ({len(words)} in all)" if len(words) > _LISTED else ""
    return ", ".join(words[:_LISTED]) + more


def check_at_least(name: str, value: object, minimum: int) -> None:
    """Raise InputError unless value is an integer of at least minimum."""
    big_enough = isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= minimum
    check(big_enough, name, value, f"be an integer of at least {minimum}")


def check_fpr(name: str, value: float) -> None:
    """Raise InputError unless 0 < value < 1 (a false positive rate is a fraction, never percent)."""
    check(0 < value < 1, name, value, "lie strictly between 0 and 1")


def check_different(name: str, values: Iterable[object]) -> None:
    """Raise InputError if a value is given twice: each has rows of its own, which would then count twice."""
    given = list(values)
    for value in given:
        count = given.count(value)
        rule = f"hold different values, but {shown(value)} is given {count} times"
        check(count == 1, name, given, rule)


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise InputError unless value is one of choices; the nearest one is suggested."""
    known = list(choices)
    if value not in known:
        raise InputError(f"{name}={shown(value)} must be one of {listed(known)}.{suggestion(value, known)}")


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest known word, or the empty string."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
