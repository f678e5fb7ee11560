"""Attacks on persons, whose records are either all in a training set or all out of it.

The records of a person are evidence together. person_scores turns log-odds [models, examples] into one score per person
[models, persons]. These are ordinary Scores: attacks, operating points, controls and laws then have the person as their
unit. joint_lira weights records by how much the shadows show them to reveal. sum_by_person adds up an attack's
statistics over a person's records.
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

FOLDS = 8  # folds of models: the weights for a fold come from the models of the other folds
_SHRINKAGE = 0.1  # shrinkage of the correlations between a person's records


class PersonScores(NamedTuple):
    """Scores by person.

    Attributes:
        persons: [persons], the names, ascending.
        records: int64[persons], number of records of each.
        scores: log_odds float64[models, persons], the (weighted) sum over a person's records; member bool[models,
            persons].
    """

    persons: np.ndarray
    records: np.ndarray
    scores: Scores


class _Grouped(NamedTuple):
    """Examples sorted by person: order [examples], position of the first record and number of records [persons]."""

    persons: np.ndarray
    order: np.ndarray
    starts: np.ndarray
    records: np.ndarray


def person_scores(scores: Scores, person: np.ndarray) -> PersonScores:
    """Return Scores with one log-odds per person: the sum over the person's records.

    The sum uses no shadows, so every attack on scores is valid on it. Where a person's records differ in how much they
    reveal, joint_lira finds more.

    Args:
        scores: log_odds and member [models, examples], at least 3 models.
        person: [examples], integers or strings, the person of each example.

    Raises:
        InputError: for bad scores, missing or empty persons, or a person with some records in a model's training set
            and others out of it.
    """
    log_odds, member = score_arrays(scores)
    grouped = _grouped(person, log_odds.shape[1])
    joined = np.add.reduceat(log_odds[:, grouped.order].astype(np.float64), grouped.starts, axis=1)
    return PersonScores(grouped.persons, grouped.records, Scores(joined, _member_by_person(member, grouped)))


def weighed_person_scores(scores: Scores, person: np.ndarray) -> PersonScores:
    """Return Scores with one log-odds per person: records weighted by Fisher's linear discriminant and added up.

    w = S^-1 (mean_in - mean_out), where S is the covariance of a person's records over the models of either side, with
    correlations shrunk by a tenth. Records that reveal more have more weight, and redundant records count once. A
    model's weights come from the models of the other folds, never from itself.

    Use it to estimate how vulnerable persons are (jaxmia.per_example_vulnerability), not for attacks: a target's
    membership affects the weights of its shadows, so an attack that compares the target with them would see it.
    joint_lira avoids this.

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
    """Return LiRA on persons: a person's log-odds, weighted by a discriminant that is fitted to the shadows alone.

    Models in the target's fold are used neither for the weights (weighed_person_scores) nor for the two Gaussians of
    the weighted sum with and without the person.

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

    The sum of log likelihood ratios, as from lira(scores), is the joint ratio if the records are independent. The null
    law of such a sum is unknown, so of the calibrated evaluations only the one by ranks is valid.

    Args:
        result: an attack's result, [models, examples].
        person: [examples], integers or strings, the person of each example.

    Returns:
        AttackResult [models, persons]; defined where the statistic of at least one record is defined.

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
    """Return bool[models, persons]; raises InputError for a person with only some records in a training set."""
    inside = np.add.reduceat(member[:, grouped.order], grouped.starts, axis=1, dtype=np.int64)
    split = ((inside > 0) & (inside < grouped.records)).any(axis=0)
    if split.any():
        raise InputError(
            f"person={grouped.persons[split.argmax()]} has some records in a model's training set and others out of it,"
            f" and so do {np.count_nonzero(split) - 1} more persons; draw membership by person."
        )
    return inside > 0


def _checked(scores: Scores, person: np.ndarray) -> tuple[np.ndarray, np.ndarray, _Grouped]:
    """Return (log-odds by person and standardised [models, examples], member [models, persons], the grouping).

    Log-odds are divided by each record's standard deviation over all models, members or not, so that folds share one
    scale.
    """
    log_odds, member = score_arrays(scores, min_models=2 * FOLDS)
    grouped = _grouped(person, log_odds.shape[1])
    ordered = log_odds[:, grouped.order].astype(np.float64)
    scale = np.maximum(ordered.std(axis=0), RESOLUTION)
    return (ordered - ordered.mean(axis=0)) / scale, _member_by_person(member, grouped), grouped


def _folds(models: int) -> Iterator[np.ndarray]:
    """Yield bool[models], True for the targets of each fold."""
    for fold in range(FOLDS):
        yield np.arange(models) % FOLDS == fold


def _blocks(grouped: _Grouped) -> Iterator[np.ndarray]:
    """Yield the positions [persons, records] of records, for all persons with the same number of records at once."""
    for number in np.unique(grouped.records):
        persons = np.flatnonzero(grouped.records == number)
        yield grouped.starts[persons, None] + np.arange(number)


def _weighed(log_odds: np.ndarray, weights: np.ndarray, grouped: _Grouped) -> np.ndarray:
    """Return the weighted sums [models, persons]."""
    return np.add.reduceat(log_odds * weights, grouped.starts, axis=1)


def _of_shadows(log_odds: np.ndarray, member: np.ndarray, grouped: _Grouped) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights [examples], with sum |w| = 1 for each person, and which persons have shadows on both sides."""
    weights = np.empty(log_odds.shape[1])
    seen = (member.sum(axis=0) >= 2) & ((~member).sum(axis=0) >= 2)
    inside = np.repeat(member, grouped.records, axis=1)
    (_, mean_in, of_in), (_, mean_out, of_out) = (centred(log_odds, side) for side in (inside, ~inside))
    offsets = of_in + of_out  # each score is on exactly one side
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
