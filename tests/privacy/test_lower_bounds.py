"""Lower bounds against published outputs, the tests written out, planted mechanisms and their stated error rate."""

import math
import pathlib

import numpy as np
import pytest
from references_accounting import gaussian_epsilon
from references_auditing import (
    clopper_pearson_epsilon,
    one_record,
    one_run,
    one_run_epsilon,
)
from scipy import stats

from jaxmia._validate import InputError
from jaxmia.privacy.lower_bounds import epsilon_lower_bound, median_epsilon_lower_bound
from jaxmia.stats.result import AttackResult

PUBLISHED = np.load(pathlib.Path(__file__).parents[1] / "data" / "epsilon_bounds.npz", allow_pickle=False)
FAIR = {"design": "bernoulli", "inclusion_rate": 0.5}
TAIL = 1e-4  # probability that a correct implementation fails a statistical test


def gaussian_scores(seed, *, number, mu):
    """Statistics of number members and non-members that a mu-Gaussian-DP mechanism could just give."""
    rng = np.random.default_rng(seed)
    return rng.normal(mu, 1, number), rng.normal(0, 1, number)


def guesses(records, called, correct):
    """One run in which `called` records stand out, `correct` of them members, and half of the others are."""
    statistic = np.arange(records) < called
    member = np.where(statistic, np.arange(records) < correct, np.arange(records) % 2 == 0)
    return one_run(statistic, member)


@pytest.mark.parametrize("delta", [0.0, 1e-5, 0.01])
@pytest.mark.parametrize("case", ["normal_1000x1000", "ties_round1"])
def test_bound_at_a_given_threshold_is_the_published_one(case, delta):
    result = one_record(PUBLISHED[f"{case}__in"], PUBLISHED[f"{case}__out"])
    bound = epsilon_lower_bound(result, delta=delta, threshold=1.0)
    expected = PUBLISHED[f"{case}__jp_cp_explicit1.0_sig0.05_delta{delta}"]
    assert bound.epsilon == pytest.approx(expected, rel=1e-6)
    assert (bound.threshold, bound.num_thresholds) == (1.0, 1)
    assert (bound.num_members, bound.num_nonmembers) == (1000, 1000)


@pytest.mark.parametrize("row", range(5))
def test_one_run_is_the_published_one_of_another_implementation(row):
    """privacy_meter's, which searches epsilon on a grid of its own."""
    records, called, correct = (int(number) for number in PUBLISHED["onerun_m_r_v"][row])
    bound = epsilon_lower_bound(
        guesses(records, called, correct), delta=1e-5, method="one_run", threshold=1.0, **FAIR
    )
    expected = PUBLISHED["pm_get_eps_audit_p0.05_delta1e-05"][row]
    assert bound.epsilon == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(("records", "called", "correct"), [(60, 20, 18), (300, 300, 190), (40, 8, 8)])
def test_one_run_is_the_theorem_written_out(records, called, correct):
    result = guesses(records, called, correct)
    for delta in (1e-6, 1e-3):
        bound = epsilon_lower_bound(result, delta=delta, method="one_run", threshold=1.0, **FAIR)
        expected = one_run_epsilon(records, called, correct, significance=0.05, delta=delta)
        assert bound.epsilon == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("digits", [0, 16], ids=["ties", "no ties"])
def test_the_best_rank_is_chosen_at_a_corrected_confidence(digits):
    """Non-members 100, 50, 25, ... from the top, and above all of them, by the test written out."""
    members, nonmembers = (s.round(digits) for s in gaussian_scores(3, number=100, mu=2.0))
    top = np.sort(nonmembers)[::-1]
    thresholds = [np.nextafter(top[0], np.inf), *(top[rank - 1] for rank in (100, 50, 25, 12, 6, 3, 1))]
    bounds = [
        clopper_pearson_epsilon(members, nonmembers, t, significance=0.1 / 8, delta=1e-3) for t in thresholds
    ]
    bound = epsilon_lower_bound(one_record(members, nonmembers), delta=1e-3, confidence=0.9)
    assert bound.epsilon == pytest.approx(max(bounds), rel=1e-9)
    assert bound.epsilon > 0.5
    assert bound.threshold == thresholds[int(np.argmax(bounds))]
    assert bound.num_thresholds == 8
    assert bound.confidence == 0.9


