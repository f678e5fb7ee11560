"""Attacks on weights: each formula against a second derivation, and on real heads."""

import dataclasses
import itertools
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

from jaxmia import attacks
from jaxmia._validate import InputError
from jaxmia.attacks import weights as of_weights
from jaxmia.data.feature_set import demo_features, feature_set
from jaxmia.data.membership import MembershipMasks, draw_membership
from jaxmia.data.pool import candidate_pool
from jaxmia.scores import Scores, split_diverged
from jaxmia.stats.result import AttackResult
from jaxmia.stats.roc import roc
from jaxmia.studies.assess import control_rows
from jaxmia.studies.settings.attacks import AttackSettings
from jaxmia.training.ensemble import ShadowEnsemble, train_ensemble
from jaxmia.training.network import Network
from jaxmia.training.scoring import score
from jaxmia.training.settings import Hyperparams, TrainConfig
from jaxmia.vulnerability import white_box as whitebox
from jaxmia.vulnerability.controls import permuted_control

KEY = jax.random.key(0)


def records(seed, *, examples=24, classes=3, dim=4):
    rng = np.random.default_rng(seed)
    labels = np.arange(examples) % classes
    means = rng.normal(size=(classes, dim))
    return feature_set(means[labels] + rng.normal(size=(examples, dim)), labels)


def ridge_head(pool, member, strength):
    """Weights [classes, dim + 1] of the minimum of summed member loss + strength / 2 ‖kernel‖², in float64."""
    x = np.c_[pool.features, np.ones(len(pool.labels))].astype(np.float64)[member]
    y = np.eye(pool.num_classes)[pool.labels[member]]
    penalised = np.r_[np.ones(x.shape[1] - 1), 0.0]

    def objective(flat):
        w = flat.reshape(y.shape[1], -1)
        z = x @ w.T
        loss = np.sum(scipy.special.logsumexp(z, axis=1) - np.sum(z * y, axis=1))
        gradient = (scipy.special.softmax(z, axis=1) - y).T @ x + strength * w * penalised
        return loss + strength / 2 * np.sum((w * penalised) ** 2), gradient.ravel()

    start = np.zeros(y.shape[1] * x.shape[1])
    options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-9}
    found = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    return found.x.reshape(y.shape[1], -1)


def ensemble_of(weights, member, *, rate=0.5):
    masks = MembershipMasks(jnp.asarray(member), jnp.arange(len(member)), "bernoulli", rate)
    params = {"params": {"kernel": jnp.asarray(weights[..., :-1]), "bias": jnp.asarray(weights[..., -1])}}
    return ShadowEnsemble(params, masks)


def ridge_ensemble(seed, *, models=6, strength=0.5, rate=0.5, **sizes):
    """Converged heads of random shares of a pool, all of the same size, their weight decay, and the pool."""
    pool = records(seed, **sizes)
    draws = np.random.default_rng(seed + 1).random((models, len(pool.labels)))
    member = draws.argsort(axis=1).argsort(axis=1) < rate * len(pool.labels)
    weights = np.stack([ridge_head(pool, row, strength) for row in member])
    return ensemble_of(weights, member, rate=rate), strength / (rate * len(pool.labels)), pool


@pytest.fixture(scope="module")
def trained():
    """Real heads by the default recipe, their pool and scores."""
    pool = candidate_pool(demo_features(), classes=3, shots=20, key=KEY).data
    masks = draw_membership(KEY, pool.labels, num_models=24)
    ensemble = train_ensemble(KEY, pool, masks, Hyperparams(1.0), TrainConfig("sgd"))
    return ensemble, pool, score(ensemble, pool)


def gaussian_problem(seed, *, examples, classes=3, dim=4, noise=0.3):
    """Errors that sum to zero over classes, inputs, and vectors Σ (m - r) c + noise of drawn memberships."""
    rng = np.random.default_rng(seed)
    errors, inputs = rng.normal(size=(examples, classes)), rng.normal(size=(examples, dim))
    errors -= errors.mean(axis=1, keepdims=True)
    return rng, errors, inputs, noise


