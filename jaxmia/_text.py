"""Read text files in common encodings, and print text of any alphabet in any encoding."""

from __future__ import annotations

import codecs
import pathlib
import re
import sys
import tomllib
from importlib.resources.abc import Traversable
from typing import Any

from jaxmia._validate import InputError

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_LARGEST = 2**24  # largest number of bytes of a TOML or JSON file
_PLAIN = {"ε": "epsilon", "δ": "delta", "λ": "lambda", "σ": "sigma", "−": "-", "²": "^2", "±": "+-", "×": "x"}
_PLAIN |= {"…": "...", "→": "->", "≥": ">=", "≤": "<=", "“": '"', "”": '"', "†": "+", "‡": "++"}
_PLAIN |= dict.fromkeys("━╸╺─", "-") | {"█": "#"}
_SHOWN_AS = "jaxmia.plain"


def encoding_of(start: bytes) -> str:
    """Return the encoding by the byte order mark, which Windows programs write; UTF-8 without one."""
    return next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8")


def read_text(path: pathlib.Path | Traversable, name: str) -> str:
    """Return the content of a text file, with or without a byte order mark.

    Args:
        path: the file.
        name: name of the file's role, for messages.

    Raises:
        InputError: if it cannot be read, is no text, or has more than 16 MiB.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise InputError(f"{name}={str(path)!r} must be a file that can be read: {error.strerror}.") from None
    if len(content) > _LARGEST:
        raise InputError(
            f"{name}={str(path)!r} must be a text of at most {_LARGEST // 2**20} MiB; it is larger."
        )
    try:
        return content.decode(encoding_of(content))
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name}={str(path)!r} must be a text in UTF-8; the byte at place {error.start} is none. Save it as UTF-8."
        ) from None


def read_toml(path: pathlib.Path | Traversable, name: str) -> dict[str, Any]:
    """Return the content of a TOML file, with or without a byte order mark.

    Raises:
        InputError: as read_text, and for invalid TOML.
    """
    text = read_text(path, name)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise InputError(f"{path} must be valid TOML: nested too deeply.") from None
    except ValueError as error:  # TOMLDecodeError, or Python's error for numbers with thousands of digits
        raise InputError(f"{path} must be valid TOML: {error}.") from None


def printable(value: object) -> str:
    r"""A value as text that UTF-8 can hold: bytes are decoded, and what is no UTF-8 is escaped, as \xe9."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    text = str(value)
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a surrogate pair, which has no encoding
        return text.encode("utf-8", "backslashreplace").decode()


def show_in_any_encoding() -> None:
    """Make standard streams replace characters that their encoding lacks: ε by epsilon, others by ?."""
    codecs.register_error(_SHOWN_AS, _shown)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_SHOWN_AS)


def _shown(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_PLAIN.get(letter, "?") for letter in missing), error.end


_UNITS = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def parse_bytes(text: str | int, name: str = "memory") -> int:
    """Return the bytes of "8GiB", "500 MB" or a plain number.

    Args:
        text: the size.
        name: name of the setting, for the message.

    Raises:
        InputError: for anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(text))
    if match is None or match[2].upper() not in _UNITS:
        raise InputError(f"{name}={str(text)!r} must be a number of bytes with a unit, as in 8GiB or 500MB.")
    return int(float(match[1]) * _UNITS[match[2].upper()])
