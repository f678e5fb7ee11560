"""Scores of models that were trained anywhere, with what was found while reading them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxmia.scores import Scores
from jaxmia.scores.rounding import Rounding


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ExternalScores(Scores):
    """Scores read from arrays, with notes on what was changed. Every attack takes them as they are.

    Attributes:
        labels: int64[examples], the true classes, or None if not given.
        target: row of the model under audit, or None if not given.
        notes: what was changed while reading (arrays transposed, log-odds cut off), one sentence each.
        rounding: how the probabilities were rounded, or None. Round scores of other models in the same way before you
            compare them with these.
        person: [examples], the person of each example, integers or strings, or None if not given.
    """

    labels: np.ndarray | None = None
    target: int | None = None
    notes: tuple[str, ...] = ()
    rounding: Rounding | None = None
    person: np.ndarray | None = None

    def headline(self) -> str:
        """Return one line: sizes, share of members, the row under audit, and the notes."""
        under_audit = () if self.target is None else (f"row {self.target} under audit",)
        persons = () if self.person is None else (f"{len(np.unique(self.person))} persons",)
        return "; ".join((super().headline(), *persons, *under_audit, *self.notes))

    @property
    def scores(self) -> ExternalScores:
        """The same object, for code that expects the scores apart from the notes."""
        return self


def external_scores(scores: Scores, **more: Any) -> ExternalScores:
    """Turn Scores into ExternalScores; more holds labels, target, notes, rounding or person."""
    held = {field.name: getattr(scores, field.name) for field in dataclasses.fields(Scores)}
    return ExternalScores(**held, **more)
