"""A power law between vulnerability and examples per class: predictions, and the fit to held-out cells.

log10(TPR - FPR) = slope_shots log10 S + slope_classes log10 C + intercept, one law per FPR: Tobaben, Ito,
Jälkö, He and Honkela 2025 (arXiv 2402.06674).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from jaxmia._shown import Shown
from jaxmia._validate import InputError, check, listed
from jaxmia.laws.cells import COLUMNS, checked_columns, usable_cells

MAX_EXPONENT = 300.0  # the largest float64 is 1.8e308
MIN_CLUSTERS = 3  # with two, an error over clusters has one degree of freedom

DEFAULT_RECIPE = "default"  # recipe of a run: it has only one, without a name
PER_RECORD = "per record"  # attack of laws for a quantile of the records' own TPRs
PER_PERSON = "per person"  # attack of laws for a quantile of the persons' own TPRs
UNITS_OF = {"unit": "record", "membership": "record", "shots_of": "records"}
"""Columns that rows of runs by person have, with the values of runs by record: the unit of the row, the unit of
membership, what S counts."""

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The prediction of a law for one cell.

    Attributes:
        advantage: TPR - FPR on the line, not capped.
        low: lower end of the prediction interval for the advantage of one new cell, not capped; None if the
            law has no standard errors.
        high: its upper end.
        tpr: fpr + advantage, at most 1.
        capped: True where fpr + advantage exceeds 1, outside the law's domain.
        extrapolated: True where shots or classes lie outside the fitted cells; None if those are not known.
    """

    advantage: float
    low: float | None
    high: float | None
    tpr: float
    capped: bool
    extrapolated: bool | None


class HeldOutFit(NamedTuple):
    """How well a law predicts cells that it was not fitted to.

    Attributes:
        num_cells: number of cells with an advantage above 0.
        r_squared: 1 - (sum of squared errors) / (sum of squares about these cells' mean), for log10(advantage);
            negative if the mean predicts them better. None if they do not vary or the law does not cover them.
        factor: geometric mean of advantage over prediction; None if the law does not cover them.
    """

    num_cells: int
    r_squared: float | None
    factor: float | None


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """The least-squares line at one FPR, logarithms base 10. Unknown values are None, never NaN.

    Attributes:
        fpr: false positive rate, a fraction.
        status: "ok"; "saturated" if too few cells have a TPR below 0.99; or "undetermined" if the cells do not
            determine a line with standard errors for another reason.
        reason: why there is no line; None if there is one.
        num_cells: cells in the fit.
        num_censored: cells left out because advantage <= 0 has no logarithm. Leaving them out raises the line where the
            attack is weakest, so report this count with every slope.
        num_unresolved: cells left out because their advantage is missing.
        num_saturated: cells left out because their TPR is 0.99 or more: the ceiling of 1, not S, determines it.
        classes: the numbers of classes of the cells in the fit, ascending.
        shots_range: smallest and largest S of the cells in the fit.
        slope_shots: d log10(advantage) / d log10(S).
        slope_classes: d log10(advantage) / d log10(C); None where C did not vary: the law holds at that C.
        intercept: log10(advantage) at log10 S = 0, and log10 C = 0 if there is a slope_classes.
        slope_shots_stderr, slope_classes_stderr, intercept_stderr: standard errors.
        errors: the units that standard errors, confidence intervals and the covariance treat as independent: "data
            sets" or "pools" (data set and seed; the cells of one pool are nested), both CR1 with Student's t of
            clusters - 1 degrees of freedom; or "cells" (plain errors) if there are fewer than 3 of either or the table
            does not name them.
        clusters: number of data sets or pools; None for "cells".
        slope_shots_interval, slope_classes_interval: 95% confidence intervals (Student t).
        covariance: covariance matrix of (slope_shots, [slope_classes,] intercept).
        residual_scale: standard deviation of the residuals, in log10 units.
        degrees_of_freedom: cells minus coefficients, for residual_scale.
        r_squared: share of the variance of log10(advantage) explained; None if that variance is 0.
    """

    fpr: float
    status: str = "ok"
    reason: str | None = None
    num_cells: int | None = None
    num_censored: int | None = None
    num_unresolved: int | None = None
    num_saturated: int | None = None
    classes: tuple[int, ...] = ()
    shots_range: Interval | None = None
    slope_shots: float | None = None
    slope_shots_stderr: float | None = None
    slope_shots_interval: Interval | None = None
    slope_classes: float | None = None
    slope_classes_stderr: float | None = None
    slope_classes_interval: Interval | None = None
    intercept: float | None = None
    intercept_stderr: float | None = None
    errors: str | None = None
    clusters: int | None = None
    covariance: tuple[tuple[float, ...], ...] | None = None
    residual_scale: float | None = None
    degrees_of_freedom: int | None = None
    r_squared: float | None = None

    @property
    def in_words(self) -> str:
        """Return the fitted equation, or the status of an undetermined law."""
        if self.status != "ok" or self.slope_shots is None or self.intercept is None:
            return self.status
        of_classes = "" if self.slope_classes is None else f" C^{self.slope_classes:.2f}"
        return f"advantage = {10**self.intercept:.3g} S^{self.slope_shots:.2f}{of_classes}"

    @property
    def errors_over(self) -> str:
        """Return the units that standard errors and intervals treat as independent, in words."""
        if self.errors is None:
            return "no errors"
        if self.clusters is None:
            return f"cells (plain: fewer than {MIN_CLUSTERS} data sets or pools)"
        return f"{self.clusters} {self.errors}"

    def predict(self, *, shots: float, classes: int, confidence: float = 0.95) -> Prediction:
        """Return the predicted advantage of one new cell, with the OLS prediction interval of its logarithm.

        Args:
            shots: examples per class, S > 0.
            classes: number of classes; the fitted one where the law knows a single number of classes.
            confidence: probability that the interval covers the advantage of a new cell (Gaussian residuals).

        Raises:
            InputError: for a bad argument, an undetermined law, or classes that the law does not cover.
        """
        check(0 < shots < math.inf, "shots", shots, "be a positive number")
        log_shots = math.log10(shots)
        centre = float(coefficients_of(self) @ regressors(self, log_shots, classes))
        width = _half_width(self, log_shots, classes, confidence)
        advantage = _power_of_ten(centre)
        tpr = self.fpr + advantage
        return Prediction(
            advantage=advantage,
            low=None if width is None else _power_of_ten(centre - width),
            high=None if width is None else _power_of_ten(centre + width),
            tpr=min(tpr, 1.0),
            capped=tpr > 1.0,
            extrapolated=is_outside(self, shots, classes),
        )

    def held_out_fit(self, table: pd.DataFrame | Mapping[str, Any]) -> HeldOutFit:
        """Compare the law with other cells at its FPR, for example those of another data set.

        Args:
            table: as for fit_power_law. Cells at or below chance, saturated or unresolved, are left out in the same
                way.

        Raises:
            InputError: as fit_power_law.
        """
        columns = checked_columns(table)
        usable = (columns["fpr"] == self.fpr) & usable_cells(columns["advantage"], self.fpr)
        shots, classes, advantage = (columns[name][usable] for name in COLUMNS[:3])
        known = self.slope_classes is not None or set(classes) <= set(self.classes)
        if self.status != "ok" or not known or not len(shots):
            return HeldOutFit(len(shots), None, None)
        rows = [regressors(self, math.log10(s), int(c)) for s, c in zip(shots, classes, strict=True)]
        observed = np.log10(advantage)
        errors = observed - np.stack(rows) @ coefficients_of(self)
        total = float(np.sum((observed - observed.mean()) ** 2))
        explained = 1 - float(np.sum(errors**2)) / total if np.ptp(observed) > 0 else None
        return HeldOutFit(len(shots), explained, _power_of_ten(float(errors.mean())))