@pytest.mark.parametrize("examples", [5, 12], ids=["fewer than parameters", "more"])
@pytest.mark.parametrize("rate", [0.5, 0.3])
def test_likelihood_ratio_is_that_of_two_gaussians(examples, rate):
    """One candidate at a time, with the whole covariance matrix in all parameters: log N(v; IN) - log N(v; OUT)."""
    rng, errors, inputs, noise = gaussian_problem(0, examples=examples)
    vectors = np.einsum("te,ec,ed->tcd", rng.normal(size=(2, examples)), errors, inputs)
    given = of_weights._likelihood_ratio(vectors, errors, inputs, noise=noise, rate=rate)
    contrasts = np.linalg.svd(np.eye(3) - 1 / 3)[0][:, :2]
    rows = np.einsum("ec,cf,ed->efd", errors, contrasts, inputs).reshape(examples, -1)
    points = np.einsum("tcd,cf->tfd", vectors, contrasts).reshape(2, -1)
    for i in range(examples):
        others = np.delete(rows, i, axis=0)
        covariance = rate * (1 - rate) * others.T @ others + noise * np.eye(rows.shape[1])
        inside = scipy.stats.multivariate_normal((1 - rate) * rows[i], covariance)
        outside = scipy.stats.multivariate_normal(-rate * rows[i], covariance)
        expected = inside.logpdf(points) - outside.logpdf(points)
        np.testing.assert_allclose(given[:, i], expected, rtol=1e-8, atol=1e-8)


def test_likelihood_ratio_separates_members_as_far_as_its_formula_says():
    """Over Gaussian draws the ratio given IN and OUT lies at ± D² / 2 with variance D² (r = 1/2)."""
    rng, errors, inputs, noise = gaussian_problem(1, examples=10)
    draws = 20_000
    coins = rng.normal(size=(draws, 10)) / 2
    inside = rng.random(draws) < 0.5
    coins[:, 0] = np.where(inside, 0.5, -0.5)
    vectors = np.einsum("te,ec,ed->tcd", coins, errors, inputs)
    noisy = rng.normal(size=vectors.shape) * np.sqrt(noise)
    vectors += noisy - noisy.mean(axis=1, keepdims=True)
    ratio = of_weights._likelihood_ratio(vectors, errors, inputs, noise=noise, rate=0.5)[:, 0]
    contrasts = np.linalg.svd(np.eye(3) - 1 / 3)[0][:, :2]
    rows = np.einsum("ec,cf,ed->efd", errors, contrasts, inputs).reshape(10, -1)
    covariance = rows[1:].T @ rows[1:] / 4 + noise * np.eye(8)
    separation = rows[0] @ np.linalg.solve(covariance, rows[0])
    error = np.sqrt(separation / (draws / 2))  # of a mean over half of the draws
    assert abs(ratio[inside].mean() - separation / 2) < 4 * error
    assert abs(ratio[~inside].mean() + separation / 2) < 4 * error
    relative = np.sqrt(2 / (draws / 2))  # of a variance of Gaussian draws
    assert abs(ratio[inside].var() / separation - 1) < 4 * relative


