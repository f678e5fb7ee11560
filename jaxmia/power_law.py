"""The power law between vulnerability and examples per class: fit, predict, required shots, published lines.

log10(TPR - FPR) = slope_shots log10 S + slope_classes log10 C + intercept, one law per FPR: Tobaben, Ito,
Jälkö, He and Honkela 2025 (arXiv 2402.06674). NumPy, pandas and statsmodels only: serves anyone's results.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import math
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.regression.linear_model import OLS

from jaxmia._validate import InputError, check, check_choice
from jaxmia.tradeoff import kairouz_ceiling

COLUMNS = ("shots", "classes", "advantage", "fpr")
SLOPE_CONFIDENCE = 0.95
MAX_EXPONENT = 300.0  # the largest float64 is 1.8e308

DEFAULT_RECIPE = "default"  # of runs, which have one and do not name it
PER_RECORD = "per record"  # in place of an attack: the law is of a quantile of records' own TPR

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a law says of one cell.

    Attributes:
        advantage: TPR - FPR on the line itself, not capped.
        low: lower end of the prediction interval for the advantage of one new cell, not capped; None if the
            law has no standard errors.
        high: its upper end.
        tpr: fpr + advantage, at most 1.
        capped: True where fpr + advantage exceeds 1: the law has left its domain.
        extrapolated: True where shots or classes lie outside the fitted cells; None if those are not known.
    """

    advantage: float
    low: float | None
    high: float | None
    tpr: float
    capped: bool
    extrapolated: bool | None


class Judged(NamedTuple):
    """How a law fares on cells that it was not fitted to.

    Attributes:
        num_cells: with an advantage above 0.
        r_squared: 1 - (sum of squared errors) / (sum of squares about these cells' own mean), of log10(advantage);
            below 0 if their mean says more than the law. None if they do not vary or the law says nothing of them.
        factor: geometric mean of advantage over prediction; None if the law says nothing of them.
    """

    num_cells: int
    r_squared: float | None
    factor: float | None


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """The least-squares line at one FPR, logarithms base 10. What is not known is None, never NaN.

    Attributes:
        fpr: false positive rate, a fraction.
        status: "ok", or "undetermined" where the cells cannot carry a line with standard errors.
        reason: why the line is undetermined.
        num_cells: cells in the fit.
        num_censored: cells left out since advantage <= 0 has no logarithm. Leaving them out lifts the line
            where the attack is weakest, so the count belongs beside every slope.
        num_unresolved: cells left out since their advantage is missing.
        classes: the numbers of classes of the cells in the fit, ascending.
        shots_range: smallest and largest S of the cells in the fit.
        slope_shots: d log10(advantage) / d log10(S).
        slope_classes: d log10(advantage) / d log10(C); None where C did not vary: the law holds at that C.
        intercept: log10(advantage) at log10 S = 0, and log10 C = 0 if there is a slope_classes.
        slope_shots_stderr, slope_classes_stderr, intercept_stderr: standard errors.
        slope_shots_interval, slope_classes_interval: 95% confidence intervals (Student t).
        covariance: of (slope_shots, [slope_classes,] intercept).
        residual_scale: standard deviation of the residuals, in log10 units.
        degrees_of_freedom: cells minus coefficients.
        r_squared: share of the variance of log10(advantage) explained; None if that variance is 0.
    """

    fpr: float
    status: str = "ok"
    reason: str | None = None
    num_cells: int | None = None
    num_censored: int | None = None
    num_unresolved: int | None = None
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
    covariance: tuple[tuple[float, ...], ...] | None = None
    residual_scale: float | None = None
    degrees_of_freedom: int | None = None
    r_squared: float | None = None

    def predict(self, *, shots: float, classes: int, confidence: float = 0.95) -> Prediction:
        """Predict the advantage of one new cell, with the OLS prediction interval of its logarithm.

        Args:
            shots: examples per class, S > 0.
            classes: number of classes; the fitted one where the law knows a single number of classes.
            confidence: probability that the interval covers the advantage of a new cell (Gaussian residuals).

        Raises:
            InputError: bad argument, undetermined law, or classes that the law does not cover.
        """
        check(0 < shots < math.inf, "shots", shots, "be a positive number")
        log_shots = math.log10(shots)
        centre = float(_coefficients(self) @ _regressors(self, log_shots, classes))
        width = _half_width(self, log_shots, classes, confidence)
        advantage = _power_of_ten(centre)
        tpr = self.fpr + advantage
        return Prediction(
            advantage=advantage,
            low=None if width is None else _power_of_ten(centre - width),
            high=None if width is None else _power_of_ten(centre + width),
            tpr=min(tpr, 1.0),
            capped=tpr > 1.0,
            extrapolated=_is_outside(self, shots, classes),
        )

    def judged_on(self, table: pd.DataFrame | Mapping[str, Any]) -> Judged:
        """Compare the law with other cells at its FPR, of another data set for example.

        Args:
            table: as for fit_power_law. Cells at or below chance or unresolved are left out, as there.

        Raises:
            InputError: as fit_power_law.
        """
        columns = _checked_columns(table)
        usable = (columns["fpr"] == self.fpr) & (columns["advantage"] > 0)
        shots, classes, advantage = (columns[name][usable] for name in COLUMNS[:3])
        known = self.slope_classes is not None or set(classes) <= set(self.classes)
        if self.status != "ok" or not known or not len(shots):
            return Judged(len(shots), None, None)
        rows = [_regressors(self, math.log10(s), int(c)) for s, c in zip(shots, classes, strict=True)]
        observed = np.log10(advantage)
        errors = observed - np.stack(rows) @ _coefficients(self)
        total = float(np.sum((observed - observed.mean()) ** 2))
        explained = 1 - float(np.sum(errors**2)) / total if np.ptp(observed) > 0 else None
        return Judged(len(shots), explained, _power_of_ten(float(errors.mean())))


