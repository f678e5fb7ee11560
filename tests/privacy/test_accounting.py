"""Epsilons and ceilings against closed forms, quadrature, dp-accounting called directly, and Opacus."""

import itertools
import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from references_accounting import (
    gaussian_delta,
    gaussian_epsilon,
    one_step_delta,
    opacus_recipes,
)
from scipy import stats

from jaxmia._validate import InputError
from jaxmia.data import membership
from jaxmia.privacy import accounting
from jaxmia.privacy.accounting import (
    ADJACENCY_OF_DESIGN,
    adjacency_for,
    dp_epsilon,
    gdp_mu,
    individual_mu,
    noise_multiplier_for,
    sampling_rate_of,
    tpr_ceiling,
)
from jaxmia.privacy.guarantee import PrivacyGuarantee, PrivacySpec
from jaxmia.privacy.tradeoff import gaussian_ceiling, kairouz_ceiling

ADD, REPLACE = "add_or_remove_one", "replace_one"
FPRS = np.array([1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.999])
# Epsilons are upper bounds, 1e-4 above the exact value where the grid has 50 points to a deviation and up to 1e-3 where
# rare large losses stretch it.
GRID = 1e-3


def event(noise_multiplier, sampling_rate, steps):
    """The recipe as dp-accounting's event."""
    gaussian = dp_accounting.GaussianDpEvent(noise_multiplier)
    return dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(sampling_rate, gaussian), steps
    )


@pytest.mark.parametrize("adjacency", [ADD, REPLACE])
@pytest.mark.parametrize("steps", [1, 200])
@pytest.mark.parametrize("mu", [0.01, 0.5, 1.0, 3.0, 20.0])
def test_full_batch_epsilon_is_the_analytic_gaussian(mu, steps, adjacency):
    noise = (2 if adjacency == REPLACE else 1) * math.sqrt(steps) / mu
    assert gdp_mu(noise_multiplier=noise, steps=steps, adjacency=adjacency) == pytest.approx(mu, rel=1e-12)
    for delta in (1e-3, 1e-5, 1e-10):
        epsilon = dp_epsilon(
            noise_multiplier=noise, sampling_rate=1.0, steps=steps, delta=delta, adjacency=adjacency
        )
        exact = gaussian_epsilon(delta, mu)
        assert exact * (1 - 1e-9) <= epsilon <= exact * (1 + 1e-4)


@pytest.mark.parametrize(
    ("adjacency", "pairs"), [(ADD, [(1, 0), (0, 1)]), (REPLACE, [(1, -1)])], ids=[ADD, REPLACE]
)
@pytest.mark.parametrize(("noise", "rate"), [(0.8, 0.1), (2.0, 0.5)])
def test_one_step_is_the_divergence_by_quadrature(noise, rate, adjacency, pairs):
    """At the epsilon reported for a delta, the worst direction's hockey-stick divergence is that delta."""
    delta = 1e-3
    epsilon = dp_epsilon(
        noise_multiplier=noise, sampling_rate=rate, steps=1, delta=delta, adjacency=adjacency
    )
    divergence = max(
        one_step_delta(epsilon, noise_multiplier=noise, sampling_rate=rate, upper=p, lower=q)
        for p, q in pairs
    )
    assert delta * (1 - 2e-3) <= divergence <= delta * (1 + 1e-6)


@pytest.mark.thorough
def test_replaced_record_is_worst_where_it_pulls_to_the_opposite_side():
    """No pair of gradients in the plane, however long and turned, is told apart better than (-C, C)."""
    noise, rate, angles = 0.8, 0.3, np.linspace(0, np.pi, 5)
    axis = np.linspace(-6, 6, 401)
    plane = np.stack(np.meshgrid(axis, axis))

    def sampled(centre):
        densities = [
            np.exp(-((plane - np.reshape(at, (2, 1, 1))) ** 2).sum(0) / (2 * noise**2))
            for at in (centre, (0, 0))
        ]
        return (rate * densities[0] + (1 - rate) * densities[1]) / (2 * np.pi * noise**2)

    for epsilon in (0.0, 0.3, 1.0, 2.0):
        worst = one_step_delta(epsilon, noise_multiplier=noise, sampling_rate=rate, upper=-1, lower=1)
        for angle, length in itertools.product(angles, (0.5, 1.0)):
            other = length * np.array([np.cos(angle), np.sin(angle)])
            excess = sampled((1.0, 0.0)) - np.exp(epsilon) * sampled(other)
            assert (
                np.maximum(excess, 0).sum() * (axis[1] - axis[0]) ** 2 <= worst + 1e-5
            )  # of the sum over cells


