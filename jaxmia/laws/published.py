"""Published lines, tables and slopes for comparison: Tobaben, Ito, Jälkö, He and Honkela 2025 (arXiv 2402.06674)."""

from __future__ import annotations

import dataclasses
import importlib.resources
import tomllib
from collections.abc import Mapping
from typing import Any

from jaxmia._validate import InputError, check_choice
from jaxmia.laws.law import Interval, PowerLaw


@dataclasses.dataclass(frozen=True)
class PublishedLine:
    """A line of the paper, recovered from its rounded table of required shots.

    Attributes:
        record: "average" over records, or the "worst" record.
        law: the central line, without standard errors, which were not published.
        slope_shots_range: slopes consistent with the rounding of the table; this is no confidence interval.
        intercept_range: the same for the intercept.
        required_shots: the published table, a dict from epsilon to examples per class, with two significant digits.
    """

    record: str
    law: PowerLaw
    slope_shots_range: Interval
    intercept_range: Interval
    required_shots: Mapping[float, float]


@dataclasses.dataclass(frozen=True)
class PublishedLines:
    """The published figures, for comparison.

    Attributes:
        source: the paper.
        setting: model, attack and number of shadow models.
        derivation: how the lines were recovered from the published table.
        delta: delta of the table of required shots.
        lines: the lines at C = 2.
        quantile_slopes: slopes of quantiles over examples ("0.99", ..., "max") of the advantage at FPR 0.1.
    """

    source: str
    setting: str
    derivation: str
    delta: float
    lines: tuple[PublishedLine, ...]
    quantile_slopes: Mapping[str, float]

    def line(self, record: str, fpr: float) -> PublishedLine:
        """Return the line of record "average" or "worst" at an FPR; raises InputError if none was published."""
        check_choice("record", record, dict.fromkeys(line.record for line in self.lines))
        of_record = [line for line in self.lines if line.record == record]
        for line in of_record:
            if line.law.fpr == fpr:
                return line
        known = ", ".join(str(line.law.fpr) for line in of_record)
        raise InputError(f"fpr={fpr!r} must be an FPR that was published for the {record} record: {known}.")

    def shots(self, record: str | None, *, fpr: float, epsilon: float, delta: float) -> float | None:
        """Return the published required examples per class; None where none were published."""
        lines = [line for line in self.lines if (line.record, line.law.fpr) == (record, fpr)]
        return lines[0].required_shots.get(epsilon) if lines and delta == self.delta else None


def published_lines() -> PublishedLines:
    """Return the published lines, tables and slopes of arXiv 2402.06674, from jaxmia/data/published_lines.toml."""
    path = importlib.resources.files("jaxmia") / "data" / "published_lines.toml"
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    return PublishedLines(
        source=data["source"],
        setting=data["setting"],
        derivation=data["derivation"],
        delta=data["delta"],
        lines=tuple(_published_line(line, data["classes"]) for line in data["lines"]),
        quantile_slopes=data["quantile_slopes"],
    )


def _published_line(line: Mapping[str, Any], classes: int) -> PublishedLine:
    law = PowerLaw(
        fpr=line["fpr"], classes=(classes,), slope_shots=line["slope_shots"], intercept=line["intercept"]
    )
    return PublishedLine(
        record=line["record"],
        law=law,
        slope_shots_range=tuple(line["slope_shots_range"]),
        intercept_range=tuple(line["intercept_range"]),
        required_shots=dict(line["required_shots"]),
    )
