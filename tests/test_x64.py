"""With JAX's 64-bit types, heads, scores and records are bit-identical, and JAX's setting is left unchanged."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxmia import demo_features
from jaxmia.data.feature_set import feature_set
from jaxmia.data.membership import draw_membership
from jaxmia.ridge.expected import analytic_vulnerability
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.scoring import score
from jaxmia.training.settings import Hyperparams, TrainConfig


def everything():
    """Masks, heads by Adam, DP-SGD and Newton's method, their scores, and vulnerability without shadows."""
    demo = demo_features()
    rows = np.concatenate([np.flatnonzero(demo.labels == c)[:8] for c in range(3)])
    data = feature_set(demo.features[rows, :6], demo.labels[rows], list(demo.class_names[:3]))
    key, found = jax.random.key(0), {}
    masks = draw_membership(key, data.labels, num_models=4)
    private = {"clipping_norm": 1.0, "noise_multiplier": 1.0}
    for name, hyper, config in (
        ("adam", Hyperparams(0.1), TrainConfig("adam", "cosine", 5, None)),
        ("private", Hyperparams(0.1, **private), TrainConfig("sgd", "constant", 5, None, private=True)),
        (
            "newton",
            Hyperparams(0.1, weight_decay=None, ridge=1.0),
            TrainConfig("newton", "constant", 50, None),
        ),
    ):
        found[name] = np.asarray(score(train_ensemble(key, data, masks, hyper, config), data).log_odds)
    found["member"] = np.asarray(masks.member)
    found["separation"] = np.asarray(analytic_vulnerability(data, ridge=1.0, inclusion_rate=0.5).separation)
    return found


@pytest.fixture(scope="module")
def in_64_bits(tmp_path_factory):
    """The same from a process with 64-bit types."""
    place = tmp_path_factory.mktemp("x64")
    code = (
        "import sys, jax, numpy as np; sys.path.insert(0, sys.argv[1]); import test_x64;"
        "np.savez(sys.argv[2], **test_x64.everything()); assert jax.numpy.zeros(1).dtype == 'float64'"
    )
    words = [sys.executable, "-c", code, os.path.dirname(__file__), str(place / "found.npz")]
    environment = os.environ | {"JAX_ENABLE_X64": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(np.load(place / "found.npz"))


@pytest.mark.thorough
def test_a_process_with_64_bit_types_computes_the_same(in_64_bits):
    expected = everything()
    assert in_64_bits.keys() == expected.keys()
    for name, values in expected.items():
        assert in_64_bits[name].dtype == values.dtype
        np.testing.assert_array_equal(in_64_bits[name], values, err_msg=name)
