import jax
import numpy as np
import pytest

from jaxmia._validate import InputError
from jaxmia.data.feature_set import (
    FeatureSet,
    check_given,
    demo_features,
    feature_set,
    load_features,
    raw_set,
    save_features,
)
from jaxmia.data.normalization import (
    FeatureStatistics,
    feature_statistics,
    load_statistics,
    normalized_pool,
    standardized,
    unit_norm,
)
from jaxmia.data.pool import CandidatePool, candidate_pool, check_candidates, choose_classes

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
    save_features(data, tmp_path / "f.npz", dtype=dtype)
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


def test_what_is_given_in_memory_is_a_feature_set_of_what_is_trained_on():
    data = blobs([4, 5])
    check_given("features", data, inputs="features")
    for given in (data.features, {"features": data.features}, None):
        with pytest.raises(InputError, match=r"features must be a FeatureSet, got \w+: jm.feature_set\("):
            check_given("features", given, inputs="features")
    with pytest.raises(InputError, match="inputs for features='raw' must be 'features'"):
        check_given("features", data, inputs="raw")
    pixels = raw_set(np.zeros((4, 2, 2), np.uint8), np.arange(4) % 2)
    check_given("features", pixels, inputs="raw")


GOOD = {"features": np.ones((4, 2), np.float32), "labels": np.array([0, 1, 0, 1])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": None}, r"must hold the key 'features'"),
        ({"labels": None}, r"must hold the key 'labels'"),
        ({"features": np.ones(4)}, r"features.shape=\(4,\)"),
        ({"features": np.ones((0, 2)), "labels": np.ones(0, int)}, r"features.shape=\(0, 2\)"),
        (
            {"features": np.ones((4, 2), int)},
            r"features.dtype='int64' must be floating point: give features.astype",
        ),
        ({"features": np.ones((4, 2, 2))}, r"features.shape=\(4, 2, 2\) .*: give features.reshape"),
        ({"features": np.array([[0, 1], [np.nan, 0], [0, 0], [np.inf, 1]])}, r"got 2 rows .* \(first: 1\)"),
        ({"features": np.array([[0, 1], [0, 0], [1e300, 0], [0, 1]])}, r"got 1 rows .* \(first: 2\)"),
        ({"labels": np.array([0, 1, 0])}, r"labels.shape=\(3,\) must be \[4\]"),
        ({"labels": np.array([0.0, 0.5, 0.0, np.nan])}, r"got 2 that are none \(first: row 1 has 0.5\)"),
        (
            {"labels": np.array([0, 1, -1, 1]), "class_names": np.array(["a", "b"])},
            r"got 1 outside \(first: row 2 has -1\)",
        ),
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


def test_standardising_by_the_own_statistics_gives_unit_mean_square_norm():
    rng = np.random.default_rng(0)
    features = 5 + rng.normal(size=(50, 8)) * np.arange(1, 9)
    data = feature_set(features, np.arange(50) % 2)
    result = standardized(data, feature_statistics(data.features)).features
    expected = (data.features - data.features.mean(axis=0)) / data.features.std(axis=0) / np.sqrt(8)
    np.testing.assert_allclose(result, expected, rtol=2e-5, atol=1e-6)
    assert np.mean(np.sum(result.astype(np.float64) ** 2, axis=1)) == pytest.approx(1, rel=1e-6)
    assert result.dtype == np.float32


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6, -3e-20])
def test_dead_dimensions_stay_at_zero(constant):
    """The mean of a constant may differ from it by rounding; that deviation must not be scaled up to 1."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(999, 3)).astype(np.float32)
    features[:, 1] = constant
    features[::2, 1] = np.nextafter(features[::2, 1], np.float32(-np.inf)) if constant else 0
    statistics = feature_statistics(features)
    assert (statistics.scale > 0).tolist() == [True, False, True]
    result = standardized(feature_set(features, np.arange(999) % 2), statistics).features
    assert (result[:, 1] == 0).all()
    features[0, 1] += 1  # in the units of the features: what varies is alive
    assert (feature_statistics(features).scale > 0).all()


def test_demo_features_have_no_dimension_blown_up():
    data = demo_features()
    result = standardized(data, feature_statistics(data.features)).features
    assert np.abs(result).max() < 20 / np.sqrt(384)
    assert np.isfinite(result).all()


def test_unit_norm_leaves_zeros_alone():
    features = np.array([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0]])
    result = unit_norm(feature_set(features, np.array([0, 1, 0]))).features
    np.testing.assert_allclose(result, [[0.6, 0.8], [0, 0], [1, 0]], rtol=1e-6)


def test_pool_and_test_split_are_normalised_alike_by_the_pool():
    """An outlying test example does not change the statistics, and is normalised by those of the pool."""
    rng = np.random.default_rng(0)
    data = feature_set(rng.normal(size=(60, 4)), np.arange(60) % 2)
    pool = candidate_pool(data, classes=2, shots=5, key=jax.random.key(0))
    far = FeatureSet(pool.test.features + 100, pool.test.labels, pool.test.class_names)
    result = normalized_pool(CandidatePool(pool.data, far, pool.rows), "standardize")
    mean, deviation = pool.data.features.mean(axis=0), pool.data.features.std(axis=0)
    for ours, given in ((result.data, pool.data), (result.test, far)):
        np.testing.assert_allclose(
            ours.features, (given.features - mean) / deviation / 2, rtol=1e-4, atol=1e-6
        )
    given = FeatureStatistics(np.ones(4), np.full(4, 2.0))
    by_given = normalized_pool(pool, "standardize", given).test.features
    np.testing.assert_allclose(by_given, (pool.test.features - 1) / 4, rtol=1e-6)
    unit = normalized_pool(pool, "unit")
    for part in (unit.data, unit.test):
        np.testing.assert_allclose(np.linalg.norm(part.features, axis=1), 1, rtol=1e-6)
    assert normalized_pool(pool, "none") is pool
    with pytest.raises(InputError, match="normalize='units' must be one of none, unit"):
        normalized_pool(pool, "units")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mean": np.zeros(3)}, "must hold the key 'scale'"),
        (
            {"mean": np.zeros(2), "scale": np.ones(3)},
            r"mean.shape=\(2,\) must be \[3\], as the features have",
        ),
        ({"mean": np.zeros(3), "scale": np.ones((3, 1))}, r"scale.shape=\(3, 1\)"),
        ({"mean": np.zeros(3), "scale": np.ones(3, int)}, "scale.dtype='int64' must be floating point"),
        ({"mean": np.full(3, np.nan), "scale": np.ones(3)}, "mean='not finite' must be finite"),
        ({"mean": np.zeros(3), "scale": np.array([1.0, -2.0, 1.0])}, "scale=-2.0 must be 0 or more"),
    ],
)
def test_wrong_statistics_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "statistics.npz", **arrays)
    with pytest.raises(InputError, match=message):
        load_statistics(tmp_path / "statistics.npz", dim=3)


def test_statistics_are_read_as_written_and_hashed_by_content(tmp_path):
    np.savez(
        tmp_path / "a.npz", mean=np.array([1.0, 2.0], np.float32), scale=np.array([0.5, 0.0], np.float32)
    )
    np.savez(tmp_path / "b.npz", mean=np.array([1.0, 2.0]), scale=np.array([0.5, 0.0]))
    np.savez(tmp_path / "c.npz", mean=np.array([1.0, 2.0]), scale=np.array([0.5, 1.0]))
    a, b, c = (load_statistics(tmp_path / f"{name}.npz", dim=2) for name in "abc")
    assert a.content_hash() == b.content_hash() != c.content_hash()
    np.testing.assert_array_equal(a.scale, [0.5, 0])


def test_enough_candidates_is_what_the_draw_says():
    data = feature_set(np.zeros((30, 2)), np.repeat([0, 1, 2], [12, 10, 8]), ["x", "y", "z"])
    for classes, shots, multiplier in ((2, 5, 2), (3, 4, 2), (2, 2, 5), (3, 1, 8)):
        drawn = candidate_pool(
            data, classes=classes, shots=shots, multiplier=multiplier, key=jax.random.key(0)
        )
        chosen = check_candidates(data, classes=classes, shots=shots, multiplier=multiplier)
        assert len(chosen) == classes == drawn.data.num_classes
    for classes, shots, multiplier in ((2, 6, 2), (3, 5, 2), (3, 1, 9), (4, 1, 2)):
        with pytest.raises(InputError) as ours:
            check_candidates(data, classes=classes, shots=shots, multiplier=multiplier)
        with pytest.raises(InputError) as draws:
            candidate_pool(data, classes=classes, shots=shots, multiplier=multiplier, key=jax.random.key(0))
        assert str(ours.value) == str(draws.value)
