"""Empirical lower bounds on epsilon from the statistics of an attack, computed by jax_privacy.auditing.

A bound above the stated epsilon shows, at the bound's confidence, that training is less private than stated. Two
settings are valid, each with its own methods:

- One record, many models ("clopper_pearson"): the statistics of one canary under independently trained models. Each
  statistic must depend on its own model alone, as the canary's log-odds do, or an attack whose shadow models are not
  among the audited models.
- Many records, one model ("one_run", "one_run_fdp"): every record was included by an independent fair coin, and all
  statistics depend only on that one model (and on data independent of its coins). An ensemble gives one bound per
  model: median_epsilon_lower_bound combines them.

Statistics pooled over different records and many models fit neither setting and do not bound any record's epsilon
(Jälkö, Pradhan, Räisä and Honkela 2026, arXiv 2605.25819), so they are refused.

The threshold is either given (chosen on other data, for example on shadow models), or the best of a few ranks that are
fixed before the memberships are seen, at a confidence corrected for their number. jax_privacy's own correction counts
the corners of the audited ROC. These depend on the memberships, so no proof covers it: at epsilon 0 with 1 000 members
and non-members, its one-run bounds were positive in 4.6% of 1 500 runs at a stated 5%, and those by ranks in 1.3%. Its
bound from Gaussian DP is not offered: where an attack is worse than chance it confuses upper with lower ends, and it
was positive in all of 200 such runs.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pandas as pd

from jaxmia._validate import InputError, check, check_choice
from jaxmia.stats.result import AttackResult, checked_arrays

METHODS = ("clopper_pearson", "one_run", "one_run_fdp")
AUDITED_MODELS = 32  # more models change the median little, and "one_run_fdp" takes up to a second each


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpsilonBound:
    """The result of an audit: at this confidence, the training is not (e, delta)-DP for any e < epsilon.

    Attributes:
        epsilon: lower bound, 0 if the audit shows nothing.
        delta: delta at which epsilon is bounded.
        confidence: smallest probability that such a bound lies below the true epsilon.
        method: "clopper_pearson", "one_run" or "one_run_fdp".
        threshold: threshold on the statistic that gave the bound; NaN if the bound is 0.
        num_thresholds: number of thresholds tried; the confidence is corrected for it.
        num_members: number of statistics of members.
        num_nonmembers: number of statistics of non-members.
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
    """Return a lower bound on epsilon, at a confidence, from how well an attack tells members from non-members.

    The methods are:

    - "clopper_pearson", for one record under many models: e^epsilon >= (TPR - delta) / FPR, with the lower end of TPR's
      exact interval and the upper end of FPR's (Jagielski, Ullman and Oprea 2020, arXiv 2006.07709).
    - "one_run", for many records under one model: the number of correct guesses among the records called members
      (Steinke, Nasr and Jagielski 2023, arXiv 2305.08846, Theorem 5.2). Needs delta > 0.
    - "one_run_fdp": the same if training is Gaussian DP, as full-batch DP-SGD is, which tightens the bound
      (Mahloujifar, Melis and Chaudhuri 2024, arXiv 2410.22235).

    Args:
        result: statistics [models, 1] of one record for "clopper_pearson", [1, examples] of one model for the others.
        delta: delta at which to bound epsilon.
        method: one of the three above.
        confidence: confidence of the bound.
        threshold: statistics at or above it are called members; choose it without the audited statistics. None tries
            the largest 1/1, 1/2, 1/4, ... of the non-members' statistics ("clopper_pearson") or of all (the others),
            each at a Bonferroni-corrected confidence.
        design: membership design; the one-run methods need it and hold for "bernoulli" only.
        inclusion_rate: inclusion rate of the membership; the one-run methods need it and hold for 1/2 only.

    Raises:
        InputError: for statistics pooled over records and models, a design or inclusion rate for which the method does
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


def median_epsilon_lower_bound(
    result: AttackResult,
    *,
    delta: float,
    method: str = "one_run",
    confidence: float = 0.95,
    design: str | None,
    inclusion_rate: float | None,
) -> float:
    """Return a lower bound on epsilon from an ensemble: the median of the one-run bounds of its first 32 models.

    Each model's bound has confidence 1 - (1 - confidence) / 2. If the median lies above the true epsilon, so do at
    least half of the bounds. By Markov's inequality the probability of this is at most 2 (1 - confidence) / 2, for any
    dependence between the models (the rule of twice the median p-value: Rüschendorf 1982; Meinshausen, Meier and
    Bühlmann 2009, arXiv 0811.2177). Unlike the bound of one model, it hardly depends on the seed.

    Args:
        result: statistics [models, examples]; a model's row may depend on that model's membership only through the
            model itself, as in leave-one-out attacks.
        delta: delta at which to bound epsilon.
        method: "one_run" or "one_run_fdp", as in epsilon_lower_bound.
        confidence: confidence of the median.
        design: membership design.
        inclusion_rate: inclusion rate of the membership.

    Raises:
        InputError: as epsilon_lower_bound.
    """
    check_choice("method", method, METHODS[1:])
    check(0.5 < confidence < 1, "confidence", confidence, "lie strictly between 0.5 and 1")
    statistic, member, defined = (
        np.asarray(array) for array in (result.statistic, result.member, result.defined)
    )
    bounds = []
    for model in range(min(len(statistic), AUDITED_MODELS)):
        row = slice(model, model + 1)
        one_sided = member[row].all() or not member[row].any()  # one side alone gives no bound
        bound = (
            None
            if one_sided
            else epsilon_lower_bound(
                AttackResult(statistic[row], member[row], defined[row]),
                delta=delta,
                method=method,
                confidence=(1 + confidence) / 2,
                design=design,
                inclusion_rate=inclusion_rate,
            )
        )
        bounds.append(bound.epsilon if bound else 0.0)
    return float(np.quantile(bounds, 0.5, method="lower"))


def best_epsilon(rows: pd.DataFrame) -> float:
    """Return the median over seeds of the largest bound of any attack.

    Args:
        rows: rows of results of one privacy level and size, with columns seed and epsilon_lower_bound.

    Returns:
        The median epsilon; NaN without a bound.
    """
    return float(rows.groupby("seed")["epsilon_lower_bound"].max().median())


def _check_one_record(shape: tuple[int, ...]) -> None:
    if shape[1] != 1:
        raise InputError(
            f"statistic.shape={shape} must be (models, 1) for method='clopper_pearson': statistics pooled over records"
            " do not bound any record's epsilon. Pass one record's column, or audit one model with method='one_run'."
        )


def _check_one_run(
    shape: tuple[int, ...], delta: float, design: str | None, inclusion_rate: float | None
) -> None:
    if shape[0] != 1:
        raise InputError(
            f"statistic.shape={shape} must be (1, examples) for a one-run method: its guarantee is for"
            " the records of one model. Pass one model's row."
        )
    check(delta > 0, "delta", delta, "be positive for a one-run method")
    check(
        design == "bernoulli", "design", design, "be 'bernoulli': one-run methods need independent membership"
    )
    check(inclusion_rate == 0.5, "inclusion_rate", inclusion_rate, "be 0.5: one-run methods need fair coins")


def _ranked(statistic: np.ndarray) -> np.ndarray:
    """Return the statistics at rank n, n/2, n/4, ..., 1 from the top; memberships are not used."""
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
    """Return the bound at each threshold, at a confidence that holds for all of them jointly."""
    significance = (1 - confidence) / thresholds.size
    bounds = []
    for threshold in thresholds:
        correct, wrong = (int(np.count_nonzero(side >= threshold)) for side in (inside, outside))
        left_in, left_out = inside.size - correct, outside.size - wrong
        if method != "clopper_pearson":  # one-run bounds ignore which uncalled records were members
            left_in, left_out = 0, left_in + left_out
        bounds.append(_bound_of_counts(method, correct, wrong, left_in, left_out, significance, delta))
    return np.array(bounds)


@functools.lru_cache(maxsize=65_536)  # models of one ensemble share most of their counts
def _bound_of_counts(
    method: str, correct: int, wrong: int, left_in: int, left_out: int, significance: float, delta: float
) -> float:
    """Return jax_privacy's bound for these counts of correct, wrong and missing calls (members, non-members)."""
    if correct == 0:
        return 0.0
    from jax_privacy import auditing  # imported here because it loads all of jax_privacy

    # Only counts matter, so scores of 1 and 0 stand for called and not called: jax_privacy miscounts infinite
    # statistics.
    auditor = auditing.CanaryScoreAuditor(
        np.repeat([1.0, 0.0], [correct, left_in]), np.repeat([1.0, 0.0], [wrong, left_out])
    )
    bound = {
        "clopper_pearson": auditor.epsilon_clopper_pearson,
        "one_run": auditor.epsilon_one_run,
        "one_run_fdp": auditor.epsilon_one_run_fdp,
    }[method]
    return float(bound(significance, delta, threshold_strategy=auditing.Explicit(1.0)))
