"""Whether what attacks found in one model contradicts a stated differential privacy, by a test with a stated error."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from jaxmia._validate import check, check_choice
from jaxmia.privacy.accounting import ADD_OR_REMOVE_ONE, REPLACE_ONE
from jaxmia.privacy.tradeoff import MAX_EXPONENT, kairouz_ceiling
from jaxmia.stats.resolution import allowed_false_positives, clopper_pearson

SIGNIFICANCE = 0.05  # probability, at most, that a true guarantee is called contradicted


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
        """Return the largest TPR at an FPR between members and non-members that chance chose.

        Whether chance drew a record or another in its place is an exchange. A guarantee on adding or removing one holds
        for it twice over, as (2 epsilon, (1 + e^epsilon) delta) (group privacy: Dwork and Roth 2014, Theorem 2.2).

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
    """One test of a statement, or several [tests].

    Attributes:
        tpr_low: lower end of the TPR.
        fpr_high: upper end of the FPR.
        ceiling: the largest TPR that the statement allows at that FPR.
        contradicted: whether tpr_low lies above it.
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
    """Test a statement by the TPR at thresholds set on one model's own non-members, at each FPR.

    The threshold is the highest that keeps so many non-members below it, and its FPR beyond them is not known: it is
    bounded from above, as is the TPR from below, by one-sided exact intervals (Clopper and Pearson), each at half of
    SIGNIFICANCE / tests. A guarantee bounds each record's TPR by its FPR, by a concave curve, and so the average over
    records whatever they are like (Jensen), if chance alone chose the members. Given the membership, statistics of
    different records are taken as independent, as those of one model nearly are.

    Args:
        true_positives: members called, any shape.
        num_members: in all.
        fpr: requested, in (0, 1).
        num_nonmembers: in all.
        statement: what was stated.
        tests: attacks times FPRs that are tried (Bonferroni).
    """
    check(tests >= 1, "tests", tests, "be at least 1")
    confidence = 1 - SIGNIFICANCE / tests  # of two-sided intervals, whose ends each miss half as often
    tpr_low, _ = clopper_pearson(true_positives, num_members, confidence=confidence)
    allowed = allowed_false_positives(fpr, num_nonmembers)
    _, fpr_high = clopper_pearson(allowed, num_nonmembers, confidence=confidence)
    ceiling = np.where(fpr_high < 1, statement.ceiling(np.minimum(fpr_high, 1 - 1e-12)), 1.0)
    return Tested(tpr_low, fpr_high, ceiling, tpr_low > ceiling)


def statement_tests(rows: pd.DataFrame, statement: Statement) -> pd.DataFrame:
    """Return the resolved rows of one model with the fields of Tested: tests of all attacks and FPRs together.

    Args:
        rows: of results: evaluation "per_target" of one model.
        statement: what was stated.
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
        randomised: whether chance alone chose the members, as far as was stated.
        adjacency: of the statement, as far as it was stated.
    """
    if randomised is not True:
        said = "it was stated that not" if randomised is False else "it was not stated whether"
        return (
            f"no verdict: {said} chance alone chose the members ([context] randomised): records that were chosen may be"
            " easier to tell apart than others for reasons of their own"
        )
    if adjacency not in (ADD_OR_REMOVE_ONE, REPLACE_ONE):
        return "no verdict: the adjacency of the guarantee was not stated ([context] adjacency)"
    return None
