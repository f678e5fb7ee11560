"""Networks trained from scratch: agreement with plain loops, keys by model id, and sweeps against pretrained heads."""

import dataclasses
import importlib
import pathlib
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmia._validate import InputError
from jaxmia.data.bag_of_words import bag_of_words
from jaxmia.data.feature_set import load_features, raw_set
from jaxmia.data.membership import draw_membership
from jaxmia.data.pool import candidate_pool
from jaxmia.studies.folder.run import RunFolder
from jaxmia.studies.folder.tables import load_table
from jaxmia.studies.run import run_experiment
from jaxmia.studies.settings.toml import parse_config, parse_sweep
from jaxmia.studies.sweep import run_sweep
from jaxmia.training.ensemble import empty_heads, train_ensemble
from jaxmia.training.from_scratch import plan_networks
from jaxmia.training.network import KERNEL, STRIDE, Network
from jaxmia.training.scoring import accuracy, score
from jaxmia.training.settings import Hyperparams, TrainConfig
from jaxmia.training.size import EnsembleSize

MLP, CONV = Network("mlp", (5, 4)), Network("conv", (3, 4))
SIDE = 9


def pixels(seed=0, *, per_class=12, classes=3):
    """Noisy copies of one random picture per class."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    pictures = rng.integers(0, 255, (classes, SIDE, SIDE))[labels]
    return np.clip(pictures + rng.normal(0, 60, pictures.shape), 0, 255).astype(np.uint8), labels


def tokens(seed=0, *, per_class=12, classes=3):
    """Words, half of which indicate the class; 0 is padding."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    own = 10 * labels[:, None] + rng.integers(1, 9, (len(labels), 4))
    ids = np.concatenate([own, rng.integers(100, 140, (len(labels), 4)), np.zeros((len(labels), 2))], axis=1)
    return ids.astype(np.uint16), labels


def write(path, raw, labels, *, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(labels.max() + 1, 6))[labels] + rng.normal(size=(len(labels), 6))
    np.savez(path, features=features.astype(np.float32), labels=labels, raw=raw)
    return str(path)


def masks_of(data, *, models=6, seed=1):
    key = jax.random.key(seed)
    return draw_membership(key, data.labels, num_models=models, design="bernoulli", inclusion_rate=0.5)


def trained(network, data, masks, *, steps=5, rate=0.1, optimizer="sgd", key=2, hyper=None, **settings):
    """An ensemble trained on data, and what it was trained with."""
    limits = {name: settings.pop(name) for name in ("chunk_size", "memory") if name in settings}
    config = TrainConfig(optimizer, steps=steps, network=network, **settings)
    hyper = Hyperparams(rate, 0.5, 0.02) if hyper is None else hyper
    return train_ensemble(jax.random.key(key), data, masks, hyper, config, **limits)


def assert_same(left, right, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), left, right)


def looped(network, data, member, start, *, steps, rate, momentum, decay):
    """SGD with momentum written out in float64 NumPy, on this model's members alone, one example at a time."""
    inputs = np.asarray(network.inputs(jnp.asarray(data.features), data.input_shape), np.float64)[member]
    labels = data.labels[member]
    layers = [
        {k: np.asarray(v, np.float64) for k, v in start["params"][name].items()}
        for name in (*(f"hidden_{place}" for place in range(len(network.widths))), "logits")
    ]
    velocity = [{k: np.zeros_like(v) for k, v in layer.items()} for layer in layers]
    for _ in range(steps):
        gradient = [{"kernel": decay * layer["kernel"], "bias": 0 * layer["bias"]} for layer in layers]
        for x, y in zip(inputs, labels, strict=True):
            seen = []
            for layer in layers[:-1]:
                before = x @ layer["kernel"] + layer["bias"]
                seen.append((x, before))
                x = np.maximum(before, 0).reshape(-1)
            logits = x @ layers[-1]["kernel"] + layers[-1]["bias"]
            odds = np.exp(logits - logits.max())
            back = odds / odds.sum() - np.eye(len(logits))[y]
            gradient[-1]["kernel"] += np.outer(x, back) / len(labels)
            gradient[-1]["bias"] += back / len(labels)
            back = layers[-1]["kernel"] @ back
            for place in reversed(range(len(seen))):
                before_inputs, before = seen[place]
                back = np.where(before > 0, back.reshape(before.shape), 0)
                rows, errors = np.atleast_2d(before_inputs), np.atleast_2d(back)
                gradient[place]["kernel"] += rows.T @ errors / len(labels)
                gradient[place]["bias"] += errors.sum(axis=0) / len(labels)
                back = back @ layers[place]["kernel"].T
        for layer, speed, slope in zip(layers, velocity, gradient, strict=True):
            for name in layer:
                speed[name] = momentum * speed[name] + slope[name]
                layer[name] -= rate * speed[name]
    return layers


