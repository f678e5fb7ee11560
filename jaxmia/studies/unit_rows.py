"""Rows of single records and single persons: what is known of each, its shadows, and its own TPR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxmia.attacks.persons import FOLDS, MOST_RECORDS, person_scores, weighed_person_scores
from jaxmia.data.persons import grouped
from jaxmia.scores import Scores
from jaxmia.studies.assess import MIN_MODELS
from jaxmia.vulnerability.curves import vulnerability_curves

_PER_EXAMPLE_COLUMNS = (
    *("num_in", "num_out", "mean_in", "mean_out", "std_in", "std_out", "separation", "separation_error"),
    *("tpr", "tpr_error", "tpr_low", "tpr_high", "tpr_low_all", "tpr_high_all", "tpr_drawn", "threshold"),
    *("tpr_attained", "fpr_attained", "status", "method", "correction", "inclusion_rate"),
)
RATES = (
    *("tpr", "tpr_error", "tpr_low", "tpr_high", "tpr_low_all", "tpr_high_all", "tpr_drawn"),
    *("tpr_attained", "fpr_attained"),
)


def rates_by_fpr(rows: pd.DataFrame, fprs: Sequence[float]) -> pd.DataFrame:
    """Return one row per example, in order: its rates at every FPR, as tpr_FPR, tpr_FPR_error and so on.

    Args:
        rows: of per_example_rows, those of each FPR in one order.
        fprs: fractions.
    """
    columns = {}
    for fpr in fprs:
        of_fpr = rows[rows["fpr"] == fpr]
        for name in RATES:
            kind, _, rest = name.partition("_")
            columns["_".join(filter(None, (f"{kind}_{fpr:g}", rest)))] = of_fpr[name].to_numpy()
    return pd.DataFrame(columns)


def per_example_rows(
    scores: Scores,
    fprs: Sequence[float],
    examples: pd.DataFrame,
    *,
    correction: str = "none",
    inclusion_rate: float | None = None,
) -> pd.DataFrame:
    """Return one row per example and FPR: what is known of the example, its shadow statistics, its own TPR.

    Args:
        scores: log_odds and member [models, examples].
        fprs: fractions.
        examples: one row per example, which names it; with fewer than MIN_MODELS models no row is returned.
        correction: as in per_example_vulnerability, recorded in every row.
        inclusion_rate: share of the pool that each model trained on, if known; recorded in every row.
    """
    if len(scores.log_odds) < MIN_MODELS:
        types: dict[str, type] = {"fpr": float, **dict.fromkeys(_PER_EXAMPLE_COLUMNS, float)}
        types |= {"num_in": np.int64, "num_out": np.int64, "status": str, "method": str, "correction": str}
        return examples.iloc[:0].assign(**{name: pd.Series(dtype=kind) for name, kind in types.items()})
    tables = []
    for curve in vulnerability_curves(scores, fprs, correction=correction, inclusion_rate=inclusion_rate):
        columns = {name: getattr(curve, name) for name in _PER_EXAMPLE_COLUMNS}
        tables.append(examples.assign(fpr=curve.fpr, **columns))
    return pd.concat(tables, ignore_index=True)


def per_person_rows(
    scores: Scores,
    person: np.ndarray,
    fprs: Sequence[float],
    persons: pd.DataFrame,
    *,
    of_records: pd.DataFrame | None = None,
    correction: str = "none",
    inclusion_rate: float | None = None,
) -> pd.DataFrame:
    """Return one row per person and FPR: what is known of the person, their shadow statistics, their own TPR.

    TPR is that on the discriminant's sum of a person's records (weighed_person_scores), which knows them all; of few
    models, or of persons with too many records, on the plain sum.

    Args:
        scores: log_odds and member [models, examples].
        person: [examples], whose record each example is.
        fprs: fractions.
        persons: one row per person, ascending by name, as jaxmia.data.person_table.persons_of; with fewer than
            MIN_MODELS models no row is returned.
        of_records: per_example_rows of the same scores; the column record_tpr is then the largest TPR of a person's
            records, each by itself.
        correction: as in per_example_rows.
        inclusion_rate: as in per_example_rows.
    """
    given: dict[str, Any] = {"correction": correction, "inclusion_rate": inclusion_rate}
    if len(scores.log_odds) < MIN_MODELS:
        return per_example_rows(scores, fprs, persons, **given).assign(record_tpr=np.zeros(0))
    _, whose, records = grouped(person)
    weighable = len(scores.log_odds) >= 2 * FOLDS and records.max() <= MOST_RECORDS
    joined = (weighed_person_scores if weighable else person_scores)(scores, person).scores
    rows = per_example_rows(joined, fprs, persons, **given)
    if of_records is None:
        return rows
    largest = np.full((len(fprs), len(records)), -np.inf)
    for place, fpr in enumerate(fprs):
        own = of_records["tpr"][of_records["fpr"] == fpr].to_numpy(float)
        np.maximum.at(largest[place], whose, np.nan_to_num(own, nan=-np.inf))
    return rows.assign(record_tpr=np.where(np.isfinite(largest), largest, np.nan).ravel())
