"""The FPR that thresholds really had, shown beside the FPR they were set for."""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd

from jaxmia.stats.resolution import clopper_pearson


class Realised(NamedTuple):
    """The FPR of some rows together.

    Attributes:
        fpr: false positives over non-members; NaN without a resolved row.
        low: lower end of its 95% interval (Clopper and Pearson).
        high: its upper end.
        off: whether the FPR that the rows name lies outside of the interval: a TPR at another FPR than it says.
    """

    fpr: float
    low: float
    high: float
    off: bool


OFF = "the realised FPR is off by more than its counting error (95%)"


def realised_fpr(rows: pd.DataFrame) -> Realised:
    """Return the FPR that rows of one FPR, of several seeds say, realised together.

    Args:
        rows: of results: fpr, status, false_positives and num_nonmembers.
    """
    resolved = rows[rows["status"] == "ok"]
    if resolved.empty:
        return Realised(math.nan, math.nan, math.nan, off=False)
    called, number = int(resolved["false_positives"].sum()), int(resolved["num_nonmembers"].sum())
    low, high = (float(end) for end in clopper_pearson(called, number))
    return Realised(called / number, low, high, off=not low <= float(resolved["fpr"].iloc[0]) <= high)