@pytest.mark.parametrize("adjacency", [ADD, REPLACE])
@pytest.mark.parametrize(("noise", "rate", "steps"), [(1.0, 0.01, 1000), (4.0, 0.5, 40), (0.7, 0.01, 100)])
def test_epsilon_agrees_with_the_accountant_on_the_event(noise, rate, steps, adjacency):
    relation = dp_accounting.NeighboringRelation[adjacency.upper()]
    accountant = dp_accounting.pld.PLDAccountant(relation).compose(event(noise, rate, steps))
    epsilon = dp_epsilon(
        noise_multiplier=noise, sampling_rate=rate, steps=steps, delta=1e-5, adjacency=adjacency
    )
    assert epsilon == pytest.approx(accountant.get_epsilon(1e-5), rel=GRID)


@pytest.mark.parametrize(
    "recipe", opacus_recipes(), ids=lambda r: f"{r['noise_multiplier']}-{r['sampling_rate']}"
)
def test_epsilon_agrees_with_opacus(recipe):
    """PRV: an upper bound asked to be within 1e-3 at a delta up to 1e-3 larger; RDP: a looser upper bound."""
    prv, rdp = recipe.pop("prv_epsilon"), recipe.pop("rdp_epsilon")
    epsilon = dp_epsilon(**{**recipe, "steps": int(recipe["steps"])})
    assert prv - 2e-3 - GRID * epsilon <= epsilon <= prv * (1 + GRID)
    assert epsilon < rdp
    orders = np.concatenate([np.linspace(1.01, 20, 200), np.arange(21, 256)])
    accountant = dp_accounting.rdp.RdpAccountant(orders)
    accountant.compose(event(recipe["noise_multiplier"], recipe["sampling_rate"], int(recipe["steps"])))
    assert epsilon < accountant.get_epsilon(recipe["delta"]) < 1.6 * epsilon + 0.1


def test_epsilon_in_its_limits():
    recipe = {"sampling_rate": 0.1, "steps": 100, "delta": 1e-5}
    assert dp_epsilon(noise_multiplier=0.0, **recipe) == math.inf
    assert dp_epsilon(noise_multiplier=1e7, **recipe) == 0
    epsilons = [dp_epsilon(noise_multiplier=noise, **recipe) for noise in (0.5, 1.0, 2.0, 4.0, 8.0)]
    assert (np.diff(epsilons) < 0).all()


def recipes(number, seed):
    """Calibration targets over what a user may ask for: (epsilon, delta, rate, steps, adjacency)."""
    rng = np.random.default_rng(seed)
    for _ in range(number):
        epsilon = float(np.exp(rng.uniform(np.log(0.05), np.log(50))))
        delta = float(10 ** rng.uniform(-8, -3))
        rate = 1.0 if rng.random() < 0.25 else float(10 ** rng.uniform(-3, 0))
        yield epsilon, delta, rate, int(10 ** rng.uniform(0, 3.7)), str(rng.choice([ADD, REPLACE]))


def check_calibration(epsilon, delta, rate, steps, adjacency):
    """The achieved epsilon is at most the target, and 0.1% less noise would exceed it."""
    recipe = {"delta": delta, "sampling_rate": rate, "steps": steps, "adjacency": adjacency}
    noise = noise_multiplier_for(epsilon=epsilon, **recipe)
    assert dp_epsilon(noise_multiplier=noise, **recipe) <= epsilon
    assert dp_epsilon(noise_multiplier=noise * 0.999, **recipe) > epsilon
    if rate == 1:
        assert (
            gaussian_delta(epsilon, gdp_mu(noise_multiplier=noise, steps=steps, adjacency=adjacency)) <= delta
        )


@pytest.mark.parametrize("recipe", list(recipes(20, seed=0)), ids=lambda recipe: f"{recipe[0]:.2g}")
def test_calibration_never_exceeds_the_target(recipe):
    check_calibration(*recipe)


@pytest.mark.slow
def test_calibration_never_exceeds_the_target_over_200_recipes():
    for recipe in recipes(200, seed=1):
        check_calibration(*recipe)


