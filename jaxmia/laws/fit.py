"""Fits of the power law between vulnerability and examples per class, by least squares.

log10(TPR - FPR) = slope_shots log10 S + slope_classes log10 C + intercept, one law per FPR: Tobaben, Ito,
Jälkö, He and Honkela 2025 (arXiv 2402.06674). The module needs only NumPy, pandas and statsmodels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.regression.linear_model import OLS

from jaxmia.laws.cells import COLUMNS, SATURATED_TPR, checked_columns, saturated_cells, usable_cells
from jaxmia.laws.law import MIN_CLUSTERS, PowerLaw, PowerLawFit, as_tuple

SLOPE_CONFIDENCE = 0.95


def fit_power_law(table: pd.DataFrame | Mapping[str, Any]) -> PowerLawFit:
    """Fit log10(advantage) on log10(shots) and log10(classes) by least squares, one law for each FPR.

    The law is that of Tobaben et al. 2025 (arXiv 2402.06674).

    The advantage may be an average over examples or a per-example quantile. All rows are used: pass the rows of one
    attack, one evaluation and one privacy level.

    If the table names data sets and seeds, standard errors are clustered, since the pools of one seed are nested.

    Args:
        table: one row per cell (dataset, S, C, seed) and FPR, with columns shots (positive), classes (whole,
            1 or more), advantage (TPR - FPR, missing if unresolved) and fpr (a fraction); for clustered errors also
            dataset and seed. Other columns are ignored.

    Returns:
        One law per FPR. Each counts the cells that were left out: those without a logarithm and saturated ones. A law
        that its cells do not determine has status "saturated" or "undetermined", and a reason.

    Raises:
        InputError: if a column is missing, or a value is outside its range.
    """
    columns = checked_columns(table)
    fprs = np.unique(columns["fpr"])[::-1]
    data_sets, pools = _clusters(table)
    lines = []
    for fpr in fprs:
        rows = columns["fpr"] == fpr
        groups = {} if pools is None else {"data sets": data_sets[rows], "pools": pools[rows]}
        lines.append(_fit_line(float(fpr), columns, rows, groups))
    return PowerLawFit(tuple(lines))


def _clusters(table: pd.DataFrame | Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return cluster numbers [cells] by data set, and by data set and seed; None where the table lacks the columns."""
    if "dataset" not in table or "seed" not in table:
        return np.zeros(0, int), None
    frame = pd.DataFrame({name: np.asarray(table[name]) for name in ("dataset", "seed")})
    return (
        frame.groupby("dataset", dropna=False).ngroup().to_numpy(),
        frame.groupby(["dataset", "seed"], dropna=False).ngroup().to_numpy(),
    )


def _fit_line(
    fpr: float, columns: Mapping[str, np.ndarray], rows: np.ndarray, groups: Mapping[str, np.ndarray]
) -> PowerLaw:
    shots, classes, advantage = (columns[name][rows] for name in COLUMNS[:3])
    usable, saturated = usable_cells(advantage, fpr), saturated_cells(advantage, fpr)
    unresolved = np.isnan(advantage)
    shots, classes, response = shots[usable], classes[usable], np.log10(advantage[usable])
    law = PowerLaw(
        fpr=fpr,
        num_cells=int(usable.sum()),
        num_censored=int((~usable & ~saturated & ~unresolved).sum()),
        num_unresolved=int(unresolved.sum()),
        num_saturated=int(saturated.sum()),
        classes=tuple(int(value) for value in np.unique(classes)),
        shots_range=(float(shots.min()), float(shots.max())) if len(shots) else None,
    )
    design = _design(shots, classes)
    reason = _why_undetermined(shots, design)
    if reason is not None and saturated.any():
        reason = f"TPR is {SATURATED_TPR:g} or more in {saturated.sum()} of {len(usable)} cells; {reason}"
        return dataclasses.replace(law, status="saturated", reason=reason)
    if reason is not None:
        return dataclasses.replace(law, status="undetermined", reason=reason)
    of_cells = {name: group[usable] for name, group in groups.items()}
    return dataclasses.replace(law, **_least_squares(design, response, of_cells))


def _design(shots: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the regressors [cells, coefficients]: log10 S, log10 C if C varies, and 1."""
    varying = [np.log10(shots)] + ([np.log10(classes)] if len(np.unique(classes)) > 1 else [])
    return np.column_stack([*varying, np.ones_like(shots)])


def _why_undetermined(shots: np.ndarray, design: np.ndarray) -> str | None:
    cells, coefficients = design.shape
    distinct = len(np.unique(shots))
    if distinct < 2:
        return f"a slope needs positive advantages at 2 or more values of shots, got {distinct}"
    if np.linalg.matrix_rank(design) < coefficients:
        return "shots and classes vary together, so their slopes are not identified"
    if cells <= coefficients:
        return f"standard errors need more cells than the {coefficients} coefficients, got {cells}"
    return None


def _least_squares(
    design: np.ndarray, response: np.ndarray, groups: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Return the fields of PowerLaw from the regression, with errors clustered by the widest groups that suffice."""
    plain = OLS(response, design).fit()
    result, errors, clusters = plain, "cells", None
    for name, group in groups.items():
        number = len(np.unique(group))
        if number < MIN_CLUSTERS or _is_exact(plain.resid, response):
            continue
        clustered = plain.get_robustcov_results("cluster", groups=group, use_t=True)
        if _has_errors(clustered, plain):
            result, errors, clusters = clustered, name, number
            break
    estimates = result.params.tolist()
    stderrs = result.bse.tolist()
    intervals = [tuple(row) for row in result.conf_int(alpha=1.0 - SLOPE_CONFIDENCE).tolist()]
    fields = {
        "slope_shots": estimates[0],
        "slope_shots_stderr": stderrs[0],
        "slope_shots_interval": intervals[0],
        "intercept": estimates[-1],
        "intercept_stderr": stderrs[-1],
        "errors": errors,
        "clusters": clusters,
        "covariance": as_tuple(result.cov_params().tolist()),
        "residual_scale": math.sqrt(plain.mse_resid),
        "degrees_of_freedom": int(plain.df_resid),
        "r_squared": float(plain.rsquared) if np.ptp(response) > 0 else None,
    }
    if len(estimates) == 3:
        fields |= {
            "slope_classes": estimates[1],
            "slope_classes_stderr": stderrs[1],
            "slope_classes_interval": intervals[1],
        }
    return fields


def _has_errors(clustered: Any, plain: Any) -> bool:
    """Return whether every coefficient has an error beyond rounding.

    Laws that are parallel in all clusters, as of two data sets whose records differ by a factor, leave none: the
    variance of their slope is zero, or less by rounding.
    """
    variances = np.diag(clustered.cov_params()), np.diag(plain.cov_params())
    return bool((variances[0] > 1e-12 * variances[1]).all())


def _is_exact(residuals: np.ndarray, response: np.ndarray) -> bool:
    """Return whether the line goes through all points up to rounding; clustered errors would then be meaningless."""
    return bool(np.abs(residuals).max() <= 1e-12 * max(1.0, np.abs(response).max()))
