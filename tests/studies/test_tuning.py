"""The search for a recipe: its results, their reproducibility, and the note on its privacy."""

import json
import math
import pathlib
import re
import shutil
import sys

import jax
import numpy as np
import pandas as pd
import pytest
import scipy.optimize
from commands import jaxmia
from scipy.stats import norm

from jaxmia._validate import InputError
from jaxmia.data.feature_set import feature_set, save_features
from jaxmia.report import make_report
from jaxmia.studies import grid, run, search
from jaxmia.studies.cell import Cell, training_plan
from jaxmia.studies.distributed import Group
from jaxmia.studies.folder.run import RunFolder
from jaxmia.studies.folder.states import DamagedError
from jaxmia.studies.grid import GridRun
from jaxmia.studies.run import run_experiment
from jaxmia.studies.search import split_training_set, tune, tune_cell, tuned_cell
from jaxmia.studies.settings.toml import load_config, parse_config, to_toml
from jaxmia.studies.study import Study
from jaxmia.studies.sweep import run_sweep
from jaxmia.studies.tuning import (
    Trial,
    Tuning,
    possible_settings,
    privacy_notes,
    tuned_settings,
)
from jaxmia.tables import Table

pytest.importorskip("optuna", reason="Optuna is not installed: it is one of the dev extra")

SEARCH = {"trials": 4, "round_size": 2, "epochs": [2, 10], "max_steps": 30, "learning_rate": [0.01, 1.0]}
KEY = jax.random.key(3)


def synthetic(seed, *, per_class=60, classes=3, dim=6):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    means = rng.normal(size=(classes, dim))
    return feature_set(means[labels] + 0.5 * rng.normal(size=(len(labels), dim)), labels)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "small.npz"
    save_features(synthetic(0), path)
    return str(path)


@pytest.fixture(scope="module")
def settings(features):
    return {
        "attack": ["lira"],
        "fpr": [0.1],
        "data": {"features": features},
        "grid": {"shots": [8], "classes": [3], "seeds": [0]},
        "shadows": {"models": 9},
        "tuning": SEARCH,
    }


def with_tables(settings, **tables):
    return settings | {name: {**settings.get(name, {}), **values} for name, values in tables.items()}


def contents(path):
    names = ("results.parquet", "per_example.parquet", "controls.parquet", "power_law.json")
    return {name: (path / name).read_bytes() for name in names}


@pytest.mark.thorough
def test_learning_rates_that_are_too_small_or_too_large_are_rejected(settings):
    """SGD at 1e-6 leaves a head at zero; weight decay of 0.1 blows it up beyond 20: |1 - rate x decay| > 1."""
    search = {
        "trials": 10,
        "round_size": 5,
        "epochs": [30, 30],
        "batch_size": [100, 100],
        "objective": "loss",
        "learning_rate": [1e-6, 1e6],
    }
    config = parse_config(settings | {"train": {"optimizer": "sgd", "weight_decay": 0.1}, "tuning": search})
    found = tune_cell(config, synthetic(0), Cell(3, 20, 0))
    small = [trial.loss for trial in found.trials if trial.learning_rate < 1e-4]
    large = [trial.loss for trial in found.trials if trial.learning_rate > 1e2]
    assert len(small) > 0
    assert len(large) > 0
    np.testing.assert_allclose(small, math.log(3), rtol=0.01)
    assert all(loss is None or loss > 10 for loss in large)
    assert None in large  # some losses are NaN and do not stop the search
    assert found.chosen.loss < 0.7 * math.log(3)
    assert 1e-2 < found.chosen.learning_rate < 20
    assert {trial.batch_size for trial in found.trials} == {60}  # cut at S x C
    assert {trial.steps for trial in found.trials} == {30}