def test_likelihood_ratio_orders_as_all_memberships_enumerated():
    """Against the exact posterior over all 2^10 memberships, in which only the noise is Gaussian."""
    rng, errors, inputs, noise = gaussian_problem(2, examples=10, noise=1.0)
    every = np.array(list(itertools.product([False, True], repeat=10)))
    rows = np.einsum("ec,ed->ecd", errors, inputs)
    truth = rng.random((400, 10)) < 0.5
    noisy = rng.normal(size=(400, 3, 4)) * np.sqrt(noise)
    vectors = np.einsum("te,ecd->tcd", truth - 0.5, rows) + noisy - noisy.mean(axis=1, keepdims=True)
    ratio = of_weights._likelihood_ratio(vectors, errors, inputs, noise=noise, rate=0.5)
    means = np.einsum("te,ecd->tcd", every - 0.5, rows).reshape(1024, -1)
    distances = np.sum((vectors.reshape(400, 1, -1) - means) ** 2, axis=2)
    log_p = scipy.special.log_softmax(-distances / (2 * noise), axis=1)
    exact = np.stack(
        [
            scipy.special.logsumexp(log_p[:, every[:, i]], axis=1)
            - scipy.special.logsumexp(log_p[:, ~every[:, i]], axis=1)
            for i in range(10)
        ],
        axis=1,
    )
    # 4 000 pairs: AUCs differ by less than four standard errors of one of them, 0.5 / sqrt(2000 · 3) each.
    defined = np.ones(truth.shape, bool)
    areas = [roc(AttackResult(each, truth, defined), evaluation="pooled").auc for each in (ratio, exact)]
    assert areas[1] > 0.6
    assert abs(areas[0] - areas[1]) < 4 * 0.5 / np.sqrt(6000)


def test_memberships_of_a_converged_head_are_recovered_exactly():
    """While candidates are at most (classes - 1)(dim + 1), the ridge head's equation has one solution."""
    ensemble, decay, pool = ridge_ensemble(3, examples=18, classes=4, dim=6)
    member = np.asarray(ensemble.masks.member)
    statistic = whitebox.white_box(ensemble, pool, weight_decay=decay, methods=["stationarity"])[
        "stationarity"
    ]
    for target, row in zip(member, statistic, strict=True):
        assert row[target].min() > 10 > -10 > row[~target].max()


def test_stationarity_is_its_loop_in_all_parameters():
    ensemble, decay, pool = ridge_ensemble(4, examples=30, classes=3, dim=3, rate=0.4)
    rate, member = 0.4, np.asarray(ensemble.masks.member)
    given = whitebox.white_box(ensemble, pool, weight_decay=decay, methods=["stationarity"])["stationarity"]
    contrasts = np.linalg.svd(np.eye(3) - 1 / 3)[0][:, :2]
    x = np.c_[pool.features, np.ones(30)].astype(np.float64)
    weights = np.concatenate(
        [ensemble.params["params"]["kernel"], ensemble.params["params"]["bias"][..., None]], 2
    )
    penalty = weights.astype(np.float64) * np.r_[np.ones(3), 0.0]

    def gradients(k):
        p = scipy.special.softmax(x @ weights[k].astype(np.float64).T, axis=1) - np.eye(3)[pool.labels]
        return np.einsum("ec,cf,ed->efd", p, contrasts, x).reshape(30, -1)

    def flat(matrix):
        return (contrasts.T @ matrix).ravel()

    left = [
        -gradients(k)[member[k]].sum(axis=0) - member[k].sum() * decay * flat(penalty[k]) for k in range(6)
    ]
    for k in range(6):
        others = np.delete(left, k, axis=0)
        noise = np.mean(np.var(others, axis=0))
        rows = gradients(k)
        vector = -rate * (rows.sum(axis=0) + 30 * decay * flat(penalty[k])) - others.mean(axis=0)
        for i in (0, 7, 29):
            rest = np.delete(rows, i, axis=0)
            jitter = 1e-9 * np.trace(rate * (1 - rate) * rows.T @ rows) / 8
            covariance = rate * (1 - rate) * rest.T @ rest + max(noise, jitter) * np.eye(8)
            solved = np.linalg.solve(covariance, rows[i])
            expected = solved @ vector - (0.5 - rate) * solved @ rows[i]
            assert given[k, i] == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.thorough
def test_mahalanobis_finds_members_of_heads_stopped_early(trained):
    """Gradient descent from zero: weights are sums of members' gradients, however far training went."""
    ensemble, pool, scores = trained
    statistic = whitebox.white_box(ensemble, pool, methods=["mahalanobis"])["mahalanobis"]
    member, defined = scores.member, np.ones(scores.member.shape, bool)
    white = roc(AttackResult(statistic, member, defined), evaluation="pooled").auc
    black = roc(attacks.lira(scores), evaluation="pooled").auc
    assert white > 0.99 > black


