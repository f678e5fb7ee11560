"""ROC curves, as step functions, under each evaluation (jaxmia.stats.operating_points)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxmia._shown import Shown, figure
from jaxmia._validate import check_choice
from jaxmia.stats.p_values import CALIBRATED, EVALUATIONS, calibrated_p_values
from jaxmia.stats.result import AttackResult, checked_arrays, of_targets


@dataclasses.dataclass(frozen=True, eq=False)
class Roc(Shown):
    """Step ROC: one point per distinct statistic, from (0, 0), where nothing is called, to (1, 1).

    Attributes:
        fpr: float64[points], nondecreasing, share of non-members with statistic >= threshold.
        tpr: float64[points], nondecreasing, share of members with statistic >= threshold.
        threshold: float64[points], nonincreasing. The first is +inf, where nothing is called; statistics of +inf belong
            to the second point.
        num_members: number of member scores.
        num_nonmembers: number of non-member scores.
    """

    fpr: np.ndarray
    tpr: np.ndarray
    threshold: np.ndarray
    num_members: int
    num_nonmembers: int

    __repr__ = Shown.__repr__

    def headline(self) -> str:
        """Return one line with the numbers of scores and the area."""
        return f"{self.num_members} member and {self.num_nonmembers} non-member scores, AUC {self.auc:.3f}"

    def to_frame(self) -> pd.DataFrame:
        """Return fpr, tpr and threshold, one row per point."""
        return pd.DataFrame({"fpr": self.fpr, "tpr": self.tpr, "threshold": self.threshold})

    def plot(self) -> Any:
        """Return a figure of the curve on log axes, with the chance line and the smallest resolved FPR."""
        return figure("rocs_figure", {"attack": self}, title=self.headline())

    @property
    def auc(self) -> float:
        """Area under the curve: P(member's statistic > non-member's) + P(equal) / 2 (Mann-Whitney)."""
        return float(np.trapezoid(self.tpr, self.fpr))

    @property
    def balanced_accuracy(self) -> float:
        """Largest (TPR + 1 - FPR) / 2; optimistic, since its threshold is chosen with the audited memberships."""
        return float(np.max(self.tpr + 1 - self.fpr) / 2)


def roc(result: AttackResult, *, evaluation: str = "pooled", targets: Sequence[int] | None = None) -> Roc:
    """Return the ROC over all (model, example) pairs under an evaluation of tpr_at_fpr. One sort.

    "pooled", as papers report, sets one threshold for all examples, whose FPRs then differ. The other evaluations rank
    pairs by the smallest FPR at which they are called, and thresholds are minus that FPR; the curve's own FPR is the
    realised one. No pair is left out, however small its null.

    Args:
        result: an attack's statistics, [models, examples].
        evaluation: one of the four of tpr_at_fpr.
        targets: rows of the models whose pairs are counted; all by default.

    Raises:
        InputError: for an unknown evaluation, a NaN statistic, or if members or non-members are missing.
    """
    check_choice("evaluation", evaluation, EVALUATIONS)
    if evaluation in CALIBRATED:
        p_values = calibrated_p_values(result, method=CALIBRATED[evaluation])
        result = dataclasses.replace(result, statistic=-p_values)
    statistic, member, _ = checked_arrays(of_targets(result, targets))
    if evaluation == "per_target":
        statistic = -_fpr_within_targets(statistic, member)
    order = np.argsort(statistic, axis=None)[::-1]
    ranked = statistic.ravel()[order]
    last_of_tie = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), ranked.size - 1)
    true_positives = np.cumsum(member.ravel()[order])[last_of_tie]
    false_positives = last_of_tie + 1 - true_positives
    num_members, num_nonmembers = int(true_positives[-1]), int(false_positives[-1])
    return Roc(
        fpr=np.append(0.0, false_positives / num_nonmembers),
        tpr=np.append(0.0, true_positives / num_members),
        threshold=np.append(np.inf, ranked[last_of_tie]),
        num_members=num_members,
        num_nonmembers=num_nonmembers,
    )


def _fpr_within_targets(statistic: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Return the share of its target's non-members whose statistic is at least that of each pair."""
    share = np.empty(statistic.shape)
    for row, (values, members) in enumerate(zip(statistic, member, strict=True)):
        others = np.sort(values[~members])
        share[row] = 1 - np.searchsorted(others, values, side="left") / max(len(others), 1)
    return share
