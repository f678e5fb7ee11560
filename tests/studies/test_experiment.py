"""A run folder: what it holds, that it only grows, and that a killed run ends where an uninterrupted one does."""

import io
import json
import shutil
import signal
import subprocess
import sys
import time

import filelock
import numpy as np
import pandas as pd
import pytest
import rich.console
from kills import stopped_after_each_write

from jaxmia import attacks
from jaxmia._validate import InputError
from jaxmia.data.feature_set import demo_features, save_features
from jaxmia.data.membership import draw_membership
from jaxmia.laws.fit import fit_power_law
from jaxmia.laws.law import LawKey
from jaxmia.report import make_report
from jaxmia.stats.operating_points import operating_points
from jaxmia.stats.roc import roc
from jaxmia.studies import cell_heads, cell_scores, grid, study
from jaxmia.studies.cell import Cell, cell_keys, draw_pool
from jaxmia.studies.folder import run as folder_run
from jaxmia.studies.folder.manifest import versions
from jaxmia.studies.folder.run import RunFolder
from jaxmia.studies.folder.tables import load_results
from jaxmia.studies.laws import laws_from_json
from jaxmia.studies.recipe import recipe_for
from jaxmia.studies.run import run_experiment
from jaxmia.studies.settings.toml import parse_config
from jaxmia.tables import Table
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.scoring import score

SETTINGS = {
    "attack": ["lira", {"name": "lira", "variance": "global"}, "threshold"],
    "fpr": [0.1, 0.001],
    "grid": {"shots": [4, 8], "classes": [3], "seeds": [0]},
    "shadows": {"models": 17},
    "train": {"steps": 10},
}
TABLES = ("results.parquet", "per_example.parquet", "controls.parquet", "power_law.json")


