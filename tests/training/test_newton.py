"""Heads at the minimum of their ridge objective, against a float64 minimiser and against limits."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from ridge_heads import small_pool, trained

from jaxmia._validate import InputError
from jaxmia.data.feature_set import feature_set
from jaxmia.data.membership import MembershipMasks, draw_membership
from jaxmia.studies.run import run_experiment
from jaxmia.studies.settings.toml import parse_config
from jaxmia.training.contrasts import basis, curvature, errors, from_params, to_params
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.linear import apply_head
from jaxmia.training.newton import stationarity, unbounded_note
from jaxmia.training.scoring import gradient_norms, score
from jaxmia.training.settings import Hyperparams, TrainConfig


def minimised(pool, member, ridge):
    """[kernel, bias] in float64 by SciPy's Newton-CG, biases summing to zero."""
    inputs = np.concatenate([pool.features[member], np.ones((member.sum(), 1))], axis=1).astype(float)
    labels, classes = pool.labels[member], pool.num_classes
    penalty = np.append(np.full(inputs.shape[1] - 1, ridge), 0.0)

    def objective(flat):
        head = flat.reshape(classes, -1)
        logits = inputs @ head.T
        shares = scipy.special.softmax(logits, axis=1)
        loss = -scipy.special.log_softmax(logits, axis=1)[np.arange(len(labels)), labels].sum()
        shares[np.arange(len(labels)), labels] -= 1
        return loss + (penalty * head**2).sum() / 2, (shares.T @ inputs + penalty * head).ravel()

    found = scipy.optimize.minimize(
        objective,
        np.zeros(classes * inputs.shape[1]),
        jac=True,
        method="L-BFGS-B",
        options={"gtol": 1e-8, "ftol": 1e-15, "maxiter": 5000},
    )
    head = found.x.reshape(classes, -1)
    head[:, -1] -= head[:, -1].mean()
    return head


