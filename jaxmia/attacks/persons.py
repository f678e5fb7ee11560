"""Attacks on persons: all records of a person, in the training set together or not at all, joined into one.

A person with several records can be told from all of them together. person_scores makes of log-odds [models, examples]
one score a person [models, persons]: Scores like any other, on which attacks, operating points, controls and laws work
with the person as the unit. joint_lira weighs the records by what the shadows tell of them; sum_by_person adds up what
an attack says of each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxmia._validate import InputError
from jaxmia.attacks.shadows import RESOLUTION, centred, score_arrays
from jaxmia.data.persons import checked_persons
from jaxmia.scores import Scores
from jaxmia.stats.result import AttackResult, checked_arrays

FOLDS = 8  # of the models: the weights of a fold's models come from the models of the other folds
_SHRINKAGE = 0.1  # of the correlations between a person's records


class PersonScores(NamedTuple):
    """Scores by person.

    Attributes:
        persons: [persons], the names, ascending.
        records: int64[persons], how many each has.
        scores: log_odds float64[models, persons], what a person's records say together; member bool[models, persons].
    """

    persons: np.ndarray
    records: np.ndarray
    scores: Scores


class _Grouped(NamedTuple):
    """Examples sorted by person: order [examples], first places and numbers of records [persons]."""

    persons: np.ndarray
    order: np.ndarray
    starts: np.ndarray
    records: np.ndarray


def person_scores(scores: Scores, person: np.ndarray) -> PersonScores:
    """Add up the log-odds of each person's records.

    The sum asks no shadow anything, so that every attack of scores may be made on it. Where the records of a person
    tell unlike amounts, joint_lira finds more.

    Args:
        scores: log_odds and member [models, examples], at least 3 models.
        person: [examples], integers or strings: whose record each example is.

    Raises:
        InputError: for bad scores; persons that are missing or empty; or a person with some records in a model's
            training set and others out of it.
    """
    log_odds, member = score_arrays(scores)
    grouped = _grouped(person, log_odds.shape[1])
    joined = np.add.reduceat(log_odds[:, grouped.order].astype(np.float64), grouped.starts, axis=1)
    return PersonScores(grouped.persons, grouped.records, Scores(joined, _member_by_person(member, grouped)))


def weighed_person_scores(scores: Scores, person: np.ndarray) -> PersonScores:
    """Weigh the log-odds of each person's records by Fisher's linear discriminant, and add them up.

    w = S^-1 (mean_in - mean_out), S the covariance of a person's records over models of either side, its correlations
    shrunk by a tenth: records that tell more weigh more, and records that say the same count once. No model sets its
    own weights: they come from the other folds of the models.

    For estimates of how vulnerable persons are (jaxmia.per_example_vulnerability), not for attacks: a target's
    membership enters the weights of its shadows, and an attack that compares with them would find that. joint_lira
    keeps it out.

    Args:
        scores: log_odds and member [models, examples], at least 2 FOLDS models.
        person: as in person_scores.

    Raises:
        InputError: as person_scores.
    """
    log_odds, member, grouped = _checked(scores, person)
    joined = np.empty(member.shape)
    for targets in _folds(len(log_odds)):
        weights, _ = _of_shadows(log_odds[~targets], member[~targets], grouped)
        joined[targets] = _weighed(log_odds[targets], weights, grouped)
    return PersonScores(grouped.persons, grouped.records, Scores(joined, member))


def joint_lira(scores: Scores, person: np.ndarray, *, calibrated: bool = False) -> AttackResult:
    """LiRA on persons: the log-odds of all records of a person, weighed by a discriminant from the shadows alone.

    The target's fold of the models gives neither weights (weighed_person_scores) nor the two Gaussians of the weighed
    sum with and without the person.

    Args:
        scores: log_odds and member [models, examples], at least 2 FOLDS models.
        person: as in person_scores.
        calibrated: return z = (sum - mean_out) / deviation_out, for the calibrated evaluations; else the log likelihood
            ratio.

    Returns:
        float64 statistic [models, persons], persons ascending by name.

    Raises:
        InputError: as person_scores.
    """
    log_odds, member, grouped = _checked(scores, person)
    statistic, defined = np.zeros(member.shape), np.zeros(member.shape, bool)
    for targets in _folds(len(log_odds)):
        weights, seen = _of_shadows(log_odds[~targets], member[~targets], grouped)
        shadows, own = (_weighed(log_odds[rows], weights, grouped) for rows in (~targets, targets))
        sides = (centred(shadows, side) for side in (member[~targets], ~member[~targets]))
        (mean_in, std_in), (mean_out, std_out) = (
            (mean, np.maximum(np.sqrt(np.sum(offset**2, axis=0) / np.maximum(number, 1)), RESOLUTION))
            for number, mean, offset in sides
        )
        z = (own - mean_out) / std_out
        ratio = np.log(std_out / std_in) + (z**2 - ((own - mean_in) / std_in) ** 2) / 2
        statistic[targets] = np.where(seen, z if calibrated else ratio, 0.0)
        defined[targets] = seen
    return AttackResult(statistic, member, defined, "gaussian" if calibrated else "unknown")


def sum_by_person(result: AttackResult, person: np.ndarray) -> AttackResult:
    """Add up an attack's statistic over each person's records, persons ascending by name.

    Of log likelihood ratios, as of lira(scores), it is the ratio of all records together, were they independent. What
    the law of such a sum is nobody knows: of the calibrated evaluations only that by ranks holds.

    Args:
        result: of an attack, [models, examples].
        person: [examples], integers or strings: whose record each example is.

    Returns:
        AttackResult [models, persons]; defined where the statistic of at least one record is.

    Raises:
        InputError: as person_scores.
    """
    statistic, member, defined = checked_arrays(result)
    grouped = _grouped(person, statistic.shape[1])
    known = np.add.reduceat(defined[:, grouped.order], grouped.starts, axis=1, dtype=np.int64) > 0
    total = np.add.reduceat(statistic[:, grouped.order], grouped.starts, axis=1)
    return dataclasses.replace(
        result,
        statistic=total,
        member=_member_by_person(member, grouped),
        defined=known,
        null="unknown",
        population=None,
    )


def _grouped(person: np.ndarray, examples: int) -> _Grouped:
    persons, whose = np.unique(checked_persons(person, examples), return_inverse=True)
    records = np.bincount(whose)
    return _Grouped(persons, np.argsort(whose, kind="stable"), np.cumsum(records) - records, records)


def _member_by_person(member: np.ndarray, grouped: _Grouped) -> np.ndarray:
    """Return bool[models, persons]; InputError for a person who is in a training set in part."""
    inside = np.add.reduceat(member[:, grouped.order], grouped.starts, axis=1, dtype=np.int64)
    split = ((inside > 0) & (inside < grouped.records)).any(axis=0)
    if split.any():
        raise InputError(
            f"person={grouped.persons[split.argmax()]} has some records in a model's training set and others out of it,"
            f" and so have {np.count_nonzero(split) - 1} more persons; membership must be drawn by person."
        )
    return inside > 0


def _checked(scores: Scores, person: np.ndarray) -> tuple[np.ndarray, np.ndarray, _Grouped]:
    """Return (log-odds by person and standardised [models, examples], member [models, persons], the grouping).

    In units of a record's own deviation over all models, whoever was a member, folds share one scale.
    """
    log_odds, member = score_arrays(scores, min_models=2 * FOLDS)
    grouped = _grouped(person, log_odds.shape[1])
    ordered = log_odds[:, grouped.order].astype(np.float64)
    scale = np.maximum(ordered.std(axis=0), RESOLUTION)
    return (ordered - ordered.mean(axis=0)) / scale, _member_by_person(member, grouped), grouped


def _folds(models: int) -> Iterator[np.ndarray]:
    """Yield bool[models], the targets of each fold."""
    for fold in range(FOLDS):
        yield np.arange(models) % FOLDS == fold


def _blocks(grouped: _Grouped) -> Iterator[np.ndarray]:
    """Yield the places [persons, records] of the records of all persons with as many."""
    for number in np.unique(grouped.records):
        persons = np.flatnonzero(grouped.records == number)
        yield grouped.starts[persons, None] + np.arange(number)


def _weighed(log_odds: np.ndarray, weights: np.ndarray, grouped: _Grouped) -> np.ndarray:
    """Return the weighed sums [models, persons]."""
    return np.add.reduceat(log_odds * weights, grouped.starts, axis=1)


def _of_shadows(log_odds: np.ndarray, member: np.ndarray, grouped: _Grouped) -> tuple[np.ndarray, np.ndarray]:
    """Return the discriminants' weights [examples], |w| adding up to 1 for each person, and who has both sides."""
    weights = np.empty(log_odds.shape[1])
    seen = (member.sum(axis=0) >= 2) & ((~member).sum(axis=0) >= 2)
    inside = np.repeat(member, grouped.records, axis=1)
    (_, mean_in, of_in), (_, mean_out, of_out) = (centred(log_odds, side) for side in (inside, ~inside))
    offsets = of_in + of_out  # each score is on one side
    deviation = np.maximum(offsets.std(axis=0), RESOLUTION)
    scaled = offsets / deviation
    shift = np.where(np.repeat(seen, grouped.records), mean_in - mean_out, 0.0) / deviation
    for records in _blocks(grouped):
        own = scaled[:, records]
        correlation = (1 - _SHRINKAGE) * np.einsum("mpr,mps->prs", own, own) / len(own)
        places = np.arange(records.shape[1])
        correlation[:, places, places] = 1.0
        found = np.linalg.solve(correlation, shift[records][:, :, None])[:, :, 0] / deviation[records]
        weights[records] = found / np.maximum(np.abs(found).sum(axis=1, keepdims=True), RESOLUTION)
    return weights, seen