def test_mahalanobis_recovers_the_plant_of_its_model():
    """Weights that are exactly sums of members' contributions: with response A per principal direction and no noise."""
    rng = np.random.default_rng(5)
    pool = records(5, examples=12, classes=4, dim=8)
    member = rng.random((40, 12)) < 0.5
    x = np.c_[pool.features, np.ones(12)].astype(np.float64)
    # Small weights: errors stay near their start, 1/C - onehot, so that contributions are known.
    errors = 0.25 - np.eye(4)[pool.labels]
    directions = np.linalg.eigh(x.T @ x)[1]
    response = -1e-4 * np.linspace(1, 3, 9)
    moved = x @ directions * response @ directions.T
    weights = np.einsum("ke,ec,ed->kcd", member, errors, moved)
    statistic = whitebox.white_box(ensemble_of(weights, member), pool, methods=["mahalanobis"])["mahalanobis"]
    assert statistic[member].min() > 10 > -10 > statistic[~member].max()


@pytest.mark.parametrize("method", ["mahalanobis", "inverse_hessian", "stationarity"])
def test_heads_without_a_bias_are_those_whose_bias_never_moves(method):
    """A bias is never read, and rotated features give the same statistics."""
    rng = np.random.default_rng(7)
    pool = records(7, examples=14, classes=3, dim=4)
    member = rng.random((20, 14)) < 0.5
    kernel = 0.1 * rng.normal(size=(20, 3, 4)) + np.einsum("ke,ed->kd", member, pool.features)[:, None]
    weights = np.concatenate([kernel, rng.normal(size=(20, 3, 1))], axis=2)  # a bias that must not be read
    options = {"weight_decay": 0.1, "methods": [method], "intercept": False}
    found = whitebox.white_box(ensemble_of(weights, member), pool, **options)[method]
    other = np.concatenate([kernel, np.zeros((20, 3, 1))], axis=2)
    np.testing.assert_array_equal(
        found, whitebox.white_box(ensemble_of(other, member), pool, **options)[method]
    )
    # An orthogonal change of all coordinates changes nothing where the penalty is the same for all.
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    turned = dataclasses.replace(pool, features=(pool.features @ turn).astype(np.float32))
    weights = np.concatenate([kernel @ turn, np.ones((20, 3, 1))], axis=2)
    again = whitebox.white_box(ensemble_of(weights, member), turned, **options)[method]
    np.testing.assert_allclose(again, found, rtol=2e-2, atol=2e-2 * np.abs(found).max())


def test_inverse_hessian_is_its_formula_with_numerical_derivatives():
    ensemble, decay, pool = ridge_ensemble(6, examples=15, classes=3, dim=2, rate=0.4)
    given = whitebox.white_box(ensemble, pool, weight_decay=decay, methods=["inverse_hessian"])[
        "inverse_hessian"
    ]
    x, y = np.c_[pool.features, np.ones(15)], np.eye(3)[pool.labels]
    basis = np.linalg.svd(np.eye(3) - 1 / 3)[0][:, :2]
    weights = np.concatenate(
        [ensemble.params["params"]["kernel"], ensemble.params["params"]["bias"][..., None]], 2
    )
    weights = weights.astype(np.float64)
    weights -= weights.mean(axis=1, keepdims=True)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):

        def losses(free):
            z = jnp.asarray(x, jnp.float64) @ (jnp.asarray(basis) @ free).T
            return jax.nn.logsumexp(z, axis=1) - jnp.sum(z * jnp.asarray(y), axis=1)

        def objective(free, counted):
            return 0.4 * (counted @ losses(free) + 15 * decay / 2 * jnp.sum(free[:, :-1] ** 2))

        hessian, gradients = jax.jit(jax.hessian(objective)), jax.jit(jax.jacrev(losses))
        of_rest = jax.jit(jax.grad(objective))
        mean = jnp.asarray(basis.T @ weights.mean(axis=0))
        inverse = np.linalg.inv(hessian(mean, jnp.ones(15)).reshape(6, 6))
        for k, i in ((0, 0), (3, 7), (5, 14)):
            at = jnp.asarray(basis.T @ weights[k])
            own = inverse @ np.ravel(gradients(at)[i])
            rest = inverse @ np.ravel(of_rest(at, jnp.ones(15).at[i].set(0)))
            assert given[k, i] == pytest.approx(-(own @ own) - 2 * rest @ own, rel=1e-5)


