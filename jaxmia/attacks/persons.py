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
import scipy.sparse

from jaxmia._validate import InputError, check
from jaxmia.attacks.shadows import RESOLUTION, score_arrays
from jaxmia.data.persons import checked_persons
from jaxmia.scores import Scores
from jaxmia.stats.result import AttackResult, checked_arrays

FOLDS = 8  # folds of models: the weights for a fold come from the models of the other folds
MOST_RECORDS = 1024  # of one person, whose covariances are held for every fold
_SHRINKAGE = 0.1  # shrinkage of the correlations between a person's records
_LEAST = 1e-6  # of a record's deviation over all models: a smaller deviation is rounding, not information
_BLOCK = 1 << 18  # values of one temporary array


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
    """Examples by person.

    Attributes:
        persons: [persons], the names, ascending.
        whose: int64[examples], the position among persons of each example's.
        order: int64[examples], the examples sorted by person.
        starts: int64[persons], the position of each person's first record in that order.
        records: int64[persons], how many each has.
    """

    persons: np.ndarray
    whose: np.ndarray
    order: np.ndarray
    starts: np.ndarray
    records: np.ndarray


class _Discriminants(NamedTuple):
    """Persons' records, weighed: each fold of the models by the others' discriminant.

    Attributes:
        sums: [models, persons], the weighed sums.
        laws: (mean, deviation), each [folds, persons], of the other folds' sums with and without the person.
        seen: bool[folds, persons], whether the other folds have two models of either side.
    """

    sums: np.ndarray
    laws: tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    seen: np.ndarray


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
    joined = _sums(log_odds, grouped)
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
        person: as in person_scores; nobody with more than MOST_RECORDS records.

    Raises:
        InputError: as person_scores, or for more records of a person.
    """
    log_odds, member, grouped = _checked(scores, person)
    joined = np.empty(member.shape)
    for persons, records in _blocks(grouped, len(log_odds)):
        found = _discriminants(log_odds[:, records], member[:, persons])
        joined[:, persons] = found.sums
    return PersonScores(grouped.persons, grouped.records, Scores(joined, member))


def joint_lira(scores: Scores, person: np.ndarray, *, calibrated: bool = False) -> AttackResult:
    """Return LiRA on persons: a person's log-odds, weighted by a discriminant that is fitted to the shadows alone.

    Models in the target's fold are used neither for the weights (weighed_person_scores) nor for the two Gaussians of
    the weighted sum with and without the person. The statistic is undefined in a fold if the other folds have fewer
    than two models with the person, or fewer than two without.

    Args:
        scores: log_odds and member [models, examples], at least 2 FOLDS models.
        person: as in person_scores; nobody with more than MOST_RECORDS records.
        calibrated: return z = (sum - mean_out) / deviation_out, for the calibrated evaluations; else the log likelihood
            ratio.

    Returns:
        float64 statistic [models, persons], persons ascending by name.

    Raises:
        InputError: as person_scores, or for more records of a person.
    """
    log_odds, member, grouped = _checked(scores, person)
    statistic, defined = np.empty(member.shape), np.empty(member.shape, bool)
    fold = np.arange(len(log_odds)) % FOLDS
    for persons, records in _blocks(grouped, len(log_odds)):
        found = _discriminants(log_odds[:, records], member[:, persons])
        (mean_in, std_in), (mean_out, std_out) = ((law[0][fold], law[1][fold]) for law in found.laws)
        z = (found.sums - mean_out) / std_out
        ratio = np.log(std_out / std_in) + (z**2 - ((found.sums - mean_in) / std_in) ** 2) / 2
        seen = found.seen[fold]
        statistic[:, persons] = np.where(seen, z if calibrated else ratio, 0.0)
        defined[:, persons] = seen
    return AttackResult(statistic, member, defined, "gaussian" if calibrated else "unknown")


def sum_by_person(result: AttackResult, person: np.ndarray, *, mean: bool = False) -> AttackResult:
    """Add up an attack's statistic over each person's records, persons ascending by name.

    The sum of log likelihood ratios, as from lira(scores), is the joint ratio if the records are independent. The null
    law of such a sum is unknown, so of the calibrated evaluations only the one by ranks is valid.

    Args:
        result: an attack's result, [models, examples].
        person: [examples], integers or strings, the person of each example.
        mean: divide by the number of a person's records.

    Returns:
        AttackResult [models, persons]; defined where the statistic of at least one record is defined.

    Raises:
        InputError: as person_scores.
    """
    statistic, member, defined = checked_arrays(result)
    grouped = _grouped(person, statistic.shape[1])
    total = _sums(statistic, grouped)
    known = np.ones(total.shape, bool) if defined.all() else _sums(defined, grouped) > 0
    return dataclasses.replace(
        result,
        statistic=total / grouped.records if mean else total,
        member=_member_by_person(member, grouped),
        defined=known,
        null="unknown",
        population=None,
    )


def _grouped(person: np.ndarray, examples: int) -> _Grouped:
    persons, whose = np.unique(checked_persons(person, examples), return_inverse=True)
    records = np.bincount(whose)
    order = np.argsort(whose, kind="stable")
    return _Grouped(persons, whose, order, np.cumsum(records) - records, records)


def _sums(values: np.ndarray, grouped: _Grouped) -> np.ndarray:
    """Return the sums [models, persons] of values [models, examples]: a product with a sparse matrix of ones."""
    shape = (len(grouped.persons), len(grouped.whose))
    ones = np.ones(len(grouped.whose))
    ends = np.append(grouped.starts, len(grouped.whose))
    matrix = scipy.sparse.csr_array((ones, grouped.order, ends), shape=shape)
    return np.ascontiguousarray((matrix @ values.T.astype(np.float64)).T)


def member_by_person(member: np.ndarray, person: np.ndarray) -> np.ndarray:
    """Return bool[models, persons], persons ascending by name, from member bool[models, examples].

    Raises:
        InputError: for missing persons, or one with some records in a model's training set and others out of it.
    """
    return _member_by_person(member, _grouped(person, member.shape[1]))


def _member_by_person(member: np.ndarray, grouped: _Grouped) -> np.ndarray:
    """Return bool[models, persons]; raises InputError for a person with only some records in a training set."""
    first = member[:, grouped.order[grouped.starts]]
    differs = (member != first[:, grouped.whose]).any(axis=0)
    if differs.any():
        split = np.unique(grouped.whose[differs])
        raise InputError(
            f"person={grouped.persons[split[0]]} has some records in a model's training set and others out of it,"
            f" and so do {len(split) - 1} more persons; draw membership by person."
        )
    return first


def _checked(scores: Scores, person: np.ndarray) -> tuple[np.ndarray, np.ndarray, _Grouped]:
    """Return (log-odds [models, examples], member [models, persons], the grouping).

    Raises:
        InputError: as joint_lira.
    """
    log_odds, member = score_arrays(scores, min_models=2 * FOLDS)
    grouped = _grouped(person, log_odds.shape[1])
    most = int(grouped.records.max())
    check(most <= MOST_RECORDS, "records of one person", most, f"be at most {MOST_RECORDS} for joint LiRA")
    return log_odds, _member_by_person(member, grouped), grouped


def _blocks(grouped: _Grouped, models: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield positions [persons] of persons with the same number of records, and [persons, records] of these."""
    for number in np.unique(grouped.records):
        alike = np.flatnonzero(grouped.records == number)
        width = max(1, _BLOCK // int(number * max(models, FOLDS * number)))
        for start in range(0, alike.size, width):
            persons = alike[start : start + width]
            yield persons, grouped.order[grouped.starts[persons, None] + np.arange(number)]


def _discriminants(log_odds: np.ndarray, member: np.ndarray) -> _Discriminants:
    """Return the weighted sums of persons with the same number of records, each fold weighted by the others' shadows.

    Sums over the other folds are added up from the folds' own sums; none is subtracted, so that no digits are lost.
    Log-odds are divided by each record's standard deviation over all models, members or not, so that folds share one
    scale.

    Args:
        log_odds: [models, persons, records].
        member: bool[models, persons].
    """
    models, persons, number = log_odds.shape
    by_fold = np.argsort(np.arange(models) % FOLDS, kind="stable")
    values = np.ascontiguousarray(log_odds[by_fold].transpose(1, 2, 0), np.float64)
    values -= values.mean(axis=2, keepdims=True)
    values /= np.maximum(np.sqrt(np.mean(values**2, axis=2, keepdims=True)), RESOLUTION)
    inside = np.ascontiguousarray(member[by_fold].T)
    ends = np.cumsum(np.bincount(np.arange(models) % FOLDS))
    folds = [slice(end - size, end) for end, size in zip(ends, np.diff(ends, prepend=0), strict=True)]
    others = 1.0 - np.eye(FOLDS)

    def elsewhere(of_folds: list[np.ndarray]) -> np.ndarray:
        return np.tensordot(others, np.stack(of_folds), 1)

    within, sides, seen = np.zeros((FOLDS, persons, number, number)), [], np.ones((FOLDS, persons), bool)
    for on_side in (inside, ~inside):
        chosen = values * on_side[:, None]
        count = elsewhere([on_side[:, fold].sum(axis=1, dtype=np.float64) for fold in folds])
        mean = elsewhere([chosen[:, :, fold].sum(axis=2) for fold in folds]) / np.maximum(count, 1)[..., None]
        squares = elsewhere([chosen[:, :, fold] @ values[:, :, fold].transpose(0, 2, 1) for fold in folds])
        squares -= count[..., None, None] * mean[..., :, None] * mean[..., None, :]
        within += squares
        seen &= count >= 2
        sides.append((count, mean, squares))
    weights = _weights(within, sides[0][1] - sides[1][1], seen, models)
    sums = np.empty((models, persons))
    for fold, of_fold in zip(folds, weights, strict=True):
        sums[by_fold[fold]] = (of_fold[:, None] @ values[:, :, fold])[:, 0].T
    laws = []
    for count, mean, squares in sides:
        variance = np.einsum("fpr,fprs,fps->fp", weights, squares, weights, optimize=True) / np.maximum(
            count, 1
        )
        deviation = np.sqrt(np.maximum(variance, _LEAST**2))
        laws.append((np.sum(weights * mean, axis=2), deviation))
    return _Discriminants(sums, (laws[0], laws[1]), seen)


def _weights(within: np.ndarray, shift: np.ndarray, seen: np.ndarray, models: int) -> np.ndarray:
    """Return the discriminants' weights [folds, persons, records], |w| adding up to 1 for each person.

    Args:
        within: [folds, persons, records, records], sums of squares about the mean of either side.
        shift: [folds, persons, records], mean_in - mean_out.
        seen: bool[folds, persons], who has both sides.
        models: of all folds.
    """
    left = models - np.bincount(np.arange(models) % FOLDS)
    return discriminant(within / left[:, None, None, None], np.where(seen[..., None], shift, 0.0))


def discriminant(covariance: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return Fisher's weights S^-1 shift [..., records], with correlations shrunk by a tenth and |w| adding up to 1.

    Args:
        covariance: [..., records, records], of a person's records over models of either side.
        shift: [..., records], mean_in - mean_out.
    """
    places = np.arange(shift.shape[-1])
    deviation = np.sqrt(np.maximum(covariance[..., places, places], _LEAST**2))
    correlation = covariance / (deviation[..., :, None] * deviation[..., None, :])
    correlation *= 1 - _SHRINKAGE
    correlation[..., places, places] = 1.0
    found = np.linalg.solve(correlation, (shift / deviation)[..., None])[..., 0] / deviation
    weights: np.ndarray = found / np.maximum(np.abs(found).sum(axis=-1, keepdims=True), RESOLUTION)
    return weights