@pytest.mark.parametrize("ridge", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("dim", [5, 100], ids=["tall", "in the span"])
def test_newton_finds_the_minimum(ridge, dim):
    pool = small_pool(dim=dim)
    masks = draw_membership(jax.random.key(1), pool.labels, num_models=3)
    params = trained(pool, masks, ridge).params["params"]
    for model in range(3):
        expected = minimised(pool, np.asarray(masks.member[model]), ridge)
        found = np.concatenate([params["kernel"][model], params["bias"][model][:, None]], axis=1)
        # Strong convexity: a gradient of 1e-7 x members x norm moves the head by no more than that over the ridge.
        norms = np.sqrt(np.square(pool.features).sum(axis=1).mean() + 1)
        np.testing.assert_allclose(
            found, expected, atol=1e-7 * 60 * norms / ridge + 1e-5 * np.abs(expected).max()
        )


@pytest.mark.thorough
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("ridge", [0.1, 100.0])
def test_ridge_is_scikit_learns_for_any_number_of_classes(classes, ridge):
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    pool = small_pool(classes=classes)
    masks = draw_membership(jax.random.key(1), pool.labels, num_models=1)
    inside = np.asarray(masks.member[0])
    params = jax.tree.map(np.asarray, trained(pool, masks, ridge).params["params"])
    theirs = linear.LogisticRegression(C=1 / ridge, tol=1e-10, max_iter=10_000)
    theirs.fit(pool.features[inside].astype(float), pool.labels[inside])
    kernel, bias = params["kernel"][0], params["bias"][0]
    if classes == 2:  # one row of weights: the logit of class 1 against class 0
        kernel, bias = kernel[1:] - kernel[:1], bias[1:] - bias[:1]
    else:
        theirs.intercept_ -= theirs.intercept_.mean()
    np.testing.assert_allclose(kernel, theirs.coef_, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(bias, theirs.intercept_, rtol=2e-4, atol=2e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    ("class_weight", "intercept"), [("balanced", True), ("none", False), ((0.5, 3.0, 1.0), False)]
)
def test_class_weights_and_no_intercept_are_scikit_learns(classes, class_weight, intercept):
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    pool = small_pool(classes=classes)
    rare = pool.labels != 1
    rare[:12] = True  # 4 or 6 of class 1 are left, so that weights matter
    pool = feature_set(pool.features[rare], pool.labels[rare])
    weights = class_weight if class_weight in ("none", "balanced") else class_weight[:classes]
    masks = draw_membership(jax.random.key(1), pool.labels, num_models=1)
    inside = np.asarray(masks.member[0])
    config = TrainConfig("newton", class_weight=weights, intercept=intercept)
    params = jax.tree.map(np.asarray, trained(pool, masks, 1.0, config).params["params"])
    theirs = (
        {"none": None, "balanced": "balanced"}.get(weights)
        if isinstance(weights, str)
        else dict(enumerate(weights))
    )
    head = linear.LogisticRegression(
        fit_intercept=intercept, class_weight=theirs, tol=1e-10, max_iter=10_000
    ).fit(pool.features[inside].astype(float), pool.labels[inside])
    kernel, bias = params["kernel"][0], params["bias"][0]
    if classes == 2:
        kernel, bias = kernel[1:] - kernel[:1], bias[1:] - bias[:1]
    np.testing.assert_allclose(kernel, head.coef_, rtol=3e-4, atol=3e-5)
    np.testing.assert_allclose(bias - bias.mean(), head.intercept_ - np.mean(head.intercept_), atol=3e-4)
    if not intercept:
        assert (params["bias"] == 0).all()


@pytest.mark.thorough
@pytest.mark.parametrize("batches", [{}, {"batch_size": 8, "sampling": "independent"}, {"batch_size": 8}])
def test_gradient_steps_take_the_weighted_mean_and_no_bias(batches):
    """Many small steps come to the minimum of the weighted mean loss, which newton finds with the equivalent ridge."""
    pool = small_pool()
    masks = draw_membership(jax.random.key(1), pool.labels, num_models=2)
    weights, decay = (0.5, 3.0, 1.0), 0.1
    steps = 3000 if batches else 800
    config = TrainConfig("sgd", "cosine", steps, class_weight=weights, intercept=False, **batches)
    found = train_ensemble(
        jax.random.key(0), pool, masks, Hyperparams(0.3, weight_decay=decay), config
    ).params["params"]
    total = (np.asarray(masks.member) * np.array(weights)[pool.labels]).sum(axis=1)
    newton = TrainConfig("newton", class_weight=weights, intercept=False)
    expected = trained(pool, masks, jnp.asarray(decay * total, jnp.float32), newton).params["params"]
    assert (np.asarray(found["bias"]) == 0).all()
    # Batches of 8 of the 30 leave noise; with 3 000 steps on a cosine below 3% of the largest weight.
    bound = 0.03 if batches else 1e-3
    np.testing.assert_allclose(
        found["kernel"], expected["kernel"], atol=bound * np.abs(expected["kernel"]).max()
    )


@pytest.mark.thorough
@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_one_against_the_rest_is_scikit_learns(class_weight):
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    multiclass = pytest.importorskip("sklearn.multiclass", reason="scikit-learn is not installed")
    pool = small_pool()
    masks = draw_membership(jax.random.key(1), pool.labels, num_models=2)
    config = TrainConfig("newton", link="one_vs_rest", class_weight=class_weight)
    heads = trained(pool, masks, 2.0, config)
    found = np.asarray(score(heads, pool).log_odds)
    assert np.isnan(gradient_norms(heads, pool)).all()
    own = None if class_weight == "none" else class_weight
    for model in range(2):
        inside = np.asarray(masks.member[model])
        head = linear.LogisticRegression(C=0.5, class_weight=own, tol=1e-10, max_iter=10_000)
        theirs = multiclass.OneVsRestClassifier(head)
        theirs.fit(pool.features[inside].astype(float), pool.labels[inside])
        shares = theirs.predict_proba(pool.features.astype(float))[np.arange(60), pool.labels]
        np.testing.assert_allclose(found[model], scipy.special.logit(shares), rtol=1e-3, atol=1e-3)


def test_weights_and_intercept_are_refused_where_they_do_not_go():
    for options, message in (
        ({"class_weight": "balance"}, "class_weight='balance' must be one of none, balanced"),
        ({"class_weight": (1.0, 0.0)}, "be finite numbers above 0"),
        ({"class_weight": "balanced", "private": True}, "must be 'none' for private training"),
        ({"link": "one_vs_rest"}, "optimizer='adam' must be 'newton' for link='one_vs_rest'"),
        ({"optimizer": "newton", "link": "one_vs_rest", "class_weight": (1.0, 2.0)}, "'none' or 'balanced'"),
        ({"link": "sigmoid"}, "link='sigmoid' must be one of softmax, one_vs_rest"),
    ):
        with pytest.raises(InputError, match=message):
            TrainConfig(**options)
    pool = small_pool()
    masks = draw_membership(jax.random.key(1), pool.labels, num_models=1)
    with pytest.raises(InputError, match="hold a weight for each of 3 classes"):
        trained(pool, masks, 1.0, TrainConfig("newton", class_weight=(1.0, 2.0)))
    for changes, message in (
        ({"train": {"class_weight": "balanced"}, "privacy": {"epsilon": [1.0]}}, "train.class_weight='none'"),
        ({"train": {"network": "mlp", "widths": [4], "class_weight": "balanced"}}, "for network='linear'"),
        ({"train": {"link": "one_vs_rest"}}, "needs optimizer='newton'"),
    ):
        with pytest.raises(InputError, match=message):
            parse_config({"grid": {"classes": [2], "shots": [8]}} | changes)


def test_a_large_ridge_leaves_one_gradient_step():
    # As the kernel vanishes the bias becomes the log of the members' class shares, and the kernel minus the gradient
    # there over the ridge; what is left out is of second order in 1 / ridge.
    pool, ridge = small_pool(), 1e5
    masks = draw_membership(jax.random.key(3), pool.labels, num_models=1)
    member = np.asarray(masks.member[0])
    params = trained(pool, masks, ridge).params["params"]
    shares = np.bincount(pool.labels[member]) / member.sum()
    np.testing.assert_allclose(params["bias"][0], np.log(shares) - np.log(shares).mean(), rtol=1e-3)
    off = shares - np.eye(3)[pool.labels[member]]
    np.testing.assert_allclose(
        params["kernel"][0] * ridge, -off.T @ pool.features[member], rtol=2e-2, atol=0.05
    )


@pytest.mark.thorough
def test_steps_that_overshoot_are_shortened():
    # From zero, Newton's full steps diverge on examples this far apart: the objective's curvature vanishes.
    pool = small_pool(scale=30.0)
    masks = draw_membership(jax.random.key(1), pool.labels, num_models=2)
    ensemble = trained(pool, masks, 0.001)
    for model in range(2):
        params = jax.tree.map(lambda leaf, model=model: leaf[model], ensemble.params)
        member = jnp.asarray(masks.member[model])
        value = stationarity(
            params, member, jnp.asarray(pool.features), jnp.asarray(pool.labels), ridge=0.001
        )
        assert value <= 2e-7  # the tolerance, and the rounding of the features' products


@pytest.mark.thorough
def test_stationarity_is_the_norm_of_the_slow_gradient():
    pool, rng = small_pool(), np.random.default_rng(0)
    member = rng.random(60) < 0.5
    kernel, bias = rng.normal(size=(3, 5)), rng.normal(size=3)
    total, squares = np.concatenate([0.7 * kernel, np.zeros((3, 1))], axis=1), 0.0
    total -= total.mean(axis=0)  # a part that changes no difference of logits does not enter the minimum
    for x, label in zip(pool.features[member], pool.labels[member], strict=True):
        own = scipy.special.softmax(kernel @ x + bias) - np.eye(3)[label]
        total += np.outer(own, [*x, 1])
        squares += x @ x + 1
    params = {"params": {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}}
    found = stationarity(
        params, jnp.asarray(member), jnp.asarray(pool.features), jnp.asarray(pool.labels), ridge=0.7
    )
    expected = np.linalg.norm(total) / (member.sum() * np.sqrt(squares / member.sum()))
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.thorough
def test_chunks_and_models_of_their_own_ridge_change_nothing():
    pool = small_pool()
    masks = draw_membership(jax.random.key(1), pool.labels, num_models=5)
    ridges = jnp.asarray([0.1, 1.0, 0.1, 1.0, 10.0])
    whole, parts = trained(pool, masks, ridges), trained(pool, masks, ridges, chunk_size=2)
    for one, other in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    alone = trained(pool, MembershipMasks(masks.member[4:], masks.model_ids[4:], "bernoulli", 0.5), 10.0)
    np.testing.assert_allclose(
        alone.params["params"]["kernel"][0], whole.params["params"]["kernel"][4], atol=1e-5
    )


@pytest.mark.thorough
def test_heads_without_a_class_are_said_as_their_bias_is_what_the_tolerance_makes_it():
    pool = small_pool(examples=30)
    member = np.stack([pool.labels != 2, np.arange(30) < 15])
    masks = MembershipMasks(jnp.asarray(member), jnp.arange(2), "bernoulli", 0.5)
    bias = np.asarray(trained(pool, masks, 0.1).params["params"]["bias"])
    assert bias[0, 2] < -8 < bias[1].min()
    (line,) = unbounded_note(member, pool.labels)
    assert line.startswith("1 of 2 heads have no member of some class: its bias is unbounded")
    assert unbounded_note(member[1:], pool.labels) == []
    assert unbounded_note(np.arange(2000)[:, None] % 1000 > 0, np.zeros(1, int)) == []  # up to a thousandth


@pytest.mark.thorough
def test_contrasts_are_the_softmaxs_own_coordinates():
    directions = jnp.asarray(basis(4))
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(directions.sum(axis=0), 0, atol=1e-6)
    contrasts, hot = jnp.asarray([0.3, -1.0, 0.7]), jnp.eye(4)[2]

    def loss(value):
        return -jax.nn.log_softmax(directions @ value)[2]

    np.testing.assert_allclose(errors(contrasts, hot, directions), jax.grad(loss)(contrasts), atol=1e-6)
    np.testing.assert_allclose(curvature(contrasts, directions), jax.hessian(loss)(contrasts), atol=1e-6)
    rng = np.random.default_rng(0)
    kernel, bias = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((4, 5), (4,)))
    params, x = (
        {"params": {"kernel": kernel, "bias": bias}},
        jnp.asarray(rng.normal(size=(6, 5)), jnp.float32),
    )
    before, after = (
        jax.nn.softmax(apply_head(each, x), axis=0) for each in (params, to_params(from_params(params)))
    )
    np.testing.assert_allclose(before, after, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "hyper", "message"),
    [
        ({}, {}, r"ridge=None must be a finite number above 0 for optimizer='newton'"),
        ({}, {"ridge": 0.0}, r"ridge=0.0 must be a finite number above 0"),
        ({}, {"ridge": 1.0, "weight_decay": 0.1}, r"weight_decay=0.1 must be 0"),
        ({}, {"ridge": 1.0, "steps": 3}, r"steps=3 must be TrainConfig.steps"),
        ({"optimizer": "adam"}, {"ridge": 1.0}, r"ridge=1.0 must be None unless optimizer='newton'"),
        ({"batch_size": 4}, {"ridge": 1.0}, r"batch_size=4 must be None for optimizer='newton'"),
        ({"schedule": "cosine"}, {"ridge": 1.0}, r"schedule='cosine' must be 'constant'"),
        ({"private": True}, {"ridge": 1.0}, r"private=True must be False"),
        ({"tolerance": 0.0}, {"ridge": 1.0}, r"tolerance=0.0 must lie strictly between 0 and 1"),
    ],
)
def test_refuses_what_a_minimum_has_no_use_for(options, hyper, message):
    pool = small_pool()
    masks = draw_membership(jax.random.key(1), pool.labels, num_models=3)

    def train():
        config = TrainConfig(**{"optimizer": "newton"} | options)
        train_ensemble(jax.random.key(0), pool, masks, Hyperparams(0.1, **hyper), config)

    with pytest.raises(InputError, match=message):
        train()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": {"optimizer": "newton"}}, r"train: ridge=0.0 must be above 0 for optimizer='newton'"),
        ({"train": {"ridge": 1.0}}, r"train: ridge=1.0 is for optimizer='newton', got optimizer='adam'"),
        (
            {"train": {"optimizer": "newton", "ridge": 1.0, "learning_rate": 0.5}},
            r"train: learning_rate=0.5 must be 0.1 for optimizer='newton'",
        ),
        (
            {"train": {"optimizer": "newton", "ridge": 1.0}, "privacy": {"epsilon": [1.0]}},
            r"privacy.epsilon=\[1.0\] needs train.optimizer='adam' or 'sgd', got 'newton'",
        ),
    ],
)
def test_settings_refuse_it_too(settings, message):
    with pytest.raises(InputError, match=message):
        parse_config({"grid": {"shots": [4], "classes": [2]}} | settings)


def test_folders_from_before_newton_keep_their_identity():
    identity = parse_config({"grid": {"shots": [4], "classes": [2]}}).training_identity()
    assert not {"ridge", "tolerance", "two_class_penalty"} & identity["train"].keys()


@pytest.mark.thorough
def test_folders_from_before_the_ridge_of_two_classes_was_scikit_learns_are_refused(tmp_path):
    """In one sentence, though features and versions are the same: those heads had half of the ridge."""
    config = {
        "grid": {"shots": [4], "classes": [2], "seeds": [0]},
        "shadows": {"models": 17},
        "train": {"optimizer": "newton", "ridge": 1.0, "steps": 5},
        "fpr": [0.1],
        "attack": ["lira"],
    }
    run_experiment(config, tmp_path / "run")
    path = tmp_path / "run" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["identity"]["settings"]["train"]["two_class_penalty"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(
        InputError, match=r"two_class_penalty='ridge / 2 .*' must equal the None .* another folder"
    ):
        run_experiment(config, tmp_path / "run", resume=True)
