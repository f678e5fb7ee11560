"""What all tables of evidence are made of: the JSON of a benchmark, Markdown, and the line that says where from."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

import pandas as pd

HERE = pathlib.Path(__file__).parent


def load(name: str) -> dict[str, Any]:
    """What a benchmark wrote, by the path of its file below this folder."""
    return json.loads((HERE / name).read_text())


def results(name: str) -> pd.DataFrame:
    """The rows of a run."""
    held = load(name)
    rows = pd.DataFrame(held["rows"], columns=held["columns"])
    return rows.astype(
        {"epsilon": float, "tpr": float, "tpr_low": float, "tpr_high": float, "advantage": float}
    )


def markdown(headings: list[str], rows: list[list[str]]) -> str:
    """A table, and an empty line on either side."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n\n"


def origin(*names: str) -> str:
    """Where figures come from, in lines that fit: files, command, commit, machine."""
    held = [load(name) for name in names]
    commits = ", ".join(
        dict.fromkeys(each["commit"][:12] + "+" * each["commit"].endswith("+") for each in held)
    )
    machines = "; ".join(dict.fromkeys(each["machine"] for each in held))
    seconds = sum(each["seconds"] for each in held)
    of_files = f"`docs/evidence/{names[0]}`" if len(names) == 1 else f"{len(names)} files of `docs/evidence`"
    words = f"Rendered from {of_files}: commit {commits}; {machines}; {took(seconds)}."
    lines = [""]
    for word in words.split():
        if len(lines[-1]) + len(word) > 118:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines) + "\n"


def took(seconds: float) -> str:
    """Seconds in words."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def with_error(figure: list[float] | None) -> str:
    """Mean and standard error over replicates."""
    return "-" if figure is None else f"{figure[0]:.3f} ± {figure[1]:.3f}"


def at_each(values: pd.Series, form: str) -> str:
    """Figures at the three FPRs; "-" for those that are not resolved."""
    return " / ".join("-" if math.isnan(value) else f"{value:{form}}" for value in values)
