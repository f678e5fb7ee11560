"""The advisor's result: options and whether they meet the limit, as a table and a figure."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
import pandas as pd

from jaxmia._atomic import write_json, write_text
from jaxmia._shown import Shown, figure
from jaxmia.advice.settings import AdviceSettings


@dataclasses.dataclass(frozen=True, eq=False)
class Advice(Shown):
    """Options for a release.

    Attributes:
        options: one row for each: lever, option, ridge (missing for private heads), records, classes; accuracy on
            records outside of the training set with its 95% interval over records (accuracy_low, accuracy_high); tpr,
            the mean over records; worst_tpr, the most vulnerable record's or person's (worst_record or
            worst_person names it), with worst_low and worst_high; how it was
            found, "analytic", "labels of a few heads", "law" or "bound"; meets, "yes", "no" or "not decided"; pareto,
            whether no option of the same task is better in accuracy and in worst_tpr; recommended; note. After
            confirm also measured_accuracy, measured_tpr, measured_worst_tpr, measured_worst_low, measured_worst_high.
        settings: the settings of the advisor.
        warnings: warnings about the estimates.
        features: content hash of the records.
    """

    options: pd.DataFrame
    settings: AdviceSettings
    warnings: tuple[str, ...]
    features: str = ""

    __repr__ = Shown.__repr__

    def headline(self) -> str:
        """Return the recommended option in one sentence."""
        limit = f"TPR {self.settings.max_tpr:g} at FPR {self.settings.fpr:g} for every {self.settings.unit}"
        chosen = self.recommended
        if chosen is not None:
            return (
                f"{chosen['lever']}, {chosen['option']}, keeps within {limit} with an accuracy of"
                f" {chosen['accuracy']:.3f}"
            )
        nearest = self.nearest
        return (
            f"no option keeps within {limit}; the nearest is {nearest['lever']}, {nearest['option']}, with"
            f" {nearest['worst_tpr']:.3g}"
        )

    def save(self, folder: str | os.PathLike[str]) -> pathlib.Path:
        """Write advice.csv, advice.json (which `jaxmia report --advice` reads) and advice.png; return the folder.

        Args:
            folder: created if it does not exist.
        """
        path = pathlib.Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        write_text(path / "advice.csv", self.options.to_csv(index=False, lineterminator="\n"))
        write_json(
            path / "advice.json",
            {
                "settings": dataclasses.asdict(self.settings),
                "features": self.features,
                "headline": self.headline(),
                "warnings": list(self.warnings),
                "options": self.options.astype(object).where(self.options.notna(), None).to_dict("records"),
            },
        )
        self.plot().savefig(path / "advice.png", dpi=150)
        return path

    @property
    def recommended(self) -> pd.Series | None:
        """Return the most accurate option that meets the limit; None if none does."""
        rows = self.options[self.options["recommended"]]
        return None if rows.empty else rows.iloc[0]

    @property
    def nearest(self) -> pd.Series:
        """Return the option of the same task whose most vulnerable record has the lowest TPR."""
        return _same_task(self.options).sort_values("worst_tpr", kind="stable").iloc[0]

    def to_frame(self) -> pd.DataFrame:
        """Return the options, one row for each."""
        return self.options

    def plot(self) -> Any:
        """Return a figure of accuracy against the most vulnerable record's TPR, with the limit and the frontier."""
        return figure(
            "advice_figure",
            self.options,
            fpr=self.settings.fpr,
            max_tpr=self.settings.max_tpr,
            unit=self.settings.unit,
        )


def judged(options: pd.DataFrame, settings: AdviceSettings) -> pd.DataFrame:
    """Return the options with the columns meets, pareto and recommended.

    If weights are released, estimates from outputs are lower bounds: such an option may be beyond the limit, but is
    never shown to be within it. A bound beyond the limit is not decisive.
    """
    options = options.copy()
    bound = options["how"] == "bound"
    weights = settings.release == "weights"
    within = (options["worst_high"] <= settings.max_tpr) & (bound | (not weights))
    beyond = (options["worst_low"] > settings.max_tpr) & ~bound
    options["meets"] = np.select([within, beyond], ["yes", "no"], "not decided")
    same = _same_task(options)
    accuracy, worst = same["accuracy"].to_numpy(), same["worst_tpr"].to_numpy()
    better = (accuracy[None] >= accuracy[:, None]) & (worst[None] <= worst[:, None])
    better &= (accuracy[None] > accuracy[:, None]) | (worst[None] < worst[:, None])
    options["pareto"] = options.index.isin(same.index.to_numpy()[~better.any(axis=1)])
    able = _same_task(options)
    able = able[able["meets"] == "yes"].sort_values("accuracy", kind="stable")
    options["recommended"] = options.index.isin(able.index[-1:])
    if weights:
        outputs = ~bound & (options["note"] == "")
        options.loc[outputs, "note"] = "estimated from outputs: weights reveal at least as much"
    return options


def _same_task(options: pd.DataFrame) -> pd.DataFrame:
    """Return the comparable options: with the given classes, a known accuracy and a known most vulnerable record."""
    known = options["accuracy"].notna() & options["worst_tpr"].notna()
    same: pd.DataFrame = options[known & (options["classes"] == options["classes"].iloc[0])]
    return same
