import json
import math

import pytest

from jaxmia._validate import InputError
from jaxmia.data.feature_set import load_features
from jaxmia.data.pool import check_candidates
from jaxmia.studies.recipe import recipe_for
from jaxmia.studies.settings.toml import (
    builtin_configs,
    load_config,
    load_sweep,
    parse_config,
    parse_sweep,
    to_toml,
)
from jaxmia.training.settings import TrainConfig

GRID = {"shots": [8, 4], "classes": [2]}


def test_every_builtin_config_is_valid():
    assert {"demo", "smoke", "privacy", "advantage", "required_shots", "quantiles", "rmia"} <= set(
        builtin_configs()
    )
    for name, file in builtin_configs().items():
        sweep = load_sweep(name)  # an experiment is a sweep of one data set and one recipe
        if "[[datasets]]" not in file.read_text():
            load_config(name)
        # What a user has without any file: a set, and cells that it has the examples for.
        if name == "from_scratch":  # needs raw inputs, which the bundled set has none of
            continue
        settings = sweep.experiment(sweep.datasets[0], sweep.recipes[0])
        data = load_features(settings.data.features)
        multiplier = settings.shadows.pool_multiplier
        for shots in settings.grid.shots:
            if name not in ("advantage", "classes"):  # which leave out what the bundled set is too small for
                check_candidates(data, classes=settings.grid.classes[-1], shots=shots, multiplier=multiplier)


def test_settings_of_a_manifest_are_settings():
    config = parse_config({"grid": GRID, "privacy": {"epsilon": [math.inf, 1]}})
    assert parse_config(config.model_dump(mode="json")) == config
    sweep = load_sweep("study_smoke")
    assert parse_sweep(json.loads(json.dumps(sweep.record()))) == sweep


def test_a_sweep_is_no_experiment_and_says_so():
    with pytest.raises(InputError, match="config='study_smoke' must be an experiment; it is a sweep"):
        load_config("study_smoke")


def test_identity_without_normalisation_is_what_it_was_before_there_was_any():
    before = parse_config({"grid": GRID}).training_identity()
    assert not {"normalize", "statistics"} & before["train"].keys()
    unit = parse_config({"grid": GRID, "train": {"normalize": "unit"}}).training_identity()
    assert unit["train"] == before["train"] | {"normalize": "unit"}


def test_demo_is_the_study_it_promises():
    demo = load_config("demo")
    assert demo.grid.shots == (8, 16, 32, 64, 128, 256)
    assert demo.shadows.models == 257
    assert [attack.label for attack in demo.attack] == ["lira", "lira(variance=global)", "threshold"]


