"""How the results of runs and sweeps show themselves: rates, laws, figures, a report."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import pandas as pd

from jaxmia._shown import Shown, figure, report
from jaxmia.laws.law import LawKey, PowerLawFit, law_of
from jaxmia.tables.rates import brief_results


class StudyShown(Shown):
    """A result with a folder and laws, whose to_frame has the rows of all cells."""

    path: pathlib.Path
    laws: Mapping[LawKey, PowerLawFit]

    def to_frame(self) -> pd.DataFrame:
        """Return the rows of all cells."""
        raise NotImplementedError

    def brief_frame(self) -> pd.DataFrame:
        """Return the rates, with the identifying columns that differ between rows."""
        return brief_results(self.to_frame())

    def law(
        self,
        attack: str | None = None,
        evaluation: str | None = None,
        epsilon: float | None = None,
        recipe: str | None = None,
    ) -> PowerLawFit:
        """Return the first of the laws with this attack, evaluation, epsilon and recipe; None stands for any.

        Raises:
            InputError: if there is none, naming those that are there.
        """
        return law_of(self.laws, attack, evaluation, epsilon, recipe)

    def plot(self, kind: str = "law", *, evaluation: str = "pooled") -> Any:
        """Return a figure: of the law, or of privacy levels for kind "accuracy" or "ceiling" (see study_figure)."""
        return figure("study_figure", self.to_frame(), self.laws, kind=kind, evaluation=evaluation)

    def report(self, out: str | os.PathLike[str] | None = None, **options: Any) -> pathlib.Path:
        """Write the report, as jaxmia.write_report does, and return the path of its page."""
        return report(self.path, out, **options)
