"""Results as one line, as a data frame and as a figure; and input from memory."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import jaxmia as jm

PNG = b"\x89PNG"
SETTINGS = {
    "grid": {"classes": [2], "shots": [4, 8]},
    "shadows": {"models": 9},
    "train": {"steps": 20},
    "fpr": [0.1],
    "attack": ["lira"],
}


@pytest.fixture(scope="module")
def scores():
    rng = np.random.default_rng(0)
    member = rng.random((32, 60)) < 0.5
    return jm.Scores(rng.normal(size=member.shape) + member, member)


def test_statistics_show_themselves_in_one_line(scores):
    curve, roc = jm.per_example_vulnerability(scores, 0.1), jm.roc(jm.attacks.lira(scores))
    pool = jm.candidate_pool(jm.demo_features(), classes=2, shots=4, key=0)
    masks = jm.draw_membership(1, pool.data.labels, num_models=3)
    heads = jm.train_ensemble(2, pool.data, masks, jm.Hyperparams(0.1), jm.TrainConfig(steps=2))
    for shown in (scores, curve, roc, jm.attacks.lira(scores), pool, pool.data, masks, heads):
        assert repr(shown).startswith(f"{type(shown).__name__}: ")
        assert len(repr(shown)) < 200
        assert "array" not in repr(shown)
    frame = curve.to_frame()
    assert len(frame) == 60
    assert (np.diff(frame["tpr"].dropna()) <= 0).all()
    np.testing.assert_array_equal(roc.to_frame()["tpr"], roc.tpr)
    for shown in (curve, roc):
        assert shown.plot()._repr_png_().startswith(PNG)
        assert "<table" in shown._repr_html_()


@pytest.mark.thorough
def test_a_run_of_features_in_memory_is_that_of_their_file(tmp_path):
    data = jm.demo_features()
    jm.save_features(data, tmp_path / "features.npz")
    settings = SETTINGS | {"data": {"features": str(tmp_path / "features.npz")}}
    of_file = jm.run_experiment(settings, tmp_path / "file")
    given = jm.run_experiment(SETTINGS, tmp_path / "memory", features=data)
    assert set(given.results["dataset"]) == {"in memory"}
    numbers = [table.results.drop(columns="dataset") for table in (given, of_file)]
    pd.testing.assert_frame_equal(*numbers)
    assert len(given.records) == len(of_file.records) > 0
    assert repr(given).startswith("RunResult: 2 cells in ")
    brief = ["shots", "attack", "evaluation", "fpr", "tpr", "tpr_low", "tpr_high", "status"]
    assert list(given.brief_frame()) == brief  # and no column that is constant
    assert "<th>tpr_low</th>" in given._repr_html_()
    assert "<th>interval</th>" not in given._repr_html_()
    assert given.plot()._repr_png_().startswith(PNG)
    assert given.law() is given.law("lira", "pooled") is next(iter(given.laws.values()))
    law = given.law()
    assert repr(law).startswith("PowerLawFit: at FPR 0.1 ")
    assert list(law.to_frame()["fpr"]) == [0.1]
    assert len(repr(law)) < 120
    with pytest.raises(jm.InputError, match=r"law=\{'attack': 'rmia'\} must be one of lira, pooled"):
        given.law("rmia")
    with pytest.raises(jm.InputError, match=r"privacy\.epsilon='inf' must name a level for kind='ceiling'"):
        given.plot("ceiling")
    with pytest.raises(jm.InputError, match="kind='roc' must be one of law, accuracy, ceiling"):
        given.plot("roc")


def test_a_seed_is_the_key_of_that_seed():
    import jax

    labels = np.arange(8) % 2
    seeded, keyed = (jm.draw_membership(key, labels, num_models=4) for key in (3, jax.random.key(3)))
    np.testing.assert_array_equal(seeded.member, keyed.member)


def test_exchanged_arguments_are_refused_by_name(tmp_path):
    """In a process without the tests' type checks, as for users."""
    code = "import sys, jaxmia as jm; jm.save_features(sys.argv[1], jm.demo_features())"
    words = [sys.executable, "-c", code, str(tmp_path / "features.npz")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert "must be a FeatureSet: save_features(data, path)" in done.stderr
    assert not (tmp_path / "features.npz").exists()
