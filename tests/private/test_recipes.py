"""Private recipes: the slow loop, exact sensitivity on adversarial pairs, and audits that catch what is broken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references_dpsgd

from jaxmia._validate import InputError
from jaxmia.data.feature_set import feature_set
from jaxmia.data.membership import MembershipMasks
from jaxmia.privacy.accounting import gdp_mu, noise_multiplier_for
from jaxmia.privacy.tradeoff import gaussian_ceiling
from jaxmia.private.recipes import class_means, first_gradient_norm
from jaxmia.studies.cell import Cell
from jaxmia.studies.private_cells import private_settings
from jaxmia.studies.run import run_experiment
from jaxmia.studies.settings.toml import parse_config, parse_sweep
from jaxmia.training.dpsgd import clipped_gradient_sum, clipped_squares
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.heads import SplitHead, logit_errors
from jaxmia.training.persons import person_rows
from jaxmia.training.settings import Hyperparams, TrainConfig

CONFIG = TrainConfig("sgd", steps=1, private=True, intercept=False)


def unit_records(seed, examples=24, classes=3, dim=5):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(examples, dim))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return feature_set(features, np.arange(examples) % classes)


def sums(data, head, sampled, clip, whose=None):
    """The kernel's part of the clipped sum without a bias, by the engine."""
    one_hot = jax.nn.one_hot(data.labels, data.num_classes, axis=0)[:-1]
    errors = logit_errors(head, jnp.asarray(data.features), one_hot)
    persons = None
    if whose is not None:
        rows = person_rows(data.features, whose, len(whose), intercept=False)
        persons = jax.tree.map(jnp.asarray, rows)
    options = {"clipping_norm": clip, "persons": persons, "intercept": False}
    total = clipped_gradient_sum(errors, jnp.asarray(data.features), jnp.asarray(sampled), **options)
    return np.concatenate([total.rest["kernel"], total.last["kernel"][None]]), errors, options


def some_head(seed, classes, dim, scale):
    kernel = scale * np.random.default_rng(seed).normal(size=(classes, dim)).astype(np.float32)
    rest = {"kernel": jnp.asarray(kernel[:-1] - kernel[-1]), "bias": jnp.zeros(classes - 1)}
    return kernel, SplitHead(rest, {"kernel": jnp.asarray(kernel[-1]), "bias": jnp.zeros(())})


@pytest.mark.parametrize("by_person", [False, True])
def test_clipping_without_a_bias_is_the_slow_loop(by_person):
    data = unit_records(0)
    whose = np.repeat(np.arange(8), 3) if by_person else None
    sampled = np.random.default_rng(1).random(24) < 0.7
    if by_person:
        sampled = sampled[::3].repeat(3)
    kernel, head = some_head(2, 3, 5, 3.0)
    found, errors, options = sums(data, head, sampled, 0.5, whose)
    expected, _ = references_dpsgd.clipped_gradient_sum(
        kernel.astype(float), np.zeros(3), data.features.astype(float), data.labels, sampled,
        clipping_norm=0.5, person=whose, intercept=False,
    )  # fmt: skip
    np.testing.assert_allclose(found, expected, atol=5e-6)
    squares = clipped_squares(errors, jnp.asarray(data.features), jnp.asarray(sampled), **options)
    assert np.all(np.asarray(squares) <= 0.25 * (1 + 1e-5))
    assert np.all(np.asarray(squares)[~sampled] == 0)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_adversarial_pairs_reach_the_sensitivity_of_class_means_and_never_exceed_it(classes):
    """Each unit vector moves the sum by exactly sqrt(1 - 1/C), whatever the others; replacing one by up to twice."""
    clip, largest = first_gradient_norm(classes), 0.0
    _, zero = some_head(0, classes, 5, 0.0)
    for seed in range(8):
        data = unit_records(seed, examples=4 * classes, classes=classes)
        everyone = np.ones(len(data.labels), bool)
        without = everyone.copy()
        without[seed % len(without)] = False
        whole, short = (sums(data, zero, sampled, clip)[0] for sampled in (everyone, without))
        assert np.linalg.norm(whole - short) == pytest.approx(clip, rel=1e-5)
        # The worst replacement of a record: its opposite, of the same class.
        features = data.features.copy()
        features[seed % len(features)] *= -1
        swapped = sums(feature_set(features, data.labels), zero, everyone, clip)[0]
        largest = max(largest, np.linalg.norm(whole - swapped))
    assert largest == pytest.approx(2 * clip, rel=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0])
def test_adversarial_heads_and_labels_never_move_the_sum_by_more_than_the_clip(scale):
    for seed in range(6):
        data, clip = unit_records(seed), 0.9
        _, head = some_head(seed, 3, 5, scale)
        everyone = np.ones(24, bool)
        for left_out in range(3):
            without = everyone.copy()
            without[left_out] = False
            moved = sums(data, head, everyone, clip)[0] - sums(data, head, without, clip)[0]
            assert np.linalg.norm(moved) <= clip * (1 + 1e-5)


