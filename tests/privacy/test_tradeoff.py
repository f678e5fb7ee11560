"""The closed-form ceilings against the definition of differential privacy and against simulation."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from jaxmia._validate import InputError
from jaxmia.privacy.tradeoff import gaussian_ceiling, kairouz_ceiling

FPRS = np.array([1e-6, 1e-3, 0.01, 0.1, 0.5, 0.9])


def test_kairouz_ceiling_is_the_region_of_hypothesis_tests():
    """Every (FPR, TPR) with both DP inequalities, found by search over each, is at most the ceiling."""
    for fpr, epsilon, delta in [(0.1, 0.25, 1e-5), (0.01, 3.0, 0.0), (0.6, 2.0, 0.01), (0.9, 0.1, 0.3)]:
        allowed = [
            tpr
            for tpr in np.linspace(0, 1, 200_001)
            if tpr <= math.exp(epsilon) * fpr + delta
            and 1 - fpr
            <= math.exp(epsilon) * (1 - tpr) + delta  # the same with the roles of the worlds swapped
        ]
        assert kairouz_ceiling(fpr, epsilon=epsilon, delta=delta) == pytest.approx(max(allowed), abs=6e-6)


def test_kairouz_ceiling_in_its_limits():
    assert kairouz_ceiling(0.1, epsilon=0.0, delta=0.0) == pytest.approx(0.1)
    assert kairouz_ceiling(0.1, epsilon=1000.0, delta=0.0) == 1
    assert kairouz_ceiling(0.9, epsilon=0.0, delta=0.5) == 1


def test_ceilings_broadcast():
    epsilon = np.array([[0.5], [2.0]])
    table = kairouz_ceiling(FPRS, epsilon=epsilon, delta=1e-5)
    one_by_one = [[kairouz_ceiling(f, epsilon=e, delta=1e-5) for f in FPRS] for e in epsilon[:, 0]]
    np.testing.assert_array_equal(table, one_by_one)
    assert gaussian_ceiling(FPRS, epsilon).shape == (2, 6)


def test_gaussian_ceiling_is_the_power_of_the_likelihood_ratio_test():
    """The best test of N(0, 1) against N(mu, 1) rejects above a threshold; its power by quadrature."""
    for fpr, mu in [(0.1, 0.3), (0.01, 2.0), (1e-3, 5.0)]:
        power, _ = integrate.quad(lambda x, mu=mu: stats.norm.pdf(x - mu), stats.norm.isf(fpr), mu + 12)
        assert gaussian_ceiling(fpr, mu) == pytest.approx(power, rel=1e-8)


def test_gaussian_ceiling_in_its_limits():
    np.testing.assert_allclose(gaussian_ceiling(FPRS, 0.0), FPRS, rtol=1e-9)
    np.testing.assert_allclose(gaussian_ceiling(FPRS, 50.0), 1)


def test_gaussian_ceiling_lies_under_every_kairouz_ceiling_and_touches_them():
    """Its (epsilon, delta) curve by Corollary 2.13 of Dong, Roth and Su; the curve is their envelope."""
    mu, epsilon = 1.3, np.linspace(0, 20, 20_001)[:, None]
    delta = stats.norm.cdf(mu / 2 - epsilon / mu) - np.exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu)
    bounds = kairouz_ceiling(FPRS, epsilon=epsilon, delta=np.maximum(delta, 0))
    assert (bounds >= gaussian_ceiling(FPRS, mu) - 1e-12).all()
    np.testing.assert_allclose(bounds.min(axis=0), gaussian_ceiling(FPRS, mu), rtol=1e-6)


@pytest.mark.parametrize(
    "bad", [{"fpr": 0.0}, {"fpr": 1.5}, {"epsilon": -1.0}, {"epsilon": math.inf}, {"delta": 1.0}]
)
def test_kairouz_ceiling_refuses_bad_arguments(bad):
    arguments = {"fpr": 0.1, "epsilon": 1.0, "delta": 1e-5, **bad}
    with pytest.raises(InputError, match=next(iter(bad))):
        kairouz_ceiling(arguments.pop("fpr"), **arguments)


@pytest.mark.parametrize(("fpr", "mu", "name"), [(0.0, 1.0, "fpr"), (0.1, -1.0, "mu"), (0.1, math.inf, "mu")])
def test_gaussian_ceiling_refuses_bad_arguments(fpr, mu, name):
    with pytest.raises(InputError, match=name):
        gaussian_ceiling(fpr, mu)