def statistics_of(ensemble, pool, decay=0.01):
    return whitebox.white_box(ensemble, pool, weight_decay=decay)


@pytest.mark.parametrize(
    "sizes", [{"examples": 30, "dim": 3}, {"examples": 12, "dim": 8}], ids=["more", "fewer"]
)
@pytest.mark.thorough
def test_what_no_probability_depends_on_changes_nothing(sizes):
    """The same kernel and bias added to all classes, and reordered classes and candidates."""
    ensemble, _, pool = ridge_ensemble(7, models=16, **sizes)
    weights = np.concatenate(
        [ensemble.params["params"]["kernel"], ensemble.params["params"]["bias"][..., None]], 2
    )
    member = np.asarray(ensemble.masks.member)
    plain = statistics_of(ensemble, pool)
    rng = np.random.default_rng(8)
    common = rng.normal(size=(16, 1, weights.shape[2])).astype(np.float32)
    shifted = statistics_of(ensemble_of(weights + common, member), pool)
    places, classes = rng.permutation(len(pool.labels)), np.array([2, 0, 1])
    turned = feature_set(pool.features[places], np.argsort(classes)[pool.labels[places]])
    reordered = statistics_of(ensemble_of(weights[:, classes], member[:, places]), turned)
    for method, expected in plain.items():
        tolerance = 1e-3 * np.abs(expected).max()  # float32 weights, and a jitter of 1e-9
        np.testing.assert_allclose(shifted[method], expected, atol=tolerance)
        np.testing.assert_allclose(reordered[method], expected[:, places], atol=tolerance)


@pytest.mark.thorough
def test_pitfall_own_membership_never_enters_but_through_the_weights(trained):
    ensemble, pool, _ = trained
    plain = statistics_of(ensemble, pool)
    member = np.array(ensemble.masks.member)
    member[3] = ~member[3]
    masks = dataclasses.replace(ensemble.masks, member=jnp.asarray(member))
    flipped = statistics_of(dataclasses.replace(ensemble, masks=masks), pool)
    for method in whitebox.METHODS:
        np.testing.assert_allclose(flipped[method][3], plain[method][3], rtol=1e-6)
    # The others' do: it is one of their shadows.
    assert not np.allclose(flipped["mahalanobis"][0], plain["mahalanobis"][0], rtol=1e-3)


def white_box_scores(trained):
    ensemble, pool, scores = trained
    under = whitebox.white_box_under(ensemble, pool, weight_decay=0.01, methods=whitebox.METHODS)
    return dataclasses.replace(scores, white_box=under(np.asarray(scores.member)), weights_under=under)


@pytest.mark.thorough
def test_what_weights_say_under_the_heads_own_membership_is_the_attack(trained):
    ensemble, pool, _ = trained
    for method, statistic in statistics_of(ensemble, pool).items():
        np.testing.assert_array_equal(white_box_scores(trained).white_box[method], statistic)