def test_one_run_tries_ranks_of_all_records():
    members, nonmembers = gaussian_scores(4, number=64, mu=3.0)
    statistic, member = np.append(members, nonmembers), np.repeat([True, False], 64)
    order = np.argsort(-statistic)
    expected = max(
        one_run_epsilon(128, called, int(member[order[:called]].sum()), significance=0.05 / 8, delta=1e-6)
        for called in (1, 2, 4, 8, 16, 32, 64, 128)
    )
    bound = epsilon_lower_bound(one_run(statistic, member), delta=1e-6, method="one_run", **FAIR)
    assert bound.epsilon == pytest.approx(expected, abs=1e-5)
    assert bound.epsilon > 0.5


def test_separated_statistics_give_the_closed_form():
    """No error among n members and n non-members: both rates end at 1 - (alpha / 2)^(1/n)."""
    result = one_record(np.full(200, 5.0), np.zeros(200))
    bound = epsilon_lower_bound(result, delta=1e-5, threshold=1.0)
    end = 1 - 0.025 ** (1 / 200)
    assert bound.epsilon == pytest.approx(math.log((1 - end - 1e-5) / end), rel=1e-9)
    infinite = one_record(np.full(200, np.inf), np.full(200, -np.inf))
    assert epsilon_lower_bound(infinite, delta=1e-5, threshold=1.0).epsilon == bound.epsilon
    assert 0 < epsilon_lower_bound(infinite, delta=1e-5).epsilon < bound.epsilon  # nine thresholds are tried


def test_randomised_response_of_known_epsilon_is_nearly_reached():
    epsilon, number = 1.0, 50_000
    rng = np.random.default_rng(0)
    truthful = rng.random(2 * number) < math.exp(epsilon) / (1 + math.exp(epsilon))
    member = np.arange(2 * number) < number
    answer = member == truthful
    bound = epsilon_lower_bound(one_record(answer[member], answer[~member]), delta=0.0)
    # Both ends lie at most z standard errors away: z for 0.05 over 17 ranks and two rates; twice the sum for chance.
    z = stats.norm.isf(0.025 / 18)
    error = sum(math.sqrt((1 - p) / p / number) for p in (0.731, 0.269)) * z
    assert epsilon - 2 * error < bound.epsilon < epsilon
    assert error < 0.05


def test_training_with_half_of_the_noise_is_caught_and_honest_training_is_not():
    """At a large delta, where a few thousand models suffice."""
    delta, claimed = 0.1, gaussian_epsilon(0.1, mu=1.0)
    honest = epsilon_lower_bound(one_record(*gaussian_scores(5, number=2000, mu=1.0)), delta=delta)
    broken = epsilon_lower_bound(one_record(*gaussian_scores(6, number=2000, mu=2.0)), delta=delta)
    assert honest.epsilon < claimed < broken.epsilon


@pytest.mark.parametrize("method", ["clopper_pearson", "one_run", "one_run_fdp"])
def test_bounds_exceed_a_true_epsilon_of_zero_no_more_often_than_stated(method):
    """With any number of thresholds tried: the count of exceedances stays below binomial chance at 5%."""
    runs, number = 300, 32
    exceeded = 0
    for seed in range(runs):
        members, nonmembers = gaussian_scores(seed, number=number, mu=0.0)
        if method == "clopper_pearson":
            bound = epsilon_lower_bound(one_record(members, nonmembers), delta=0.0)
        else:
            statistic, member = np.append(members, nonmembers), np.repeat([True, False], number)
            bound = epsilon_lower_bound(one_run(statistic, member), delta=1e-6, method=method, **FAIR)
        exceeded += bound.epsilon > 0
    assert exceeded <= stats.binom.isf(TAIL, runs, 0.05)


@pytest.mark.parametrize("method", ["one_run", "one_run_fdp"])
def test_one_run_bounds_stay_below_the_epsilon_of_a_gaussian_mechanism(method):
    """Independent records under mu-GDP; the f-DP variant, which knows the family, gets further."""
    mu, delta = 1.5, 1e-5
    members, nonmembers = gaussian_scores(7, number=1000, mu=mu)
    statistic, member = np.append(members, nonmembers), np.repeat([True, False], 1000)
    bound = epsilon_lower_bound(one_run(statistic, member), delta=delta, method=method, **FAIR)
    assert 1.0 < bound.epsilon < gaussian_epsilon(delta, mu)
    if method == "one_run_fdp":
        plain = epsilon_lower_bound(one_run(statistic, member), delta=delta, method="one_run", **FAIR)
        assert bound.epsilon > plain.epsilon


