import jax
import numpy as np
import pytest

from jaxmia._validate import InputError
from jaxmia.features import (
    candidate_pool,
    choose_classes,
    demo_features,
    feature_set,
    load_features,
    save_features,
)

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def demo():
    return demo_features()


def blobs(counts, dim=3):
    labels = np.repeat(np.arange(len(counts)), counts)
    return feature_set(np.random.default_rng(0).normal(size=(labels.size, dim)), labels)


def test_demo_features_are_what_they_say(demo):
    assert demo.features.shape == (10_000, 384)
    assert demo.features.dtype == np.float32
    np.testing.assert_array_equal(np.bincount(demo.labels), 1000)
    # The sentence encoder gives unit vectors; int8 storage costs 0.9% relative error.
    np.testing.assert_allclose(np.linalg.norm(demo.features, axis=1), 1, atol=0.02)
    assert "noun.plant" in demo.class_names


def test_demo_features_are_not_noise(demo):
    """Nearest class mean on held-out rows: far above the 10% of chance, in the range of a linear probe."""
    train, test = np.arange(10_000) % 2 == 0, np.arange(10_000) % 2 == 1
    means = np.stack([demo.features[train & (demo.labels == label)].mean(axis=0) for label in range(10)])
    predicted = np.argmax(demo.features[test] @ means.T - 0.5 * (means**2).sum(axis=1), axis=1)
    assert np.mean(predicted == demo.labels[test]) > 0.6


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_save_and_load_round_trip(tmp_path, dtype):
    data = blobs([4, 5])
    save_features(tmp_path / "f.npz", data, dtype=dtype)
    loaded = load_features(tmp_path / "f.npz")
    assert loaded.features.dtype == np.float32
    np.testing.assert_array_equal(loaded.features, data.features.astype(dtype))
    np.testing.assert_array_equal(loaded.labels, data.labels)
    assert loaded.class_names == data.class_names
    assert [path.name for path in tmp_path.iterdir()] == ["f.npz"]


def test_content_hash_follows_content():
    data = blobs([4, 5])
    changed = data.features.copy()
    changed[0, 0] += 1e-3
    hashes = {
        data.content_hash(),
        data.replace(features=changed).content_hash(),
        data.replace(labels=data.labels[::-1].copy()).content_hash(),
        data.replace(class_names=("a", "b")).content_hash(),
    }
    assert len(hashes) == 4
    assert data.replace(features=data.features.copy()).content_hash() == data.content_hash()


GOOD = {"features": np.ones((4, 2), np.float32), "labels": np.array([0, 1, 0, 1])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": None}, r"must hold the key 'features'"),
        ({"labels": None}, r"must hold the key 'labels'"),
        ({"features": np.ones(4)}, r"features.shape=\(4,\)"),
        ({"features": np.ones((0, 2)), "labels": np.ones(0, int)}, r"features.shape=\(0, 2\)"),
        ({"features": np.ones((4, 2), int)}, r"features.dtype='int64' must be floating"),
        ({"features": np.array([[0, 1], [np.nan, 0], [0, 0], [np.inf, 1]])}, r"got 2 rows .* \(first: 1\)"),
        ({"features": np.array([[0, 1], [0, 0], [1e300, 0], [0, 1]])}, r"got 1 rows .* \(first: 2\)"),
        ({"labels": np.array([0, 1, 0])}, r"labels.shape=\(3,\) must be \[4\]"),
        ({"labels": np.array([0.0, 1.0, 0.0, 1.0])}, r"labels.dtype='float64' must be an integer"),
        ({"labels": np.array([0, 1, -1, 1])}, r"got 1 outside \(first: row 2 has -1\)"),
        (
            {"labels": np.array([0, 1, 2, 2]), "class_names": np.array(["a", "b"])},
            r"lie in 0..1 .* got 2 outside",
        ),
        ({"features": np.array([[None, 1]] * 4, dtype=object)}, r"pickled objects, which are never loaded"),
    ],
)
def test_bad_files_are_refused(tmp_path, change, message):
    arrays = {key: value for key, value in (GOOD | change).items() if value is not None}
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=message):
        load_features(tmp_path / "bad.npz")


def test_missing_truncated_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="must be an existing"):
        load_features(tmp_path / "none.npz")
    np.savez(tmp_path / "whole.npz", **GOOD)
    content = (tmp_path / "whole.npz").read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 5):
        (tmp_path / "cut.npz").write_bytes(content[:size])
        with pytest.raises(InputError, match=r"cut\.npz must"):
            load_features(tmp_path / "cut.npz")
    (tmp_path / "text.npz").write_text("features")
    with pytest.raises(InputError, match="must"):
        load_features(tmp_path / "text.npz")
    np.save(tmp_path / "single.npy", GOOD["features"])
    with pytest.raises(InputError, match=r"single \.npy array"):
        load_features(tmp_path / "single.npy")


def test_pool_has_its_shape_and_leaves_the_test_split_out(demo):
    pool = candidate_pool(demo, classes=5, shots=7, multiplier=3, key=KEY, test_per_class=11)
    np.testing.assert_array_equal(np.bincount(pool.data.labels), [21] * 5)
    np.testing.assert_array_equal(np.bincount(pool.test.labels), [11] * 5)
    np.testing.assert_array_equal(pool.data.features, demo.features[pool.rows])
    names = np.array(pool.data.class_names)[pool.data.labels]
    np.testing.assert_array_equal(names, np.array(demo.class_names)[demo.labels[pool.rows]])
    joined = np.concatenate([pool.data.features, pool.test.features])
    assert len(np.unique(joined, axis=0)) == len(joined)


def test_pools_of_one_key_are_nested_and_of_two_keys_differ(demo):
    small = candidate_pool(demo, classes=3, shots=5, key=KEY)
    large = candidate_pool(demo, classes=3, shots=20, key=KEY)
    other = candidate_pool(demo, classes=3, shots=5, key=jax.random.key(1))
    assert set(small.rows) < set(large.rows)
    assert set(small.rows) != set(other.rows)


def test_class_with_too_few_examples_is_named():
    with pytest.raises(InputError, match=r"2 x 3 = 6 examples of each class, but class '1' has 5"):
        candidate_pool(blobs([9, 5]), classes=2, shots=3, key=KEY)


def test_choice_of_classes():
    data = blobs([3, 9, 9, 5])
    assert choose_classes(data, 2) == (1, 2)
    assert choose_classes(data, ["3", "0"]) == (0, 3)
    for bad, message in ((1, "at least 2"), (5, "at most 4"), (["0"], "at least 2"), (["0", "x"], "one of")):
        with pytest.raises(InputError, match=message):
            choose_classes(data, bad)