def test_a_leak_of_the_targets_own_label_fails_the_negative_control(trained):
    """The pitfall: statistics computed with the true labels pass the control, whatever they use."""
    scores = white_box_scores(trained)
    honest = scores.weights_under

    def leaky(member):
        return {name: values + 10 * values.std() * member for name, values in honest(member).items()}

    told = dataclasses.replace(scores, white_box=leaky(np.asarray(scores.member)), weights_under=leaky)
    settings = [AttackSettings(name="whitebox"), AttackSettings(name="lira")]
    status = {"honest": scores, "leaky": told, "stale": dataclasses.replace(told, weights_under=None)}
    found = {
        name: list(control_rows(settings, each, fprs=[0.1], seed=1)["status"])
        for name, each in status.items()
    }
    assert found == {"honest": ["ok", "ok"], "leaky": ["failed", "ok"], "stale": ["unresolved", "ok"]}


@pytest.mark.thorough
def test_a_diverged_head_stays_out_of_the_negative_control(trained):
    scores = white_box_scores(trained)
    log_odds = np.array(scores.log_odds)
    log_odds[5] = np.nan
    kept, _ = split_diverged(dataclasses.replace(scores, log_odds=log_odds))
    again = kept.weights_under(np.asarray(kept.member))
    for method, statistic in kept.white_box.items():
        np.testing.assert_array_equal(again[method], statistic)


def test_the_negative_control_passes(trained):
    scores = white_box_scores(trained)
    for method in whitebox.METHODS:
        control = permuted_control(
            lambda each, m=method: attacks.whitebox(each, method=m), scores, 0.1, seed=1
        )
        assert control.status == "ok"


def test_membership_that_weights_know_nothing_of_is_at_chance(trained):
    """With memberships unrelated to training, shadows carry no information, and statistics stay finite."""
    ensemble, pool, _ = trained
    other = draw_membership(jax.random.key(77), pool.labels, num_models=24)
    statistics = statistics_of(dataclasses.replace(ensemble, masks=other), pool)
    member = np.asarray(other.member)
    for statistic in statistics.values():
        assert np.isfinite(statistic).all()
        area = roc(AttackResult(statistic, member, np.ones(member.shape, bool)), evaluation="pooled").auc
        # Membership is independent of each candidate's statistics; the error counts each of 120 candidates once.
        assert abs(area - 0.5) < 4 * np.sqrt(1 / (12 * 60) * 2)


@pytest.mark.thorough
def test_heads_that_diverged_are_nobodys_shadows(trained):
    ensemble, pool, scores = trained
    kernel = np.array(ensemble.params["params"]["kernel"])
    kernel[5, 0, 0] = np.nan
    params = {"params": {"kernel": jnp.asarray(kernel), "bias": ensemble.params["params"]["bias"]}}
    broken = statistics_of(dataclasses.replace(ensemble, params=params), pool)
    log_odds = np.array(scores.log_odds)
    log_odds[5] = np.nan
    kept, diverged = split_diverged(Scores(log_odds, scores.member, white_box=broken))
    np.testing.assert_array_equal(diverged, [5])
    rows = np.delete(np.arange(24), 5)
    expected = statistics_of(jax.tree.map(lambda leaf: leaf[rows], ensemble), pool)
    for method in whitebox.METHODS:
        np.testing.assert_array_equal(kept.white_box[method], expected[method])
        assert np.isnan(broken[method][5]).all()
        assert attacks.whitebox(kept, method=method).defined.all()
    without_shadows = statistics_of(jax.tree.map(lambda leaf: leaf[:2], ensemble), pool)
    assert all(np.isnan(statistic).all() for statistic in without_shadows.values())