def test_overrides_take_toml_values_and_bare_words(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("[grid]\nshots = [8]\nclasses = [2]\n")
    config = load_config(
        path, ["train.steps=7", "train.optimizer=sgd", "grid.seeds=[2, 1]", "train.batch_size=5"]
    )
    recipe = recipe_for(config, classes=2, shots=8)
    assert recipe.config == TrainConfig("sgd", "constant", 7, 5)
    assert config.grid.seeds == (1, 2)
    assert recipe.hyper.learning_rate == 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "grid must be given"),
        ({"grid": GRID, "atack": []}, "unknown key 'atack'.*Did you mean 'attack'"),
        ({"grid": GRID, "train": {"step": 3}}, r"unknown key 'train.step'.*Did you mean 'steps'"),
        ({"grid": GRID, "train": {"steps": "many"}}, r"train.steps='many': input should be a valid integer"),
        ({"grid": GRID, "train": {"steps": 0}}, r"train.steps=0: input should be greater than or equal to 1"),
        ({"grid": GRID, "train": {"learning_rate": float("nan")}}, r"train.learning_rate=nan"),
        ({"grid": GRID, "train": {"momentum": 0.9}}, r"train: momentum=0.9 is for optimizer='sgd'"),
        ({"grid": GRID, "train": {"optimizer": "lamb"}}, r"train.optimizer='lamb'"),
        (
            {"grid": GRID, "privacy": {"epsilon": [0.0]}},
            r"privacy.epsilon.0=0.0: input should be greater than 0",
        ),
        ({"grid": GRID, "privacy": {"epsilon": [float("nan")]}}, r"privacy.epsilon.0=nan"),
        ({"grid": GRID, "privacy": {"delta": 0.0}}, r"privacy.delta=0.0"),
        (
            {"grid": GRID, "train": {"batch_size": 8}, "privacy": {"epsilon": [1.0]}},
            r"privacy.epsilon=\[1.0\] needs train.batch_size='full' or train.sampling='poisson'",
        ),
        ({"grid": GRID | {"shots": [0]}}, r"grid.shots.0=0"),
        ({"grid": GRID | {"shots": []}}, r"grid.shots=\[\]"),
        ({"grid": GRID | {"shots": [8.5]}}, r"grid.shots.0=8.5"),
        ({"grid": GRID | {"classes": [1]}}, r"grid.classes.0=1"),
        ({"grid": GRID, "shadows": {"models": 0}}, r"shadows.models=0"),
        ({"grid": GRID, "shadows": {"design": "poisson"}}, r"shadows.design='poisson'"),
        (
            {"grid": GRID, "correction": "finite"},
            r"correction='finite': input should be 'none' or 'finite_pool'",
        ),
        ({"grid": GRID, "fpr": [0.1, 1.0]}, r"fpr.1=1.0"),
        ({"grid": GRID, "fpr": [0.0]}, r"fpr.0=0.0"),
        ({"grid": GRID, "evaluation": ["pooledd"]}, r"evaluation='pooledd' must be one of .* 'pooled'"),
        ({"grid": GRID, "evaluation": []}, r"evaluation=\[\]"),
        ({"grid": GRID, "attack": ["lirra"]}, r"attack='lirra' must be one of .* Did you mean 'lira'"),
        ({"grid": GRID, "attack": [{"name": "lira", "varience": "global"}]}, r"Did you mean 'variance'"),
        ({"grid": GRID, "train": {"steps": 0, "schedule": "x"}}, r"\(1 more wrong\)"),
    ],
)
def test_wrong_settings_are_named_by_path_rule_and_value(settings, message):
    with pytest.raises(InputError, match=message) as error:
        parse_config(settings)
    assert "\n" not in str(error.value)


def test_bad_files_and_overrides_are_refused(tmp_path):
    with pytest.raises(InputError, match="must be a TOML file or one of"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[grid\n")
    with pytest.raises(InputError, match="must be valid TOML"):
        load_config(tmp_path / "bad.toml")
    with pytest.raises(InputError, match="must have the form"):
        load_config("demo", ["train.steps"])
    with pytest.raises(InputError, match="'name' is a value"):
        load_config("demo", ["name.steps=3"])


def test_the_name_that_version_0_1_had_for_matmul_dtype_is_read_and_keeps_its_folders():
    old = parse_config({"grid": GRID, "train": {"products": "bfloat16"}})
    new = parse_config({"grid": GRID, "train": {"matmul_dtype": "bfloat16"}})
    assert old == new
    assert old.train.matmul_dtype == "bfloat16"
    assert "matmul_dtype" in to_toml(old)
    assert (
        parse_sweep({"grid": GRID, "train": {"products": "bfloat16"}}).recipes[0].matmul_dtype == "bfloat16"
    )
    recorded = new.training_identity()["train"]
    assert recorded["products"] == "bfloat16"
    assert "matmul_dtype" not in recorded
    with pytest.raises(InputError, match=r"train\.products='half'"):
        parse_config({"grid": GRID, "train": {"products": "half"}})
    with pytest.raises(InputError, match=r"unknown key 'train\.products'"):
        parse_config({"grid": GRID, "train": {"products": "float32", "matmul_dtype": "float32"}})


def test_identities_part_what_is_trained_from_what_is_evaluated():
    base = parse_config({"grid": GRID})
    more_models = parse_config({"grid": GRID, "shadows": {"models": 300}})
    other_fpr = parse_config({"grid": GRID, "fpr": [0.5]})
    other_evaluation = parse_config({"grid": GRID, "evaluation": ["pooled"]})
    other_rate = parse_config({"grid": GRID, "train": {"learning_rate": 0.2}})
    assert base.training_identity() == more_models.training_identity() == other_fpr.training_identity()
    assert base.training_identity() != other_rate.training_identity()
    corrected = parse_config({"grid": GRID, "correction": "finite_pool"})
    assert base.training_identity() == corrected.training_identity()
    others = (base, more_models, other_fpr, other_evaluation, corrected)
    assert len({str(config.evaluation_identity()) for config in others}) == 5
