"""Attacks on persons, against the closed form of a planted model, slow loops, and limits."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from jaxmia import attacks
from jaxmia._validate import InputError
from jaxmia.attacks.by_person import attack_persons
from jaxmia.attacks.persons import (
    FOLDS,
    joint_lira,
    person_scores,
    sum_by_person,
    weighed_person_scores,
)
from jaxmia.scores import Scores
from jaxmia.stats.operating_points import operating_points
from jaxmia.stats.result import AttackResult
from jaxmia.vulnerability.curves import per_example_vulnerability

FPRS = (0.1, 0.01)
MODELS, PERSONS = 257, 240


def planted(shifts, correlation, *, models=MODELS, persons=PERSONS, seed=0):
    """Scores N(shift m, 1) and their persons, with one record per shift, equally correlated within a person."""
    rng = np.random.default_rng(seed)
    shifts = np.asarray(shifts, float)
    member = rng.random((models, persons)) < 0.5
    common = rng.normal(size=(models, persons, 1))
    own = rng.normal(size=(models, persons, len(shifts)))
    noise = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own
    log_odds = noise + shifts * member[:, :, None]
    person = np.repeat(np.arange(persons), len(shifts))
    order = rng.permutation(person.size)
    return Scores(
        log_odds.reshape(models, -1)[:, order], np.repeat(member, len(shifts), axis=1)[:, order]
    ), person[order]


def separation(shifts, correlation):
    """sqrt(shifts^T covariance^-1 shifts): no test of a person's records can do better than this."""
    shifts = np.asarray(shifts, float)
    covariance = (1 - correlation) * np.eye(len(shifts)) + correlation
    return np.sqrt(shifts @ np.linalg.solve(covariance, shifts))


def best_tpr(d, fpr):
    return scipy.stats.norm.cdf(d - scipy.stats.norm.isf(fpr))


def calibrated(result):
    return [point.tpr for point in operating_points(result, FPRS, evaluation="calibrated")]


def of_sums(scores, person):
    return calibrated(attacks.lira(person_scores(scores, person).scores, calibrated=True))


def error_of(tpr):
    """Four standard errors of a share of members, for independent persons and models."""
    return 4 * np.sqrt(tpr * (1 - tpr) / (MODELS * PERSONS / 2))


@pytest.mark.parametrize("correlation", [0.0, 0.5])
@pytest.mark.parametrize("records", [1, 2, 5, 10])
def test_alike_records_find_what_the_closed_form_says(records, correlation):
    """The sum is then the optimal test. Estimating with 128 shadows per side costs up to 4% of the TPR at FPR 0.01."""
    scores, person = planted([1.0] * records, correlation)
    found = of_sums(scores, person)
    discriminant = calibrated(joint_lira(scores, person, calibrated=True))
    first = np.unique(person, return_index=True)[1]
    one = Scores(scores.log_odds[:, first], scores.member[:, first])
    alone = calibrated(attacks.lira(one, calibrated=True))
    for fpr, tpr, weighed, single in zip(FPRS, found, discriminant, alone, strict=True):
        best = best_tpr(separation([1.0] * records, correlation), fpr)
        assert 0.95 * best - error_of(best) < tpr < best + error_of(best)
        # Weights from 225 models have errors of 2 / sqrt(225) each where the shift is 1; correlations are shrunk.
        assert 0.88 * best - error_of(best) < weighed < best + error_of(best)
        assert weighed > single - error_of(single)  # one record each


def test_records_that_tell_more_weigh_more():
    shifts = (0.1, 0.2, 2.0)
    scores, person = planted(shifts, 0.3)
    best = best_tpr(separation(shifts, 0.3), np.array(FPRS))
    alike = of_sums(scores, person)
    weighed = calibrated(joint_lira(scores, person, calibrated=True))
    record = best_tpr(2.0, np.array(FPRS))
    for tpr, summed, closed, single in zip(weighed, alike, best, record, strict=True):
        assert 0.9 * closed - error_of(closed) < tpr < closed + error_of(closed)
        assert tpr > summed + error_of(summed)
        assert tpr > 0.95 * single


