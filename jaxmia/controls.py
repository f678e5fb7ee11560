"""Negative controls: with membership labels permuted there is nothing to find, and an attack must find nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np

from jaxmia._validate import check_at_least, check_fpr
from jaxmia.evaluation import AttackResult, checked_arrays
from jaxmia.scores import Scores

MAX_STANDARD_ERRORS = 4.0  # an honest attack leaves four standard errors once in 16 000 controls


@dataclasses.dataclass(frozen=True, kw_only=True)
class Control:
    """How far an attack is from chance where it must be at chance.

    Attributes:
        fpr: share of all pairs called: the highest statistics, with those that tie with the last.
        fpr_realised: share of the non-members called.
        tpr: share of the members called.
        advantage: tpr - fpr_realised.
        standard_error: of the advantage, over the draw of the labels.
        limit: the largest |advantage| that passes.
        status: "ok", or "failed" beyond the limit.
    """

    fpr: float
    fpr_realised: float
    tpr: float
    advantage: float
    standard_error: float
    limit: float
    status: Literal["ok", "failed"]


def permuted_control(
    attack: Callable[[Scores], AttackResult], scores: Scores, fpr: float, *, seed: int
) -> Control:
    """Run an attack on scores whose membership labels are permuted, and check that it is at chance.

    Labels are permuted over all pairs of a model and an example. Within each example, which would keep the
    number of its members, the number of shadows on each side would give the target's label away.

    Args:
        attack: from scores to its result, with its options bound.
        scores: log_odds and member [models, examples].
        fpr: share of all pairs called.
        seed: of the permutation, a non-negative integer.

    Raises:
        InputError: as chance_check, and what the attack refuses.
    """
    return chance_check(attack(permuted(scores, seed=seed)), fpr)


def permuted(scores: Scores, *, seed: int) -> Scores:
    """Return the scores with labels permuted over all pairs, and what weights say under these.

    Without scores.weights_under there is no white_box: it was computed under the true labels, and compared with others
    it is at chance whatever it looks at.

    Raises:
        InputError: unless seed is a non-negative integer.
    """
    check_at_least("seed", seed, 0)
    member = np.asarray(scores.member)
    labels = np.random.default_rng(seed).permutation(member.ravel())
    labels = labels.reshape(member.shape)
    weights_say = None if scores.weights_under is None else scores.weights_under(labels)
    return dataclasses.replace(scores, member=labels, white_box=weights_say)


def chance_check(result: AttackResult, fpr: float) -> Control:
    """Check that calls tell nothing about labels that were drawn independently of scores and of one another.

    An attack that never looks at the target's own label makes each product (label - mean label) * (call - mean
    call) zero on average, and the advantage is their sum over a constant. Products of different examples are
    independent, as labels are; those of one example under different models are not, since each model is a
    shadow of the others: so the standard error is that of a sum of one term per example.

    Raises:
        InputError: unless 0 < fpr < 1; for a NaN statistic, or if members or non-members are missing.
    """
    check_fpr("fpr", fpr)
    statistic, member, _ = checked_arrays(result)
    rank = max(1, round(fpr * statistic.size))
    called = statistic >= np.partition(statistic, statistic.size - rank, axis=None)[statistic.size - rank]
    rate = member.mean()
    products = np.sum((member - rate) * (called - called.mean()), axis=0)
    scale = member.size * rate * (1 - rate)
    advantage, error = np.sum(products) / scale, np.sqrt(np.sum(products**2)) / scale
    limit = MAX_STANDARD_ERRORS * error
    return Control(
        fpr=fpr,
        fpr_realised=float(called[~member].mean()),
        tpr=float(called[member].mean()),
        advantage=float(advantage),
        standard_error=float(error),
        limit=float(limit),
        status="ok" if abs(advantage) <= limit else "failed",
    )