@pytest.mark.parametrize(
    "network", [pytest.param(MLP, marks=pytest.mark.slow), CONV], ids=lambda network: network.kind
)
def test_sgd_agrees_with_a_loop_over_examples_in_float64(network):
    data = raw_set(*pixels())
    masks = masks_of(data, models=3)
    after = trained(network, data, masks, steps=6, rate=0.1, optimizer="sgd").params["params"]
    for model in range(3):
        init_key, _ = jax.random.split(jax.random.fold_in(jax.random.key(2), model))
        inputs = network.inputs(jnp.asarray(data.features), data.input_shape)
        start = network.init(init_key, inputs, num_classes=3)
        expected = looped(
            network,
            data,
            np.asarray(masks.member[model]),
            start,
            steps=6,
            rate=0.1,
            momentum=0.5,
            decay=0.02,
        )
        for layer, name in zip(expected, ("hidden_0", "hidden_1", "logits"), strict=True):
            for leaf, value in layer.items():
                np.testing.assert_allclose(after[name][leaf][model], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, marks=pytest.mark.thorough),
        pytest.param({"schedule": "cosine", "batch_size": 6}, marks=pytest.mark.thorough),
        {"batch_size": 6, "sampling": "independent", "optimizer": "adam"},
    ],
    ids=["full", "shared", "independent"],
)
@pytest.mark.parametrize(
    "network", [MLP, pytest.param(CONV, marks=pytest.mark.thorough)], ids=lambda network: network.kind
)
def test_networks_with_hyperparameters_of_their_own_are_those_trained_one_by_one(network, settings):
    """A network with fewer steps equals one whose program has that number; in chunks of two, the last one padded."""
    data = raw_set(*pixels())
    own = {"learning_rate": [0.05, 0.2, 0.1], "momentum": [0.0, 0.5, 0.9], "weight_decay": [0.0, 0.1, 0.3]}
    own["steps"] = [2, 7, 5]
    hyper = Hyperparams(**{name: jnp.array(values) for name, values in own.items()})
    together = trained(
        network, data, masks_of(data, models=3), steps=7, hyper=hyper, chunk_size=2, **settings
    )
    for model in range(3):
        one = {name: values[model] for name, values in own.items()}
        masks = draw_membership(
            jax.random.key(1),
            data.labels,
            num_models=1,
            first_model=model,
            design="bernoulli",
            inclusion_rate=0.5,
        )
        steps = one.pop("steps")
        alone = trained(network, data, masks, steps=steps, hyper=Hyperparams(**one), **settings)
        found = jax.tree.map(lambda leaf, model=model: leaf[model : model + 1], together.params)
        assert_same(found, alone.params, rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
def test_the_first_layer_of_a_conv_net_is_a_convolution():
    data = raw_set(*pixels())
    images = jnp.asarray(data.features).reshape(-1, *data.input_shape)
    conv = nn.Conv(3, (KERNEL, KERNEL), STRIDE, "SAME", use_bias=False)
    for channels in (1, 2):  # patches have their channels outermost
        some = jnp.concatenate([images, images[::-1]][:channels], axis=-1)
        params = conv.init(jax.random.key(0), some)["params"]
        expected = conv.apply({"params": params}, some)
        patches = CONV.inputs(some.reshape(len(some), -1), some.shape[1:])
        kernel = jnp.moveaxis(params["kernel"], 2, 0).reshape(-1, 3)
        np.testing.assert_allclose(patches @ kernel, expected.reshape(len(some), -1, 3), rtol=1e-4, atol=1e-4)


@pytest.mark.thorough
def test_the_first_layer_keeps_the_size_of_its_inputs_whatever_that_is():
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1.0, 50.0):
        inputs = jnp.asarray(scale * rng.normal(size=(200, 30)), jnp.float32)
        first = Network("mlp", (400,)).init(jax.random.key(0), inputs, num_classes=2)["params"]["hidden_0"]
        assert float(jnp.std(inputs @ first["kernel"])) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize(
    ("network", "batches"),
    [
        pytest.param(CONV, {}, marks=pytest.mark.slow),
        (MLP, {"batch_size": 6, "sampling": "independent"}),
    ],
    ids=["full", "independent"],
)
def test_a_model_follows_from_its_id_and_not_from_its_chunk(network, batches):
    data, tolerance = raw_set(*pixels()), {"rtol": 2e-4, "atol": 2e-5}
    masks = masks_of(data)
    whole = trained(network, data, masks, **batches).params
    assert_same(whole, trained(network, data, masks, chunk_size=3, **batches).params, **tolerance)
    last = dataclasses.replace(masks, member=masks.member[3:], model_ids=masks.model_ids[3:])
    alone = trained(network, data, last, **batches).params
    assert_same(jax.tree.map(lambda leaf: leaf[3:], whole), alone, **tolerance)
    kernel = whole["params"]["hidden_0"]["kernel"]
    assert len(np.unique(np.round(kernel[:, 0, 0], 5))) == len(kernel)  # every model starts elsewhere