def test_what_cannot_be_attacked_is_refused(trained):
    ensemble, pool, scores = trained
    with pytest.raises(InputError, match=r"network.*be None"):
        whitebox.white_box(dataclasses.replace(ensemble, network=Network("mlp", (4,))), pool)
    with pytest.raises(InputError, match=r"method='hessian'.*inverse_hessian"):
        of_weights.check_methods(["hessian"], classes=2, dim=2)
    with pytest.raises(InputError, match="at most 6000"):
        of_weights.check_methods(["inverse_hessian"], classes=100, dim=384)
    with pytest.raises(InputError, match=r"white_box=.*'mahalanobis'.*cannot be computed from scores"):
        attacks.whitebox(scores)
    short = dataclasses.replace(scores, white_box={"mahalanobis": np.zeros((3, 3))})
    with pytest.raises(InputError, match=r"white_box\['mahalanobis'\].shape"):
        attacks.whitebox(short)
    empty = dataclasses.replace(scores, white_box={"mahalanobis": np.full(scores.member.shape, np.nan)})
    with pytest.raises(InputError, match="not finite"):
        attacks.whitebox(empty)
    with pytest.raises(InputError, match="method='iha'"):
        attacks.whitebox(scores, method="iha")


@pytest.mark.parametrize("method", whitebox.METHODS)
@pytest.mark.parametrize(("examples", "dim"), [(300, 200), (900, 60)])
def test_the_memory_that_is_counted_holds_what_numpy_allocates(method, examples, dim):
    rng = np.random.default_rng(0)
    pool = feature_set(rng.normal(size=(examples, dim)).astype(np.float32), np.arange(examples) % 3)
    ensemble = ensemble_of(
        rng.normal(size=(9, 3, dim + 1)).astype(np.float32), rng.random((9, examples)) < 0.5
    )
    counted = of_weights._bytes_held(method, classes=3, dim=dim, examples=examples, models=9)
    with pytest.raises(
        InputError, match=rf"memory=.* must be at least .* for method='{method}' on {examples} cand"
    ):
        whitebox.white_box(ensemble, pool, methods=[method], memory=counted - 1)
    tracemalloc.start()
    try:
        whitebox.white_box(ensemble, pool, methods=[method], memory=counted)
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The solver's own copies are not traced.
    assert counted / 4 < held < counted


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.9, 0.95])
@pytest.mark.parametrize("recipe", ["ridge", "decay"])
def test_the_rate_of_shadows_serves_a_head_with_more_members(share, recipe):
    """Shadows of an audit train on at most 3/4 of the records. The head's own share would find no more members."""
    data, rng = demo_features(), np.random.default_rng(0)
    rows = np.concatenate([np.flatnonzero(data.labels == label)[:200] for label in range(3)])
    centred = data.features[rows] - data.features[rows].mean(axis=0)
    turned = centred @ np.linalg.svd(centred, full_matrices=False)[2][:60].T
    turned /= np.sqrt(np.mean(np.sum(turned**2, axis=1)))
    pool, heads, shadows, rate = feature_set(turned, data.labels[rows]), 24, 40, 0.75
    drawn = [rng.random((heads, len(rows))) < share, rng.random((shadows, len(rows))) < rate]
    member = np.concatenate(drawn)
    masks = MembershipMasks(jnp.asarray(member), jnp.arange(len(member)), "bernoulli", rate)
    config, hyper = TrainConfig("newton"), Hyperparams(0.1, weight_decay=None, ridge=1.0)
    decay = {name: 1 / (name * len(rows)) for name in (rate, share)}
    if recipe == "decay":
        config, hyper = TrainConfig("sgd", steps=600), Hyperparams(1.0, 0.9, decay[rate])
        decay[share] = decay[rate]
    trained = train_ensemble(KEY, pool, masks, hyper, config)
    found = {}
    for name, each in decay.items():
        told = dataclasses.replace(trained, masks=dataclasses.replace(masks, inclusion_rate=name))
        said = whitebox.white_box(told, pool, weight_decay=each, methods=["stationarity", "mahalanobis"])
        for method, statistic in said.items():
            ranks = scipy.stats.rankdata(statistic[:heads], axis=1) / len(rows)
            inside = [np.mean(row[own]) - np.mean(row[~own]) for row, own in zip(ranks, member, strict=False)]
            found[name, method] = 0.5 + np.mean(inside)
    for method in ("stationarity", "mahalanobis"):
        assert found[rate, method] > 0.75
        assert found[share, method] < found[rate, method] + 0.01