def test_no_privacy_asked_is_no_noise():
    assert noise_multiplier_for(epsilon=math.inf, delta=1e-5, sampling_rate=0.2, steps=10) == 0


@pytest.mark.parametrize("adjacency", [ADD, REPLACE])
@pytest.mark.parametrize("mu", [0.01, 1.0, 4.0])
def test_full_batch_ceiling_is_the_gaussian_curve(mu, adjacency):
    noise = (2 if adjacency == REPLACE else 1) * math.sqrt(30) / mu
    ceiling = tpr_ceiling(FPRS, noise_multiplier=noise, sampling_rate=1.0, steps=30, adjacency=adjacency)
    exact = stats.norm.sf(stats.norm.isf(FPRS) - mu)
    assert (ceiling >= exact - 1e-12).all()
    np.testing.assert_allclose(ceiling, exact, rtol=GRID)


RECIPES = [(1.0, 0.01, 1000, ADD), (0.7, 0.05, 50, ADD), (3.0, 0.5, 100, REPLACE), (60.0, 0.1, 5000, ADD)]


@pytest.mark.parametrize(("noise", "rate", "steps", "adjacency"), RECIPES)
def test_ceiling_is_monotone_above_chance_and_under_every_kairouz_ceiling(noise, rate, steps, adjacency):
    recipe = {"noise_multiplier": noise, "sampling_rate": rate, "steps": steps, "adjacency": adjacency}
    ceiling = tpr_ceiling(FPRS, **recipe)
    assert (np.diff(ceiling) > 0).all()
    assert (ceiling > FPRS).all()
    assert (ceiling <= 1).all()
    for delta in (1e-1, 1e-2, 1e-3, 1e-5, 1e-7, 1e-9):
        kairouz = kairouz_ceiling(FPRS, epsilon=dp_epsilon(delta=delta, **recipe), delta=delta)
        assert (ceiling <= kairouz * (1 + 1e-4)).all()
    more_noise = tpr_ceiling(FPRS, **{**recipe, "noise_multiplier": 1.5 * noise})
    assert (more_noise < ceiling).all()


@pytest.mark.parametrize("adjacency", [ADD, REPLACE])
def test_one_step_ceiling_bounds_the_best_attack_on_simulated_steps(adjacency):
    """The likelihood-ratio attack on the mechanism itself touches the ceiling, within its sampling error."""
    noise, rate, trials, fpr = 0.8, 0.4, 200_000, 0.1
    out = -1.0 if adjacency == REPLACE else 0.0
    rng = np.random.default_rng(0)

    def outputs(move):
        return move * (rng.random(trials) < rate) + noise * rng.standard_normal(trials)

    threshold = np.quantile(outputs(out), 1 - fpr)  # the likelihood ratio grows with the output
    tpr = np.mean(outputs(1.0) > threshold)
    ceiling = tpr_ceiling(fpr, noise_multiplier=noise, sampling_rate=rate, steps=1, adjacency=adjacency)
    # Five standard errors: of the TPR, and of the realised FPR times the slope of the ROC, less than 4 at this FPR.
    error = 5 * math.sqrt((0.25 + 16 * fpr * (1 - fpr)) / trials)
    assert tpr <= ceiling + error
    if adjacency == REPLACE:  # symmetric; for add_or_remove the ceiling also holds for the other direction
        assert tpr >= ceiling - error


def test_ceiling_agrees_with_riskcal_on_one_step():
    """Algorithm 1 of Kulynych, Gomez et al. 2024, on a distribution of few points, where its sums are exact."""
    analysis = pytest.importorskip("riskcal.analysis")
    losses = dp_accounting.pld.privacy_loss_distribution.from_gaussian_mechanism(1.2, sampling_prob=0.3)
    expected = 1 - analysis.get_beta_from_pld(losses, alpha=FPRS)
    ceiling = tpr_ceiling(FPRS, noise_multiplier=1.2, sampling_rate=0.3, steps=1)
    np.testing.assert_allclose(ceiling, expected, rtol=2e-4)


