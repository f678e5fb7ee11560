"""What training by record guarantees to persons with several: closed forms, quadrature, simulation, limits."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from jaxmia._validate import InputError
from jaxmia.privacy.accounting import MOST_RECORDS, dp_epsilon, gdp_mu, noise_multiplier_for, tpr_ceiling
from jaxmia.privacy.guarantee import PrivacySpec
from jaxmia.privacy.tradeoff import gaussian_ceiling

POISSON = {"noise_multiplier": 1.5, "sampling_rate": 0.2}


def gaussian_delta(epsilon, mu):
    ends = scipy.stats.norm.cdf(-epsilon / mu + mu / 2), scipy.stats.norm.cdf(-epsilon / mu - mu / 2)
    return ends[0] - math.exp(epsilon) * ends[1]


@pytest.mark.parametrize("adjacency", ["add_or_remove_one", "replace_one"])
def test_on_full_batches_a_person_has_k_mu(adjacency):
    recipe = {"noise_multiplier": 12.0, "steps": 9, "adjacency": adjacency}
    mu = 3 * gdp_mu(**recipe)
    epsilon = dp_epsilon(**recipe, sampling_rate=1.0, delta=1e-5, records_per_person=3)
    np.testing.assert_allclose(gaussian_delta(epsilon, mu), 1e-5, rtol=0.01)
    fpr = np.array([0.1, 0.01])
    found = tpr_ceiling(fpr, **recipe, sampling_rate=1.0, records_per_person=3)
    np.testing.assert_allclose(found, gaussian_ceiling(fpr, mu), rtol=2e-3)
    assert (found >= gaussian_ceiling(fpr, mu) - 1e-9).all()


def mixture(records, *, noise_multiplier, sampling_rate):
    """Log density of one step with the person, and without: sum_j P(J = j) N(j, sigma^2) against N(0, sigma^2)."""
    weights = scipy.stats.binom.logpmf(np.arange(records + 1), records, sampling_rate)

    def with_person(x):
        parts = scipy.stats.norm.logpdf(np.asarray(x)[..., None], np.arange(records + 1), noise_multiplier)
        return scipy.special.logsumexp(weights + parts, axis=-1)

    return with_person, lambda x: scipy.stats.norm.logpdf(x, 0, noise_multiplier)


@pytest.mark.parametrize("records", [2, 5])
def test_one_poisson_step_is_the_integral(records):
    present, absent = mixture(records, **POISSON)

    def delta(epsilon, p, q):
        def integrand(x):
            return np.maximum(np.exp(p(x)) - np.exp(epsilon + q(x)), 0)

        grid = np.linspace(-15, records + 15, 400_001)
        return scipy.integrate.simpson(integrand(grid), x=grid)

    for target in (1e-2, 1e-5):
        epsilon = dp_epsilon(**POISSON, steps=1, delta=target, records_per_person=records)
        worst = max(delta(epsilon, present, absent), delta(epsilon, absent, present))
        np.testing.assert_allclose(worst, target, rtol=0.01)
        assert worst <= target * (1 + 1e-6)


def test_poisson_steps_are_the_simulated_losses():
    """delta(epsilon) = E max(0, 1 - e^(epsilon - L)), L the summed log ratios of 30 steps with the person."""
    records, steps, draws = 4, 12, 100_000
    rng = np.random.default_rng(5)
    present, absent = mixture(records, **POISSON)
    total = np.zeros(draws)
    for _ in range(steps):
        x = rng.binomial(records, POISSON["sampling_rate"], draws) + POISSON["noise_multiplier"] * rng.normal(
            size=draws
        )
        total += present(x) - absent(x)
    epsilon = dp_epsilon(**POISSON, steps=steps, delta=0.02, records_per_person=records)
    shares = np.maximum(0, 1 - np.exp(epsilon - total))
    error = shares.std() / math.sqrt(draws)
    assert abs(shares.mean() - 0.02) < 4 * error + 1e-4
    ceiling = tpr_ceiling(0.1, **POISSON, steps=steps, records_per_person=records)
    out = np.zeros(draws)
    for _ in range(steps):
        x = POISSON["noise_multiplier"] * rng.normal(size=draws)
        out += present(x) - absent(x)
    reached = np.mean(total > np.quantile(out, 0.9))  # the best attack there is
    assert reached <= ceiling + 4 * math.sqrt(ceiling / draws / 0.1)
    assert reached > ceiling - 0.02


def test_groups_of_one_are_records_and_larger_ones_have_more():
    for rate in (0.2, 1.0):
        recipe = {"noise_multiplier": 6.0, "sampling_rate": rate, "steps": 20, "delta": 1e-5}
        by_size = [dp_epsilon(**recipe, records_per_person=k) for k in (1, 2, 4, 8)]
        assert by_size[0] == dp_epsilon(**recipe)
        assert (np.diff(by_size) > 0).all()
    tiny = {"noise_multiplier": 2.0, "sampling_rate": 1 - 1e-6, "steps": 4, "delta": 1e-5}
    near = dp_epsilon(**tiny, records_per_person=3)
    np.testing.assert_allclose(
        near, dp_epsilon(**tiny | {"sampling_rate": 1.0}, records_per_person=3), rtol=1e-3
    )


def test_it_is_within_the_bound_that_any_mechanism_has():
    """k epsilon at delta (e^(k epsilon) - 1) / (e^epsilon - 1) (Vadhan 2017, Lemma 2.2)."""
    recipe = {"noise_multiplier": 4.0, "sampling_rate": 0.1, "steps": 50}
    one = dp_epsilon(**recipe, delta=1e-7)
    for records in (2, 3):
        delta = 1e-7 * math.expm1(records * one) / math.expm1(one)
        assert dp_epsilon(**recipe, delta=delta, records_per_person=records) <= records * one


@pytest.mark.parametrize("rate", [1.0, pytest.param(0.05, marks=pytest.mark.thorough)])
def test_noise_for_persons_meets_its_target(rate):
    recipe = {"sampling_rate": rate, "steps": 30, "delta": 1e-5, "records_per_person": 5}
    noise = noise_multiplier_for(epsilon=2.0, **recipe)
    assert 2.0 * (1 - 3e-4) <= dp_epsilon(noise_multiplier=noise, **recipe) <= 2.0


def test_guarantees_say_whom_they_protect():
    recipe = {"sampling_rate": 1.0, "steps": 10, "adjacency": "add_or_remove_one"}
    records = PrivacySpec(epsilon=1.0).guarantee(**recipe)
    assert "unit" not in records.record()
    persons = records.of_persons(5)
    assert (persons.unit, persons.records_per_person) == ("person", 5)
    assert persons.epsilon > 5 * records.epsilon
    assert persons.record()["records_per_person"] == 5
    assert persons.tpr_ceiling(0.01) > records.tpr_ceiling(0.01)
    by_person = PrivacySpec(epsilon=1.0).guarantee(**recipe, unit="person")
    assert by_person.tpr_ceiling(0.01) == records.tpr_ceiling(0.01)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"records_per_person": 0}, "records_per_person=0 must be an integer of at least 1"),
        ({"records_per_person": MOST_RECORDS + 1}, f"records_per_person={MOST_RECORDS + 1} must be at most"),
        (
            {"records_per_person": 2, "adjacency": "replace_one"},
            "for persons whose records are sampled one by one",
        ),
    ],
)
def test_what_has_no_accounting_is_refused(more, message):
    with pytest.raises(InputError, match=message):
        dp_epsilon(**POISSON, steps=2, delta=1e-5, **more)
