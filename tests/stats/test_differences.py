"""Differences of estimates: a published example, coverage, and the false discovery rate."""

import numpy as np
import scipy.stats

from jaxmia.stats.differences import difference_of, paired_difference, risen


def test_newcombes_example():
    # Newcombe 1998 (Statistics in Medicine 17:873), table II, method 10: 56/70 - 48/80 has 0.0524 to 0.3339.
    first, second = (
        scipy.stats.binomtest(k, n).proportion_ci(method="wilson") for k, n in ((48, 80), (56, 70))
    )
    found = difference_of((48 / 80, first.low, first.high), (56 / 70, second.low, second.high))
    np.testing.assert_allclose(found, (0.2, 0.0524, 0.3339), atol=5e-5)


def test_the_paired_interval_is_that_of_scipy_and_covers():
    rng = np.random.default_rng(0)
    before = rng.random(40)
    after = before + 0.1 + 0.2 * rng.normal(size=40)
    expected = scipy.stats.ttest_rel(after, before).confidence_interval(0.95)
    found = paired_difference(before, after)
    np.testing.assert_allclose((found.low, found.high), (expected.low, expected.high), rtol=1e-12)
    np.testing.assert_allclose(found.value, np.mean(after - before), rtol=1e-12)


def test_records_that_did_not_change_are_called_at_most_at_the_rate():
    rng = np.random.default_rng(1)
    called = [risen(rng.normal(size=200), np.ones(200), 0.1).any() for _ in range(400)]
    assert np.mean(called) < 0.1 + 4 * np.sqrt(0.1 * 0.9 / 400)


def test_records_that_rose_are_found_and_those_that_fell_are_not():
    change = np.array([5.0, -5.0, 0.1, np.nan, 5.0])
    assert risen(change, np.array([1.0, 1.0, 1.0, 1.0, 0.0]), 0.1).tolist() == [
        True,
        False,
        False,
        False,
        False,
    ]