def test_class_means_without_noise_are_the_classes_means():
    data = unit_records(3)
    recipe = class_means(classes=3, shots=4, dim=5, noise_multiplier=0.0)
    member = np.random.default_rng(0).random((2, 24)) < 0.5
    masks = MembershipMasks(jnp.asarray(member), jnp.arange(2), "bernoulli", 0.5)
    hyper = Hyperparams(recipe.learning_rate, clipping_norm=recipe.clipping_norm, noise_multiplier=0.0)
    trained = train_ensemble(0, data, masks, hyper, CONFIG).params["params"]
    one_hot = np.eye(3)[data.labels]
    for kernel, row in zip(np.asarray(trained["kernel"]), member, strict=True):
        by_class = one_hot[row].T @ data.features[row]
        centred = by_class - by_class.mean(axis=0)
        np.testing.assert_allclose(kernel, recipe.learning_rate * centred / 12, atol=1e-5)
    assert not np.asarray(trained["bias"]).any()


@pytest.mark.parametrize(
    ("broken", "above"),
    [({}, False), ({"noise": 0.5}, True), ({"clip": 2.0, "noise": 0.5}, True)],
    ids=["as_stated", "noise_halved", "sensitivity_halved"],
)
def test_an_audit_reaches_the_ceiling_and_catches_broken_noise(broken, above):
    """A canary that no other record overlaps: the best test has exactly the ceiling's TPR, and more where it is broken.

    Sensitivity halved: clipping at twice the norm that the noise was calibrated to.
    """
    epsilon, models, fpr = 2.0, 4000, 0.1
    noise = noise_multiplier_for(epsilon=epsilon, delta=1e-5, sampling_rate=1.0, steps=1)
    mu, clip = gdp_mu(noise_multiplier=noise, steps=1), first_gradient_norm(3)
    features = np.zeros((6, 4))
    features[np.arange(1, 6), 1 + np.arange(5) % 3] = 1.0
    features[0, 0] = broken.get("clip", 1.0)
    data = feature_set(features, np.arange(6) % 3)
    member = np.random.default_rng(0).random((models, 6)) < 0.5
    masks = MembershipMasks(jnp.asarray(member), jnp.arange(models), "bernoulli", 0.5)
    hyper = Hyperparams(
        1.0,
        clipping_norm=clip * broken.get("clip", 1.0),
        noise_multiplier=noise * broken.get("noise", 1.0),
    )
    kernel = np.asarray(train_ensemble(0, data, masks, hyper, CONFIG).params["params"]["kernel"])
    statistic = kernel[:, 0, 0] - kernel[:, 1:, 0].mean(axis=1)
    inside = member[:, 0]
    tpr = np.mean(statistic[inside] > np.quantile(statistic[~inside], 1 - fpr))
    ceiling = float(gaussian_ceiling(fpr, mu))
    error = np.sqrt(ceiling * (1 - ceiling) / inside.sum() + (0.75 / np.sqrt(2000)) ** 2 * fpr)
    if above:
        assert tpr > ceiling + 5 * error
    else:
        assert tpr == pytest.approx(ceiling, abs=4 * error)


def config(**privacy):
    return parse_config(
        {
            "attack": ["lira", "whitebox"],
            "fpr": [0.1, 0.01],
            "data": {"features": "private.npz", "test_per_class": 20},
            "grid": {"classes": [3], "shots": [8], "seeds": [0]},
            "shadows": {"models": 129},
            "train": {"normalize": "random", "components": 4},
            "privacy": {"epsilon": [4.0], "recipe": "class_means"} | privacy,
        }
    )


def test_private_cells_get_the_recipe_and_others_keep_their_own():
    data = unit_records(0, examples=120, dim=6)
    settings = config(epsilon=[float("inf"), 1.0])
    assert private_settings(settings, data, Cell(3, 8, 0)) is settings
    own = private_settings(settings, data, Cell(3, 8, 0, 1.0))
    assert (own.train.optimizer, own.train.steps, own.train.intercept) == ("sgd", 1, False)
    assert own.privacy.clipping_norm == pytest.approx(np.sqrt(2 / 3))
    noise = noise_multiplier_for(epsilon=1.0, delta=1e-5, sampling_rate=1.0, steps=1)
    energy = 4 * 2 / 3 * (noise / 8) ** 2
    assert own.train.learning_rate == pytest.approx(10 * 3 * 0.1 / (0.1 + energy))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"train": {"normalize": "none"}}, "features of norm 1"), ({"tuning": {}}, "without the members")],
)
def test_class_means_are_refused_where_they_have_no_proof(change, message):
    settings = config().model_dump(mode="json") | change
    settings.pop("tuning", None) if "tuning" not in change else None
    with pytest.raises(InputError, match=message):
        parse_config(settings)


def test_recipes_of_a_sweep_are_each_checked():
    settings = {
        "datasets": [{"name": "demo", "features": "demo"}],
        "recipes": [{"name": "unit", "normalize": "unit"}, {"name": "raw"}],
        "grid": {"classes": [3], "shots": [8]},
        "privacy": {"epsilon": [1.0], "recipe": "class_means"},
    }
    sweep = parse_sweep(settings)
    good, bad = sweep.recipes
    assert sweep.experiment(sweep.datasets[0], good).privacy.recipe == "class_means"
    with pytest.raises(InputError, match=r"recipe 'raw': .*features of norm 1"):
        sweep.experiment(sweep.datasets[0], bad)


@pytest.mark.thorough
def test_no_attack_on_class_means_exceeds_its_ceiling(tmp_path):
    data = unit_records(0, examples=150, dim=6)
    results = run_experiment(config(), tmp_path / "run", features=data).results
    private = results[results["status"] == "ok"]
    assert set(private["attack"]) == {"lira", "whitebox"}
    assert (private["tpr_low"] <= private["tpr_ceiling"]).all()
    assert set(private["steps"]) == {1}
    assert set(private["standardised_by"]) == {"random directions"}
