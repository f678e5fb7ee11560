"""Projection on public features: what it is, what it refuses, and what it gives a private head."""

import dataclasses

import numpy as np
import pytest

from jaxmia._validate import InputError
from jaxmia.data.feature_set import feature_set, save_features
from jaxmia.data.normalization import normalized_pool
from jaxmia.data.pool import candidate_pool
from jaxmia.data.public import load_projection, projected, public_projection, random_projection
from jaxmia.studies.run import run_experiment
from jaxmia.studies.settings.toml import parse_config


def records(seed, examples=60, dim=8):
    """Two classes whose means, like most of the spread, lie in the first three dimensions."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], examples // 2)
    scale = np.where(np.arange(dim) < 3, 1.0, 0.05)
    means = np.where(labels[:, None] == 1, 2.0, -2.0) * (np.arange(dim) == 0)
    return feature_set(1.0 + means + scale * rng.normal(size=(examples, dim)), labels)


def test_it_is_scikit_learns_pca_up_to_signs():
    decomposition = pytest.importorskip("sklearn.decomposition", reason="scikit-learn is not installed")
    public, private = records(0), records(1)
    found = public_projection(public, 3)
    pca = decomposition.PCA(3).fit(public.features.astype(np.float64))
    expected = pca.transform(private.features.astype(np.float64))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    signs = np.sign(np.sum(pca.components_.T * found.directions, axis=0))
    np.testing.assert_allclose(projected(private, found).features, expected * signs, atol=1e-5)


def test_all_components_keep_all_angles_to_the_public_mean():
    public, private = records(0), records(1)
    found = projected(private, public_projection(public, 8)).features
    centred = private.features - public.features.mean(axis=0, dtype=np.float64)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(found @ found.T, centred @ centred.T, atol=1e-5)


def test_what_every_example_becomes_follows_from_it_and_the_public_ones():
    public, private = records(0), records(1)
    found = public_projection(public, 3)
    alone = feature_set(private.features[:2], np.array([0, 1]))
    np.testing.assert_array_equal(projected(alone, found).features, projected(private, found).features[:2])
    assert found.content_hash() != public_projection(public, 2).content_hash()
    assert found.content_hash() != public_projection(private, 3).content_hash()


def test_public_features_that_hold_private_records_are_refused(tmp_path):
    private = records(1)
    mixed = np.concatenate([records(0).features, private.features[5:8]])
    save_features(feature_set(mixed, np.arange(len(mixed)) % 2), tmp_path / "public.npz")
    with pytest.raises(InputError, match=r"must hold no record of the private features, but 3 of these"):
        load_projection(tmp_path / "public.npz", components=3, private=private)


def test_private_records_are_recognised_in_half_precision_too(tmp_path):
    private = records(1)
    save_features(feature_set(private.features[:20], np.arange(20) % 2), tmp_path / "p.npz", dtype="float16")
    with pytest.raises(InputError, match="20 of these are among"):
        load_projection(tmp_path / "p.npz", components=3, private=private)
    # Beyond float16 all would be infinite, and seem the same.
    large = dataclasses.replace(private, features=private.features * 1e6)
    save_features(dataclasses.replace(records(0), features=records(0).features * 1e6), tmp_path / "large.npz")
    assert load_projection(tmp_path / "large.npz", components=3, private=large).directions.shape == (8, 3)


def test_random_directions_are_orthonormal_and_the_same_for_everyone():
    found = random_projection(8, 3)
    np.testing.assert_allclose(found.directions.T @ found.directions, np.eye(3), atol=1e-12)
    assert not found.mean.any()
    np.testing.assert_array_equal(random_projection(8, 3).directions, found.directions)
    np.testing.assert_array_equal(public_projection(records(0), 8).leading(3).directions,
                                  public_projection(records(0), 3).directions)  # fmt: skip
    with pytest.raises(InputError, match="components=9 must lie between 1 and 8"):
        random_projection(8, 9)


@pytest.mark.parametrize(
    ("components", "dim", "message"), [(9, 8, "components=9"), (2, 7, "dim=7 must be 8")]
)
def test_what_is_no_projection_is_refused(tmp_path, components, dim, message):
    save_features(records(0, dim=dim), tmp_path / "public.npz")
    with pytest.raises(InputError, match=message):
        load_projection(tmp_path / "public.npz", components=components, private=records(1))


def test_a_pool_needs_a_projection_to_be_projected():
    pool = candidate_pool(records(1), classes=2, shots=4, key=0)
    with pytest.raises(InputError, match="needs a PublicProjection"):
        normalized_pool(pool, "public")
    found = normalized_pool(pool, "public", public_projection(records(0), 3))
    assert found.data.features.shape == (16, 3)
    assert found.test.features.shape[1] == 3
    np.testing.assert_allclose(np.linalg.norm(found.data.features, axis=1), 1, rtol=1e-6)


def config(**train):
    return parse_config(
        {
            "attack": ["lira"],
            "fpr": [0.1],
            "data": {"features": "private.npz"},
            "grid": {"classes": [2], "shots": [8], "seeds": [0]},
            "shadows": {"models": 33},
            "train": {"steps": 5} | train,
            "privacy": {"epsilon": [2.0]},
        }
    )


@pytest.mark.parametrize("train", [{"normalize": "public"}, {"public": "public.npz"}])
def test_a_recipe_names_both_or_neither(train):
    with pytest.raises(InputError, match="go together"):
        config(**train)


@pytest.mark.thorough
def test_a_private_run_projects_and_says_so(tmp_path):
    save_features(records(0), tmp_path / "public.npz")
    save_features(records(2), tmp_path / "other.npz")
    private = records(1)

    def run(out, public="public.npz", **options):
        recipe = config(normalize="public", public=str(tmp_path / public), components=3)
        return run_experiment(recipe, out, features=private, **options)

    found = run(tmp_path / "run")
    assert set(found.results["standardised_by"]) == {"public features"}
    assert set(found.results["normalize"]) == {"public"}
    # Another file at the same place in the settings is another study.
    with pytest.raises(InputError):
        run(tmp_path / "run", "other.npz", resume=True)
