"""Recommended recipes: from public quantities alone, and good where the truth is known."""

import dataclasses

import numpy as np
import pytest
from commands import jaxmia

from jaxmia._validate import InputError
from jaxmia.data.feature_set import feature_set, save_features
from jaxmia.data.public import public_projection
from jaxmia.private import recommend as recommending
from jaxmia.private.recipes import class_means, first_gradient_norm
from jaxmia.private.recommend import Target, recommend, rehearsals
from jaxmia.studies.cell import Cell
from jaxmia.studies.normalizer import given_normalizer
from jaxmia.studies.private_cells import private_settings
from jaxmia.studies.run import run_experiment
from jaxmia.studies.settings.toml import load_config, parse_config

TARGET = Target(3, 16, 4.0, 1e-5, "add_or_remove_one")
DIM, SIGNAL_DIMS = 32, 6


def features_of(classes, each, seed):
    """Classes whose means lie in the first dimensions; all others hold noise alone, of smaller variance."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    scale = np.where(np.arange(DIM) < SIGNAL_DIMS, 1.0, 0.5)
    means = rng.normal(size=(classes, DIM)) * 2.0 * (np.arange(DIM) < SIGNAL_DIMS)
    return feature_set(means[labels] + scale * rng.normal(size=(len(labels), DIM)), labels)


@pytest.fixture(scope="module")
def few():
    """Few numbers of components, steps and rates, so that rehearsals take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recommending, "COMPONENTS", (2, 6))
        patch.setattr(recommending, "STEPS", (3,))
        patch.setattr(recommending, "RATES", (4.0,))
        yield


@pytest.fixture(scope="module")
def found(few):
    done = []
    result = recommend(TARGET, public=features_of(9, 60, 0), dim=DIM, on_work=done.append)
    assert 0 < sum(done) <= rehearsals(DIM)
    return result


def test_the_best_rehearsal_is_the_recipe(found):
    accuracies = [each.accuracy for each in found.rehearsed]
    assert accuracies == sorted(accuracies, reverse=True)
    assert {(each.components, each.steps) for each in found.rehearsed} >= {(2, 1), (6, 1), (DIM, 1)}
    best = found.rehearsed[0]
    assert (found.components, found.recipe.steps) == (best.components, best.steps)
    assert found.recipe.clipping_norm == first_gradient_norm(3)
    assert found.noise_multiplier == TARGET.noise_multiplier(best.steps)


def test_it_finds_the_dimensions_that_hold_the_signal(found):
    """Two components hold a third of it; all 32 hold little more, and five times the noise."""
    assert found.components == SIGNAL_DIMS
    by_components = {each.components: each.accuracy for each in found.rehearsed if each.steps == 1}
    assert by_components[6] > by_components[2] + 0.1
    assert by_components[6] > by_components[DIM]


def test_the_same_public_features_give_the_same_recipe(few, found):
    again = recommend(TARGET, public=features_of(9, 60, 0), dim=DIM)
    assert again == found


def test_without_public_features_noise_and_signal_decide():
    little = recommend(dataclasses.replace(TARGET, epsilon=0.5), public=None, dim=384)
    noise = TARGET.noise_multiplier(1) * first_gradient_norm(3) / 4000
    assert little.recipe == class_means(
        classes=3, shots=16, dim=384, noise_multiplier=little.noise_multiplier
    )
    much = recommend(dataclasses.replace(TARGET, shots=4000), public=None, dim=384)
    assert much.recipe.steps > 1
    assert 384 * noise**2 < 0.1
    assert (little.components, much.components, much.rehearsed) == (None, None, ())


@pytest.mark.parametrize(
    ("public", "dim", "message"),
    [
        (features_of(3, 20, 0), DIM, "at least 2 classes of 24 records"),
        (features_of(3, 30, 0), 8, "dim=32 must be 8"),
    ],
)
def test_public_features_that_do_not_serve_are_refused(public, dim, message):
    with pytest.raises(InputError, match=message):
        recommend(TARGET, public=public, dim=dim)


def settings_of(tmp_path, **train):
    return parse_config(
        {
            "attack": ["lira"],
            "fpr": [0.1],
            "data": {"features": "private.npz", "test_per_class": 20},
            "grid": {"classes": [3], "shots": [16], "seeds": [0]},
            "shadows": {"models": 17},
            "train": {"normalize": "public", "public": str(tmp_path / "public.npz")} | train,
            "privacy": {"epsilon": [4.0], "recipe": "auto"},
        }
    )


def test_auto_cells_read_nothing_of_the_private_features(few, found, tmp_path):
    save_features(features_of(9, 60, 0), tmp_path / "public.npz")
    config, cell = settings_of(tmp_path), Cell(3, 16, 0, 4.0)
    one, other = (private_settings(config, features_of(3, 60, seed), cell) for seed in (1, 2))
    assert one == other
    assert (one.train.components, one.train.steps) == (found.components, found.recipe.steps)
    assert not one.train.intercept
    normalizer = given_normalizer(config.train, features_of(3, 60, 1), all_components=True)
    assert normalizer.directions.shape == (DIM, DIM)
    expected = public_projection(features_of(9, 60, 0), found.components)
    np.testing.assert_allclose(normalizer.leading(found.components).directions, expected.directions)


@pytest.mark.thorough
def test_a_run_by_auto(few, found, tmp_path):
    save_features(features_of(9, 60, 0), tmp_path / "public.npz")
    run = run_experiment(settings_of(tmp_path), tmp_path / "run", features=features_of(3, 60, 1))
    assert set(run.results["steps"]) == {found.recipe.steps}
    assert (run.results["tpr_low"].fillna(0) <= run.results["tpr_ceiling"]).all()
    assert run.results["accuracy"].min() > 0.5


def test_the_command_recommends_settings_that_run(few, tmp_path, capsys):
    save_features(features_of(9, 60, 0), tmp_path / "public.npz")
    words = ["dp", "--recommend", "--shots", "16", "--classes", "3", "--epsilon", "4"]
    code, out, err = jaxmia(capsys, *words, "--public", tmp_path / "public.npz", columns=150)
    assert code == 0, err
    assert "Rehearsals, the best first" in out
    text = "\n".join(line.strip() for line in out[out.index("[train]") :].splitlines())
    (tmp_path / "found.toml").write_text(f"[grid]\nclasses = [3]\nshots = [16]\n{text}\nepsilon = [4.0]\n")
    assert load_config(tmp_path / "found.toml").train.components == SIGNAL_DIMS
    code, out, _ = jaxmia(capsys, *words, "--dim", "384", columns=150)
    assert code == 0
    assert 'normalize = "unit"' in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recommend", "--epsilon", "1"], "needs --epsilon, --shots and --classes"),
        (["--recommend", "--epsilon", "1", "--shots", "8", "--classes", "3"], "one of --public and --dim"),
        (["--epsilon", "1"], "T, steps of DP-SGD"),
        (["--epsilon", "1", "--steps", "3", "--dim", "8"], "left out without --recommend"),
    ],
)
def test_the_command_says_what_it_needs(words, message, capsys):
    code, _, err = jaxmia(capsys, "dp", *words)
    assert code == 2
    assert message in err