@pytest.mark.parametrize("sampling", ["shared", pytest.param("independent", marks=pytest.mark.slow)])
def test_only_members_move_a_network(sampling):
    """A candidate that no model trains on may be anything of the same norm, which scales the first kernel."""
    data = raw_set(*pixels())
    masks = masks_of(data)
    masks = dataclasses.replace(masks, member=masks.member & (jnp.arange(36) != 7))
    features = data.features.copy()
    features[7] *= -1
    other = dataclasses.replace(data, features=features)
    left, right = (trained(MLP, each, masks, batch_size=6, sampling=sampling) for each in (data, other))
    assert_same(left.params, right.params, rtol=1e-5, atol=1e-6)


@pytest.mark.thorough
def test_networks_fit_a_small_set_and_generalise():
    images, labels = pixels(per_class=40)
    pool = candidate_pool(raw_set(images, labels), classes=3, shots=8, key=jax.random.key(0))
    masks, network, hyper = masks_of(pool.data, models=4), Network("conv", (8, 16)), Hyperparams(0.02)
    ensemble = trained(network, pool.data, masks, steps=60, optimizer="adam", hyper=hyper)
    scores = score(ensemble, pool.data)
    assert (np.asarray(scores.log_odds)[np.asarray(scores.member)] > 0).all()
    assert accuracy(ensemble, pool.test).mean() > 0.8
    template = empty_heads(pool.data, num_models=4, network=network)
    assert jax.tree.map(np.shape, template) == jax.tree.map(np.shape, ensemble.params)


def test_a_bag_counts_the_tokens_of_the_candidates():
    ids = np.array([[5, 5, 9, 0], [9, 0, 0, 0], [0, 0, 0, 0], [7, 5, 0, 0]], np.uint16)
    data = raw_set(ids, np.array([0, 1, 0, 1]))
    pool = candidate_pool(data, classes=2, shots=1, key=jax.random.key(0), test_per_class=0)
    test = raw_set(np.array([[8, 9, 9, 0]], np.uint16), np.array([0]))
    bag = bag_of_words(dataclasses.replace(pool, data=data, test=test))
    root = 5**-0.5
    assert bag.data.features.shape == (4, 512)  # of which three columns are tokens
    assert not bag.data.features[:, 3:].any()
    np.testing.assert_allclose(
        bag.data.features[:, :3],
        [[2 * root, 0, root], [0, 0, 1], [0, 0, 0], [0.5**0.5, 0.5**0.5, 0]],
        rtol=1e-6,
    )
    np.testing.assert_allclose(bag.test.features[:, :3], [[0, 0, 1]])  # 8 stands in no candidate
    assert bag.data.input_shape == ()