@pytest.mark.thorough
def test_trials_side_by_side_are_those_trained_one_by_one(settings):
    """TPE's first ten trials do not look at outcomes: rounds of one and of five ask for the same ones."""
    search = {"trials": 5, "epochs": [2, 10], "learning_rate": [0.01, 1.0]}
    results = []
    for round_size in (1, 5):
        config = parse_config(
            settings
            | {
                "train": {"optimizer": "sgd", "schedule": "cosine"},
                "tuning": search | {"round_size": round_size},
            }
        )
        results.append(tune_cell(config, synthetic(0), Cell(3, 20, 0)).trials)
    asked = [[trial._replace(accuracy=0, loss=0) for trial in trials] for trials in results]
    assert asked[0] == asked[1]
    assert len({(trial.batch_size, trial.steps) for trial in results[0]}) == 5
    np.testing.assert_allclose([t.loss for t in results[0]], [t.loss for t in results[1]], rtol=1e-5)
    np.testing.assert_allclose([t.accuracy for t in results[0]], [t.accuracy for t in results[1]], atol=1e-6)


def test_steps_follow_from_epochs_and_batch_and_are_cut(settings):
    trials = tune_cell(parse_config(settings), synthetic(0), Cell(3, 20, 0)).trials
    assert len(trials) == 4
    for trial in trials:
        assert trial.steps == min(math.ceil(trial.epochs * 60 / trial.batch_size), 30)
        assert 10 <= trial.batch_size <= 60
        assert 0.01 <= trial.learning_rate <= 1
        assert trial.clipping_norm is None


def test_the_best_trial_is_chosen_by_what_it_is_judged_by():
    trials = tuple(
        Trial(rate, 10, 1, 1, None, accuracy, loss)
        for rate, accuracy, loss in [
            (1, 0.5, 1.0),
            (2, 0.7, 3.0),
            (3, 0.7, 2.0),
            (4, 0.9, None),
            (5, 0.7, 2.0),
        ]
    )
    assert Tuning(trials, "accuracy", 7, 3, "").chosen.learning_rate == 3
    assert Tuning(trials, "loss", 7, 3, "").chosen.learning_rate == 1
    assert Tuning(trials[3:4], "accuracy", 7, 3, "").chosen.learning_rate == 4  # all diverged
    again = Tuning.from_json(json.loads(json.dumps(Tuning(trials, "loss", 7, 3, "5").to_json())))
    assert again == Tuning(trials, "loss", 7, 3, "5")


def test_the_training_set_is_split_by_class():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(4), [40, 20, 2, 2])).astype(np.int32)
    member = np.ones(64, bool)
    member[np.flatnonzero(labels == 3)[0]] = False
    member[np.flatnonzero(labels == 0)[:10]] = False
    training, validation = split_training_set(KEY, labels, member, share=0.3)
    np.testing.assert_array_equal(np.sort(np.append(training, validation)), np.flatnonzero(member))
    assert np.bincount(labels[validation], minlength=4).tolist() == [9, 6, 1, 0]
    other = split_training_set(jax.random.key(4), labels, member, share=0.3)[1]
    assert set(other) != set(validation)


