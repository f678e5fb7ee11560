"""SHA-256 of files and of JSON-ready values."""

from __future__ import annotations

import hashlib
import json
import math
import os
from typing import Any


def json_number(value: float) -> float | str:
    """Return the value, or "inf", which float() reads back."""
    return "inf" if value == math.inf else value


def content_key(content: Any) -> str:
    """Return the SHA-256 of a JSON-ready value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_hash(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
