"""A verdict on a stated guarantee is wrong in at most 5% of audits, whatever records are like."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta, binom

from jaxmia._validate import InputError
from jaxmia.privacy.tradeoff import kairouz_ceiling
from jaxmia.privacy.verdicts import Statement, contradictions, statement_tests, why_no_test
from jaxmia.stats.operating_points import operating_points
from jaxmia.stats.resolution import clopper_pearson
from jaxmia.stats.result import AttackResult

AUDITS, RECORDS, FPRS = 1000, 400, np.array([0.2, 0.1, 0.05])
ATTACKS = 3


def true_positives(statistic, member):
    """True positives at the threshold that allows each FPR's number of false positives, [audits, FPRs]."""
    ranked = -np.sort(-np.where(member, -np.inf, statistic), axis=1)
    numbers = (~member).sum(axis=1)
    above = np.floor(FPRS * numbers[:, None] + 1e-9).astype(int)
    thresholds = np.take_along_axis(ranked, above, axis=1)
    return np.sum((statistic[:, None] > thresholds[:, :, None]) & member[:, None], axis=2)


def audits(epsilon, *, hard, rng, easy_members=0.0):
    """Verdicts and those of the old rule, of 1 000 audits by three attacks on an epsilon-DP model.

    A record's log-odds are those of randomised response, which reaches the ceiling of (epsilon, 0)-DP, plus a level
    of its own (deviation `hard`). Members are chosen at random, then with `easy_members` also by their level.
    """
    level = hard * rng.normal(size=(AUDITS, RECORDS))
    chances = rng.gumbel(size=level.shape) + easy_members * level
    member = np.argsort(np.argsort(-chances, axis=1), axis=1) < RECORDS // 2
    found, naive = np.zeros(AUDITS, bool), np.zeros(AUDITS, bool)
    for attack in range(ATTACKS):
        answers = rng.random(member.shape) < 1 / (1 + math.exp(epsilon))
        statistic = level + (1 + attack) * (member ^ answers) + 1e-6 * rng.normal(size=member.shape)
        called, size = true_positives(statistic, member), np.full((AUDITS, 1), RECORDS // 2)
        statement = Statement(epsilon, 0.0, "replace_one")
        tested = contradictions(
            called, size, FPRS[None], size, statement=statement, tests=ATTACKS * len(FPRS)
        )
        found |= tested.contradicted.any(axis=1)
        low, _ = clopper_pearson(called, size)
        naive |= (low > kairouz_ceiling(FPRS, epsilon=epsilon, delta=0.0)).any(axis=1)
    return found, naive


MOST = binom.ppf(1 - 1e-3, AUDITS, 0.05)


@pytest.mark.parametrize("epsilon", [1e-9, 0.5, 2.0])
@pytest.mark.parametrize("hard", [0.0, 2.0])
def test_false_verdicts_are_at_most_a_twentieth(epsilon, hard):
    """Also for pure noise (epsilon 0), and when models are more certain of some records than of others."""
    found, naive = audits(epsilon, hard=hard, rng=np.random.default_rng(1))
    assert found.sum() <= MOST
    if epsilon < 0.1:
        assert naive.sum() > 4 * MOST  # the best of attacks against a ceiling at the nominal FPR


def test_members_that_are_easier_look_like_leaks_and_get_no_verdict():
    found, _ = audits(0.5, hard=2.0, easy_members=1.0, rng=np.random.default_rng(2))
    assert found.mean() > 0.5  # why the test runs on members that chance alone chose
    assert "no verdict" in why_no_test(randomised=False, adjacency="replace_one")
    assert "no verdict" in why_no_test(randomised="not stated", adjacency="replace_one")
    assert "adjacency" in why_no_test(randomised=True, adjacency="not stated")
    assert why_no_test(randomised=True, adjacency="add_or_remove_one") is None


def test_the_test_has_power():
    """A model at epsilon 2 is told from one at 0.5 in nearly every audit."""
    rng = np.random.default_rng(3)
    member = np.arange(RECORDS) % 2 == 0
    answers = rng.random((AUDITS, RECORDS)) < 1 / (1 + math.exp(2.0))
    statistic = (member ^ answers) + 1e-6 * rng.normal(size=answers.shape)
    called, size = (
        true_positives(statistic, np.broadcast_to(member, answers.shape)),
        np.full((AUDITS, 1), 200),
    )
    statement = Statement(0.5, 1e-5, "replace_one")
    tested = contradictions(called, size, FPRS[None], size, statement=statement, tests=3)
    assert tested.contradicted.any(axis=1).mean() > 0.95


def test_adding_or_removing_one_bounds_an_exchange_twice_over():
    fpr = np.array([0.01, 0.1, 0.5])
    twice = Statement(0.7, 1e-4, "add_or_remove_one").ceiling(fpr)
    expected = kairouz_ceiling(fpr, epsilon=1.4, delta=1e-4 * (1 + math.exp(0.7)))
    np.testing.assert_allclose(twice, expected, rtol=1e-12)
    once = Statement(0.7, 1e-4, "replace_one").ceiling(fpr)
    np.testing.assert_allclose(once, kairouz_ceiling(fpr, epsilon=0.7, delta=1e-4), rtol=1e-12)
    np.testing.assert_array_equal(Statement(800.0, 1e-5, "add_or_remove_one").ceiling(fpr), 1)
    with pytest.raises(InputError, match="adjacency='none' must be one of"):
        Statement(1.0, 0.0, "none").ceiling(fpr)


def test_rows_are_tested_together_and_unresolved_ones_not_at_all():
    rng = np.random.default_rng(4)
    member = rng.permutation(200)[None] < 100
    result = AttackResult(rng.normal(size=(1, 200)) + 3 * member, member, np.ones_like(member))
    points = operating_points(result, [0.1, 0.2, 0.001], evaluation="per_target")
    rows = pd.DataFrame([vars(point) for point in points]).assign(attack="lira")
    tested = statement_tests(rows, Statement(0.1, 1e-5, "replace_one")).set_index("fpr")
    assert list(tested.index) == [0.1, 0.2]
    row = tested.loc[0.1]
    np.testing.assert_allclose(row["fpr_high"], beta.isf(0.05 / 2 / 2, 10 + 1, 100 - 10))
    hits = int(row["true_positives"])
    np.testing.assert_allclose(row["tpr_low"], beta.ppf(0.05 / 2 / 2, hits, 100 - hits + 1))
    assert row["contradicted"]
    assert not statement_tests(rows, Statement(20.0, 1e-5, "replace_one"))["contradicted"].any()