def test_joint_attack_and_weighed_scores_are_those_of_a_loop():
    scores, person = planted([1.0, 0.5, 2.0], 0.4, models=24, persons=5)
    keep = np.flatnonzero(person != 3)[:-2]  # persons with 3 records, and one or two with fewer
    scores, person = Scores(scores.log_odds[:, keep], scores.member[:, keep]), person[keep]
    weighed, ratio = weighed_person_scores(scores, person), joint_lira(scores, person)
    z = joint_lira(scores, person, calibrated=True)
    standard = (scores.log_odds - scores.log_odds.mean(axis=0)) / scores.log_odds.std(axis=0)
    for place, name in enumerate(weighed.persons):
        rows = np.flatnonzero(person == name)
        assert weighed.records[place] == rows.size
        inside = scores.member[:, rows[0]]
        for result in (weighed.scores, ratio, z):
            np.testing.assert_array_equal(result.member[:, place], inside)
        for model in range(24):
            others = np.arange(24) % FOLDS != model % FOLDS
            sides = [standard[others & on][:, rows] for on in (inside, ~inside)]
            offsets = np.concatenate([side - side.mean(axis=0) for side in sides])
            covariance = offsets.T @ offsets / others.sum()
            shrunk = 0.9 * covariance + 0.1 * np.diag(np.diag(covariance))
            weights = np.linalg.solve(shrunk, sides[0].mean(axis=0) - sides[1].mean(axis=0))
            weights /= np.abs(weights).sum()
            own = weights @ standard[model, rows]
            laws = [scipy.stats.norm((side @ weights).mean(), (side @ weights).std()) for side in sides]
            assert weighed.scores.log_odds[model, place] == pytest.approx(own, rel=1e-9)
            assert ratio.statistic[model, place] == pytest.approx(laws[0].logpdf(own) - laws[1].logpdf(own))
            assert z.statistic[model, place] == pytest.approx((own - laws[1].mean()) / laws[1].std())


def test_sums_by_person_are_sums():
    scores, person = planted([1.0, 0.5], 0.4, models=8, persons=6)
    result = attacks.lira(scores)
    given = sum_by_person(result, person)
    joined = person_scores(scores, person)
    for place, name in enumerate(joined.persons):
        rows = person == name
        np.testing.assert_allclose(given.statistic[:, place], result.statistic[:, rows].sum(axis=1))
        np.testing.assert_allclose(joined.scores.log_odds[:, place], scores.log_odds[:, rows].sum(axis=1))
    np.testing.assert_array_equal(given.member, joined.scores.member)
    assert given.null == "unknown"


def test_one_record_a_person_is_the_record():
    scores, _ = planted([1.0], 0.0, models=32, persons=40)
    person = np.array([f"p{number:02}" for number in range(40)])
    given = person_scores(scores, person)
    np.testing.assert_array_equal(given.scores.log_odds, scores.log_odds)
    assert (given.records == 1).all()
    weighed = weighed_person_scores(scores, person).scores.log_odds
    standard = (scores.log_odds - scores.log_odds.mean(axis=0)) / scores.log_odds.std(axis=0)
    np.testing.assert_allclose(np.abs(weighed), np.abs(standard), rtol=1e-9, atol=1e-12)


def test_the_order_of_records_and_the_kind_of_names_change_nothing():
    scores, person = planted([1.0, 0.5, 2.0], 0.4, models=32, persons=10)
    names = np.array(["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"], dtype=object)[person]
    order = np.random.default_rng(1).permutation(person.size)
    shuffled = Scores(scores.log_odds[:, order], scores.member[:, order])
    first, other = joint_lira(scores, person), joint_lira(shuffled, names[order])
    np.testing.assert_allclose(first.statistic, other.statistic, rtol=1e-9, atol=1e-9)
    assert list(person_scores(shuffled, names[order]).persons) == list("abcdefghij")


def test_how_vulnerable_a_person_is_follows_the_closed_form():
    """With weights from other folds, the mean TPR for unlimited shadows is estimated within a tenth at k = 3."""
    shifts = (0.5, 1.0, 1.5)
    scores, person = planted(shifts, 0.3, persons=120)
    joined = weighed_person_scores(scores, person)
    for fpr in FPRS:
        best = best_tpr(separation(shifts, 0.3), fpr)
        given = per_example_vulnerability(joined.scores, fpr).tpr
        assert abs(given.mean() - best) < 0.12 * best
    flat, whose = planted([0.0, 0.0, 0.0], 0.3, persons=120)
    joined = weighed_person_scores(flat, whose)
    assert abs(per_example_vulnerability(joined.scores, 0.1).separation.mean()) < 0.05


def test_without_anything_to_find_persons_are_at_chance():
    scores, person = planted([0.0, 0.0, 0.0], 0.5)
    joint = joint_lira(scores, person, calibrated=True)
    points = [
        *operating_points(joint, FPRS, evaluation="calibrated"),
        *operating_points(joint_lira(scores, person), FPRS),
        *operating_points(sum_by_person(attacks.lira(scores), person), FPRS),
    ]
    for point in points:
        assert abs(point.tpr - point.fpr) < error_of(point.fpr)