def ensemble(seed, *, mu, models=20, examples=400):
    """Statistics that are correlated between models, as in one ensemble."""
    rng = np.random.default_rng(seed)
    member = rng.random((models, examples)) < 0.5
    shared = rng.normal(size=examples)
    noise = np.sqrt(0.5) * (shared + rng.normal(size=member.shape))
    return AttackResult(noise + mu * member, member, np.ones_like(member))


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["one_run", "one_run_fdp"])
def test_the_bound_of_an_ensemble_is_the_median_of_its_models_at_half_the_significance(method):
    result = ensemble(8, mu=2.0)
    bounds = sorted(
        epsilon_lower_bound(
            AttackResult(result.statistic[[row]], result.member[[row]], result.defined[[row]]),
            delta=1e-5,
            method=method,
            confidence=0.95,
            **FAIR,
        ).epsilon
        for row in range(20)
    )
    found = median_epsilon_lower_bound(result, delta=1e-5, method=method, confidence=0.9, **FAIR)
    assert found == bounds[9]
    assert 0 < found < gaussian_epsilon(1e-5, 2.0)


def test_the_bound_of_an_ensemble_exceeds_zero_no_more_often_than_stated():
    runs = 300
    exceeded = sum(
        median_epsilon_lower_bound(ensemble(seed, mu=0.0, models=9, examples=64), delta=1e-6, **FAIR) > 0
        for seed in range(runs)
    )
    assert exceeded <= stats.binom.isf(TAIL, runs, 0.05)


def test_an_ensemble_is_audited_under_the_conditions_of_one_run():
    result = ensemble(9, mu=1.0)
    for arguments, message in (
        ({"design": "fixed_size", "inclusion_rate": 0.5}, "design='fixed_size'"),
        ({"design": "bernoulli", "inclusion_rate": 0.25}, "inclusion_rate=0.25"),
        ({"method": "clopper_pearson", **FAIR}, "method='clopper_pearson'"),
        ({"confidence": 1.0, **FAIR}, "confidence=1.0"),
    ):
        with pytest.raises(InputError, match=message):
            median_epsilon_lower_bound(result, delta=1e-5, **arguments)


def test_an_audit_that_shows_nothing_says_so():
    bound = epsilon_lower_bound(one_record(np.zeros(10), np.ones(10)), delta=1e-5)
    assert bound.epsilon == 0
    assert math.isnan(bound.threshold)


def pooled(models=6, examples=4):
    member = (np.arange(models)[:, None] + np.arange(examples)) % 2 == 0
    return AttackResult(np.zeros((models, examples)), member, np.ones_like(member))


RECORD = one_record(np.ones(4), np.zeros(4))
RUN = one_run(np.arange(8), np.arange(8) > 3)


@pytest.mark.parametrize(
    ("result", "arguments", "match"),
    [
        (pooled(), {}, r"shape=\(6, 4\) must be \(models, 1\).*pooled over records do not bound"),
        (pooled(), {"method": "one_run", **FAIR}, r"shape=\(6, 4\) must be \(1, examples\)"),
        (RUN, {}, r"shape=\(1, 8\) must be \(models, 1\)"),
        (RECORD, {"method": "one_run", **FAIR}, r"shape=\(8, 1\) must be \(1, examples\)"),
        (RUN, {"method": "one_run"}, "design=None must be 'bernoulli'"),
        (
            RUN,
            {"method": "one_run_fdp", "design": "fixed_size", "inclusion_rate": 0.5},
            "design='fixed_size'",
        ),
        (RUN, {"method": "one_run", "design": "bernoulli", "inclusion_rate": 0.25}, "inclusion_rate=0.25"),
        (RUN, {"method": "one_run", **FAIR, "delta": 0.0}, "delta=0.0 must be positive"),
        (RECORD, {"method": "gdp"}, "method='gdp' must be one of"),
        (RECORD, {"delta": -0.1}, "delta=-0.1"),
        (RECORD, {"confidence": 0.4}, "confidence=0.4"),
        (RECORD, {"confidence": 1.0}, "confidence=1.0"),
        (RECORD, {"threshold": math.nan}, "threshold=nan"),
        (one_record(np.array([np.nan]), np.zeros(3)), {}, "NaN in statistic"),
        (one_record(np.zeros(0), np.zeros(3)), {}, "number of members"),
    ],
)
def test_invalid_audits_are_refused(result, arguments, match):
    with pytest.raises(InputError, match=match):
        epsilon_lower_bound(result, **{"delta": 1e-5, **arguments})
