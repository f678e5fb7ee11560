"""The FPR that thresholds realised, to compare with the FPR that they were set for."""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd

from jaxmia.stats.resolution import clopper_pearson


class Realised(NamedTuple):
    """The realised FPR of several rows together.

    Attributes:
        fpr: false positives / non-members, over all rows; NaN without a resolved row.
        low: lower end of its 95% interval (Clopper and Pearson).
        high: its upper end.
        off: whether the nominal FPR of the rows lies outside this interval, so that their TPR is at a different FPR.
    """

    fpr: float
    low: float
    high: float
    off: bool


OFF = "the realised FPR is off by more than its counting error (95%)"


def realised_fpr(rows: pd.DataFrame) -> Realised:
    """Return the FPR that rows of one FPR, of several seeds say, realised together.

    Args:
        rows: rows of results with columns fpr, status, false_positives and num_nonmembers.
    """
    resolved = rows[rows["status"] == "ok"]
    if resolved.empty:
        return Realised(math.nan, math.nan, math.nan, off=False)
    called, number = int(resolved["false_positives"].sum()), int(resolved["num_nonmembers"].sum())
    low, high = (float(end) for end in clopper_pearson(called, number))
    return Realised(called / number, low, high, off=not low <= float(resolved["fpr"].iloc[0]) <= high)
