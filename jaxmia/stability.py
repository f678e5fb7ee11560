"""Whether attacks, and seeds, single out the same records."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxmia._npz import read_npz
from jaxmia.evaluation import AttackResult, calibrated_p_values, required_nonmembers

TOP = 0.01  # share of the records of a pool that a seed singles out


class Agreement(NamedTuple):
    """How far two sets of records are the same.

    Attributes:
        first: number in the first.
        second: number in the second.
        both: number in both.
        expected: of both, if the two knew nothing of one another.
    """

    first: int
    second: int
    both: int
    expected: float


def agreement(first: np.ndarray, second: np.ndarray) -> Agreement:
    """Compare what two attacks or seeds flag among the same records.

    Args:
        first: bool[records].
        second: bool[records].
    """
    one, two = int(first.sum()), int(second.sum())
    return Agreement(one, two, int(np.sum(first & second)), one * two / max(len(first), 1))


def flagged(result: AttackResult, fpr: float, *, target: int = 0) -> np.ndarray | None:
    """Return the records that one model's statistics flag at an FPR of their own, or None if nulls cannot resolve it.

    A record is flagged if its rank p-value among the models that never saw it is at most the FPR.

    Args:
        result: statistics [models, records].
        fpr: a fraction.
        target: row of the model.
    """
    nulls = np.sum(~np.asarray(result.member) & np.asarray(result.defined), axis=0)
    if np.median(nulls) < required_nonmembers(fpr):
        return None
    return np.asarray(calibrated_p_values(result, method="empirical")[target] <= fpr)


def flags_of_attacks(folder: pathlib.Path, attacks: Sequence[str], fpr: float) -> dict[str, np.ndarray]:
    """Return the records that each attack flags in row 0, from the statistics that an audit saved.

    Args:
        folder: of attack_scores.
        attacks: labels.
        fpr: a fraction.

    Returns:
        By attack; those whose nulls cannot resolve the FPR are left out.
    """
    found = {}
    for attack in attacks:
        names = ("statistic", "member", "defined")
        arrays = read_npz(folder / "statistics" / f"{attack}.npz", name="statistics", required=names)
        flags = flagged(AttackResult(arrays["statistic"], arrays["member"], arrays["defined"]), fpr)
        if flags is not None:
            found[attack] = flags
    return found


def pairs(flags: Mapping[str, np.ndarray]) -> list[tuple[str, str, Agreement]]:
    """Return the agreement of every two."""
    return [(one, two, agreement(flags[one], flags[two])) for one, two in itertools.combinations(flags, 2)]


def top(vulnerability: np.ndarray) -> np.ndarray:
    """Return the records [records] in the top percent, at least one; NaN counts as lowest."""
    number = max(1, round(TOP * len(vulnerability)))
    order = np.argsort(-np.nan_to_num(vulnerability, nan=-np.inf), kind="stable")
    chosen = np.zeros(len(vulnerability), bool)
    chosen[order[:number]] = True
    return chosen
