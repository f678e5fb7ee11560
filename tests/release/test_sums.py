"""Sums on the lattice: exact, of the stated sensitivity for any pair, and with noise of the stated law."""

import numpy as np
import pytest
import references_dpsgd
import scipy.stats

from jaxmia.privacy.certificate import LATTICE_BITS
from jaxmia.release.sums import gradient_of, lattice_sum, noisy, on_lattice, sensitivity, units_of

UNIT = 2.0**LATTICE_BITS


def batch(seed, members=12, classes=3, dim=4, scale=1.0):
    rng = np.random.default_rng(seed)
    features = scale * rng.normal(size=(members, dim))
    return features, rng.integers(0, classes, members), rng.normal(size=(classes, dim))


@pytest.mark.parametrize("by_person", [False, True])
def test_the_sum_is_the_slow_loop_of_dp_sgd(by_person):
    features, labels, head = batch(0)
    person = np.arange(12) // 3 if by_person else None
    total = lattice_sum(features, labels, head, clipping_norm=0.7, units=units_of(12, person))
    expected, _ = references_dpsgd.clipped_gradient_sum(
        head,
        np.zeros(3),
        features,
        labels,
        np.ones(12, bool),
        clipping_norm=0.7,
        person=person,
        intercept=False,
    )
    np.testing.assert_allclose(total / UNIT, expected, atol=12 * 2 / UNIT)


def test_the_order_of_records_and_what_is_around_them_change_nothing():
    features, labels, head = batch(1, members=30)
    whole = lattice_sum(features, labels, head, clipping_norm=0.5, units=units_of(30, None))
    turned = np.random.default_rng(0).permutation(30)
    again = lattice_sum(features[turned], labels[turned], head, clipping_norm=0.5, units=units_of(30, None))
    np.testing.assert_array_equal(whole, again)
    parts = [
        lattice_sum(features[rows], labels[rows], head, clipping_norm=0.5, units=units_of(len(rows), None))
        for rows in (np.arange(7), np.arange(7, 30))
    ]
    np.testing.assert_array_equal(whole, sum(parts))


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e6, 1e200])
@pytest.mark.parametrize("clip", [0.1, 0.9486832980505138, 1.0, 3.7])
def test_no_adversarial_unit_moves_the_sum_by_more_than_the_sensitivity(scale, clip):
    """Records of any norm and heads that are wrong about them; also the replacement of one by its opposite."""
    largest = 0.0
    for seed in range(40):
        features, labels, head = batch(seed, members=2, scale=scale)
        with np.errstate(over="ignore", invalid="ignore"):
            one = on_lattice(gradient_of(features[0], int(labels[0]), head), clip)
            other = on_lattice(-gradient_of(features[0], int(labels[0]), head), clip)
        # Whole numbers: their squares add up exactly in Python.
        norm = sum(int(v) ** 2 for v in one.ravel())
        apart = sum(int(v) ** 2 for v in (one - other).ravel())
        assert norm <= (sensitivity(clip, "add_or_remove_one")) ** 2
        assert apart <= (sensitivity(clip, "replace_one")) ** 2
        largest = max(largest, norm**0.5 / sensitivity(clip, "add_or_remove_one"))
    if scale == 1e6:
        assert largest > 1 - 1e-6  # the bound is reached


def test_a_record_that_is_not_finite_counts_as_nothing():
    assert not on_lattice(np.array([[np.nan, 1.0]]), 1.0).any()
    assert not on_lattice(np.array([[np.inf, 1.0]]), 1.0).any()
    assert not on_lattice(np.zeros((2, 2)), 1.0).any()


def test_units_are_records_or_persons():
    assert [rows.tolist() for rows in units_of(3, None)] == [[0], [1], [2]]
    persons = np.array(["b", "a", "b", "c", "a"])
    assert sorted(rows.tolist() for rows in units_of(5, persons)) == [[0, 2], [1, 4], [3]]


def test_the_noise_has_the_stated_law_and_is_new_each_time():
    pytest.importorskip("opendp", reason="OpenDP is not installed")
    total = np.full((10, 100), 12345, np.int64)
    drawn = [noisy(total, noise_multiplier=2.5, clipping_norm=0.5) for _ in range(2)]
    assert not np.any(drawn[0] == drawn[1])
    centred = (np.concatenate(drawn).ravel() - 12345 / UNIT) / 1.25
    assert scipy.stats.kstest(centred, "norm").pvalue > 1e-6
    # Halved or doubled noise would be seen.
    assert scipy.stats.kstest(2 * centred, "norm").pvalue < 1e-6
    np.testing.assert_array_equal(np.concatenate(drawn) * UNIT, np.round(np.concatenate(drawn) * UNIT))