@dataclasses.dataclass(frozen=True, repr=False)
class PowerLawFit(Shown):
    """Power laws by FPR: `fit[0.01]` is the law at FPR 0.01; iteration yields the FPRs, largest first.

    Attributes:
        lines: one PowerLaw for each FPR of the table, undetermined ones included.
    """

    lines: tuple[PowerLaw, ...]

    def headline(self) -> str:
        """Return each line in one term: its slopes, or why it is undetermined."""
        return "; ".join(f"at FPR {law.fpr:g} {law.in_words}" for law in self.lines)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per FPR, with slopes, intercept and their standard errors."""
        columns = ["fpr", "slope_shots", "slope_shots_stderr", "slope_classes", "slope_classes_stderr"]
        columns += ["intercept", "intercept_stderr", "r_squared", "num_cells", "status", "reason"]
        return pd.DataFrame([dataclasses.asdict(law) for law in self.lines])[columns]

    def brief_frame(self) -> pd.DataFrame:
        """Return the columns of to_frame that are not empty."""
        return self.to_frame().dropna(axis=1, how="all")

    def __getitem__(self, fpr: float) -> PowerLaw:
        for law in self.lines:
            if law.fpr == fpr:
                return law
        known = ", ".join(str(known) for known in self)
        raise InputError(f"fpr={fpr!r} must be one that the law was fitted at: {known}.")

    def __iter__(self) -> Iterator[float]:
        return (law.fpr for law in self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    def predict(self, *, shots: float, classes: int, fpr: float, confidence: float = 0.95) -> Prediction:
        """Return the prediction at one of the fitted FPRs: see PowerLaw.predict."""
        return self[fpr].predict(shots=shots, classes=classes, confidence=confidence)

    def to_dict(self) -> dict[str, Any]:
        """Return the fit as plain numbers, lists and None, ready for JSON with allow_nan=False."""
        return {"lines": [dataclasses.asdict(law) for law in self.lines]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PowerLawFit:
        """Return the fit from the dict that to_dict returned, also after a round trip through JSON.

        Raises:
            InputError: if the record has no lines, or a line has a field that PowerLaw does not have.
        """
        try:
            lines = [{name: as_tuple(value) for name, value in line.items()} for line in data["lines"]]
            return cls(tuple(PowerLaw(**line) for line in lines))
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(f"The record must come from PowerLawFit.to_dict, got {error!r}.") from error


class LawKey(NamedTuple):
    """The rows of results that a law is fitted to.

    Attributes:
        attack: label of the attack.
        evaluation: as in jaxmia.stats.operating_points.
        epsilon: epsilon of the training; inf for training without differential privacy.
        recipe: name of the recipe in a sweep.
        unit: "record" or "person", the unit that the attack is on.
        membership: "record" or "person", the unit that training sets are drawn by.
        shots_of: "records" or "persons", what S counts.
    """

    attack: str
    evaluation: str
    epsilon: float = math.inf
    recipe: str = DEFAULT_RECIPE
    unit: str = "record"
    membership: str = "record"
    shots_of: str = "records"

    def __str__(self) -> str:
        """Return a title for the law."""
        private = "" if self.epsilon == math.inf else f", ε = {self.epsilon:g}"
        recipe = "" if self.recipe == DEFAULT_RECIPE else f", recipe {self.recipe}"
        of = "" if self.membership == "record" else f", {self.unit}s (S counts {self.shots_of})"
        return f"{self.attack}, {self.evaluation}{private}{recipe}{of}"

    def named(self) -> dict[str, Any]:
        """As columns of a table; those of UNITS_OF only where membership is not of records."""
        return {
            name: value
            for name, value in self._asdict().items()
            if self.membership != "record" or name not in UNITS_OF
        }


def law_of(
    laws: Mapping[LawKey, PowerLawFit],
    attack: str | None,
    evaluation: str | None,
    epsilon: float | None,
    recipe: str | None,
) -> PowerLawFit:
    """Return the first law that has all that is given; None stands for anything.

    Raises:
        InputError: if there is none, naming those that are there.
    """
    given = {"attack": attack, "evaluation": evaluation, "epsilon": epsilon, "recipe": recipe}
    asked = {name: value for name, value in given.items() if value is not None}
    for key, law in laws.items():
        if asked.items() <= key._asdict().items():
            return law
    raise InputError(f"law={asked} must be one of {listed(map(str, laws))}.")


def coefficients_of(law: PowerLaw) -> np.ndarray:
    """Return slopes and intercept, float64[coefficients], in the order of the covariance."""
    if law.slope_shots is None or law.intercept is None:
        raise InputError(f"The law at fpr={law.fpr} is {law.status}: {law.reason}.")
    slopes = [law.slope_shots] + ([] if law.slope_classes is None else [law.slope_classes])
    return np.array([*slopes, law.intercept])


def regressors(law: PowerLaw, log_shots: float, classes: int) -> np.ndarray:
    """Return one row of the design matrix, float64[coefficients]."""
    if law.slope_classes is not None:
        check(1 <= classes < math.inf, "classes", classes, "be a number of at least 1")
        return np.array([log_shots, math.log10(classes), 1.0])
    if classes not in law.classes:
        only = law.classes[0]
        raise InputError(f"classes={classes!r} must be {only}: this law was fitted at C = {only} only.")
    return np.array([log_shots, 1.0])


def _half_width(law: PowerLaw, log_shots: float, classes: int, confidence: float) -> float | None:
    """Return half the width of the prediction interval of log10(advantage); None without standard errors."""
    noise = noise_of(law, confidence)
    if noise is None:
        return None
    covariance, variance = noise
    row = regressors(law, log_shots, classes)
    return math.sqrt(variance + row @ covariance @ row)


def noise_of(law: PowerLaw, confidence: float) -> tuple[np.ndarray, float] | None:
    """Return the coefficients' covariance and the residual variance, each times its squared Student t quantile.

    Both add to the error of a prediction for a new cell. With clustered errors they have different degrees of freedom.

    Raises:
        InputError: unless 0 < confidence < 1.
    """
    check(0 < confidence < 1, "confidence", confidence, "lie strictly between 0 and 1")
    if law.covariance is None or law.residual_scale is None or law.degrees_of_freedom is None:
        return None
    of_law = law.degrees_of_freedom if law.clusters is None else law.clusters - 1
    wide, of_cell = (
        stats.t.ppf((1 + confidence) / 2, each) ** 2 for each in (of_law, law.degrees_of_freedom)
    )
    return wide * np.array(law.covariance), float(of_cell) * law.residual_scale**2


def is_outside(law: PowerLaw, shots: float, classes: int) -> bool | None:
    """Return True where the cell lies outside the fitted range of shots or classes; None if the range is unknown."""
    if law.shots_range is None:
        return None
    inside_shots = law.shots_range[0] <= shots <= law.shots_range[1]
    return not (inside_shots and law.classes[0] <= classes <= law.classes[-1])


def _power_of_ten(exponent: float) -> float:
    """Return 10 ** exponent, or infinity where Python would raise OverflowError (a wide interval of a poor fit)."""
    return 10.0**exponent if exponent < MAX_EXPONENT else math.inf


def as_tuple(value: Any) -> Any:
    """Convert JSON's lists to the tuples of the dataclass, at any depth."""
    return tuple(as_tuple(item) for item in value) if isinstance(value, list | tuple) else value