def test_ceiling_in_its_limits():
    recipe = {"sampling_rate": 0.1, "steps": 100}
    np.testing.assert_array_equal(tpr_ceiling(FPRS, noise_multiplier=0.0, **recipe), 1)
    np.testing.assert_allclose(tpr_ceiling(FPRS, noise_multiplier=1e7, **recipe), FPRS, atol=1e-6)
    # One step without noise shows a member that was sampled, with probability q. Both directions of the adjacency
    # together allow FPR + q: from (0, q), a member seen, to (1 - q, 1), an absent record seen to be absent.
    unsampled = tpr_ceiling(FPRS[:4], noise_multiplier=0.01, sampling_rate=0.1, steps=1)
    np.testing.assert_allclose(unsampled, 0.1 + FPRS[:4], rtol=1e-6)
    assert tpr_ceiling(0.1, noise_multiplier=1.0, **recipe).shape == ()
    assert tpr_ceiling(np.array([[0.1, 0.2]]), noise_multiplier=1.0, **recipe).shape == (1, 2)


def test_individual_mu_of_a_record_that_is_always_clipped_is_that_of_the_mechanism():
    recipe = {"noise_multiplier": 5.0, "steps": 40}
    mu = individual_mu(np.array([0.0, 10.0, 40 * 0.25]), clipping_norm=0.5, **recipe)
    norms = np.sqrt([[0.0, 0.25, 0.25]] * 40)  # the same by the definition, step by step
    np.testing.assert_allclose(mu, np.sqrt(((norms / (5.0 * 0.5)) ** 2).sum(axis=0)))
    assert mu[2] == pytest.approx(gdp_mu(**recipe))
    assert gaussian_ceiling(0.1, mu[0]) == pytest.approx(0.1)


def test_adjacency_is_known_for_every_design():
    assert set(ADJACENCY_OF_DESIGN) == set(membership.DESIGNS)
    assert adjacency_for("bernoulli") == ADD
    assert adjacency_for("fixed_size") == REPLACE
    with pytest.raises(InputError, match="design='paired'"):
        adjacency_for("paired")


def test_sampling_rate_is_that_of_the_recipe():
    assert sampling_rate_of("full") == 1
    assert sampling_rate_of("200", shots=100, classes=10) == 0.2
    assert sampling_rate_of(1000, shots=100, classes=10) == 1


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"batch": "half"}, "batch='half' must be 'full' or a positive integer"),
        ({"batch": "-3"}, "batch='-3'"),
        ({"batch": 0}, "batch=0"),
        ({"batch": "10", "classes": 2}, "shots=None must be given with batch=10"),
        ({"batch": "10", "shots": 2}, "classes=None must be given"),
        ({"batch": "10", "shots": 0, "classes": 2}, "shots=0"),
        ({"batch": "10", "shots": 3, "classes": 3}, "be at most shots x classes = 9"),
    ],
)
def test_batches_without_a_sampling_rate_are_refused(arguments, match):
    with pytest.raises(InputError, match=match):
        sampling_rate_of(**arguments)


def test_spec_of_a_target_and_of_a_noise_multiplier_are_two_ways_to_one_guarantee():
    recipe = {"sampling_rate": 0.3, "steps": 20, "adjacency": REPLACE}
    target = PrivacySpec(epsilon=2.0, delta=1e-6).guarantee(**recipe)
    given = PrivacySpec(noise_multiplier=target.noise_multiplier, delta=1e-6).guarantee(**recipe)
    assert given == target
    assert 1.99 < target.epsilon <= 2
    assert target.adjacency == REPLACE
    noise = {"noise_multiplier": target.noise_multiplier}
    np.testing.assert_array_equal(target.tpr_ceiling(FPRS), tpr_ceiling(FPRS, **noise, **recipe))
    clipped = PrivacySpec(epsilon=math.inf).guarantee(**recipe)
    assert (clipped.noise_multiplier, clipped.epsilon) == (0, math.inf)


