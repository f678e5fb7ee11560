import fractions

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.stats

from jaxmia._validate import InputError
from jaxmia.stats.calls import call_members, conformal_p_values, positive_predictive_value
from tests import references_evaluation as references


def test_positive_predictive_value_is_a_share_of_counted_people():
    # Of 10 000 people 100 are members: 30 of them and 99 of the 9900 others are called.
    assert positive_predictive_value(0.3, 0.01, prior=0.01) == pytest.approx(30 / (30 + 99), rel=1e-12)


def test_positive_predictive_value_at_its_limits():
    prior = np.array([0.5, 0.01])
    np.testing.assert_allclose(
        positive_predictive_value(0.2, 0.2, prior=prior), prior
    )  # chance tells nothing
    np.testing.assert_array_equal(positive_predictive_value(np.array([0.1, 1.0]), 0.0, prior=0.1), 1)
    np.testing.assert_array_equal(positive_predictive_value(0.0, 0.1, prior=prior), 0)


@pytest.mark.parametrize(
    ("tpr", "fpr", "prior", "message"),
    [
        (0.0, 0.0, 0.5, "nothing is called"),
        (1.1, 0.1, 0.5, "tpr"),
        (0.1, -0.1, 0.5, "fpr"),
        (0.1, 0.1, 0.0, "prior"),
        (np.nan, 0.1, 0.5, "tpr"),
    ],
)
def test_impossible_rates_are_refused(tpr, fpr, prior, message):
    with pytest.raises(InputError, match=message):
        positive_predictive_value(tpr, fpr, prior=prior)


@pytest.mark.parametrize("digits", [16, 0])
def test_conformal_p_values_are_ranks(digits):
    rng = np.random.default_rng(40)
    known, candidates = rng.normal(size=57).round(digits), rng.normal(size=(4, 5)).round(digits)
    expected = [[references.p_value(t, known, "empirical") for t in row] for row in candidates]
    np.testing.assert_array_equal(conformal_p_values(candidates, known), expected)
    np.testing.assert_array_equal(conformal_p_values(np.array([np.inf, -np.inf]), known), [1 / 58, 1])


def test_conformal_p_values_refuse_holes():
    for statistic, known in (([1.0], []), ([np.nan], [1.0]), ([1.0], [0.0, np.nan])):
        with pytest.raises(InputError, match="number of"):
            conformal_p_values(np.array(statistic), np.array(known))


@hypothesis.given(
    st.lists(st.integers(1, 40), min_size=1, max_size=30), st.sampled_from(["0.05", "0.1", "0.3", "0.15"])
)
def test_calls_are_the_step_up_rule_in_exact_arithmetic(ranks, fdr):
    exact = [fractions.Fraction(rank, 40) for rank in ranks]
    found = call_members(np.array(ranks) / 40, float(fdr))
    assert found.tolist() == references.benjamini_hochberg(exact, fractions.Fraction(fdr))


def test_rounding_does_not_decide_at_the_bound():
    # 0.1 * 3 is 0.30000000000000004 in floating point, yet p = 0.1 meets 0.3 / 3.
    assert call_members(np.array([[0.1], [1.0], [1.0]]), 0.3).tolist() == [[True], [False], [False]]


def test_false_discovery_rate_is_the_stated_one():
    # If m / fdr divides n + 1, the conformal grid holds every step of the rule and the rate is exactly fdr
    # times the share of non-members (Marandon, Lei, Mary and Roquain 2024): calling too few fails as well.
    rng = np.random.default_rng(41)
    repeats, members, nonmembers, known, fdr = 3000, 20, 80, 999, 0.2
    shares, found = [], 0
    for _ in range(repeats):
        candidates = np.concatenate([rng.normal(3, 1, members), rng.normal(size=nonmembers)])
        called = call_members(conformal_p_values(candidates, rng.normal(size=known)), fdr)
        shares.append(called[members:].sum() / max(called.sum(), 1))
        found += called[:members].sum()
    expected = fdr * nonmembers / (members + nonmembers)
    assert np.mean(shares) == pytest.approx(expected, abs=4 * scipy.stats.sem(shares))
    assert 4 * scipy.stats.sem(shares) < 0.1 * expected
    assert found / (repeats * members) > 0.5


def test_impossible_p_values_are_refused():
    for p_values in ([1.1], [-0.1], [np.nan], []):
        with pytest.raises(InputError, match="p_values"):
            call_members(np.array(p_values), 0.1)
    with pytest.raises(InputError, match="fdr"):
        call_members(np.array([0.5]), 1.0)