def changed(**tables):
    return SETTINGS | {name: {**SETTINGS.get(name, {}), **values} for name, values in tables.items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    return run_experiment(SETTINGS, path)


def contents(path):
    return {name: (path / name).read_bytes() for name in TABLES}


@pytest.mark.thorough
def test_folder_holds_what_it_promises(finished):
    manifest = json.loads((finished.path / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["identity"]["features"]["sha256"] == demo_features().content_hash()
    assert manifest["identity"]["versions"]["jax"]
    assert manifest["settings"]["train"]["steps"] == 10
    assert {entry["shots"] for entry in manifest["cells"].values()} == {4, 8}
    names = {path.name for path in (finished.path / "plots").iterdir()}
    assert {"advantage-lira-pooled.png", "advantage-lira-pooled.svg"} <= names
    assert finished.heads_trained == 34
    assert finished.cells_computed == 2


def test_results_rows_are_complete_and_consistent(finished):
    results = pd.read_parquet(finished.path / "results.parquet")
    assert len(results) == 2 * 3 * 2 * 2
    of_attack = results.groupby("attack")["evaluation"].unique().map(set).to_dict()
    assert of_attack == {
        "lira": {"pooled", "calibrated"},
        "lira(variance=global)": {"pooled", "calibrated"},
        "threshold": {"pooled", "calibrated_empirical"},
    }
    assert set(results["attack"]) == {"lira", "lira(variance=global)", "threshold"}
    resolved = results[results["status"] == "ok"]
    np.testing.assert_allclose(resolved["advantage"], resolved["tpr"] - resolved["fpr"])
    pooled = resolved[resolved["evaluation"] == "pooled"]
    assert (pooled["fpr_realised"] <= pooled["fpr"]).all()
    np.testing.assert_allclose(resolved["true_positives"] / resolved["num_members"], resolved["tpr"])
    np.testing.assert_allclose(
        resolved["false_positives"] / resolved["num_nonmembers"], resolved["fpr_realised"]
    )
    assert ((resolved["tpr_low"] <= resolved["tpr"]) & (resolved["tpr"] <= resolved["tpr_high"])).all()
    unresolved = results[(results["status"] == "unresolved") & (results["evaluation"] == "pooled")]
    assert set(unresolved["fpr"]) == {0.001}
    assert unresolved["tpr"].isna().all()
    assert unresolved["reason"].str.contains("needs at least 10000 non-member scores").all()
    assert ((results["accuracy"] > 0.5) & (results["accuracy"] < 1)).all()
    assert (results["num_models"] == 17).all()


def test_every_attack_has_its_negative_control_in_every_cell(finished):
    controls = pd.read_parquet(finished.path / "controls.parquet")
    pd.testing.assert_frame_equal(controls, finished.controls)
    assert len(controls) == 2 * 3
    assert (controls["fpr"] == 0.1).all()  # 0.001 is not resolved
    assert (controls["status"] == "ok").all()


def test_an_attack_on_features_runs_on_those_of_the_candidates(tmp_path):
    settings = changed(grid={"shots": [8]}) | {"attack": ["quantile"], "evaluation": ["pooled"]}
    run = run_experiment(settings, tmp_path / "run")
    config, cell = parse_config(settings), Cell(3, 8, 0)
    pool = draw_pool(config, demo_features(), cell)
    masks = draw_membership(cell_keys(0)["membership"], pool.data.labels, num_models=17)
    recipe = recipe_for(config, classes=3, shots=8)
    ensemble = train_ensemble(cell_keys(0)["training"], pool.data, masks, recipe.hyper, recipe.config)
    result = attacks.quantile(score(ensemble, pool.data), features=pool.data.features)
    assert run.results["auc"].iloc[0] == roc(result).auc


def test_per_example_rows_point_into_the_feature_set(finished):
    rows = pd.read_parquet(finished.path / "per_example.parquet")
    assert len(rows) == (3 * 2 * 4 + 3 * 2 * 8) * 2
    data = demo_features()
    names = np.array(data.class_names)[data.labels[rows["record"]]]
    np.testing.assert_array_equal(rows["class_name"], names)
    assert rows["tpr"].between(0, 1).all()
    assert rows["flagged_by"].isna().all()  # some eight non-members of a record resolve no FPR by ranks


@pytest.mark.thorough
def test_correction_is_applied_and_recorded_per_example(tmp_path):
    """At inclusion rate r it multiplies every separation by sqrt(1 - r), trains nothing and leaves ROCs alone."""
    settings = changed(shadows={"models": 17, "pool_multiplier": 4})
    plain = run_experiment(settings, tmp_path / "run")
    before = pd.read_parquet(plain.path / "per_example.parquet")
    corrected = run_experiment(settings | {"correction": "finite_pool"}, tmp_path / "run")
    after = pd.read_parquet(plain.path / "per_example.parquet")
    assert (corrected.cells_computed, corrected.heads_trained) == (2, 0)
    np.testing.assert_allclose(after["separation"], before["separation"] * np.sqrt(3 / 4), rtol=1e-12)
    assert after["tpr"].mean() < before["tpr"].mean()
    assert (set(before["correction"]), set(after["correction"])) == ({"none"}, {"finite_pool"})
    assert set(after["inclusion_rate"]) == set(corrected.results["inclusion_rate"]) == {0.25}
    assert set(corrected.results["correction"]) == {"none"}
    pd.testing.assert_frame_equal(corrected.results, plain.results)


def test_law_in_the_folder_is_the_fit_of_its_rows(finished):
    for evaluation in ("pooled", "calibrated"):
        rows = finished.results.query("attack == 'lira' and evaluation == @evaluation")
        assert finished.laws[LawKey("lira", evaluation)] == fit_power_law(rows)
    content = json.loads((finished.path / "power_law.json").read_text())
    assert laws_from_json(content) == finished.laws


def test_finished_run_started_again_does_nothing(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.path.rglob("*") if path.is_file()}
    again = run_experiment(SETTINGS, finished.path)
    assert (again.cells_computed, again.heads_trained) == (0, 0)
    after = {path: path.stat().st_mtime_ns for path in finished.path.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} <= {finished.path / ".lock"}
    pd.testing.assert_frame_equal(again.results, finished.results)


def test_same_settings_give_the_same_bytes(finished, tmp_path):
    run_experiment(SETTINGS, tmp_path / "run")
    assert contents(tmp_path / "run") == contents(finished.path)


@pytest.mark.thorough
def test_more_shots_seeds_and_models_add_only_what_is_missing(tmp_path):
    run_experiment(changed(grid={"shots": [4]}), tmp_path / "grown")
    more_shots = run_experiment(changed(grid={"shots": [4, 8]}), tmp_path / "grown")
    assert (more_shots.cells_computed, more_shots.heads_trained) == (1, 17)
    more_seeds = run_experiment(changed(grid={"seeds": [0, 1]}), tmp_path / "grown")
    assert (more_seeds.cells_computed, more_seeds.heads_trained) == (2, 34)
    more_models = run_experiment(changed(grid={"seeds": [0, 1]}, shadows={"models": 20}), tmp_path / "grown")
    assert (more_models.cells_computed, more_models.heads_trained) == (4, 12)
    at_once = run_experiment(changed(grid={"seeds": [0, 1]}, shadows={"models": 20}), tmp_path / "at_once")
    # Heads trained in two groups differ from heads trained in one by rounding, which may turn a tie.
    one_score = 1 / at_once.results["num_members"].min()
    np.testing.assert_allclose(more_models.results["tpr"], at_once.results["tpr"], atol=5 * one_score)
    smaller_grid = run_experiment(changed(shadows={"models": 20}), tmp_path / "grown")
    assert smaller_grid.cells_computed == 0
    assert len(smaller_grid.results) == len(more_models.results)


@pytest.mark.thorough
def test_new_attacks_and_fprs_train_nothing(tmp_path):
    run_experiment(SETTINGS, tmp_path / "run")
    result = run_experiment({**SETTINGS, "attack": ["threshold"], "fpr": [0.2]}, tmp_path / "run")
    assert (result.cells_computed, result.heads_trained) == (2, 0)
    assert set(result.results["attack"]) == {"threshold"}
    assert set(result.results["fpr"]) == {0.2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (changed(train={"steps": 11}), r"settings.train.steps=11 must equal the 10 that"),
        (changed(shadows={"models": 16}), r"shadows.models=16 must be at least the 17"),
        (changed(shadows={"pool_multiplier": 3}), r"settings.shadows.pool_multiplier=3 must equal the 2"),
    ],
)
def test_conflicting_settings_are_refused(finished, settings, message):
    before = contents(finished.path)
    with pytest.raises(InputError, match=message):
        run_experiment(settings, finished.path)
    assert contents(finished.path) == before


@pytest.mark.thorough
def test_other_features_of_the_same_shape_and_name_are_refused(tmp_path):
    """Keys are by content: a file that was replaced by another of equal shape is another feature set."""
    data, path = demo_features(), tmp_path / "f.npz"
    save_features(data, path)
    settings = changed(data={"features": str(path)}, grid={"shots": [4]})
    run_experiment(settings, tmp_path / "run")
    save_features(data.replace(features=data.features[::-1].copy()), path)
    with pytest.raises(InputError, match=r"features.sha256='\w+' must equal"):
        run_experiment(settings, tmp_path / "run")


def test_the_same_features_at_another_place_are_the_same_features(finished, tmp_path):
    save_features(demo_features(), tmp_path / "copy.npz")
    again = run_experiment(changed(data={"features": str(tmp_path / "copy.npz")}), finished.path)
    assert again.heads_trained == 0


def test_a_folder_is_free_again_after_a_run(finished):
    with filelock.FileLock(finished.path / ".lock", timeout=0):
        pass


@pytest.mark.thorough
def test_rows_of_an_evaluation_cut_short_are_not_taken_for_another_ones(tmp_path, monkeypatch):
    """New attacks overwrite a cell's rows. After a kill before the manifest's, old settings must not find them."""
    path = tmp_path / "run"
    run_experiment(SETTINGS, path)
    before = contents(path)
    with monkeypatch.context() as patch:
        patch.setattr(folder_run, "file_hash", _interrupt)  # after the rows, before their record
        with pytest.raises(KeyboardInterrupt):
            run_experiment({**SETTINGS, "attack": ["threshold"]}, path)
    run_experiment(SETTINGS, path, resume=True)
    assert contents(path) == before


def _interrupt(*args):
    raise KeyboardInterrupt


@pytest.mark.thorough
def test_damage_is_said_and_mended(finished, tmp_path):
    """Damaged rows of one cell and heads of another are computed again, and the folder is the same as before."""
    path, console = tmp_path / "run", rich.console.Console(file=io.StringIO(), width=200)
    run_experiment(SETTINGS, path)
    small, large = (path / "checkpoints" / f"classes-3_shots-{shots}_seed-0" for shots in (4, 8))
    (small / "results.parquet").write_bytes(b"PAR1")
    (large / "models-0-17" / "_METADATA").write_text("{")
    (large / "cell.json").write_text('{"key": ')
    again = run_experiment(SETTINGS, path, console=console)
    assert (again.cells_computed, again.heads_trained) == (2, 17)
    said = console.file.getvalue()
    assert "the rows of classes-3_shots-4_seed-0 were damaged" in said
    assert "the rows of classes-3_shots-8_seed-0 were damaged" in said
    assert "the checkpoint classes-3_shots-8_seed-0/models-0-17 was damaged" in said
    assert contents(path) == contents(finished.path)


@pytest.mark.parametrize("damage", ["", "{", "[]", None])
def test_a_manifest_that_is_damaged_costs_nothing(finished, tmp_path, damage):
    path = tmp_path / "run"
    shutil.copytree(finished.path, path)
    if damage is None:
        (path / "manifest.json").unlink()
    else:
        (path / "manifest.json").write_text(damage)
    again = run_experiment(SETTINGS, path)
    assert (again.cells_computed, again.heads_trained) == (0, 0)
    assert contents(path) == contents(finished.path)
    (path / "manifest.json").write_text(damage or "")
    with pytest.raises(InputError, match=r"train.steps=11 must equal the 10"):
        run_experiment(changed(train={"steps": 11}), path)
    for name in ("manifest.json", ".manifest.json"):
        (path / name).write_text("")
    with pytest.raises(InputError, match="it is empty or damaged, and has no copy"):
        run_experiment(SETTINGS, path)


def test_an_unfinished_run_has_the_results_of_its_cells(finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "assemble", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(SETTINGS, tmp_path / "run")
    pd.testing.assert_frame_equal(load_results(tmp_path / "run"), finished.results)


@pytest.mark.thorough
def test_normalisation_reaches_the_heads_and_is_recorded(finished, tmp_path):
    result = run_experiment(changed(train={"steps": 10, "normalize": "standardize"}), tmp_path / "run")
    assert set(result.results["normalize"]) == {"standardize"}
    assert set(result.results["standardised_by"]) == {"pool"}
    assert set(result.results["tuned"]) == {"no"}
    blocks = {
        block.title: block
        for part in make_report(result.path).sections
        for block in part.blocks
        if isinstance(block, Table)
    }
    assert "members and others together" in dict(blocks["The study"].rows)["features"]
    assert {row[-1] for row in blocks["Recipes really used"].rows} == {"pool"}
    assert set(finished.results["normalize"]) == {"none"}
    config = parse_config(changed(train={"steps": 10, "normalize": "standardize"}))
    pool = draw_pool(config, demo_features(), Cell(3, 8, 0))
    square_norms = np.sum(pool.data.features.astype(np.float64) ** 2, axis=1)
    assert square_norms.mean() == pytest.approx(381 / 384, rel=1e-5)  # three dimensions are dead
    assert result.results["auc"].ne(finished.results["auc"]).any()


def test_other_versions_are_refused(finished, monkeypatch):
    monkeypatch.setattr(study, "versions", lambda: {**experiment_versions, "jax": "0.0.1"})
    with pytest.raises(InputError, match=r"versions.jax='0.0.1' must equal"):
        run_experiment(SETTINGS, finished.path)


experiment_versions = versions()


def test_foreign_folders_and_files_are_refused(tmp_path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"must be empty or hold a run"):
        run_experiment(SETTINGS, tmp_path / "foreign")
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["thesis.tex"]
    with pytest.raises(InputError, match="it is a file"):
        run_experiment(SETTINGS, tmp_path / "foreign" / "thesis.tex")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (changed(grid={"shots": [4, 900]}), r"shots=900 needs 2 x 900 = 1800 examples .* has 1000"),
        (changed(grid={"classes": [11]}), r"classes=11 must be at most 10"),
        (changed(train={"batch_size": 25}), r"batch_size=25 must be at most 12"),
        ({**SETTINGS, "attack": [{"name": "lira", "variance": "local"}]}, r"variance='local' must be one of"),
        ({**SETTINGS, "fpr": [1e-6]}, r"1e-06 needs 10000000 non-member scores, the largest cell has 408"),
        (changed(data={"features": "no/such.npz"}), r"no/such.npz' must be an existing"),
    ],
)
def test_what_would_fail_later_fails_before_training(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        run_experiment(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.thorough
def test_diverged_heads_are_counted_named_and_left_out(tmp_path, monkeypatch):

    def with_nan(ensemble, pool):
        scores = score(ensemble, pool)
        scores.log_odds[5, 2] = np.nan
        return scores

    monkeypatch.setattr(cell_scores, "score", with_nan)
    result = run_experiment(changed(grid={"shots": [8]}), tmp_path / "run")
    assert (result.results["num_diverged"] == 1).all()
    entry = json.loads((tmp_path / "run" / "manifest.json").read_text())["cells"]["classes-3_shots-8_seed-0"]
    assert entry["diverged_models"] == [5]
    assert (result.results["num_members"] + result.results["num_nonmembers"] == 16 * 48).all()


def test_a_recipe_that_always_diverges_ends_with_rows_that_say_so(tmp_path):
    settings = changed(train={"optimizer": "sgd", "learning_rate": 1e38, "weight_decay": 1.0})
    result = run_experiment(settings, tmp_path / "run")
    assert set(result.results["status"]) == {"diverged"}
    assert (result.results["num_diverged"] == 17).all()
    assert result.results["tpr"].isna().all()


def run_in_a_process(out):
    code = "import json, sys; from jaxmia import run_experiment as run; run(json.loads(sys.argv[1]), sys.argv[2])"
    return subprocess.Popen([sys.executable, "-c", code, json.dumps(SETTINGS), str(out)])


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param("manifest.json", marks=pytest.mark.slow),
        pytest.param("checkpoints/classes-3_shots-4_seed-0/models-0-17", marks=pytest.mark.slow),
        pytest.param("checkpoints/classes-3_shots-4_seed-0/cell.json", marks=pytest.mark.thorough),
    ],
)
def test_a_run_killed_at_any_stage_and_resumed_ends_in_the_same_bytes(tmp_path, finished, stage):
    """SIGKILL as soon as a file of each stage is there: before training, after a checkpoint, between cells."""
    out = tmp_path / "run"
    with run_in_a_process(out) as process:
        while not (out / stage).exists() and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert json.loads((out / "manifest.json").read_text())["status"] == "running"
    with pytest.raises(
        InputError, match=r"holds an unfinished run \(\d of 2 cells done\); continue it with --resume"
    ):
        run_experiment(SETTINGS, out)
    result = run_experiment(SETTINGS, out, resume=True)
    assert contents(out) == contents(finished.path)
    assert result.cells_computed <= 2
    if stage.endswith("cell.json"):
        assert result.cells_computed == 1  # the first cell was done: only the one in flight is computed again


@pytest.mark.parametrize(
    "every", [pytest.param(6, marks=pytest.mark.thorough), pytest.param(1, marks=pytest.mark.slow)]
)
def test_a_kill_between_two_writes_loses_nothing(tmp_path, finished, monkeypatch, every):
    killed = stopped_after_each_write(
        monkeypatch, tmp_path, lambda out: run_experiment(SETTINGS, out), every=every
    )
    for out in killed:
        run_experiment(SETTINGS, out, resume=True)
        assert contents(out) == contents(finished.path)


def test_two_processes_cannot_write_one_folder(finished):
    manifest = json.loads((finished.path / "manifest.json").read_text())
    with (
        RunFolder.open(
            finished.path,
            settings=manifest["settings"],
            identity=manifest["identity"],
            cells=[],
            models=17,
            resume=False,
        ),
        pytest.raises(InputError, match="in use by another process"),
    ):
        run_experiment(SETTINGS, finished.path)


def test_pooled_rows_are_recomputed_from_public_parts(finished):
    """The library's functions give the folder's numbers: nothing in a run is out of reach of a notebook."""
    config = parse_config(SETTINGS)
    cell = Cell(3, 8, 0)
    pool = draw_pool(config, demo_features(), cell)
    keys = cell_keys(0)
    masks = draw_membership(keys["membership"], pool.data.labels, num_models=17)
    recipe = recipe_for(config, classes=3, shots=8)
    ensemble = train_ensemble(keys["training"], pool.data, masks, recipe.hyper, recipe.config)
    scores = score(ensemble, pool.data)
    for evaluation in ("pooled", "calibrated"):
        result = attacks.lira(scores, calibrated=evaluation == "calibrated")
        point = operating_points(result, [0.1], evaluation=evaluation)[0]
        where = "attack == 'lira' and evaluation == @evaluation and shots == 8 and fpr == 0.1"
        row = finished.results.query(where).iloc[0]
        assert point.tpr == row["tpr"]
        np.testing.assert_equal(point.threshold, row["threshold"])
        assert roc(result, evaluation=evaluation).auc == row["auc"]


WHITE_BOX = ["lira", "whitebox", {"name": "whitebox", "method": "stationarity"}]


@pytest.mark.thorough
def test_attacks_on_weights_stand_beside_the_others_and_below_the_ceiling(tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "plot_power_law", lambda *_: [])
    monkeypatch.setattr(grid, "plot_privacy", lambda *_: [])
    settings = changed(grid={"shots": [8]}, privacy={"epsilon": [1.0, float("inf")]}, shadows={"models": 33})
    train = {"optimizer": "sgd", "learning_rate": 1.0, "steps": 50}
    result = run_experiment(settings | {"attack": WHITE_BOX, "train": train, "fpr": [0.1]}, tmp_path / "run")
    rows = result.results[result.results["evaluation"] == "pooled"].set_index(["attack", "epsilon"])
    assert rows.loc[("whitebox", np.inf), "tpr"] > rows.loc[("lira", np.inf), "tpr"]
    for attack in ("whitebox", "whitebox(method=stationarity)"):
        private = rows.loc[(attack, 1.0)]
        assert private["status"] == "ok"
        assert private["tpr_low"] <= private["tpr_ceiling"] < 1
    assert (result.controls["status"] == "ok").all()


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"train": {"network": "mlp", "widths": [8]}},
            "network='mlp' must be 'linear' for attack 'whitebox'",
        ),
        (
            {"attack": [{"name": "whitebox", "method": "hessian"}]},
            "method='hessian' must be one of mahalanobis",
        ),
    ],
)
def test_attacks_on_weights_that_cannot_run_are_refused_before_training(
    tables, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(cell_heads, "train_ensemble", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(InputError, match=message):
        run_experiment(SETTINGS | {"attack": WHITE_BOX} | tables, tmp_path / "run")


FRONTIER = [
    "lira",
    {"name": "lira", "paired": True},
    {"name": "lira", "paired": True, "variance": "shrunk"},
    {"name": "lira", "variance": "shrunk", "location": "shrunk"},
    {"name": "rmia", "paired": True},
    "analytic",
]
RIDGE = {"optimizer": "newton", "ridge": 1.0}


@pytest.mark.thorough
def test_pairs_and_priors_stand_beside_the_others_and_at_chance_under_permuted_labels(tmp_path, monkeypatch):
    """Of 9 heads, 96 records: TPR has a standard error of at most 0.5 / sqrt(432)."""
    monkeypatch.setattr(grid, "plot_power_law", lambda *_: [])
    settings = changed(grid={"shots": [16]}, shadows={"models": 9}) | {"train": RIDGE, "fpr": [0.1]}
    result = run_experiment(settings | {"attack": FRONTIER}, tmp_path / "run")
    rows = result.results[result.results["evaluation"] == "pooled"].set_index("attack")["tpr"]
    error = 0.5 / np.sqrt(432)
    assert rows["lira(paired=True,variance=shrunk)"] > rows["lira"] + 2 * error
    assert rows["lira(location=shrunk,variance=shrunk)"] > rows["lira"] + 2 * error
    assert rows["analytic"] > rows["lira"] + 2 * error
    assert (result.controls["status"] == "ok").all()
    assert set(result.controls["attack"]) == set(rows.index)


@pytest.mark.parametrize("attack", [*FRONTIER[1:], {"name": "lira", "location": "shrunk"}])
def test_attacks_on_heads_at_their_minimum_are_refused_for_others(attack, tmp_path, monkeypatch):
    monkeypatch.setattr(cell_heads, "train_ensemble", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(InputError, match=r"train.optimizer='adam' must be 'newton'"):
        run_experiment(SETTINGS | {"attack": [attack]}, tmp_path / "run")


@pytest.mark.parametrize(
    ("intercept", "design"), [(True, "bernoulli"), (False, "bernoulli"), (True, "fixed_size")]
)
def test_a_cell_says_that_heads_have_no_member_of_some_class(intercept, design, tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "plot_power_law", lambda *_: [])
    settings = changed(grid={"shots": [2]}, shadows={"models": 17, "design": design}) | {"attack": ["lira"]}
    settings |= {"train": RIDGE | {"intercept": intercept}, "fpr": [0.1]}
    out = rich.console.Console(file=io.StringIO(), width=300)
    run_experiment(settings, tmp_path / "run", console=out)
    said = "of 17 heads have no member of some class" in out.file.getvalue()
    assert said == (intercept and design == "bernoulli")


@pytest.mark.parametrize(
    ("attack", "message"), [("whitebox", "method='mahalanobis' on 48"), ("analytic", "48 records")]
)
def test_attacks_that_memory_does_not_hold_are_refused_before_training(
    attack, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(cell_heads, "train_ensemble", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(InputError, match=rf"memory=.* GiB.* {message}.*--memory SIZE"):
        run_experiment(
            changed(grid={"shots": [8]}) | {"train": RIDGE, "attack": [attack]},
            tmp_path / "run",
            memory=10**4,
        )
    assert not (tmp_path / "run").exists()
