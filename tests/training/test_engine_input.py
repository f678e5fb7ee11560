"""What the engine refuses or keeps: repeats in grids, options of wrong types, hyperparameters, unreadable files."""

import errno
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmia._validate import InputError
from jaxmia.studies.cell import Cell
from jaxmia.studies.folder import checkpoints
from jaxmia.studies.folder.manifest import versions
from jaxmia.studies.folder.run import RunFolder
from jaxmia.studies.folder.states import DamagedError
from jaxmia.studies.settings.toml import parse_config
from jaxmia.training.heads import gradient_sum, product
from jaxmia.training.network import HiddenLayers, Network
from jaxmia.training.settings import Hyperparams, TrainConfig, check_hyperparams

GRID = {"classes": [2], "shots": [4]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fpr": [0.1, 0.1]}, "0.1 is given 2 times"),
        ({"attack": ["lira", "lira"]}, "lira is given twice"),
        ({"attack": ["lira", {"name": "lira", "offline": False}]}, "offline=False.* is given twice"),
        ({"grid": GRID | {"shots": [4, 4]}}, "4 is given 2 times"),
        ({"grid": GRID | {"classes": [2, 2]}}, "2 is given 2 times"),
        ({"grid": GRID | {"seeds": [0, 1, 0]}}, "0 is given 2 times"),
        ({"privacy": {"epsilon": [1.0, 1.0]}}, "first six digits"),
        ({"privacy": {"epsilon": [1.0, 1.00000001]}}, "first six digits"),
        ({"attack": [{"name": "lira", "offline": "false"}]}, "offline='false' .* must be a valid boolean"),
        ({"attack": [{"name": "lira", "variance": 1}]}, "variance=1 .* must be a valid string"),
        ({"attack": [{"name": "rmia", "gamma": "2"}]}, "gamma='2' .* must be a valid number"),
        ({"attack": [{"name": "quantile", "folds": 2.5}]}, "folds=2.5 .* must be a valid integer"),
    ],
)
def test_repeats_and_options_of_another_type_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        parse_config({"grid": GRID, **changes})


@pytest.mark.parametrize(
    ("hyper", "network", "message"),
    [
        (Hyperparams(-1.0), None, "learning_rate=-1.0 must"),
        (Hyperparams(jnp.array([0.1, np.nan])), None, "learning_rate=.* must"),
        (Hyperparams(0.1, momentum=1.0), None, "momentum=1.0 must"),
        (Hyperparams(0.1, weight_decay=-0.1), None, "weight_decay=-0.1 must"),
        (Hyperparams(0.1, steps=6), Network("mlp", (4,)), "steps=6 must lie between 1 and"),
        (Hyperparams(jnp.array([0.1, -0.2])), Network("mlp", (4,)), "learning_rate=.* must be a finite"),
    ],
)
def test_hyperparameters_that_no_training_has_are_refused(hyper, network, message):
    with pytest.raises(InputError, match=message):
        check_hyperparams(hyper, TrainConfig(steps=5, network=network))


def lowered(function, *arguments):
    return jax.jit(function).lower(*arguments).as_text()


def test_float32_products_ask_for_the_highest_precision():
    left, right = jnp.ones((2, 3)), jnp.ones((3, 4))
    high = jax.lax.Precision.HIGH
    assert "HIGHEST" in lowered(product, left, right)
    assert "HIGHEST" in lowered(gradient_sum, left, right)
    as_tf32 = lowered(lambda a, b: gradient_sum(a, b, high), left, right)
    assert "HIGH" in as_tf32
    assert "HIGHEST" not in as_tf32
    network = HiddenLayers((4,), 2)
    params = network.init(jax.random.key(0), jnp.ones((2, 3)))
    program = lowered(jax.grad(lambda p, x: network.apply(p, x).sum()), params, jnp.ones((2, 3)))
    products = [line for line in program.splitlines() if "dot_general" in line]
    assert products
    assert all("HIGHEST" in line for line in products)


@pytest.fixture
def heads(tmp_path):
    folder, cell = RunFolder(tmp_path, {"cells": {}}), Cell(2, 4, 0)
    folder.save_heads(cell, (0, 3), {"kernel": np.ones((3, 2))})
    return folder, cell


def test_heads_that_find_no_room_are_refused_before_orbax_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=2**17))
    monkeypatch.setattr(checkpoints.ocp, "StandardCheckpointer", None)
    with pytest.raises(OSError, match="No space left") as raised:
        checkpoints.save_heads(tmp_path / "cell" / "models-0-3", {"kernel": np.ones((3, 2))})
    assert raised.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    "error", [MemoryError("no room"), PermissionError(13, "denied"), ValueError("shape")]
)
def test_a_checkpoint_that_is_whole_is_never_called_damaged(heads, monkeypatch, error):
    def fail(path, template):
        raise error

    monkeypatch.setattr(checkpoints, "_restore", fail)
    with pytest.raises(InputError, match=r"could not be read .*It was not changed"):
        heads[0].load_heads(heads[1], (0, 3), None)


def test_a_checkpoint_that_changed_is_damaged(heads):
    folder, cell = heads
    file = next(path for path in folder._part_path(cell, (0, 3)).rglob("*") if path.is_file())
    file.write_bytes(b"other")
    with pytest.raises(DamagedError, match="was damaged"):
        folder.load_heads(cell, (0, 3), None)


def test_the_traceback_of_a_failed_cell_is_kept_until_it_succeeds(tmp_path):
    folder, cell = RunFolder(tmp_path, {"cells": {}}), Cell(2, 4, 0)
    folder.fail_cell(cell, "ValueError: x", "Traceback ...\nValueError: x\n")
    assert folder.trace_path(cell).read_text().startswith("Traceback")
    assert json.loads(folder._record_path(cell).read_text())["error"] == "ValueError: x"
    folder.discard_rows(cell)
    assert not folder.trace_path(cell).exists()


def test_the_accountant_and_the_clipper_are_part_of_an_identity():
    assert {"dp-accounting", "jax-privacy"} <= versions().keys()
