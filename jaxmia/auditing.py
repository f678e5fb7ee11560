"""Empirical lower bounds on epsilon from the statistics of an attack, by jax_privacy.auditing.

A bound above the epsilon that accounting states shows, at its confidence, that training is less private than stated.
Two settings are valid, and each has methods of its own:

- One record, many models ("clopper_pearson"): the statistics of one canary under independently trained models. Each
  must depend on its own model alone: the canary's log-odds, or an attack whose shadow models are not among the audited.
- Many records, one model ("one_run", "one_run_fdp"): every record was included by a fair coin of its own, and all
  statistics come from that one model (and from whatever is independent of its coins).

Statistics pooled over different records and many models are neither, and do not bound any record's epsilon (Jälkö,
Pradhan, Räisä and Honkela 2026, arXiv 2605.25819): they are refused.

The threshold is one that was chosen elsewhere, on shadow models say, or the best of a few ranks that are fixed before
the labels are seen, at a confidence corrected for their number. jax_privacy's own correction counts the corners of the
audited ROC, which depend on the labels, so that no proof covers it: at epsilon 0 with 1 000 members and non-members its
one-run bounds were positive in 4.6% of 1 500 runs at a stated 5%, those by ranks in 1.3%. Its bound from Gaussian DP
is not offered: it takes upper ends for lower ones where an attack is worse than chance, and was positive in all of 200
such runs.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxmia._validate import InputError, check, check_choice
from jaxmia.evaluation import AttackResult, checked_arrays

METHODS = ("clopper_pearson", "one_run", "one_run_fdp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpsilonBound:
    """What an audit shows: with the confidence, the training is not (e, delta)-DP for any e < epsilon.

    Attributes:
        epsilon: lower bound, 0 if the audit shows nothing.
        delta: at which epsilon is bounded.
        confidence: probability, at least, that a bound of this kind lies below the true epsilon.
        method: "clopper_pearson", "one_run" or "one_run_fdp".
        threshold: of the statistic, where the bound was attained; NaN if the bound is 0.
        num_thresholds: thresholds tried, which the confidence is corrected for.
        num_members: statistics of members.
        num_nonmembers: statistics of non-members.
    """

    epsilon: float
    delta: float
    confidence: float
    method: str
    threshold: float
    num_thresholds: int
    num_members: int
    num_nonmembers: int


def epsilon_lower_bound(
    result: AttackResult,
    *,
    delta: float,
    method: str = "clopper_pearson",
    confidence: float = 0.95,
    threshold: float | None = None,
    design: str | None = None,
    inclusion_rate: float | None = None,
) -> EpsilonBound:
    """Bound epsilon from below, at a confidence, by how well an attack tells members from non-members.

    Methods:
        "clopper_pearson": e^epsilon >= (TPR - delta) / FPR, each rate at the end of its exact interval that counts
            against the attack (Jagielski, Ullman and Oprea 2020, arXiv 2006.07709). One record.
        "one_run": the number of correct guesses among the records called members (Steinke, Nasr and Jagielski 2023,
            arXiv 2305.08846, Theorem 5.2). One model; needs delta > 0.
        "one_run_fdp": the same under the assumption that the training is Gaussian DP, as full-batch DP-SGD is, which
            tightens the bound (Mahloujifar, Melis and Chaudhuri 2024, arXiv 2410.22235).

    Args:
        result: statistics [models, 1] of one record for "clopper_pearson", [1, examples] of one model for the others.
        delta: at which to bound epsilon.
        method: one of the three.
        confidence: of the bound.
        threshold: call members what is at or above it; chosen without the audited statistics. None tries the largest
            1/1, 1/2, 1/4, ... of the non-members' statistics ("clopper_pearson") or of all (the others), each at a
            confidence corrected by Bonferroni.
        design: of the membership, needed by the one-run methods, which hold for "bernoulli".
        inclusion_rate: of the membership, needed by the one-run methods, which hold for 1/2.

    Raises:
        InputError: statistics pooled over records and models, a design or inclusion rate for which the method does
            not hold, a delta outside [0, 1) (or 0 with a one-run method), a confidence outside (0.5, 1), an unknown
            method, a NaN statistic, or if members or non-members are missing.
    """
    check_choice("method", method, METHODS)
    check(0 <= delta < 1, "delta", delta, "lie in [0, 1)")
    check(0.5 < confidence < 1, "confidence", confidence, "lie strictly between 0.5 and 1")
    statistic, member, _ = checked_arrays(result)
    if method == "clopper_pearson":
        _check_one_record(statistic.shape)
    else:
        _check_one_run(statistic.shape, delta, design, inclusion_rate)
    inside, outside = statistic[member], statistic[~member]
    thresholds = _ranked(outside if method == "clopper_pearson" else statistic.ravel())
    if method == "clopper_pearson":
        thresholds = np.append(np.nextafter(outside.max(), np.inf), thresholds)  # no false positive at all
    if threshold is not None:
        check(not np.isnan(threshold), "threshold", threshold, "be a number")
        thresholds = np.array([threshold])
    bounds = _bounds(inside, outside, thresholds, method=method, delta=delta, confidence=confidence)
    best = int(np.argmax(bounds))
    return EpsilonBound(
        epsilon=float(bounds[best]),
        delta=delta,
        confidence=confidence,
        method=method,
        threshold=float(thresholds[best]) if bounds[best] > 0 else np.nan,
        num_thresholds=thresholds.size,
        num_members=inside.size,
        num_nonmembers=outside.size,
    )


def _check_one_record(shape: tuple[int, ...]) -> None:
    if shape[1] != 1:
        raise InputError(
            f"statistic.shape={shape} must be (models, 1) for method='clopper_pearson': statistics pooled over records"
            " do not bound any record's epsilon. Take one record's column, or audit one model by method='one_run'."
        )


def _check_one_run(
    shape: tuple[int, ...], delta: float, design: str | None, inclusion_rate: float | None
) -> None:
    if shape[0] != 1:
        raise InputError(
            f"statistic.shape={shape} must be (1, examples) for a one-run method: its guarantee is for the records of"
            " one model. Take one model's row."
        )
    check(delta > 0, "delta", delta, "be positive for a one-run method")
    check(
        design == "bernoulli", "design", design, "be 'bernoulli': one-run methods need independent membership"
    )
    check(inclusion_rate == 0.5, "inclusion_rate", inclusion_rate, "be 0.5: one-run methods need fair coins")


def _ranked(statistic: np.ndarray) -> np.ndarray:
    """Return the statistics that all, half, a quarter, ..., one of them reach: no label enters."""
    ranks = statistic.size // 2 ** np.arange(statistic.size.bit_length())
    return np.sort(statistic)[-ranks]


def _bounds(
    inside: np.ndarray,
    outside: np.ndarray,
    thresholds: np.ndarray,
    *,
    method: str,
    delta: float,
    confidence: float,
) -> np.ndarray:
    """Return the bound at each threshold, at a confidence that holds for all of them together."""
    from jax_privacy import auditing  # here, since it brings in all of jax_privacy

    # The order is all that matters, and jax_privacy loses count of infinite statistics: it gets their ranks.
    values = np.unique(np.append(inside, outside))
    auditor = auditing.CanaryScoreAuditor(
        *(np.searchsorted(values, side).astype(float) for side in (inside, outside))
    )
    bound = {
        "clopper_pearson": auditor.epsilon_clopper_pearson,
        "one_run": auditor.epsilon_one_run,
        "one_run_fdp": auditor.epsilon_one_run_fdp,
    }[method]
    significance = (1 - confidence) / thresholds.size
    strategies = [auditing.Explicit(float(rank)) for rank in np.searchsorted(values, thresholds)]
    return np.array([bound(significance, delta, threshold_strategy=strategy) for strategy in strategies])