def test_a_training_set_too_small_to_split_still_has_a_recipe(settings):
    pool = synthetic(0, per_class=2)
    member = np.arange(6) % 2 == 0  # one of each class
    found = tune(KEY, pool, member, parse_config(settings), classes=3, shots=1)
    assert (found.num_training, found.num_validation) == (3, 0)
    assert found.chosen is found.trials[0]


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    return run_experiment(settings, tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.thorough
def test_a_report_prints_the_recipes_really_used_and_not_what_a_search_replaced(finished):
    blocks = [block for part in make_report(finished.path).sections for block in part.blocks]
    named = {block.title: block for block in blocks if isinstance(block, Table)}
    answers = dict(named["Training recipe"].rows)
    for name in ("learning_rate", "batch_size", "steps"):
        assert answers[name] == "tuned: see the recipes really used"
    used = dict(zip(named["Recipes really used"].columns, named["Recipes really used"].rows[0], strict=True))
    row = finished.results.iloc[0]
    assert used["learning rate"] == f"{row['learning_rate']:.3g}"
    assert (used["batch"], used["steps"], used["tuned"]) == (row["batch_size"], row["steps"], "per cell")
    assert dict(named["The study"].rows)["recipes tuned"] == "per cell"


def test_heads_are_those_of_a_run_with_the_recipe_that_was_found(settings, finished, tmp_path):
    content = json.loads((finished.path / "checkpoints/classes-3_shots-8_seed-0/tuning.json").read_text())
    chosen = Tuning.from_json(content).chosen
    rows = finished.results
    assert set(rows["learning_rate"]) == {chosen.learning_rate}
    assert set(rows["batch_size"]) == {chosen.batch_size}
    assert set(rows["steps"]) == {chosen.steps}
    assert set(rows["tuned"]) == {"per cell"}
    used = json.loads((finished.path / "manifest.json").read_text())["cells"]["classes-3_shots-8_seed-0"][
        "recipe"
    ]
    assert used["learning_rate"] == chosen.learning_rate
    assert (used["tuned"], used["standardised_by"], used["clipping_norm"]) == ("per cell", "none", None)
    assert rows["clipping_norm"].isna().all()
    fixed = tuned_settings(parse_config(settings), chosen, classes=3, shots=8)
    alone = run_experiment(fixed, tmp_path / "run")
    pd.testing.assert_frame_equal(alone.results.drop(columns="tuned"), rows.drop(columns="tuned"))
    record = json.loads((finished.path / "manifest.json").read_text())["cells"]["classes-3_shots-8_seed-0"]
    assert record["tuned"] == chosen._asdict()


def _interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def test_a_run_killed_after_tuning_resumes_with_what_was_found(settings, finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_heads", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(settings, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(search, "tune", _interrupt)
        run_experiment(settings, tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == contents(finished.path)


def test_a_run_killed_while_tuning_or_with_a_damaged_search_finds_the_same(
    settings, finished, tmp_path, monkeypatch
):
    name = "checkpoints/classes-3_shots-8_seed-0/tuning.json"
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_tuning", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(settings, tmp_path / "run")
    (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "run" / name).write_text('{"trials": [')
    run_experiment(settings, tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == contents(finished.path)
    assert (tmp_path / "run" / name).read_bytes() == (finished.path / name).read_bytes()


@pytest.mark.parametrize("name", ["tuning.json", "cell.json", "../../manifest.json"])
def test_a_file_that_may_be_whole_is_not_written_anew(settings, finished, tmp_path, monkeypatch, name):
    """Without permission to read it nothing is trained, searched or written."""
    shutil.copytree(finished.path, tmp_path / "run")
    file = (tmp_path / "run" / "checkpoints/classes-3_shots-8_seed-0" / name).resolve()
    before, read = contents(tmp_path / "run"), pathlib.Path.read_text

    def denied(path, *args, **options):
        if path.resolve() == file:
            raise PermissionError(13, "Permission denied")
        return read(path, *args, **options)

    monkeypatch.setattr(pathlib.Path, "read_text", denied)
    grown = with_tables(settings, shadows={"models": settings["shadows"]["models"] + 1})
    with pytest.raises(InputError, match=f"{file.name} must be a file that can be read: Permission denied"):
        run_experiment(grown, tmp_path / "run")
    monkeypatch.undo()
    after = contents(tmp_path / "run")
    left_out = {"manifest.json", ".manifest.json"} if name == "tuning.json" else set()
    assert {k: v for k, v in after.items() if k not in left_out} == {
        k: v for k, v in before.items() if k not in left_out
    }


@pytest.mark.parametrize(
    "content", [{}, {"trials": []}, {"trials": [3]}, {"trials": [{"steps": 1}]}, {"trials": "x"}]
)
def test_what_is_no_search_is_damaged(content):
    whole = Tuning((Trial(0.1, 24, 3, 3, None, 0.5, 1.0),), "accuracy", 7, 3, "4").to_json()
    assert Tuning.from_json(whole).to_json() == whole
    for wrong in (
        content,
        whole | content if content else {},
        {k: v for k, v in whole.items() if k != "optuna"},
    ):
        with pytest.raises(DamagedError):
            Tuning.from_json(wrong)


@pytest.mark.parametrize(
    ("per", "searches"), [pytest.param("cell", [0, 1, 2], marks=pytest.mark.thorough), ("shots", [0])]
)
def test_seeds_share_a_search_if_asked(settings, tmp_path, monkeypatch, per, searches):
    seeds = []

    def counted(config, data, cell, *args, **kwargs):
        seeds.append(cell.seed)
        trial = Trial(0.1 * (1 + cell.seed), 24, 3, 3, None, 0.5, 1.0)
        return Tuning((trial,), "accuracy", 7, 3, "")

    monkeypatch.setattr(grid, "tune_cell", counted)
    settings = with_tables(settings, tuning={"per": per}, grid={"seeds": [1, 2]})
    run_experiment(settings, tmp_path / "run")
    grown = run_experiment(with_tables(settings, grid={"seeds": [0, 1, 2]}), tmp_path / "run")
    assert sorted(seeds) == searches
    assert grown.cells_computed == 1
    rates = grown.results.groupby("seed")["learning_rate"].first().to_dict()
    assert rates == (
        {0: 0.1, 1: 0.2, 2: pytest.approx(0.3)} if per == "cell" else dict.fromkeys(range(3), 0.1)
    )


def test_process_0_tunes_and_the_others_receive_the_recipe(settings, tmp_path, monkeypatch):
    """Processes on other devices round otherwise, and might choose another recipe."""
    sent = {}
    monkeypatch.setattr(
        Group, "broadcast", lambda self, what, value: sent.setdefault(what, json.dumps(value))
    )
    monkeypatch.setattr(Group, "receive", lambda self, what, process: json.loads(sent[what]))
    cell, config, trial = Cell(3, 8, 0), parse_config(settings), Trial(0.1, 24, 3, 3, None, 0.5, 1.0)
    monkeypatch.setattr(GridRun, "tuning", lambda self, cell: Tuning((trial,), "accuracy", 7, 3, ""))
    folder, data = RunFolder(tmp_path, {"cells": {}}), synthetic(0)
    first, second = (GridRun(Study(config, {}), data, folder, None, Group(index, 2, "")) for index in (0, 1))
    assert first.settings(cell).train.batch_size == "full"
    monkeypatch.setattr(GridRun, "tuning", _interrupt)
    assert second.settings(cell) == first.settings(cell)
    assert (second.prepare(cell).recipe.config.steps, config.train.steps) == (3, 100)


def test_a_sweep_tunes_the_recipes_that_it_shall(settings, tmp_path):
    recipes = [{"name": "fixed", "tuned": False, "steps": 7}, {"name": "searched"}]
    datasets = [{"name": "small", **settings["data"]}]
    common = {name: value for name, value in settings.items() if name != "data"}
    result = run_sweep(common | {"datasets": datasets, "recipes": recipes}, tmp_path / "sweep")
    steps = result.results().groupby("recipe")["steps"].first()
    assert result.failures == ()
    assert steps["fixed"] == 7
    search = tmp_path / "sweep/studies/small/searched/checkpoints/classes-3_shots-8_seed-0/tuning.json"
    assert steps["searched"] == Tuning.from_json(json.loads(search.read_text())).chosen.steps


@pytest.mark.thorough
def test_private_trials_search_the_clip_and_keep_the_full_batch_without_poisson_sampling(settings):
    private = settings | {"privacy": {"epsilon": [2.0]}, "tuning": SEARCH | {"trials": 2}}
    full = tune_cell(parse_config(private), synthetic(0), Cell(3, 20, 0, 2.0))
    assert {trial.batch_size for trial in full.trials} == {60}
    clips = {trial.clipping_norm for trial in full.trials}
    assert len(clips) == 2
    assert all(0.2 <= clip <= 10 for clip in clips)
    search = SEARCH | {"trials": 1, "batch_size": [10, 20]}
    config = parse_config(private | {"train": {"sampling": "poisson"}, "tuning": search})
    sampled = tune_cell(config, synthetic(0), Cell(3, 20, 0, 2.0))
    assert 10 <= sampled.chosen.batch_size <= 20
    settings = tuned_settings(config, sampled.chosen, classes=3, shots=20)
    assert settings.privacy.clipping_norm == sampled.chosen.clipping_norm


def test_the_note_says_what_the_search_adds_to_epsilon(settings):
    """Each training at epsilon is mu-Gaussian DP (full batch); n of them are sqrt(n) mu."""

    def delta(epsilon, mu):
        return norm.cdf(-epsilon / mu + mu / 2) - math.exp(epsilon) * norm.cdf(-epsilon / mu - mu / 2)

    mu = scipy.optimize.brentq(lambda mu: delta(1.0, mu) - 1e-5, 0.01, 5)
    together = scipy.optimize.brentq(lambda epsilon: delta(epsilon, mu * math.sqrt(5)) - 1e-5, 0.1, 20)
    config = parse_config(settings | {"privacy": {"epsilon": [1.0, math.inf]}})
    (note,) = privacy_notes(config)
    said = re.search(r"4 trials it composes to ([\d.]+) at delta 1e-05", note)
    assert float(said[1]) == pytest.approx(together, abs=0.02)
    assert "covers the final training only" in note
    config = parse_config(
        settings | {"privacy": {"epsilon": [1.0, math.inf]}, "train": {"sampling": "poisson"}}
    )
    assert "composes to 5 at delta 5e-05" in privacy_notes(config)[0]
    assert privacy_notes(parse_config(settings)) == []
    assert privacy_notes(config.model_copy(update={"tuning": None})) == []


@pytest.mark.parametrize("sampling", ["shared", "independent", "poisson"])
@pytest.mark.parametrize("multiplier", [pytest.param(2, marks=pytest.mark.thorough), 3])
def test_whatever_is_found_can_be_trained(settings, sampling, multiplier):
    """Checks before training cannot know the batch: no batch of the ranges may fail after it."""
    config = parse_config(
        with_tables(
            settings,
            train={"sampling": sampling, "batch_size": 999},
            shadows={"pool_multiplier": multiplier},
            tuning={"batch_size": [1, 10_000], "max_steps": 500},
        )
    )
    batches = {settings.train.batch_size for settings in possible_settings(config, classes=3, shots=5)}
    assert {1, "full"} < batches
    for batch in range(1, 16):
        found = tuned_settings(config, Trial(0.1, batch, 9, 20, None), classes=3, shots=5)
        training_plan(found, synthetic(0), Cell(3, 5, 0), None)


def test_folders_without_tuning_keep_their_identity(settings):
    plain = {name: value for name, value in settings.items() if name != "tuning"}
    identity = parse_config(plain).training_identity()
    assert "tuning" not in identity
    assert identity["train"]["steps"] == 100
    tuned = parse_config(settings).training_identity()
    assert tuned["tuning"]["trials"] == 4
    assert "steps" not in tuned["train"]
    assert parse_config(with_tables(settings, train={"steps": 5})).training_identity() == tuned
    assert parse_config(with_tables(settings, tuning={"trials": 5})).training_identity() != tuned


@pytest.mark.parametrize(
    ("tuning", "message"),
    [
        (
            {"learning_rate": [1.0, 0.1]},
            r"tuning.learning_rate: a range must be \[lowest, highest\], got \[1.0, 0.1\]",
        ),
        ({"learning_rate": [0.0, 0.1]}, r"tuning.learning_rate.0=0.0: input should be greater than 0"),
        ({"epochs": [1]}, r"tuning.epochs.1 must be given"),
        ({"trails": 3}, r"unknown key 'tuning.trails'; .* Did you mean 'trials'\?"),
        ({"per": "seed"}, r"tuning.per='seed': input should be 'cell' or 'shots'"),
        ({"validation": 1.0}, r"tuning.validation=1.0: input should be less than 1"),
    ],
)
def test_bad_settings_are_named(settings, tuning, message):
    with pytest.raises(InputError, match=message):
        parse_config(with_tables(settings, tuning=tuning))


def test_without_optuna_nothing_is_trained(settings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install 'jaxmia\[tune\]'"):
        run_experiment(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_file_of_settings_is_read_back_to_the_same(tmp_path, settings):
    config = parse_config(
        settings
        | {
            "name": 'a "name" \\ of ünicode',
            "attack": [{"name": "lira", "variance": "global"}, "threshold"],
            "privacy": {"epsilon": [0.5, math.inf], "delta": 1e-7},
        }
    )
    (tmp_path / "file.toml").write_text(to_toml(config), encoding="utf-8")
    assert load_config(tmp_path / "file.toml") == config


def test_the_command_writes_a_file_to_run(settings, finished, tmp_path, capsys):
    path, out = tmp_path / "config.toml", tmp_path / "tuned.toml"
    path.write_text(to_toml(parse_config(settings)))
    code, said, _ = jaxmia(capsys, "tune", path, "--out", out)
    assert code == 0
    content = json.loads((finished.path / "checkpoints/classes-3_shots-8_seed-0/tuning.json").read_text())
    chosen = Tuning.from_json(content).chosen
    assert load_config(out) == tuned_settings(parse_config(settings), chosen, classes=3, shots=8)
    assert len(re.findall(r"^ *(?:→ )?\d+ .*\d\.\d{3} +\d\.\d{3} *$", said, re.MULTILINE)) == 4
    assert re.search(rf"→ {content['chosen']} ", said)
    code, said, _ = jaxmia(capsys, "tune", path, "--out", out, "--set", "grid.shots=[4,8]")
    assert code == 0
    text = out.read_text()
    assert re.search(
        r"^# classes-3_shots-4_seed-0: learning_rate = [\d.e-]+, batch_size = ", text, re.MULTILINE
    )
    assert f"# classes-3_shots-8_seed-0: learning_rate = {chosen.learning_rate!r}" in text
    assert load_config(out) == parse_config(with_tables(settings, grid={"shots": [4, 8]}))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "tuning.trials=0"], "tuning.trials=0: input should be greater than or equal to 1"),
        (["--set", "grid.shots=[600]"], "shots=600 needs 2 x 600"),
        (["--out", "no/such/folder.toml"], "must be a file in a folder that exists"),
    ],
)
def test_bad_input_ends_in_one_line(tmp_path, capsys, words, message):
    out = tmp_path / "tuned.toml"
    out.write_text("mine")
    code, _, said = jaxmia(capsys, "tune", "smoke", "--out", out, *words)
    assert code == 2
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert out.read_text() == "mine"


def test_a_run_says_what_its_epsilon_covers(settings, finished, tmp_path, capsys, monkeypatch):
    path = tmp_path / "config.toml"
    path.write_text(to_toml(parse_config(settings | {"privacy": {"epsilon": [4.0]}})))
    monkeypatch.setattr(run, "run_experiment", lambda *args, **kwargs: finished)
    code, said, _ = jaxmia(capsys, "run", path, "--out", tmp_path / "run")
    assert code == 0
    assert "tuning used the target's data. Together with the heads of 4 trials it" in " ".join(said.split())


def test_the_shared_search_is_that_of_seed_0(settings):
    shared = parse_config(with_tables(settings, tuning={"per": "shots"}))
    assert tuned_cell(shared, Cell(3, 8, 5, 1.0)) == Cell(3, 8, 0, 1.0)
    assert tuned_cell(parse_config(settings), Cell(3, 8, 5)) == Cell(3, 8, 5)