RECIPE = {"sampling_rate": 0.5, "steps": 10}


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: dp_epsilon(noise_multiplier=-1.0, delta=1e-5, **RECIPE), "noise_multiplier=-1.0"),
        (lambda: dp_epsilon(noise_multiplier=math.nan, delta=1e-5, **RECIPE), "noise_multiplier=nan"),
        (
            lambda: dp_epsilon(noise_multiplier=1.0, delta=0.0, **RECIPE),
            r"delta=0.0 must lie in \[1e-10, 1\)",
        ),
        (
            lambda: dp_epsilon(noise_multiplier=1.0, delta=1e-5, sampling_rate=0.0, steps=1),
            "sampling_rate=0.0",
        ),
        (lambda: dp_epsilon(noise_multiplier=1.0, delta=1e-5, sampling_rate=0.5, steps=0), "steps=0"),
        (
            lambda: dp_epsilon(noise_multiplier=1.0, delta=1e-5, adjacency="replace", **RECIPE),
            "'replace_one'",
        ),
        (lambda: noise_multiplier_for(epsilon=0.0, delta=1e-5, **RECIPE), "epsilon=0.0 must be positive"),
        (lambda: noise_multiplier_for(epsilon=math.nan, delta=1e-5, **RECIPE), "epsilon=nan"),
        (lambda: tpr_ceiling(1.0, noise_multiplier=1.0, **RECIPE), "fpr"),
        (lambda: tpr_ceiling(1.0, noise_multiplier=0.0, **RECIPE), "fpr"),
        (lambda: gdp_mu(noise_multiplier=0.0, steps=3), "noise_multiplier=0.0 must be positive"),
        (
            lambda: individual_mu(np.array([4.1]), noise_multiplier=1.0, clipping_norm=1.0, steps=4),
            "sum_of_squares",
        ),
        (
            lambda: individual_mu(
                np.ones(1), noise_multiplier=1.0, clipping_norm=1.0, steps=4, adjacency=REPLACE
            ),
            "adjacency='replace_one' must be 'add_or_remove_one'",
        ),
        (lambda: PrivacySpec(), "Exactly one of epsilon=None and noise_multiplier=None"),
        (lambda: PrivacySpec(epsilon=1.0, noise_multiplier=1.0), "Exactly one"),
        (lambda: PrivacySpec(epsilon=-1.0), "epsilon=-1.0"),
        (lambda: PrivacySpec(noise_multiplier=math.inf), "noise_multiplier=inf"),
        (lambda: PrivacySpec(epsilon=1.0, delta=1.0), "delta=1.0"),
        (lambda: PrivacySpec(epsilon=1.0, clipping_norm=0.0), "clipping_norm=0.0"),
    ],
)
def test_bad_arguments_are_refused(call, match):
    with pytest.raises(InputError, match=match):
        call()


@pytest.mark.parametrize(("rate", "steps"), [(1e-5, 10**6), (1e-4, 10**5)])
def test_many_steps_at_a_small_rate_stay_small(rate, steps):
    """The grid of one step is bounded; epsilon lies above the central limit's and below Rényi's."""
    step = accounting._loss_interval(1.0, rate, 1.0)
    assert math.log1p(rate * math.exp(10.5)) / step <= 20_001
    epsilon = dp_epsilon(noise_multiplier=1.0, sampling_rate=rate, steps=steps, delta=1e-5)
    limit = gaussian_epsilon(1e-5, rate * math.sqrt(steps * math.expm1(1.0)))
    accountant = dp_accounting.rdp.RdpAccountant().compose(event(1.0, rate, steps))
    assert limit < epsilon < accountant.get_epsilon(1e-5)


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "said"),
    [
        (2.0, 1.0, 1, "PLD (dp-accounting), pessimistic; losses of a step on a grid of 0.01"),
        (
            20.0,
            1.0,
            100,
            "PLD (dp-accounting), pessimistic; losses of all 100 steps as one on a grid of 0.01",
        ),
        (1.0, 0.01, 100, "PLD (dp-accounting), pessimistic; losses of a step on a grid of 0.00029"),
        (1.0, 1e-5, 10**6, "PLD (dp-accounting), pessimistic; losses of a step on a grid of 1.5e-05"),
        (0.0, 1.0, 100, "none: there is no noise"),
    ],
)
def test_a_guarantee_names_its_accountant_and_discretisation(noise, rate, steps, said, monkeypatch):
    used = []
    build = privacy_loss_distribution.from_gaussian_mechanism

    def recorded(*args, **options):
        used.append(options["value_discretization_interval"])
        return build(*args, **options)

    guarantee = PrivacyGuarantee(
        epsilon=1.0 if noise else math.inf,
        delta=1e-5,
        adjacency="add_or_remove_one",
        noise_multiplier=noise,
        sampling_rate=rate,
        steps=steps,
    )
    assert guarantee.accountant == said
    assert guarantee.record()["epsilon"] == (1.0 if noise else "inf")
    if noise and steps <= 100:
        accounting._privacy_loss.cache_clear()
        monkeypatch.setattr(privacy_loss_distribution, "from_gaussian_mechanism", recorded)
        accounting._privacy_loss(noise, rate, steps, "add_or_remove_one")
        assert said.endswith(f" {used[0]:.2g}")
