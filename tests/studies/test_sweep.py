"""A sweep: its cells are those of runs, it only grows, and it reports cells that are impossible."""

import collections
import dataclasses
import io
import json
import os
import pathlib
import shutil
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import rich.console
from kills import sweep_contents

from jaxmia._validate import InputError
from jaxmia.data.feature_set import feature_set, save_features
from jaxmia.studies import cell_rows, executors, sweep, sweep_tasks
from jaxmia.studies.cell import Cell
from jaxmia.studies.executors import LocalExecutor, LostError, RayExecutor
from jaxmia.studies.folder.states import TABLES, DamagedError
from jaxmia.studies.folder.sweep import study_folder
from jaxmia.studies.folder.tables import load_results
from jaxmia.studies.run import run_experiment
from jaxmia.studies.settings.toml import load_sweep, parse_sweep
from jaxmia.studies.sweep import run_sweep
from jaxmia.training.ensemble import empty_heads

COMMON = {"attack": ["lira", "threshold"], "fpr": [0.1, 0.02], "shadows": {"models": 17}}
TRAIN = {"steps": 5, "learning_rate": 0.2}


def synthetic(seed, *, per_class, classes=3, dim=6):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    means = rng.normal(size=(classes, dim))
    return feature_set(means[labels] + rng.normal(size=(len(labels), dim)), labels)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Two feature sets, of which one has too few examples for S = 8, and two recipes: twelve cells, two left out."""
    folder = tmp_path_factory.mktemp("features")
    save_features(synthetic(0, per_class=30), folder / "large.npz")
    save_features(synthetic(1, per_class=12), folder / "small.npz")
    return {
        **COMMON,
        "datasets": [
            {"name": "large", "features": str(folder / "large.npz")},
            {"name": "small", "features": str(folder / "small.npz")},
        ],
        "recipes": [{"name": "plain", **TRAIN}, {"name": "unit", **TRAIN, "normalize": "unit"}],
        "grid": {"classes": [3], "shots": [4, 8], "seeds": [0, 1]},
    }


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    return run_sweep(settings, tmp_path_factory.mktemp("sweeps") / "sweep")


@pytest.fixture
def duckdb():
    return pytest.importorskip("duckdb", reason="DuckDB is not installed: it is one of the dev extra")


def test_feature_sets_in_memory_are_those_of_their_files(settings, finished, tmp_path):
    given = {"large": synthetic(0, per_class=30), "small": synthetic(1, per_class=12)}
    unnamed = {name: value for name, value in settings.items() if name != "datasets"}
    made = run_sweep(
        unnamed | {"grid": settings["grid"] | {"seeds": [0]}}, tmp_path / "sweep", features=given
    )
    assert made.cells_computed == 6
    # Grown by a seed; one of the two named with shots of its own, the other from its file: the content decides.
    entries = [{"name": "large", "shots": [4, 8]}, settings["datasets"][1]]
    grown = run_sweep(settings | {"datasets": entries}, made.path, features={"large": given["large"]})
    assert grown.cells_computed == 6
    pd.testing.assert_frame_equal(grown.results(), finished.results())
    other = {"large": synthetic(5, per_class=30), "small": given["small"]}
    with pytest.raises(InputError, match="large/plain: features"):
        run_sweep(unnamed, made.path, features=other)
    again = run_sweep(parse_sweep(settings), made.path, features=given)
    assert again.cells_computed == 0
    held = json.loads((made.path / "manifest.json").read_text())["settings"]["datasets"]
    assert [entry["features"] for entry in held] == ["in memory", entries[1]["features"]]
    assert made.report().exists()


@pytest.mark.parametrize(
    ("given", "more", "said"),
    [
        ({"other": synthetic(0, per_class=30)}, {}, "features: name='other' must be one of large, small"),
        (
            {"large": synthetic(0, per_class=30)},
            {"train": {"inputs": "raw"}},
            r"inputs for features\['large'\]='raw' must be 'features'",
        ),
    ],
)
def test_what_no_feature_set_in_memory_can_be_is_refused(settings, tmp_path, given, more, said):
    with pytest.raises(InputError, match=said):
        run_sweep(settings | more, tmp_path / "sweep", features=given)
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_of_memory_alone_asks_for_it(settings, tmp_path):
    entries = [{"name": "mine", "features": "in memory"}]
    with pytest.raises(InputError, match=r"dataset 'mine' is in memory: give features=\{'mine'"):
        run_sweep(settings | {"datasets": entries}, tmp_path / "sweep")


def console():
    return rich.console.Console(file=io.StringIO(), width=200)


def test_every_cell_has_the_rows_that_a_run_gives_it(settings, finished, tmp_path):
    results = finished.results()
    assert len(results) == 12 * 8
    for dataset in settings["datasets"]:
        for recipe in settings["recipes"]:
            shots = [4, 8] if dataset["name"] == "large" else [4]
            run = run_experiment(
                {
                    **COMMON,
                    "data": {"features": dataset["features"]},
                    "train": {key: value for key, value in recipe.items() if key != "name"},
                    "grid": settings["grid"] | {"shots": shots},
                },
                tmp_path / f"{dataset['name']}-{recipe['name']}",
            )
            rows = results[(results["dataset"] == dataset["name"]) & (results["recipe"] == recipe["name"])]
            names = {"dataset": dataset["name"], "recipe": recipe["name"]}
            pd.testing.assert_frame_equal(rows.reset_index(drop=True), run.results.assign(**names))
    assert set(results["normalize"]) == {"none", "unit"}


def test_the_data_set_is_read_by_pandas_and_duckdb(finished, duckdb):
    """Some cells resolve FPR 0.02 and some do not: their files must have the same types all the same."""
    expected = finished.results()
    assert set(expected["status"]) == {"ok", "unresolved"}
    assert expected.groupby(["shots"])["reason"].agg(lambda reasons: reasons.isna().all()).tolist() == [
        False,
        False,
    ]
    for name, files in (("results", 12), ("per_example", 12), ("controls", 12)):
        folder = finished.path / name
        assert len(list(folder.iterdir())) == files
        frame = pd.read_parquet(folder)
        ((count,),) = duckdb.sql(f"select count(*) from '{folder}/*.parquet'").fetchall()
        assert len(frame) == count > 0
    total = duckdb.sql(f"select sum(tpr) from '{finished.path}/results/*.parquet' where status = 'ok'")
    assert total.fetchall()[0][0] == pytest.approx(expected["tpr"].sum())
    assert pd.read_parquet(finished.path / "results")["tpr"].sum() == pytest.approx(expected["tpr"].sum())


@pytest.mark.parametrize(
    "first",
    ["resolved", *(pytest.param(kind, marks=pytest.mark.thorough) for kind in ("unresolved", "diverged"))],
)
def test_files_of_every_kind_of_cell_make_one_data_set(settings, tmp_path, first, duckdb):
    """Parquet readers take the columns from the first file: whichever it is, nothing is lost."""
    names = {"resolved": "b", "unresolved": "b", "diverged": "b"} | {first: "a"}
    kinds = {
        "resolved": {"fpr": [0.1]},
        "unresolved": {"fpr": [0.1, 0.001]},
        "diverged": {
            "recipes": [{"name": "default", "optimizer": "sgd", "learning_rate": 1e38, "weight_decay": 1.0}]
        },
    }
    for kind, changes in kinds.items():
        changed = settings | {"grid": {"classes": [3], "shots": [4]}, **changes}
        changed["datasets"] = [settings["datasets"][1] | {"name": names[kind]}]
        run_sweep(changed, tmp_path / kind)
        for name in TABLES:
            (tmp_path / "all" / name).mkdir(parents=True, exist_ok=True)
            for file in (tmp_path / kind / name).iterdir():
                (tmp_path / "all" / name / f"{names[kind]}-{kind}-{file.name}").write_bytes(file.read_bytes())
    for name in TABLES:
        folder = tmp_path / "all" / name
        single = pd.concat([pd.read_parquet(file) for file in folder.iterdir()])
        frame = pd.read_parquet(folder)
        assert set(frame) == set(single)
        assert len(frame) == len(single)
        for column in ("tpr", "reason"):
            if column in frame:
                assert frame[column].notna().sum() == single[column].notna().sum()
        ((count,),) = duckdb.sql(f"select count(*) from '{folder}/*.parquet'").fetchall()
        assert count == len(single)


def test_load_results_joins_sweeps_and_runs_without_repeats(settings, finished, tmp_path):
    run = run_experiment(
        {**COMMON, "train": TRAIN, "data": {"features": settings["datasets"][0]["features"]}}
        | {"grid": {"classes": [3], "shots": [4]}},
        tmp_path / "run",
    )
    joined = load_results([finished.path, run.path, finished.path])
    assert len(joined) == len(finished.results()) + len(run.results)
    assert set(joined["recipe"]) == {"plain", "unit", "default"}
    with pytest.raises(InputError, match="at least one folder"):
        load_results([])
    with pytest.raises(InputError, match=r"none.* must be a run folder with results.parquet or a sweep's"):
        load_results([finished.path, tmp_path / "none"])


def test_results_of_an_older_run_have_the_default_recipe(finished, tmp_path):
    old = finished.results().drop(columns=["recipe", "normalize"])
    old.to_parquet(tmp_path / "results.parquet")
    assert set(load_results(tmp_path)["recipe"]) == {"default"}


def test_manifest_names_identity_left_out_cells_and_records(settings, finished):
    manifest = json.loads((finished.path / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert set(manifest["studies"]) == {"large/plain", "large/unit", "small/plain", "small/unit"}
    study = manifest["studies"]["large/unit"]
    assert study["identity"]["settings"]["train"]["normalize"] == "unit"
    assert "normalize" not in manifest["studies"]["large/plain"]["identity"]["settings"]["train"]
    assert study["identity"]["features"]["sha256"] == synthetic(0, per_class=30).content_hash()
    assert all(cell["heads_trained"] == 17 for cell in study["cells"].values())
    assert len(study["cells"]) == 4
    (left_out,) = manifest["left_out"]
    assert (left_out["dataset"], left_out["shots"]) == ("small", 8)
    assert "16 examples of each class, but class '0' has 12" in left_out["reason"]


def test_cells_that_a_set_cannot_have_are_listed_before_training(settings, tmp_path):
    out = console()
    run_sweep(settings | {"recipes": [{"name": "plain", **TRAIN}]}, tmp_path / "sweep", console=out)
    lines = out.file.getvalue().splitlines()
    assert lines[0].startswith("left out: small, C=3 S=8: shots=8 needs 2 x 8 = 16 examples")
    assert lines[1].startswith("[1/6] ")
    assert len(lines) == 7


def test_no_cell_at_all_is_an_error(settings, tmp_path):
    changed = settings | {"grid": {"classes": [3, 4], "shots": [40]}}
    with pytest.raises(InputError, match="no feature set has enough examples for any cell; large: shots=40"):
        run_sweep(changed, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


class Recorder(LocalExecutor):
    """A local executor that keeps the order of the tasks."""

    name = "local"

    def __init__(self):
        self.tasks = []

    def run(self, function, tasks, shared):
        self.tasks += tasks
        return super().run(function, tasks, shared)


def test_cells_of_one_compiled_shape_run_one_after_another(settings, tmp_path):
    """Two recipes of the same static settings and two feature sets of one dimension share their programs."""
    recorder = Recorder()
    run_sweep(settings, tmp_path / "sweep", executor=recorder)
    shots = [task.cell.shots for task in recorder.tasks]
    assert shots == sorted(shots)
    assert collections.Counter(shots) == {4: 8, 8: 4}
    assert {task.names for task in recorder.tasks[:8]} == {
        (dataset, recipe) for dataset in ("large", "small") for recipe in ("plain", "unit")
    }
    config = parse_sweep(settings)
    configs = [config.experiment(config.datasets[0], recipe) for recipe in config.recipes]
    cells = [Cell(3, 4, 0), Cell(3, 4, 1), Cell(3, 4, 0, 8.0)]
    shapes = {sweep_tasks.compiled_shape(configs[0], cell, 6) for cell in cells}
    assert len(shapes) == 2  # a private cell has another program
    other = sweep_tasks.compiled_shape(
        configs[0].model_copy(update={"train": configs[0].train.model_copy(update={"steps": 6})}), cells[0], 6
    )
    assert other not in shapes


def test_a_finished_sweep_started_again_does_nothing(settings, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.path.rglob("*") if path.is_file()}
    again = run_sweep(settings, finished.path)
    assert (again.cells_computed, again.heads_trained) == (0, 0)
    after = {path: path.stat().st_mtime_ns for path in finished.path.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} <= {finished.path / ".lock"}
    assert again.laws == finished.laws


@pytest.mark.thorough
def test_a_sweep_grows_by_what_is_missing(settings, finished, tmp_path):
    less = settings | {"recipes": settings["recipes"][:1], "grid": settings["grid"] | {"shots": [4]}}
    first = run_sweep(less, tmp_path / "sweep")
    assert first.cells_computed == 4
    more_recipes = run_sweep(settings | {"grid": settings["grid"] | {"shots": [4]}}, tmp_path / "sweep")
    assert (more_recipes.cells_computed, more_recipes.heads_trained) == (4, 4 * 17)
    all_of_it = run_sweep(settings, tmp_path / "sweep")
    assert all_of_it.cells_computed == 4
    assert sweep_contents(tmp_path / "sweep") == sweep_contents(finished.path)
    other_attack = run_sweep(settings | {"attack": ["threshold"]}, tmp_path / "sweep")
    assert (other_attack.cells_computed, other_attack.heads_trained) == (12, 0)
    assert set(other_attack.results()["attack"]) == {"threshold"}


def test_recipes_and_sets_of_the_same_name_must_be_the_same(settings, finished):
    before = sweep_contents(finished.path)
    changed = settings | {"recipes": [settings["recipes"][0], settings["recipes"][1] | {"steps": 6}]}
    with pytest.raises(InputError, match=r"large/unit: settings.train.steps=6 must equal the 5"):
        run_sweep(changed, finished.path)
    swapped = [settings["datasets"][0] | {"features": settings["datasets"][1]["features"]}]
    with pytest.raises(InputError, match=r"large/plain: features.sha256="):
        run_sweep(settings | {"datasets": swapped, "grid": {"classes": [3], "shots": [4]}}, finished.path)
    with pytest.raises(InputError, match=r"shadows.models=16 must be at least the 17"):
        run_sweep(settings | {"shadows": {"models": 16}}, finished.path)
    with pytest.raises(InputError, match=r"must be a manifest of format 2, got 'sweep 1'"):
        run_experiment({"grid": {"classes": [3], "shots": [4]}}, finished.path)
    assert sweep_contents(finished.path) == before


def failing(cell, assess=cell_rows.assess):
    """assess, but for the scores of one seed."""

    def fail(*args, **kwargs):
        if len(fail.calls) == cell:
            fail.calls.append(cell)
            raise RuntimeError("the attack\nhas no answer")
        fail.calls.append(None)
        return assess(*args, **kwargs)

    fail.calls = []
    return fail


def test_a_failed_cell_is_recorded_with_its_reason_and_tried_again(settings, finished, tmp_path, monkeypatch):
    out = console()
    with monkeypatch.context() as patch:
        patch.setattr(cell_rows, "assess", failing(3))
        result = run_sweep(settings, tmp_path / "sweep", console=out)
    (failure,) = result.failures
    assert result.cells_computed == 11
    assert "RuntimeError: the attack has no answer (test_sweep.py:" in failure.error
    assert (
        f"[4/12] {failure.dataset}/{failure.recipe}/{failure.cell}: failed: RuntimeError"
        in out.file.getvalue()
    )
    manifest = json.loads((tmp_path / "sweep" / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    entry = manifest["studies"][f"{failure.dataset}/{failure.recipe}"]["cells"][failure.cell]
    assert entry["error"] == failure.error
    assert len(load_results(tmp_path / "sweep")) == 11 * 8
    with pytest.raises(
        InputError, match=r"holds an unfinished sweep \(11 of 12 cells done\); continue it with --resume"
    ):
        run_sweep(settings, tmp_path / "sweep")
    again = run_sweep(settings, tmp_path / "sweep", resume=True, console=out)
    assert (again.cells_computed, again.heads_trained, again.failures) == (1, 0, ())  # its heads were there
    assert "failed before and is tried again" in out.file.getvalue()
    assert sweep_contents(tmp_path / "sweep") == sweep_contents(finished.path)


def test_when_every_cell_fails_all_are_listed(settings, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise ValueError("never")

    monkeypatch.setattr(cell_rows, "assess", fail)
    result = run_sweep(settings, tmp_path / "sweep")
    assert (result.cells_computed, len(result.failures), result.laws) == (0, 12, {})


def flip(path, place=40):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "flipped": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.thorough
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_rows_and_records_are_noticed_and_computed_again(settings, finished, tmp_path, damage):
    path, out = tmp_path / "sweep", console()
    run_sweep(settings, path)
    cell = "classes-3_shots-4_seed-1"
    DAMAGES[damage](path / "results" / f"large__plain__{cell}.parquet")
    DAMAGES[damage](path / "per_example" / f"small__unit__{cell}.parquet")
    DAMAGES[damage](path / "studies" / "small" / "plain" / "checkpoints" / cell / "cell.json")
    again = run_sweep(settings, path, console=out)
    said = out.file.getvalue()
    assert f"large/plain/{cell}: its rows were damaged and are computed again" in said
    assert f"small/unit/{cell}: its rows were damaged" in said
    assert (again.cells_computed, again.heads_trained) == (3, 0)
    assert sweep_contents(path) == sweep_contents(finished.path)


@pytest.mark.parametrize("reason", ["damaged", "denied"])
def test_a_file_that_cannot_be_read_empties_no_laws(settings, finished, tmp_path, monkeypatch, reason):
    """A file of the data set that belongs to no cell of this sweep, so that nothing computes it again."""
    path = tmp_path / "sweep"
    shutil.copytree(finished.path, path)
    laws, file = (path / "power_law.json").read_bytes(), path / "results" / "large__plain__other.parquet"
    if reason == "damaged":
        file.write_bytes(
            (path / "results" / "large__plain__classes-3_shots-4_seed-1.parquet").read_bytes()[:99]
        )
    else:
        read = pq.read_table

        def denied(source, **options):
            if source == file:
                raise PermissionError(13, "Permission denied")
            return read(source, **options)

        file.write_bytes(b"")
        monkeypatch.setattr(pq, "read_table", denied)
    (path / "results" / "small__plain__classes-3_shots-4_seed-1.parquet").unlink()
    with pytest.raises(InputError, match=r"large__plain__other.parquet must be a readable Parquet file"):
        run_sweep(settings, path)
    assert (path / "power_law.json").read_bytes() == laws
    assert json.loads((path / "manifest.json").read_text())["status"] == "running"
    file.unlink()
    assert run_sweep(settings, path, resume=True).laws == finished.laws


@pytest.mark.thorough
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoints_are_noticed_and_trained_again(settings, finished, tmp_path, damage):
    """For every file of a checkpoint: if it is damaged, the final rows are still the same."""
    path, out = tmp_path / "sweep", console()
    run_sweep(settings, path)
    part = path / "studies" / "large" / "plain" / "checkpoints" / "classes-3_shots-4_seed-1" / "models-0-17"
    largest = max((file for file in part.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    DAMAGES[damage](largest)
    for name in TABLES:
        (path / name / "large__plain__classes-3_shots-4_seed-1.parquet").unlink()
    again = run_sweep(settings, path, console=out)
    assert (again.cells_computed, again.heads_trained) == (1, 17)
    assert "checkpoint classes-3_shots-4_seed-1/models-0-17 was damaged" in out.file.getvalue()
    assert "its heads were trained again" in out.file.getvalue()
    assert sweep_contents(path) == sweep_contents(finished.path)


def test_no_file_of_a_checkpoint_can_change_unnoticed(settings, tmp_path):
    """Orbax alone reads a chunk with a flipped bit as if nothing were wrong, and others it prints errors about."""
    one = settings | {"datasets": settings["datasets"][:1], "recipes": settings["recipes"][:1]}
    run_sweep(one | {"grid": {"classes": [3], "shots": [4]}}, tmp_path / "sweep")
    folder = study_folder(tmp_path / "sweep", "large", "plain")
    template = empty_heads(synthetic(0, per_class=30), num_models=17)
    part = tmp_path / "sweep/studies/large/plain/checkpoints/classes-3_shots-4_seed-0/models-0-17"
    files = [file for file in part.rglob("*") if file.is_file() and file.stat().st_size]
    assert len(files) > 3
    for file in files:
        flip(file, -1)
        with pytest.raises(DamagedError, match="its files differ from those that were saved"):
            folder.load_heads(Cell(3, 4, 0), (0, 17), template)
        flip(file, -1)
    folder.load_heads(Cell(3, 4, 0), (0, 17), template)
    part.with_suffix(".sha256").unlink()  # as in folders from before, or after a kill at this moment
    (part / "_METADATA").write_text("{")
    with pytest.raises(DamagedError, match="JSONDecodeError"):
        folder.load_heads(Cell(3, 4, 0), (0, 17), template)


@pytest.mark.thorough
def test_the_work_after_a_cell_does_not_grow_with_the_grid(settings, tmp_path, monkeypatch):
    """Files written for each cell, and of the sweep: the same number each, whatever the grid."""
    written = collections.Counter()
    replace = os.replace

    def count(source, target):
        written[pathlib.Path(target).name.split("__")[0].split("-")[0]] += 1
        replace(source, target)

    monkeypatch.setattr(os, "replace", count)
    per_cell = {}
    for seeds in (1, 4):
        written.clear()
        one = settings | {"datasets": settings["datasets"][:1], "recipes": settings["recipes"][:1]}
        run_sweep(
            one | {"grid": {"classes": [3], "shots": [4], "seeds": list(range(seeds))}}, tmp_path / str(seeds)
        )
        assert (written.pop("manifest.json"), written.pop("power_law.json")) == (2, 1)
        assert written.pop(".manifest.json") == 2  # its copy
        per_cell[seeds] = {name: number / seeds for name, number in written.items()}
    assert per_cell[1] == per_cell[4] == {"large": 3, "cell.json": 1, "models": 1}


@pytest.mark.thorough
def test_programs_of_shapes_that_are_done_do_not_pile_up(settings, finished, tmp_path, monkeypatch):
    cleared = []
    monkeypatch.setattr(sweep_tasks, "_MOST_SHAPES", 1)
    monkeypatch.setattr(sweep_tasks, "_shapes", set())
    monkeypatch.setattr(sweep_tasks.jax, "clear_caches", lambda: cleared.append(len(sweep_tasks._shapes)))
    run_sweep(settings, tmp_path / "sweep")
    assert cleared == [1]  # two shapes, one after the other
    assert sweep_contents(tmp_path / "sweep") == sweep_contents(finished.path)


def test_an_experiment_file_is_a_sweep_of_one_set_and_one_recipe(tmp_path):
    text = "[grid]\nshots = [4]\nclasses = [3]\n[data]\nfeatures = 'my set.npz'\n[train]\nsteps = 5\n"
    (tmp_path / "run.toml").write_text(text)
    save_features(synthetic(0, per_class=30), tmp_path / "my set.npz")
    config = load_sweep(tmp_path / "run.toml", ["train.steps=7"])
    assert [(each.name, each.features) for each in config.datasets] == [
        ("my-set", str(tmp_path / "my set.npz"))
    ]
    assert [(each.name, each.steps) for each in config.recipes] == [("default", 7)]
    assert [dataset.features for dataset in load_sweep("smoke").datasets] == ["demo"]


def test_data_and_train_are_what_entries_have_in_common(settings):
    config = parse_sweep(
        settings
        | {"data": {"test_per_class": 3}, "train": {"steps": 9, "learning_rate": 0.5}}
        | {"recipes": [{"name": "a"}, {"name": "b", "steps": 4}]}
    )
    assert {dataset.test_per_class for dataset in config.datasets} == {3}
    assert [(recipe.steps, recipe.learning_rate) for recipe in config.recipes] == [(9, 0.5), (4, 0.5)]
    study = config.experiment(config.datasets[1], config.recipes[1])
    assert (study.train.steps, study.data.test_per_class) == (4, 3)


@pytest.mark.thorough
def test_sets_may_have_grids_of_their_own(settings, tmp_path):
    datasets = [settings["datasets"][0], settings["datasets"][1] | {"shots": [2], "classes": [2, 3]}]
    changed = settings | {"datasets": datasets, "recipes": settings["recipes"][:1]}
    results = run_sweep(changed, tmp_path / "sweep").results()
    cells = results.groupby("dataset")[["classes", "shots"]].apply(
        lambda rows: {*map(tuple, rows.to_numpy())}
    )
    assert cells.to_dict() == {"large": {(3, 4), (3, 8)}, "small": {(2, 2), (3, 2)}}


def test_paths_are_looked_for_beside_the_file_and_in_the_home_folder(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "home").mkdir()
    for place in ("configs/beside.npz", "here.npz", "home/homely.npz"):
        save_features(synthetic(0, per_class=30), tmp_path / place)
    names = {"beside": "beside.npz", "here": "here.npz", "homely": "~/homely.npz"}
    tables = "".join(f"[[datasets]]\nname = '{name}'\nfeatures = '{path}'\n" for name, path in names.items())
    (tmp_path / "configs" / "sweep.toml").write_text(tables + "[grid]\nclasses = [3]\nshots = [4]\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    paths = [dataset.features for dataset in load_sweep("configs/sweep.toml").datasets]
    beside = [str(tmp_path / "configs" / name) for name in ("beside.npz", "here.npz")]
    assert paths == [*beside, str(tmp_path / "home/homely.npz")]


def test_an_absent_set_is_an_error_unless_it_is_optional(settings, tmp_path):
    absent = {"name": "absent", "features": str(tmp_path / "none.npz")}
    changed = settings | {"datasets": [settings["datasets"][1], absent], "recipes": settings["recipes"][:1]}
    with pytest.raises(InputError, match=r"dataset 'absent': features='.*none.npz' must be an existing"):
        run_sweep(changed, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()
    out = console()
    changed["datasets"][1] = absent | {"optional": True}
    result = run_sweep(changed, tmp_path / "sweep", console=out)
    assert result.skipped == ("absent",)
    assert out.file.getvalue().startswith("skipped: the optional feature set 'absent' is absent\n")
    assert set(result.results()["dataset"]) == {"small"}
    with pytest.raises(InputError, match="all are optional and absent"):
        run_sweep(changed | {"datasets": changed["datasets"][1:]}, tmp_path / "other")


def changed_entry(settings, table, **values):
    return settings | {table: [settings[table][0] | values, *settings[table][1:]]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: changed_entry(s, "recipes", step=3),
            r"unknown key 'recipes.0.step'.*Did you mean 'steps'",
        ),
        (
            lambda s: changed_entry(s, "datasets", feature="x"),
            r"unknown key 'datasets.0.feature'.*Did you mean 'features'",
        ),
        (lambda s: s | {"recipe": []}, r"unknown key 'recipe'.*Did you mean 'recipes'"),
        (
            lambda s: changed_entry(s, "recipes", name="unit"),
            r"recipes: names must differ, but 'unit' is given 2 times",
        ),
        (lambda s: changed_entry(s, "recipes", name="Unit"), r"recipes: names must differ"),
        (lambda s: changed_entry(s, "recipes", name="a/b"), r"recipes.0.name='a/b': string should match"),
        (lambda s: changed_entry(s, "recipes", name="a__b"), r"recipes.0.name='a__b'"),
        (lambda s: s | {"recipes": []}, r"recipes=\[\]"),
        (lambda s: s | {"datasets": "demo"}, r"datasets='demo'"),
        (lambda s: s | {"datasets": ["demo"]}, r"datasets.0='demo'"),
        (lambda s: s | {"datasets": [{"name": "x"}]}, r"datasets.0.features must be given"),
        (lambda s: s | {"data": 3}, r"data=3: must be a table"),
        (lambda s: changed_entry(s, "recipes", normalize="l2"), r"recipes.0.normalize='l2'"),
        (
            lambda s: changed_entry(s, "recipes", statistics="s.npz"),
            r"statistics='s.npz' is for normalize='standardize'",
        ),
        (
            lambda s: changed_entry(s, "recipes", normalize="standardize", statistics="s.npz"),
            r"recipe 'plain', dataset 'large': statistics='s.npz' must be an existing",
        ),
        (
            lambda s: changed_entry(s, "recipes", batch_size=4) | {"privacy": {"epsilon": [1.0]}},
            r"recipe 'plain': privacy.epsilon=\[1.0\] needs train.batch_size='full'",
        ),
        (
            lambda s: changed_entry(s, "recipes", batch_size=100),
            r"dataset 'large', recipe 'plain': batch_size=100 must be",
        ),
        (lambda s: s | {"fpr": [1e-6]}, r"1e-06 needs 10000000 non-member scores, the largest cell has 408"),
        (
            lambda s: s | {"attack": [{"name": "lira", "variance": "local"}]},
            r"variance='local' must be one of",
        ),
    ],
)
def test_wrong_settings_fail_before_training(settings, tmp_path, change, message):
    with pytest.raises(InputError, match=message) as error:
        run_sweep(change(settings), tmp_path / "sweep")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "sweep").exists()


def test_overrides_reach_entries_by_name_and_place(settings, tmp_path):
    text = "[[recipes]]\nname = 'a'\n[[recipes]]\nname = 'b'\n[grid]\nclasses = [2]\nshots = [4]\n"
    (tmp_path / "sweep.toml").write_text(text)
    config = load_sweep(
        tmp_path / "sweep.toml", ["recipes.b.steps=3", "recipes.0.steps=4", "train.momentum=0.0"]
    )
    assert [recipe.steps for recipe in config.recipes] == [4, 3]
    with pytest.raises(InputError, match=r"--set 'recipes.c.steps=3': name='c' must be one of 0, 1, a, b"):
        load_sweep(tmp_path / "sweep.toml", ["recipes.c.steps=3"])
    with pytest.raises(InputError, match="must name a key of one of"):
        load_sweep(tmp_path / "sweep.toml", ["recipes.steps=3"])


def test_given_statistics_are_of_the_recipe_by_content(settings, tmp_path):
    def write(scale):
        np.savez(tmp_path / "statistics.npz", mean=np.zeros(6), scale=np.full(6, scale))

    write(2.0)
    recipe = {
        "name": "given",
        **TRAIN,
        "normalize": "standardize",
        "statistics": str(tmp_path / "statistics.npz"),
    }
    changed = settings | {"recipes": [recipe], "grid": {"classes": [3], "shots": [4]}}
    run_sweep(changed, tmp_path / "sweep")
    write(3.0)
    with pytest.raises(InputError, match=r"large/given: statistics.sha256="):
        run_sweep(changed, tmp_path / "sweep")
    np.savez(tmp_path / "statistics.npz", mean=np.zeros(5), scale=np.ones(5))
    with pytest.raises(InputError, match=r"mean.shape=\(5,\) must be \[6\]"):
        run_sweep(changed, tmp_path / "other")


@dataclasses.dataclass(frozen=True)
class Number:
    value: int

    @property
    def needs(self):
        return ("offset",)


def test_the_local_executor_gives_each_task_what_it_needs():
    tasks = [Number(value) for value in range(3)]
    answers = LocalExecutor().run(lambda offset, task: offset + task.value, tasks, {"offset": 10, "other": 0})
    assert list(answers) == [(Number(0), 10), (Number(1), 11), (Number(2), 12)]


class Lossy(LocalExecutor):
    """An executor that loses one task."""

    name = "lossy"

    def run(self, function, tasks, shared):
        yield tasks[0], LostError("WorkerCrashedError: it died 4 times")
        yield from super().run(function, tasks[1:], shared)


def test_a_lost_task_is_a_failed_cell(settings, finished, tmp_path):
    result = run_sweep(settings, tmp_path / "sweep", executor=Lossy())
    assert [failure.error for failure in result.failures] == ["WorkerCrashedError: it died 4 times"]
    again = run_sweep(settings, tmp_path / "sweep", resume=True)
    assert again.cells_computed == 1
    assert sweep_contents(tmp_path / "sweep") == sweep_contents(finished.path)


def test_a_worker_with_another_jaxmia_stops_the_sweep(settings, tmp_path):
    class Elsewhere(LocalExecutor):
        name = "elsewhere"

        def run(self, function, tasks, shared):
            return LocalExecutor().run(
                function, [dataclasses.replace(task, code="other") for task in tasks], shared
            )

    with pytest.raises(sweep.SweepStoppedError, match=r"jaxmia .* must be the same as the driver's"):
        run_sweep(settings, tmp_path / "sweep", executor=Elsewhere())


def test_ray_without_ray_is_one_line(settings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"must have Ray installed: pip install 'jaxmia\[ray\]'"):
        run_sweep(settings, tmp_path / "sweep", executor="ray")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"cpus": 0}, "cpus=0"), ({"gpus": -1.0}, "gpus=-1.0"), ({"retries": -1}, "retries=-1")],
)
def test_wrong_options_of_ray_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        RayExecutor(**options)
    with pytest.raises(InputError, match=r"executor='rai' must be one of local, ray\. Did you mean 'ray'"):
        run_sweep({"grid": {"classes": [2], "shots": [4]}}, "nowhere", executor="rai")


def test_workers_use_this_jaxmia_and_no_more_threads_than_cores(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    environment = executors.worker_environment(3, 0)
    assert environment["PYTHONPATH"].split(":") == [
        str(pathlib.Path(sweep.__file__).parents[2]),
        "/elsewhere",
    ]
    assert (environment["NPROC"], environment["OMP_NUM_THREADS"]) == ("3", "3")
    assert environment["JAX_PLATFORMS"] == "cpu"
    assert "JAX_PLATFORMS" not in executors.worker_environment(1, 1.0)
    assert executors.worker_environment(1, 0.5)["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


def test_a_terminal_gets_a_live_table(settings, tmp_path):
    out = rich.console.Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    run_sweep(settings | {"recipes": settings["recipes"][:1]}, tmp_path / "sweep", console=out)
    said = out.file.getvalue()
    assert "feature set / recipe" in said
    assert "large/plain" in said
    assert "heads/s" in said
    assert "[1/6]" not in said
