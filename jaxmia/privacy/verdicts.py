"""Test whether attacks on one model contradict a stated differential privacy guarantee, with a stated error rate."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from jaxmia._validate import check, check_choice
from jaxmia.privacy.accounting import ADD_OR_REMOVE_ONE, REPLACE_ONE
from jaxmia.privacy.tradeoff import MAX_EXPONENT, kairouz_ceiling
from jaxmia.stats.resolution import allowed_false_positives, clopper_pearson

SIGNIFICANCE = 0.05  # largest probability that a true guarantee is called contradicted


class Statement(NamedTuple):
    """A stated guarantee.

    Attributes:
        epsilon: positive.
        delta: in [0, 1).
        adjacency: "add_or_remove_one" or "replace_one".
    """

    epsilon: float
    delta: float
    adjacency: str

    def ceiling(self, fpr: np.ndarray) -> np.ndarray:
        """Return the largest TPR at an FPR for randomly chosen members and non-members.

        A random choice between a record and another in its place is a replacement. A guarantee for adding or removing
        one record implies one for replacement, as (2 epsilon, (1 + e^epsilon) delta) (group privacy: Dwork and Roth
        2014, Theorem 2.2).

        Args:
            fpr: fractions in (0, 1), any shape.
        """
        check_choice("adjacency", self.adjacency, (ADD_OR_REMOVE_ONE, REPLACE_ONE))
        epsilon, delta = self.epsilon, self.delta
        if self.adjacency == ADD_OR_REMOVE_ONE:
            delta = (1 + np.exp(min(epsilon, MAX_EXPONENT))) * delta
            epsilon = 2 * epsilon
        return np.ones_like(fpr) if delta >= 1 else kairouz_ceiling(fpr, epsilon=epsilon, delta=delta)


class Tested(NamedTuple):
    """The result of one test of a statement, or of several [tests].

    Attributes:
        tpr_low: lower end of the TPR's one-sided interval.
        fpr_high: upper end of the FPR's one-sided interval.
        ceiling: the largest TPR that the statement allows at that FPR.
        contradicted: whether tpr_low exceeds the ceiling.
    """

    tpr_low: np.ndarray
    fpr_high: np.ndarray
    ceiling: np.ndarray
    contradicted: np.ndarray


def contradictions(
    true_positives: np.ndarray,
    num_members: np.ndarray,
    fpr: np.ndarray,
    num_nonmembers: np.ndarray,
    *,
    statement: Statement,
    tests: int,
) -> Tested:
    """Test a statement by the TPR at thresholds that were set on one model's non-members, at each FPR.

    The threshold's true FPR is not known, because it was set on these non-members. One-sided exact intervals (Clopper
    and Pearson) bound it from above and the TPR from below, each at half of SIGNIFICANCE / tests. The guarantee bounds
    each record's TPR by a concave function of its FPR, and so bounds the averages over records (Jensen) if members were
    chosen at random. Given the membership, the test treats statistics of different records as independent, which is
    nearly true for one model.

    Args:
        true_positives: number of members called members, any shape.
        num_members: number of members.
        fpr: requested FPR, in (0, 1).
        num_nonmembers: number of non-members.
        statement: the stated guarantee.
        tests: number of attacks times number of FPRs tried (Bonferroni).
    """
    check(tests >= 1, "tests", tests, "be at least 1")
    confidence = 1 - SIGNIFICANCE / tests  # of two-sided intervals: each end misses half as often
    tpr_low, _ = clopper_pearson(true_positives, num_members, confidence=confidence)
    allowed = allowed_false_positives(fpr, num_nonmembers)
    _, fpr_high = clopper_pearson(allowed, num_nonmembers, confidence=confidence)
    ceiling = np.where(fpr_high < 1, statement.ceiling(np.minimum(fpr_high, 1 - 1e-12)), 1.0)
    return Tested(tpr_low, fpr_high, ceiling, tpr_low > ceiling)


def statement_tests(rows: pd.DataFrame, statement: Statement) -> pd.DataFrame:
    """Return the resolved rows of one model with the fields of Tested as columns, corrected for all of these tests.

    Args:
        rows: rows of results with evaluation "per_target" of one model.
        statement: the stated guarantee.
    """
    resolved = rows[rows["status"] == "ok"]
    numbers = [
        resolved[name].to_numpy(dtype=kind)
        for name, kind in (
            ("true_positives", int),
            ("num_members", int),
            ("fpr", float),
            ("num_nonmembers", int),
        )
    ]
    tested = contradictions(*numbers, statement=statement, tests=max(len(resolved), 1))
    return resolved.assign(**tested._asdict())


def why_no_test(*, randomised: bool | Literal["not stated"], adjacency: str) -> str | None:
    """Return why a statement cannot be tested, or None if it can.

    Args:
        randomised: whether members were chosen at random, or "not stated".
        adjacency: adjacency of the statement, or "not stated".
    """
    if randomised is not True:
        said = (
            "the context says that members were not"
            if randomised is False
            else "the context does not say whether members were"
        )
        return (
            f"no verdict: {said} chosen at random ([context] randomised). Members that were selected may"
            " differ from non-members even without any leak"
        )
    if adjacency not in (ADD_OR_REMOVE_ONE, REPLACE_ONE):
        return "no verdict: the adjacency of the guarantee was not stated ([context] adjacency)"
    return None
