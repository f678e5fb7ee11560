"""Every attack of the registry on persons: a statistic [models, persons] from all records of each."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmia._validate import check_choice
from jaxmia.attacks import REGISTRY
from jaxmia.attacks.persons import FOLDS, MOST_RECORDS, joint_lira, person_scores, sum_by_person
from jaxmia.attacks.rmia import rmia_by_person
from jaxmia.attacks.shrinkage import prior_means
from jaxmia.data.persons import grouped
from jaxmia.scores import Scores
from jaxmia.stats.result import AttackResult

BY_MEAN = frozenset({"threshold"})  # a sum of losses would tell how many records a person has


def attack_persons(
    attack: str,
    scores: Scores,
    person: np.ndarray,
    *,
    of_records: AttackResult | None = None,
    **options: Any,
) -> AttackResult:
    """Run an attack on persons, with one threshold for all, in the way that docs/persons.md found best.

    The statistics of a person's records are added up. For log likelihood ratios, the sum is the joint ratio if the
    records are independent. "threshold" takes the mean, and "rmia" ranks the products of ratios among other persons'.

    Args:
        attack: name of the attack.
        scores: log_odds and member [models, examples].
        person: [examples], integers or strings, the person of each example.
        of_records: the attack's result for records with these options, if it was computed before.
        options: options of the attack; features for attacks that read them.

    Returns:
        Statistic [models, persons], persons ascending by name.

    Raises:
        InputError: for an unknown attack, as the attack, or for a person with some records in a model's training set
            and others out of it.
    """
    check_choice("attack", attack, REGISTRY)
    if attack == "rmia":
        return rmia_by_person(scores, person, **options)
    result = REGISTRY[attack](scores, **options) if of_records is None else of_records
    return sum_by_person(result, person, mean=attack in BY_MEAN)


def calibrated_persons(
    attack: str, scores: Scores, person: np.ndarray, **options: Any
) -> AttackResult | None:
    """Run an attack on persons in the form whose null is known, for an FPR of each person's own; None without such.

    That is joint_lira of "lira" without options, of enough models, and of no one with too many records; and of
    "analytic" the weighed sum, standardised by its analytic law, if the scores have its weights (prior_weight).

    Args:
        attack: its name.
        scores: log_odds and member [models, examples].
        person: as of attack_persons.
        options: of the attack.

    Raises:
        InputError: as joint_lira.
    """
    if attack == "analytic" and not options and scores.prior_weight is not None:
        weight = np.asarray(scores.prior_weight, np.float64)
        centred = np.asarray(scores.log_odds, np.float64) - prior_means(scores)[1]
        joined = person_scores(Scores(centred * weight, np.asarray(scores.member)), person).scores
        defined = np.ones(joined.member.shape, bool)
        return AttackResult(np.asarray(joined.log_odds), np.asarray(joined.member), defined, "gaussian")
    few = len(np.asarray(scores.member)) < 2 * FOLDS
    if attack != "lira" or options or few or int(grouped(np.asarray(person))[2].max()) > MOST_RECORDS:
        return None
    return joint_lira(scores, person, calibrated=True)
