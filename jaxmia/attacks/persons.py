"""Attacks on persons: all records of a person, in the training set together or not at all, joined into one score.

A person with several records can be told from all of them together. person_scores makes of log-odds [models, examples]
one score a person [models, persons]: Scores like any other, on which every attack of scores, per_example_vulnerability,
operating points, controls and laws then work with the person as the unit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxmia._validate import InputError, check, check_choice
from jaxmia.attacks.lira import lira
from jaxmia.attacks.shadows import RESOLUTION, score_arrays
from jaxmia.scores import Scores

JOINS = ("ratios", "discriminant", "sum")
FOLDS = 8  # of the models: the weights of a discriminant come from the models of the other folds
_SHRINKAGE = 0.1  # of a person's correlations towards none


class PersonScores(NamedTuple):
    """Scores by person.

    Attributes:
        persons: [persons], the names, ascending.
        records: int64[persons], how many records each has.
        scores: log_odds float64[models, persons], what a person's records say together, higher for members; member.
    """

    persons: np.ndarray
    records: np.ndarray
    scores: Scores


def person_scores(scores: Scores, person: np.ndarray, *, join: str = "ratios") -> PersonScores:
    """Join the log-odds of each person's records into one score.

    ratios: the sum over records of LiRA's log likelihood ratios, each model's from the other models. It weighs records
    by what they tell, and takes them for independent.

    discriminant: Fisher's linear discriminant of the person's log-odds, w = (Σ + shrinkage)⁻¹ (mean_in - mean_out), Σ
    the covariance of a person's records over models of either side, its correlations shrunk by a tenth. So records
    that say the same count once. Weights come from FOLDS - 1 folds of the models and serve the models of the other.

    sum: of the log-odds themselves, which needs no shadow.

    Args:
        scores: log_odds and member [models, examples], at least 3 models; for discriminant at least 2 FOLDS.
        person: [examples], integers or strings: whose record each example is.
        join: one of JOINS. docs/persons.md compares them.

    Returns:
        PersonScores. A single record of a person has the order of its own log-odds, whatever the join.

    Raises:
        InputError: for bad scores, a person for each example missing, not finite or empty, or a person of whom a model
            has some records in its training set and others not.
    """
    check_choice("join", join, JOINS)
    log_odds, member = score_arrays(scores)
    names, whose = np.unique(checked_persons(person, log_odds.shape[1]), return_inverse=True)
    order = np.argsort(whose, kind="stable")
    records = np.bincount(whose)
    starts = np.cumsum(records) - records
    members = np.add.reduceat(member[:, order], starts, axis=1, dtype=np.int64)
    split = (members > 0) & (members < records)
    check(
        not split.any(),
        "persons with some records in a training set and some out of it",
        int(np.count_nonzero(split.any(axis=0))),
        "be 0: draw membership by person",
    )
    if join == "discriminant":
        joined = _discriminant(log_odds[:, order].astype(np.float64), members > 0, records, starts)
    else:
        parts = lira(scores).statistic if join == "ratios" else log_odds.astype(np.float64)
        joined = np.add.reduceat(parts[:, order], starts, axis=1)
    return PersonScores(names, records, Scores(joined, members > 0))


def checked_persons(person: np.ndarray, examples: int) -> np.ndarray:
    """Return persons as an array of integers or strings.

    Raises:
        InputError: unless there is one for each example, none of them missing.
    """
    person = np.asarray(person)
    check(person.shape == (examples,), "person.shape", person.shape, f"be ({examples},), one for each example")
    if person.dtype.kind == "O":
        missing = [value is None or value != value for value in person]
        if any(missing):
            raise InputError(f"person[{missing.index(True)}] is missing: every example must be someone's.")
        person = person.astype(str)
    check(person.dtype.kind in "iuUS", "person.dtype", str(person.dtype), "be integers or strings")
    if person.dtype.kind in "US":
        empty = np.flatnonzero(np.char.str_len(np.char.strip(person)) == 0)
        if empty.size:
            raise InputError(f"person[{empty[0]}] is empty: every example must be someone's.")
    return person


def _discriminant(log_odds: np.ndarray, member: np.ndarray, records: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return w · log-odds [models, persons] for log-odds [models, examples] that are sorted by person."""
    models = len(log_odds)
    check(models >= 2 * FOLDS, "models", models, f"be at least {2 * FOLDS} for join='discriminant'")
    # In units of the record's own deviation over all models, whoever was a member: folds then share one scale.
    scale = np.maximum(log_odds.std(axis=0), RESOLUTION)
    standard = (log_odds - log_odds.mean(axis=0)) / scale
    fold_of = np.arange(models) % FOLDS
    joined = np.empty(member.shape)
    for number in np.unique(records):  # persons with as many records together
        chosen = np.flatnonzero(records == number)
        own = standard[:, starts[chosen, None] + np.arange(number)]  # [models, persons, records]
        for fold in range(FOLDS):
            others = fold_of != fold
            weights = _weights(own[others], member[others][:, chosen])
            joined[np.ix_(~others, chosen)] = np.einsum("mpr,pr->mp", own[~others], weights)
    return joined


def _weights(own: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Return w [persons, records], |w| adding up to 1, from [models, persons, records] and member [models, persons]."""
    means, offsets = [], np.zeros(own.shape)
    for side in (member, ~member):
        number = np.maximum(side.sum(axis=0), 1)[:, None]
        mean = np.einsum("mpr,mp->pr", own, side.astype(np.float64)) / number
        means.append(mean)
        offsets += np.where(side[:, :, None], own - mean, 0.0)
    deviation = np.maximum(np.sqrt(np.mean(offsets**2, axis=0)), RESOLUTION)
    scaled = offsets / deviation
    correlation = (1 - _SHRINKAGE) * np.einsum("mpr,mps->prs", scaled, scaled) / len(own)
    places = np.arange(own.shape[2])
    correlation[:, places, places] = 1.0
    shift = (means[0] - means[1]) / deviation
    weights = np.linalg.solve(correlation, shift[:, :, None])[:, :, 0] / deviation
    return weights / np.maximum(np.abs(weights).sum(axis=1, keepdims=True), RESOLUTION)