def test_at_the_fpr_that_users_file():
    """FPR 0.001: its threshold rests on 31 of 30 840 non-members, four standard errors of which are 72% of it."""
    scores, person = planted([1.0] * 5, 0.0)
    result = joint_lira(scores, person, calibrated=True)
    (point,) = operating_points(result, [0.001], evaluation="calibrated")
    d = separation([1.0] * 5, 0.0)
    assert 0.88 * best_tpr(d, 0.28e-3) < point.tpr < best_tpr(d, 1.72e-3)
    noise, whose = planted([0.0] * 5, 0.5, seed=1)
    (point,) = operating_points(joint_lira(noise, whose, calibrated=True), [0.001], evaluation="calibrated")
    assert abs(point.tpr - 0.001) < np.sqrt(2) * error_of(0.001)  # of members, and of the threshold


def test_a_person_whom_all_models_have_says_nothing():
    scores, person = planted([1.0, 1.0], 0.0, models=16, persons=3)
    member = np.array(scores.member)
    member[:, person == 1] = True
    given = joint_lira(Scores(scores.log_odds, member), person)
    assert (given.statistic[:, 1] == 0).all()
    assert not given.defined[:, 1].any()
    assert given.defined[:, 0].all()


def test_what_is_wrong_is_named():
    scores, person = planted([1.0, 1.0], 0.0, models=16, persons=4)
    with pytest.raises(InputError, match=r"person.shape=\(7,\) must be \(8,\)"):
        person_scores(scores, person[:7])
    with pytest.raises(InputError, match=r"person.dtype='float64' must be integers or strings"):
        person_scores(scores, person.astype(float))
    with pytest.raises(InputError, match=r"person\[2\] is empty"):
        person_scores(scores, np.array(["a", "b", " ", "c", "a", "b", "d", "c"]))
    with pytest.raises(InputError, match=r"person\[1\] is missing"):
        person_scores(scores, np.array(["a", None, "a", "c", "a", "b", "d", "c"], dtype=object))
    with pytest.raises(InputError, match=r"person=\d has some records .* and so do \d more"):
        person_scores(scores, np.roll(person, 1) if (np.roll(person, 1) != person).any() else person[::-1])
    few = Scores(scores.log_odds[:8], scores.member[:8])
    with pytest.raises(InputError, match="at least 16"):
        joint_lira(few, person)
    with pytest.raises(InputError, match="and others out of it"):
        sum_by_person(
            AttackResult(scores.log_odds, scores.member, np.ones(scores.member.shape, bool)),
            np.zeros(person.size, int),
        )


def test_a_person_whose_members_are_all_in_one_fold_is_undefined_in_it():
    """The other folds have no model with the person, so they give no weights and no Gaussian of members."""
    scores, person = planted([1.0, 1.0], 0.0, models=32, persons=3)
    member = np.array(scores.member)
    member[:, person == 1] = (np.arange(32) % FOLDS == 2)[:, None]
    given = joint_lira(Scores(scores.log_odds, member), person)
    defined = given.defined[:, 1]
    np.testing.assert_array_equal(defined, np.arange(32) % FOLDS != 2)
    assert (given.statistic[~defined, 1] == 0).all()


def test_the_quantile_attack_keeps_a_persons_records_in_one_fold():
    """Otherwise a twin in another fold would reveal whether x was a member; here twins share pure noise."""
    rng = np.random.default_rng(0)
    persons, models = 300, 24
    person = np.repeat(np.arange(persons), 2)
    member = np.repeat(rng.random((models, persons)) < 0.5, 2, axis=1)
    log_odds = np.repeat(rng.normal(size=(models, persons)), 2, axis=1)
    features = np.repeat(rng.normal(size=(persons, 40)), 2, axis=0)
    features[:, 0] += rng.normal(size=2 * persons)  # so that twins fall into different folds without persons
    scores = Scores(log_odds, member)
    apart = attacks.quantile(scores, features=features, person=person)
    (point,) = operating_points(sum_by_person(apart, person), [0.1])
    assert abs(point.tpr - 0.1) < 4 * np.sqrt(2 * 0.09 / (models * persons / 2))
    with pytest.raises(InputError, match="persons=3 must be at least 5, the folds of attack 'quantile'"):
        attacks.quantile(scores, features=features, person=np.arange(2 * persons) % 3)


@pytest.mark.parametrize(
    "attack", ["lira", "rmia", "base", "bavaria_t", "bavaria_n", "threshold", "difficulty"]
)
def test_every_attack_on_persons_is_at_chance_under_random_membership(attack):
    scores, person = planted([0.0, 0.0, 0.0], 0.5, models=32, persons=200)
    found = attack_persons(attack, scores, person)
    (point,) = operating_points(dataclasses.replace(found, population=None), [0.1])
    assert abs(point.tpr - 0.1) < 4 * np.sqrt(2 * 0.09 / (32 * 200 / 2))
