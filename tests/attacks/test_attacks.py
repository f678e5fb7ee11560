"""The contract of every attack in the registry; tests of one attack are in test_attacks_NAME.py."""

import tracemalloc

import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import numpy as np
import pytest
import references_attacks as references

from jaxmia import attacks
from jaxmia._validate import InputError
from jaxmia.scores import Scores

# (attack, options, reference): every attack at least once, every option at least once.
CASES = [
    ("lira", {}),
    ("lira", {"location": "median"}),
    ("lira", {"variance": "global"}),
    ("lira", {"variance": "global", "location": "median"}),
    ("lira", {"offline": True}),
    ("lira", {"offline": True, "variance": "global", "location": "median"}),
    ("lira", {"calibrated": True}),
    ("rmia", {}),
    ("rmia", {"gamma": 2.0}),
    ("rmia", {"offline": True}),
    ("rmia", {"offline": True, "a": 0.3}),
    ("base", {}),
    ("base", {"offline": True}),
    ("base", {"offline": True, "a": 0.3}),
    ("bavaria_t", {}),
    ("bavaria_n", {}),
    ("threshold", {}),
    ("difficulty", {}),
    ("label_ratio", {}),
    ("label_ratio", {"offline": True}),
    ("quantile", {}),
    ("quantile", {"ridge": 0.5, "folds": 3}),
    ("quantile", {"method": "pinball", "fpr": 0.2, "steps": 200}),
]
SHADOWLESS = {"threshold", "quantile"}
every_case = pytest.mark.parametrize(
    ("name", "options"),
    CASES,
    ids=[f"{name}-{'-'.join(map(str, options.values()))}" for name, options in CASES],
)


def planted(seed, *, models=9, examples=30, shift=1.0, rate=0.5) -> Scores:
    """Log-odds N(difficulty + shift * scale * member, scale), difficulty and scale drawn by example."""
    rng = np.random.default_rng(seed)
    member = rng.random((models, examples)) < rate
    difficulty, scale = rng.normal(2, 2, examples), rng.uniform(0.5, 1.5, examples)
    return Scores(difficulty + scale * (rng.normal(size=member.shape) + shift * member), member)


def degenerate(seed, *, models=5, examples=60) -> Scores:
    """Ties, equal scores, examples that every model, no model or one model contains, and saturated scores."""
    rng = np.random.default_rng(seed)
    log_odds = rng.integers(-2, 3, (models, examples)).astype(float)
    member = rng.random((models, examples)) < rng.choice([0, 0.2, 0.5, 0.8, 1], examples)
    log_odds[:, ::7] = 3.0
    log_odds[:, 1::7] *= 1e4
    return Scores(log_odds, member)


def features_of(examples):
    """Features for the one attack that needs them, independent of the scores."""
    return np.random.default_rng(99).normal(size=(examples, 3))


def completed(name, options, examples):
    """The options, with features where the attack needs them."""
    return options | {"features": features_of(examples)} if name == "quantile" else options


def is_iterative(options):
    """Whether a fit in float32 stops near its optimum, so that rounding moves the result by about 1e-3."""
    return options.get("method") == "pinball"


def run(name, options, scores):
    """The attack's result, after checking that its input is unchanged."""
    before = np.array(scores.log_odds), np.array(scores.member)
    result = attacks.REGISTRY[name](scores, **completed(name, options, before[0].shape[1]))
    np.testing.assert_array_equal(scores.log_odds, before[0])
    np.testing.assert_array_equal(scores.member, before[1])
    return result


def auc(members, nonmembers):
    """P(member > non-member) + P(equal) / 2."""
    ordered = np.sort(nonmembers)
    below = np.searchsorted(ordered, members, "left") + np.searchsorted(ordered, members, "right")
    return below.mean() / (2 * len(nonmembers))


def test_every_attack_runs_through_the_contract():
    # Attacks on weights are not functions of scores: test_weights.py has the same contract on heads. Nor are attacks
    # without shadows: test_expected.py.
    assert {name for name, _ in CASES} == set(attacks.REGISTRY) - attacks.READS_WEIGHTS - attacks.READS_PRIOR
    assert all(getattr(attacks, name) is function for name, function in attacks.REGISTRY.items())


