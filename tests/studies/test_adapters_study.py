"""Experiments on adapters: runs, resuming, private levels, tuning and sweeps, on a small BERT of random weights."""

import numpy as np
import pandas as pd
import pytest
from kills import stopped_after_each_write
from references_adapters import publish, small_bert, told_apart

from jaxmia._validate import InputError
from jaxmia.extract.activations import extract_activations
from jaxmia.studies.run import run_experiment
from jaxmia.studies.settings.toml import parse_config
from jaxmia.studies.sweep import run_sweep

pytest.importorskip("safetensors", reason="published weights are safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("texts")
    ids, labels = told_apart(60)
    np.savez(place / "texts.npz", raw=ids.astype(np.int32), labels=labels)
    network = publish(small_bert(), place / "network", normalize=False)
    extract_activations(place / "texts.npz", f"sentence-transformers:{network}", place / "out", activations=1)
    return place / "out"


def settings(folder, *, train=(), **more):
    return {
        "data": {"features": str(folder), "test_per_class": 10},
        "grid": {"shots": [8], "classes": [2]},
        "shadows": {"models": 8},
        "train": {"network": "film", "steps": 5, "learning_rate": 0.05} | dict(train),
        "fpr": [0.1],
        **more,
    }


def test_a_run_on_adapters_has_what_a_run_on_heads_has(folder, tmp_path):
    found = run_experiment(settings(folder), tmp_path / "run")
    assert found.heads_trained == 8
    assert set(found.results["attack"]) == {"lira", "threshold"}
    assert found.results.query("evaluation == 'pooled'")["tpr"].between(0, 1).all()
    records = pd.read_parquet(next((tmp_path / "run").rglob("per_example.parquet")))
    assert len(records) == 32
    again = run_experiment(settings(folder), tmp_path / "run", resume=True)
    assert again.heads_trained == again.cells_computed == 0
    more = run_experiment(settings(folder, shadows={"models": 12}), tmp_path / "run")
    assert more.heads_trained == 4  # the first eight are read from their checkpoint
    whole = run_experiment(settings(folder, shadows={"models": 12}), tmp_path / "whole")
    pd.testing.assert_frame_equal(whole.results, more.results, atol=0.05)


@pytest.mark.thorough
def test_a_killed_run_ends_with_the_same_bytes(folder, tmp_path, monkeypatch):
    whole = run_experiment(settings(folder), tmp_path / "whole")
    names = ("results.parquet", "per_example.parquet", "controls.parquet")
    for out in stopped_after_each_write(
        monkeypatch, tmp_path, lambda out: run_experiment(settings(folder), out), every=4, most=60
    ):
        run_experiment(settings(folder), out, resume=True)
        for name in names:
            assert (out / name).read_bytes() == (whole.path / name).read_bytes()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "train",
    [
        {"network": "lora", "rank": 2, "alpha": 4.0, "batch_size": 4},
        {"network": "bias", "batch_size": 4, "sampling": "independent"},
        {"network": "blocks", "blocks": 1, "batch_size": 4, "sampling": "poisson", "optimizer": "sgd"},
    ],
)
def test_every_adapter_runs_with_every_batch(folder, tmp_path, train):
    found = run_experiment(settings(folder, train=train), tmp_path / "run")
    assert found.heads_trained == 8


def test_private_levels_have_their_ceiling(folder, tmp_path):
    private = {"epsilon": [1.0], "delta": 1e-3, "clipping_norm": 1.0}
    found = run_experiment(settings(folder, privacy=private), tmp_path / "run")
    assert (found.results["tpr_ceiling"] < 0.5).all()
    assert found.results.query("evaluation == 'pooled'")["tpr"].between(0, 1).all()


@pytest.mark.thorough
def test_recipes_are_searched(folder, tmp_path):
    pytest.importorskip("optuna")
    tuning = {"trials": 4, "round_size": 2, "epochs": [1, 4]}
    found = run_experiment(settings(folder, tuning=tuning), tmp_path / "run")
    assert found.heads_trained == 8


@pytest.mark.thorough
def test_a_sweep_compares_a_head_with_adapters_on_one_folder(folder, tmp_path):
    base = settings(folder)
    del base["data"], base["train"]
    sweep = base | {
        "datasets": [{"name": "texts", "features": str(folder)}],
        "recipes": [
            {"name": "head", "steps": 5, "learning_rate": 0.05},
            {"name": "film", "network": "film", "steps": 5, "learning_rate": 0.05},
        ],
    }
    found = run_sweep(sweep, tmp_path / "sweep")
    assert set(found.to_frame()["recipe"]) == {"head", "film"}


@pytest.mark.parametrize(
    ("train", "more", "message"),
    [
        ({"network": "film", "rank": 2}, {}, "rank=2 is for network='lora', got network='film'"),
        ({"network": "linear", "blocks": 1}, {}, "blocks=1 is for adapters, got network='linear'"),
        ({"normalize": "unit"}, {}, "normalize='unit' must be 'none': adapters pool as the extractor does"),
        ({"widths": [3]}, {}, "widths=.* must name none for network='film'"),
        ({"class_weight": "balanced"}, {}, "class_weight and intercept are for network='linear'"),
        ({"inputs": "raw"}, {}, "inputs='raw' must be left out: network='film' reads a folder"),
        (
            {"optimizer": "newton", "ridge": 1.0, "learning_rate": 0.1},
            {},
            "network='film' must be 'linear' for optimizer='newton'",
        ),
        ({"blocks": 2}, {}, "blocks=2 must be at most 1, the blocks that activations from block 1"),
        ({}, {"attack": ["whitebox"]}, "network='film' must be 'linear' for attack 'whitebox'"),
        ({}, {"attack": ["analytic"]}, "train.optimizer='adam' must be 'newton' for analytic attacks"),
        (
            {},
            {"privacy": {"epsilon": [1.0], "unit": "person"}, "membership": {"unit": "person"}},
            "needs privacy.unit='record' for train.network='film'",
        ),
    ],
)
def test_what_does_not_apply_is_said_before_any_training(folder, tmp_path, train, more, message):
    with pytest.raises(InputError, match=message):
        run_experiment(settings(folder, train=train) | more, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_features_alone_are_no_inputs_of_adapters(tmp_path):
    with pytest.raises(InputError, match="inputs='activations' must be 'features' for the bundled set"):
        run_experiment(settings("demo"), tmp_path / "run")


def test_identities_of_older_folders_do_not_change():
    """The settings of adapters are not part of the identity of heads."""
    identity = parse_config({"grid": {"shots": [8], "classes": [2]}}).training_identity()
    assert not {"blocks", "rank", "alpha", "targets", "network"} & set(identity["train"])