def test_raw_inputs_are_loaded_beside_features(tmp_path):
    images, labels = pixels()
    path = write(tmp_path / "images.npz", images, labels)
    raw, features = load_features(path, inputs="raw"), load_features(path)
    assert raw.input_shape == (SIDE, SIDE, 1)
    assert features.input_shape == ()
    np.testing.assert_allclose(raw.features.reshape(images.shape), images / 127.5 - 1, atol=1e-6)
    assert raw.content_hash() != dataclasses.replace(raw, input_shape=(SIDE * SIDE, 1, 1)).content_hash()
    ids, labels = tokens()
    assert load_features(write(tmp_path / "text.npz", ids, labels), inputs="raw").input_shape == (10,)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (np.zeros((4, 3)), r"raw\.dtype='float64' must be an integer type"),
        (np.zeros((4, 3, 3), np.int64), r"raw\.dtype='int64' must be uint8"),
        (np.zeros(4, np.uint8), r"raw\.shape=\(4,\) must be token ids"),
        (np.full((4, 3), -1), r"raw=-1 must hold token ids"),
        (np.zeros((5, 3), int), r"labels\.shape=\(4,\) must be \[5\]"),
    ],
)
def test_raw_inputs_that_are_none_are_refused(raw, message):
    with pytest.raises(InputError, match=message):
        raw_set(raw, np.array([0, 1, 0, 1]))