@every_case
@pytest.mark.parametrize(
    "scores", [planted(1), planted(2, rate=0.15), degenerate(3)], ids=["even", "few", "nasty"]
)
def test_agrees_with_the_loop_reference(name, options, scores):
    if is_iterative(options):
        pytest.skip("the optimum need not be unique: compared by its loss in test_attacks_quantile.py")
    result = run(name, options, scores)
    options = completed(name, options, scores.log_odds.shape[1])
    statistic, defined = getattr(references, name)(scores.log_odds, scores.member, **options)
    np.testing.assert_array_equal(result.defined, defined)
    np.testing.assert_allclose(result.statistic, statistic, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(result.member, scores.member)
    assert result.statistic.dtype == np.float64
    assert result.defined.dtype == result.member.dtype == bool


@every_case
@pytest.mark.parametrize("digits", [16, 0], ids=["distinct", "ties"])
def test_random_membership_is_at_chance(name, options, digits):
    # Given all scores and shadows, a target's own membership is a fair coin per example, so its AUC has
    # mean 1/2 and variance (n + 1) / (12 a b) for a members and b non-members. The mean over targets varies
    # no more than one.
    scores = planted(4, models=16, examples=1500, shift=0.0)
    result = run(name, options, Scores(scores.log_odds.round(digits), scores.member))
    member, statistic = result.member, result.statistic
    areas = [auc(statistic[k, member[k]], statistic[k, ~member[k]]) for k in range(len(member))]
    inside = member.sum(axis=1)
    deviation = np.sqrt((1500 + 1) / (12 * inside * (1500 - inside))).max()
    assert abs(np.mean(areas) - 0.5) < 4 * deviation


@every_case
def test_planted_members_score_higher(name, options):
    # With a shift of 3 deviations every attack must be far above chance; 16 x 400 pairs put the error of
    # the AUC below 0.5 / sqrt(3000) = 0.01, and the weakest attack, the threshold, is at Phi(3 / sqrt(2 (1
    # + 2^2 / 1))) = 0.83.
    scores = planted(5, models=16, examples=400, shift=3.0)
    if name == "label_ratio":  # decisions tell apart only what lies on two sides of zero
        scores = Scores(scores.log_odds - np.median(scores.log_odds, axis=0), scores.member)
    result = run(name, options, scores)
    assert auc(result.statistic[scores.member], result.statistic[~scores.member]) > 0.75
    assert result.defined.all()


@every_case
def test_order_of_examples_and_models_does_not_matter(name, options):
    rng = np.random.default_rng(6)
    scores = planted(6)
    models, examples = rng.permutation(9), rng.permutation(30)
    grid = np.ix_(models, examples)
    options = completed(name, options, 30)
    result = attacks.REGISTRY[name](scores, **options)
    if name == "quantile":
        options = options | {"features": options["features"][examples]}
    permuted = attacks.REGISTRY[name](Scores(scores.log_odds[grid], scores.member[grid]), **options)
    tolerance = 0.02 if is_iterative(options) else 1e-10
    np.testing.assert_allclose(permuted.statistic, result.statistic[grid], rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(permuted.defined, result.defined[grid])


@every_case
def test_blocks_do_not_matter(name, options, monkeypatch):
    scores = planted(7)
    whole = run(name, options, scores)
    monkeypatch.setattr("jaxmia.attacks.shadows.BLOCK_SIZE", 40)
    tolerance = 0.02 if is_iterative(options) else 1e-10
    blocks = run(name, options, scores)
    np.testing.assert_allclose(blocks.statistic, whole.statistic, rtol=tolerance, atol=tolerance)


@every_case
def test_pitfall_leave_one_out_forgotten(name, options):
    # The target's membership is what the attack should find: it must not read it from its input.
    scores = planted(8)
    result = run(name, options, scores)
    for target, example in ((0, 0), (3, 7), (8, 29), (4, 15)):
        member = np.array(scores.member)
        member[target, example] ^= True
        flipped = run(name, options, Scores(scores.log_odds, member))
        change = flipped.statistic[target, example] - result.statistic[target, example]
        assert abs(change) < 1e-11 * max(1, abs(result.statistic[target, example]))


@pytest.mark.parametrize("name", sorted({name for name, _ in CASES}))
def test_what_is_said_to_read_the_targets_membership_does_and_nothing_else(name):
    # One-run audits need statistics that depend on the target's membership only through its model.
    scores = planted(9)
    member = np.array(scores.member)
    member[3] = ~member[3]
    result, flipped = run(name, {}, scores), run(name, {}, Scores(scores.log_odds, member))
    same = np.allclose(flipped.statistic[3], result.statistic[3], rtol=1e-11, atol=1e-11)
    assert same == (name not in attacks.READS_TARGET_MEMBERSHIP)


@every_case
@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(data=st.data())
def test_never_nan(name, options, data):
    dtype = data.draw(st.sampled_from([np.float16, np.float32, np.float64]))
    # Each new shape would compile the iterative fit anew.
    shape = (4, 6) if is_iterative(options) else data.draw(st.tuples(st.integers(3, 6), st.integers(1, 7)))
    values = st.one_of(
        st.sampled_from([-1e4, -1.0, 0.0, 1e-3, 1.0, 1e4]), st.floats(-1e4, 1e4, width=16), st.just(0.0)
    )
    log_odds = data.draw(hypothesis.extra.numpy.arrays(dtype, shape, elements=values))
    member = data.draw(hypothesis.extra.numpy.arrays(bool, shape))
    result = run(name, options, Scores(log_odds, member))
    assert np.isfinite(result.statistic).all()
    assert result.statistic.shape == shape


@every_case
def test_bad_scores_are_refused(name, options):
    scores = planted(9)
    attack, options = attacks.REGISTRY[name], completed(name, options, 30)
    bad = [
        (Scores(scores.log_odds, scores.member[:, 1:]), r"member.shape=\(9, 29\)"),
        (Scores(scores.log_odds, scores.member.astype(int)), "member.dtype"),
        (Scores(scores.log_odds[0], scores.member[0]), r"log_odds.shape=\(30,\)"),
        (Scores(scores.log_odds[:, :0], scores.member[:, :0]), "at least 1 example"),
        (Scores(scores.log_odds.astype(int), scores.member), "log_odds.dtype"),
        (Scores(np.where(scores.member, scores.log_odds, np.inf), scores.member), "finite"),
        (Scores(np.where(scores.member, scores.log_odds, np.nan), scores.member), "finite"),
    ]
    if name not in SHADOWLESS:
        bad.append((Scores(scores.log_odds[:2], scores.member[:2]), "at least 3 models"))
    for wrong, message in bad:
        with pytest.raises(InputError, match=message):
            attack(wrong, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(
            name,
            options,
            marks=pytest.mark.slow
            if options == {"offline": True} and name != "lira"
            else pytest.mark.thorough
            if name == "quantile" or (name == "lira" and options)
            else (),
        )
        for name, options in CASES
    ],
)
def test_peak_memory_is_below_four_times_the_scores(name, options):
    scores = planted(10, models=257, examples=20_000)
    scores = Scores(scores.log_odds.astype(np.float32), scores.member)
    options = completed(name, options, 20_000)
    tracemalloc.start()
    try:
        attacks.REGISTRY[name](scores, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * scores.log_odds.nbytes


def test_jax_arrays_are_welcome():
    import jax.numpy as jnp

    scores = planted(11)
    on_device = Scores(jnp.asarray(scores.log_odds, jnp.bfloat16), jnp.asarray(scores.member))
    rounded = Scores(np.asarray(on_device.log_odds, np.float64), scores.member)
    np.testing.assert_array_equal(attacks.lira(on_device).statistic, attacks.lira(rounded).statistic)
