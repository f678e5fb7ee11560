"""Checks of user input on the host, before anything compiles: each failure names the thing, the rule and the value."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import numpy as np

_LONGEST = 200  # largest number of characters of a value in a message
_LISTED = 20  # largest number of listed values


class InputError(ValueError):
    """Bad input by the user. The command line prints the message as one line and exits with code 2."""


def check(condition: bool | np.bool_, name: str, value: object, rule: str) -> None:
    """Raise InputError "NAME=VALUE must RULE." unless the condition holds."""
    if not condition:
        raise InputError(f"{name}={shown(value)} must {rule}.")


def shown(value: object) -> str:
    """Return the repr of a value, truncated so that messages stay one line."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 20]} ... ({len(text)} letters)"


def listed(values: Iterable[object]) -> str:
    """Return the first of some values, joined by commas, and the number of further values."""
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
    """Raise InputError if a value is given twice, since its rows would count twice."""
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