GRID = {"grid": {"classes": [3], "shots": [4]}, "shadows": {"models": 9}, "fpr": [0.1]}


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"network": "mlp"}, r"train: widths=\[\] must name at least one hidden layer for network='mlp'"),
        ({"widths": [4]}, r"widths=\[4\] must name none for network='linear'"),
        (
            {"network": "conv", "widths": [4]},
            r"network='conv' needs inputs='raw' \(pixels\), got inputs='fea",
        ),
        (
            {"network": "mlp", "widths": [4], "matmul_dtype": "bfloat16"},
            r"matmul_dtype='bfloat16' is for network=",
        ),
        (
            {"network": "mlp", "widths": [4], "sampling": "poisson"},
            r"sampling='poisson' is for network='linear'",
        ),
        (
            {"inputs": "raw", "normalize": "standardize", "statistics": "s.npz"},
            r"statistics='s\.npz' is for inputs",
        ),
        ({"network": "transformer", "widths": [4]}, r"train\.network='transformer'"),
        ({"network": "mlp", "widths": [0]}, r"train\.widths\.0=0"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(train, message):
    with pytest.raises(InputError, match=message):
        parse_config({**GRID, "train": train})


def test_private_training_of_networks_is_refused():
    train = {"network": "mlp", "widths": [4]}
    with pytest.raises(
        InputError, match=r"privacy\.epsilon=\[8\.0\] needs train\.network='linear' or an adapter, got 'mlp'"
    ):
        parse_config({**GRID, "train": train, "privacy": {"epsilon": [8.0]}})
    with pytest.raises(InputError, match="private=True must be False for a network"):
        TrainConfig(private=True, network=MLP)


def test_what_a_network_cannot_take_is_said_before_training(tmp_path):
    conv = {"network": "conv", "widths": [4], "inputs": "raw"}
    text = write(tmp_path / "text.npz", *tokens())
    for features, train, message in (
        (text, conv, "network='conv' must be given pixels, and inputs are token ids"),
        ("demo", conv, "inputs='raw' must be 'features' for the bundled set"),
        (
            text,
            {"network": "mlp", "widths": [4], "inputs": "raw", "batch_size": 13},
            "batch_size=13 must be at most 12",
        ),
    ):
        with pytest.raises(InputError, match=message):
            run_experiment({**GRID, "data": {"features": features}, "train": train}, tmp_path / "run")
    size = EnsembleSize(
        num_models=3, num_examples=24, num_classes=3, dim=81, inclusion_rate=0.5, input_shape=(9, 9, 1)
    )
    with pytest.raises(InputError, match=r"memory='0\.000954 MiB' must be at least"):
        plan_networks(TrainConfig(network=CONV), 1000, size)
    assert not (tmp_path / "run").exists()


def test_identities_of_linear_recipes_on_features_name_no_network():
    """Folders from before networks were added can be continued."""
    identity = parse_config(GRID).training_identity()
    assert not {"network", "widths", "inputs"} & identity["train"].keys()
    raw = parse_config({**GRID, "train": {"inputs": "raw", "network": "mlp", "widths": [4]}})
    assert {"network": "mlp", "widths": [4], "inputs": "raw"}.items() <= raw.training_identity()[
        "train"
    ].items()


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Text and images, each under a linear head, a network on features and a network on raw inputs."""
    folder = tmp_path_factory.mktemp("features")
    files = {
        "text": write(folder / "text.npz", *tokens(per_class=30)),
        "images": write(folder / "images.npz", *pixels(per_class=30), seed=1),
    }
    recipes = {
        "head": {},
        "mlp": {"network": "mlp", "widths": [8]},
        "raw-mlp": {"network": "mlp", "widths": [8], "inputs": "raw"},
        "raw-conv": {"network": "conv", "widths": [4, 8], "inputs": "raw"},
    }
    own = {"text": ["head", "mlp", "raw-mlp"], "images": ["head", "raw-conv"]}
    return {
        "attack": ["lira"],
        "fpr": [0.1],
        "datasets": [{"name": name, "features": files[name], "recipes": own[name]} for name in files],
        "train": {"steps": 15, "learning_rate": 0.05},
        "recipes": [{"name": name, **entry} for name, entry in recipes.items()],
        "grid": {"classes": [3], "shots": [8], "seeds": [0, 1]},
        "shadows": {"models": 33},
    }


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    return run_sweep(settings, tmp_path_factory.mktemp("sweeps") / "sweep")


@pytest.mark.thorough
def test_a_sweep_compares_recipes_on_the_same_candidates(settings, finished):
    results = finished.results()
    assert not finished.failures
    recipes = results.groupby("dataset")["recipe"].unique().map(set).to_dict()
    assert recipes == {entry["name"]: set(entry["recipes"]) for entry in settings["datasets"]}
    assert (results["num_diverged"] == 0).all()
    assert results["accuracy"].gt(0.4).all()
    rows = load_table(finished.path, "per_example")
    for (_, seed), some in rows[rows["dataset"] == "text"].groupby(["dataset", "seed"]):
        records = [list(each["record"]) for _, each in some.groupby("recipe")]
        assert len(records) == 3, seed
        assert all(each == records[0] for each in records)


@pytest.mark.thorough
def test_negative_controls_of_networks_are_at_chance(finished):
    controls = load_table(finished.path, "controls")
    networks = controls[controls["recipe"] != "head"]
    assert len(networks) > 0
    assert (networks["status"] == "ok").all()


@pytest.mark.thorough
def test_networks_on_disk_are_read_and_not_trained_again(settings, finished, tmp_path):
    assert run_sweep(settings, finished.path).heads_trained == 0
    before = finished.results()
    again = run_sweep({**settings, "attack": ["lira", "threshold"]}, finished.path)
    assert again.heads_trained == 0
    after = again.results()
    assert after[after["attack"] == "lira"].reset_index(drop=True).equals(before.reset_index(drop=True))


@pytest.mark.thorough
def test_an_interrupted_run_ends_in_the_same_results(settings, tmp_path, monkeypatch):
    images = {"features": settings["datasets"][1]["features"]}
    train = {**settings["train"], "network": "conv", "widths": [4, 8], "inputs": "raw"}
    shared = {key: settings[key] for key in ("attack", "fpr", "grid", "shadows")}
    config = {**shared, "data": images, "train": train}
    whole = run_experiment(config, tmp_path / "whole")
    with monkeypatch.context() as patched:
        finish = RunFolder.finish_cell

        def killed(folder, cell, *rest):
            if cell.seed == 1:
                raise KeyboardInterrupt
            return finish(folder, cell, *rest)

        patched.setattr(RunFolder, "finish_cell", killed)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(config, tmp_path / "killed")
    resumed = run_experiment(config, tmp_path / "killed", resume=True)
    assert resumed.heads_trained == 0  # the second cell's networks were on disk
    assert resumed.results.equals(whole.results)


def test_a_recipe_of_a_set_must_be_there(settings):
    datasets = [{**settings["datasets"][0], "recipes": ["haed"]}]
    with pytest.raises(InputError, match=r"recipe of dataset 'text'.*Did you mean 'head'"):
        parse_sweep({**settings, "datasets": datasets})


def test_the_benchmark_tabulates_what_the_sweep_has(finished, monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[2] / "benchmarks"))
    benchmark = importlib.import_module("from_scratch")
    results = finished.results().query("attack == 'lira'")
    rows = benchmark.table(results)
    assert [(row["set"], row["recipe"]) for row in rows] == [
        ("images", "head"),
        ("images", "raw-conv"),
        ("text", "head"),
        ("text", "mlp"),
        ("text", "raw-mlp"),
    ]
    for row in rows:
        assert row["seeds"] == 2
        assert 0 < row["member_loss"] < row["nonmember_loss"]
        median, low, high = map(float, re.findall(r"[\d.]+", row["pooled 0.1"]))
        assert low < median < high