@dataclasses.dataclass(frozen=True)
class PowerLawFit:
    """Power laws by FPR: `fit[0.01]` is the law at FPR 0.01, iteration runs over the FPRs, largest first.

    Attributes:
        lines: one PowerLaw for each FPR of the table, undetermined ones included.
    """

    lines: tuple[PowerLaw, ...]

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
        """Predict the advantage at one of the fitted FPRs: see PowerLaw.predict."""
        return self[fpr].predict(shots=shots, classes=classes, confidence=confidence)

    def to_dict(self) -> dict[str, Any]:
        """Return the fit as plain numbers, lists and None, ready for JSON with allow_nan=False."""
        return {"lines": [dataclasses.asdict(law) for law in self.lines]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PowerLawFit:
        """Rebuild a fit from to_dict's record, or from its JSON.

        Raises:
            InputError: the record lacks its lines, or a line has a field that is not a PowerLaw's.
        """
        try:
            lines = [{name: _as_tuple(value) for name, value in line.items()} for line in data["lines"]]
            return cls(tuple(PowerLaw(**line) for line in lines))
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(f"The record must be one of PowerLawFit.to_dict, got {error!r}.") from error


class LawOf(NamedTuple):
    """What a law is of.

    Attributes:
        attack: its label.
        evaluation: as in jaxmia.evaluation.
        epsilon: of the training; inf for ordinary training.
        recipe: its name in a sweep.
    """

    attack: str
    evaluation: str
    epsilon: float = math.inf
    recipe: str = DEFAULT_RECIPE

    def __str__(self) -> str:
        """As a title."""
        private = "" if self.epsilon == math.inf else f", ε = {self.epsilon:g}"
        recipe = "" if self.recipe == DEFAULT_RECIPE else f", recipe {self.recipe}"
        return f"{self.attack}, {self.evaluation}{private}{recipe}"


@dataclasses.dataclass(frozen=True)
class RequiredShots:
    """Examples per class at which a law meets the ceiling that (epsilon, delta)-DP would set.

    Attributes:
        shots: S on the line, not rounded; None unless status is "ok".
        low: lower end of the calibration interval: all S whose prediction interval holds the ceiling. None
            where the law has no standard errors or the interval is not bounded.
        high: its upper end.
        ceiling: the largest TPR that (epsilon, delta)-DP allows at the FPR.
        extrapolated: True where shots or classes lie outside the fitted cells; None if not known.
        status: "ok"; "no_advantage" (the ceiling is the FPR itself, which no finite S reaches); "never" (the
            law does not fall with S, or meets the ceiling only beyond 1e300 examples).
        reason: why there are no shots, or no interval.
    """

    shots: float | None
    low: float | None
    high: float | None
    ceiling: float
    extrapolated: bool | None
    status: str
    reason: str | None


@dataclasses.dataclass(frozen=True)
class PublishedLine:
    """A line of the paper, recovered from its rounded table of required shots.

    Attributes:
        record: "average" over records, or the "worst" record.
        law: the central line, without standard errors: they were not published.
        slope_shots_range: slopes that the rounding of the table leaves possible; no confidence interval.
        intercept_range: the same for the intercept.
        required_shots: the published table: epsilon to examples per class, two significant digits.
    """

    record: str
    law: PowerLaw
    slope_shots_range: Interval
    intercept_range: Interval
    required_shots: Mapping[float, float]


@dataclasses.dataclass(frozen=True)
class PublishedLines:
    """The published figures, to compare with.

    Attributes:
        source: the paper.
        setting: model, attack and number of shadow models.
        derivation: how lines were recovered.
        delta: of the table of required shots.
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
        """Return the line of record "average" or "worst" at an FPR; InputError if there is none."""
        check_choice("record", record, dict.fromkeys(line.record for line in self.lines))
        of_record = [line for line in self.lines if line.record == record]
        for line in of_record:
            if line.law.fpr == fpr:
                return line
        known = ", ".join(str(line.law.fpr) for line in of_record)
        raise InputError(f"fpr={fpr!r} must be one that was published for the {record} record: {known}.")

    def shots(self, record: str | None, *, fpr: float, epsilon: float, delta: float) -> float | None:
        """Return the published required examples per class; None where none were published."""
        lines = [line for line in self.lines if (line.record, line.law.fpr) == (record, fpr)]
        return lines[0].required_shots.get(epsilon) if lines and delta == self.delta else None


def fit_power_law(table: pd.DataFrame | Mapping[str, Any]) -> PowerLawFit:
    """Fit log10(advantage) on log10(shots) and log10(classes) by least squares, one law for each FPR.

    The advantage may be an average over examples or a per-example quantile. Every row is used: pass the rows
    of one attack, evaluation and privacy level.

    Args:
        table: one row per cell (dataset, S, C, seed) and FPR, with columns shots (positive), classes (whole,
            1 or more), advantage (TPR - FPR, missing if unresolved) and fpr (a fraction). Others are ignored.

    Returns:
        The laws. Cells without a logarithm are counted in each; a law that its cells do not determine has
        status "undetermined" and a reason.

    Raises:
        InputError: a column is missing, or a value is outside its range.
    """
    columns = _checked_columns(table)
    fprs = np.unique(columns["fpr"])[::-1]
    return PowerLawFit(tuple(_fit_line(float(fpr), columns, columns["fpr"] == fpr) for fpr in fprs))


def required_shots(
    fit: PowerLawFit | PublishedLine,
    *,
    epsilon: float,
    delta: float,
    fpr: float,
    classes: int,
    confidence: float = 0.95,
) -> RequiredShots:
    """Solve a law for the S at which its TPR meets the ceiling of (epsilon, delta)-DP.

    Meeting the ceiling at one FPR is no guarantee: it says what an attack of the fitted kind would achieve.

    Args:
        fit: a fit, or a published line.
        epsilon: of the guarantee to compare with.
        delta: of the guarantee to compare with.
        fpr: one of the fitted FPRs.
        classes: number of classes; the fitted one where the law knows a single number of classes.
        confidence: of the calibration interval [low, high] (the prediction band, inverted).

    Raises:
        InputError: bad argument, undetermined law, or classes that the law does not cover.
    """
    ceiling = float(kairouz_ceiling(fpr, epsilon=epsilon, delta=delta))
    law = _law_at(fit, fpr)
    coefficients = _coefficients(law)
    slope, at_one_shot = float(coefficients[0]), float(coefficients @ _regressors(law, 0.0, classes))
    if ceiling <= fpr:
        return _no_shots(ceiling, "no_advantage", "the ceiling leaves no advantage, the law some at every S")
    if slope >= 0:
        return _no_shots(ceiling, "never", f"the advantage does not fall with S: its slope is {slope:.3g}")
    target = math.log10(ceiling - fpr)
    log_shots = (target - at_one_shot) / slope
    if log_shots > MAX_EXPONENT:
        return _no_shots(ceiling, "never", "the law meets the ceiling only beyond 1e300 examples per class")
    interval, reason = _calibration_interval(law, target, classes, confidence)
    shots = 10.0**log_shots
    extrapolated = _is_outside(law, shots, classes)
    low, high = (None, None) if interval is None else (10.0 ** interval[0], 10.0 ** interval[1])
    return RequiredShots(shots, low, high, ceiling, extrapolated, status="ok", reason=reason)


def published_lines() -> PublishedLines:
    """Return the published lines, tables and slopes, from jaxmia/data/published_lines.toml."""
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


def _checked_columns(table: pd.DataFrame | Mapping[str, Any]) -> dict[str, np.ndarray]:
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise InputError(f"The table must have columns {', '.join(COLUMNS)}; it lacks {', '.join(missing)}.")
    try:
        frame = pd.DataFrame({name: table[name] for name in COLUMNS})
        columns = {name: frame[name].to_numpy(dtype=float, na_value=np.nan) for name in COLUMNS}
    except (TypeError, ValueError) as error:
        raise InputError(f"The table must hold numbers, in columns of one length: {error}.") from error
    check(len(frame) > 0, "rows", len(frame), "be at least 1")
    shots, classes, advantage, fpr = (columns[name] for name in COLUMNS)
    _check_all(np.isfinite(shots) & (shots > 0), "shots", shots, "be a positive number in every row")
    whole = np.isfinite(classes) & (classes >= 1) & (classes == np.round(classes))
    _check_all(whole, "classes", classes, "be a whole number of at least 1 in every row")
    _check_all((fpr > 0) & (fpr < 1), "fpr", fpr, "lie strictly between 0 and 1 in every row")
    possible = np.isnan(advantage) | (np.abs(advantage) <= 1)
    _check_all(possible, "advantage", advantage, "lie in [-1, 1] or be missing in every row")
    return columns


def _check_all(holds: np.ndarray, name: str, values: np.ndarray, rule: str) -> None:
    if not holds.all():
        check(False, name, float(values[np.argmin(holds)]), rule)


def _fit_line(fpr: float, columns: Mapping[str, np.ndarray], rows: np.ndarray) -> PowerLaw:
    shots, classes, advantage = (columns[name][rows] for name in COLUMNS[:3])
    usable = advantage > 0
    unresolved = np.isnan(advantage)
    shots, classes, response = shots[usable], classes[usable], np.log10(advantage[usable])
    law = PowerLaw(
        fpr=fpr,
        num_cells=int(usable.sum()),
        num_censored=int((~usable & ~unresolved).sum()),
        num_unresolved=int(unresolved.sum()),
        classes=tuple(int(value) for value in np.unique(classes)),
        shots_range=(float(shots.min()), float(shots.max())) if len(shots) else None,
    )
    design = _design(shots, classes)
    reason = _why_undetermined(shots, design)
    if reason is not None:
        return dataclasses.replace(law, status="undetermined", reason=reason)
    return dataclasses.replace(law, **_least_squares(design, response))


def _design(shots: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Regressors [cells, coefficients]: log10 S, log10 C if C varies, and 1."""
    varying = [np.log10(shots)] + ([np.log10(classes)] if len(np.unique(classes)) > 1 else [])
    return np.column_stack([*varying, np.ones_like(shots)])


def _why_undetermined(shots: np.ndarray, design: np.ndarray) -> str | None:
    cells, coefficients = design.shape
    distinct = len(np.unique(shots))
    if distinct < 2:
        return f"a slope needs positive advantages at 2 or more values of shots, got {distinct}"
    if np.linalg.matrix_rank(design) < coefficients:
        return "shots and classes vary together: their slopes cannot be told apart"
    if cells <= coefficients:
        return f"standard errors need more cells than the {coefficients} coefficients, got {cells}"
    return None


def _least_squares(design: np.ndarray, response: np.ndarray) -> dict[str, Any]:
    """The fields of PowerLaw that the regression determines."""
    result = OLS(response, design).fit()
    estimates = result.params.tolist()
    errors = result.bse.tolist()
    intervals = [tuple(row) for row in result.conf_int(alpha=1.0 - SLOPE_CONFIDENCE).tolist()]
    fields = {
        "slope_shots": estimates[0],
        "slope_shots_stderr": errors[0],
        "slope_shots_interval": intervals[0],
        "intercept": estimates[-1],
        "intercept_stderr": errors[-1],
        "covariance": _as_tuple(result.cov_params().tolist()),
        "residual_scale": math.sqrt(result.mse_resid),
        "degrees_of_freedom": int(result.df_resid),
        "r_squared": float(result.rsquared) if np.ptp(response) > 0 else None,
    }
    if len(estimates) == 3:
        fields |= {
            "slope_classes": estimates[1],
            "slope_classes_stderr": errors[1],
            "slope_classes_interval": intervals[1],
        }
    return fields


def _coefficients(law: PowerLaw) -> np.ndarray:
    """Slopes and intercept [coefficients], in the order of the covariance."""
    if law.slope_shots is None or law.intercept is None:
        raise InputError(f"The law at fpr={law.fpr} is undetermined: {law.reason}.")
    slopes = [law.slope_shots] + ([] if law.slope_classes is None else [law.slope_classes])
    return np.array([*slopes, law.intercept])


def _regressors(law: PowerLaw, log_shots: float, classes: int) -> np.ndarray:
    """One row of the design matrix [coefficients]."""
    if law.slope_classes is not None:
        check(1 <= classes < math.inf, "classes", classes, "be a number of at least 1")
        return np.array([log_shots, math.log10(classes), 1.0])
    if classes not in law.classes:
        only = law.classes[0]
        raise InputError(f"classes={classes!r} must be {only}: this law is known at C = {only} only.")
    return np.array([log_shots, 1.0])


def _half_width(law: PowerLaw, log_shots: float, classes: int, confidence: float) -> float | None:
    """Half the width of the OLS prediction interval of log10(advantage); None without standard errors."""
    noise = _noise(law, confidence)
    if noise is None:
        return None
    quantile, covariance, variance = noise
    row = _regressors(law, log_shots, classes)
    return quantile * math.sqrt(variance + row @ covariance @ row)


def _noise(law: PowerLaw, confidence: float) -> tuple[float, np.ndarray, float] | None:
    """Student t quantile, covariance of the coefficients, residual variance."""
    check(0 < confidence < 1, "confidence", confidence, "lie strictly between 0 and 1")
    if law.covariance is None or law.residual_scale is None or law.degrees_of_freedom is None:
        return None
    quantile = float(stats.t.ppf((1.0 + confidence) / 2.0, law.degrees_of_freedom))
    return quantile, np.array(law.covariance), law.residual_scale**2


def _calibration_interval(
    law: PowerLaw, target: float, classes: int, confidence: float
) -> tuple[Interval | None, str | None]:
    """The log10 S whose prediction interval holds target, or None and the reason.

    With x(L) = x(0) + L e_1 these L satisfy (beta x(L) - target)² <= t² (s² + x(L)ᵀ V x(L)), quadratic in L:
    Fieller 1954; inverse regression in Draper and Smith 1998.
    """
    noise = _noise(law, confidence)
    if noise is None:
        return None, "the law has no standard errors, hence no interval"
    quantile, covariance, variance = noise
    coefficients = _coefficients(law)
    origin = _regressors(law, 0.0, classes)
    slope, gap = coefficients[0], coefficients @ origin - target
    square = slope**2 - quantile**2 * covariance[0, 0]
    if square <= 0:
        return None, f"the slope cannot be told from 0 at confidence {confidence}: no bounded interval"
    linear = slope * gap - quantile**2 * (covariance[0] @ origin)
    constant = gap**2 - quantile**2 * (variance + origin @ covariance @ origin)
    root = math.sqrt(max(linear**2 - square * constant, 0.0))  # rounding may leave -1e-20 for an exact law
    low, high = (-linear - root) / square, (-linear + root) / square
    if high > MAX_EXPONENT:
        return None, "the interval reaches beyond 1e300 examples per class"
    return (float(low), float(high)), None


def _law_at(fit: PowerLawFit | PublishedLine, fpr: float) -> PowerLaw:
    if isinstance(fit, PublishedLine):
        return PowerLawFit((fit.law,))[fpr]
    return fit[fpr]


def _is_outside(law: PowerLaw, shots: float, classes: int) -> bool | None:
    """True where the cell lies outside the fitted range of shots or of classes."""
    if law.shots_range is None:
        return None
    inside_shots = law.shots_range[0] <= shots <= law.shots_range[1]
    return not (inside_shots and law.classes[0] <= classes <= law.classes[-1])


def _power_of_ten(exponent: float) -> float:
    """10 ** exponent, infinity where Python would raise OverflowError (a wide interval of a poor fit)."""
    return 10.0**exponent if exponent < MAX_EXPONENT else math.inf


def _no_shots(ceiling: float, status: str, reason: str) -> RequiredShots:
    return RequiredShots(None, None, None, ceiling, extrapolated=None, status=status, reason=reason)


def _as_tuple(value: Any) -> Any:
    """Lists, as JSON gives them, to the tuples of the dataclass, at any depth."""
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list | tuple) else value
