"""The command line as a user meets it: exit codes, one-line errors, no traceback."""

import re
import subprocess
import sys

import numpy as np
import pytest
from commands import jaxmia

SMALL = [
    "--set",
    "shadows.models=9",
    "--set",
    "grid.shots=[4,8,16]",
    "--set",
    "train.steps=5",
    "--set",
    "fpr=[0.2]",
]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    subprocess.run([sys.executable, "-m", "jaxmia", "run", "smoke", "--out", out, *SMALL], check=True)
    return out


@pytest.mark.thorough
def test_a_private_run_prints_one_table_of_levels_and_grows_a_plot_of_each_kind(capsys, tmp_path):
    settings = [
        "--set",
        "privacy.epsilon=[inf,1]",
        "--set",
        "grid.shots=[8]",
        "--set",
        "train.matmul_dtype=bfloat16",
    ]
    words = ["run", "smoke", "--out", tmp_path / "run", *SMALL, *settings, "--memory", "1GiB", "--verbose"]
    code, out, _ = jaxmia(capsys, *words, columns=160)
    assert code == 0
    assert "at delta 1e-05, add_or_remove_one; inf: ordinary training" in " ".join(out.split())
    table = out[out.index("pooled") : out.index("Power law")]
    assert re.search(r"inf +0 +0\.\d+ +\d\.\d\d +0\.2 +\d\.\d+ ", table)
    assert re.search(r" 1 +[\d.]+ +0\.\d+ +0\.00 +0\.2 ", table)
    assert {"accuracy-pooled.png", "ceiling-pooled.svg"} <= {
        path.name for path in (tmp_path / "run/plots").iterdir()
    }


def test_help_reads_well_and_is_quick_to_import(capsys):
    code, out, _ = jaxmia(capsys, "--help")
    assert code == 0
    assert {"run", "sweep", "attack", "fit", "predict", "dp"} <= set(re.findall(r"│ (\w+) ", out))
    code, out, _ = jaxmia(capsys, "run", "--help")
    assert "jaxmia run configs/demo.toml --out runs/demo" in " ".join(out.split())
    script = "import sys, jaxmia, jaxmia.cli; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_run_prints_tables_and_a_second_run_says_nothing_is_left(capsys, run_folder):
    code, out, _ = jaxmia(capsys, "run", "smoke", "--out", run_folder, *SMALL, "--verbose")
    assert code == 0
    words = " ".join(out.split())
    assert "lira, pooled (seeds: 1)" in words
    assert "published" in words
    assert "nothing to do" in words


def test_a_profile_of_a_finished_run_has_the_stages_of_its_cells(capsys, run_folder):
    code, out, _ = jaxmia(capsys, "run", "smoke", "--out", run_folder, *SMALL, "--profile")
    assert code == 0
    assert "Where the time went" in out
    assert "the rest" not in out  # nothing was computed now
    (run_folder / "profile.pstats").unlink()


SWEEP = [
    "--set",
    "privacy.epsilon=[inf]",
    "--set",
    "shadows.models=9",
    "--set",
    "grid.shots=[4]",
    "--set",
    "fpr=[0.2]",
]
SWEEP += ["--set", "recipes.adam.steps=5", "--set", "recipes.1.steps=5"]


def test_a_sweep_prints_its_cells_a_table_and_laws_and_a_second_one_says_nothing_is_left(capsys, tmp_path):
    out = tmp_path / "sweep"
    code, said, progress = jaxmia(capsys, "sweep", "study_smoke", "--out", out, *SWEEP)
    assert code == 0
    assert re.search(r"^\[4/4\] nouns/sgd-std/classes-3_shots-4_seed-0: \d+\.\d\d s$", progress, re.M)
    assert len(progress.splitlines()) == 4
    assert re.search(r"nouns-two +adam +2 +4 +0\.\d+ +[01]\.\d+", said)
    assert "lira, pooled, recipe sgd-std" in said
    assert "36 heads trained; 4 cells computed; all files are in" in " ".join(said.split())
    code, said, progress = jaxmia(capsys, "sweep", "study_smoke", "--out", out, *SWEEP)
    assert (code, progress) == (0, "")
    assert "already holds all results of this sweep: nothing to do." in " ".join(said.split())
    code, said, _ = jaxmia(capsys, "predict", out, "--shots", "8", "--classes", "3")
    assert code == 0
    code, said, _ = jaxmia(capsys, "fit", out, "--out", tmp_path / "laws.json")
    assert (tmp_path / "laws.json").read_bytes() == (out / "power_law.json").read_bytes()


def test_failed_cells_are_a_table_and_exit_code_1(capsys, tmp_path, monkeypatch):
    from jaxmia.studies import cell_rows

    def fail(*args, **kwargs):
        raise RuntimeError("[no] answer")

    words = [
        "sweep",
        "study_smoke",
        "--out",
        tmp_path / "sweep",
        *SWEEP,
        "--set",
        "datasets=[{name='x',features='demo'}]",
    ]
    with monkeypatch.context() as patch:
        patch.setattr(cell_rows, "assess", fail)
        code, said, progress = jaxmia(capsys, *words, columns=160)
    assert code == 1
    assert "Failed: 2 cells; the same call with --resume tries them again" in said
    assert "RuntimeError: [no] answer" in said
    assert progress.count("failed: RuntimeError: [no] answer") == 2
    code, _, progress = jaxmia(capsys, *words)
    assert code == 2
    assert "holds an unfinished sweep (0 of 2 cells done); continue it with --resume" in progress
    code, said, _ = jaxmia(capsys, *words, "--resume")
    assert code == 0
    assert "0 heads trained; 2 cells computed" in " ".join(said.split())  # they were on disk


def test_a_full_disk_is_one_line_and_exit_code_1(capsys, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jaxmia.studies.folder.run.write_parquet", full)
    code, _, err = jaxmia(capsys, "sweep", "study_smoke", "--out", tmp_path / "sweep", *SWEEP)
    assert code == 1
    assert "is full; free some space" in err
    assert len(err.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def scores_file(tmp_path_factory):
    rng = np.random.default_rng(0)
    member = rng.random((9, 200)) < 0.5
    path = tmp_path_factory.mktemp("scores") / "scores.npz"
    np.savez(path, log_odds=rng.normal(size=member.shape) + 2 * member, member=member)
    return path


@pytest.mark.thorough
def test_attack_prints_tables_of_80_columns_and_the_control(capsys, scores_file, tmp_path):
    words = ("attack", scores_file, "--out", tmp_path / "audit", "--fpr", "0.1")
    code, out, err = jaxmia(capsys, *words, columns=80)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    words = " ".join(out.split())
    assert "9 models, 200 examples" in words
    assert "All models: one threshold for all models (pooled)" in words
    assert "8 of 8 attacks at chance" in words
    assert "one threshold for each model (per_target): not resolved. FPR 0.1 needs at least 100" in words
    assert (tmp_path / "audit" / "plots" / "roc-all-pooled.svg").is_file()


def test_attack_reports_one_model(capsys, scores_file, tmp_path):
    words = ["--attack", "lira", "--attack", "rmia", "--fpr", "0.2", "--fpr", "0.001", "--target", 4]
    code, out, _ = jaxmia(capsys, "attack", scores_file, "--out", tmp_path / "audit", *words)
    assert code == 0
    assert "The model under audit (row 4): one threshold for each record" in out
    assert "The other models, its shadows: one threshold for all models (pooled)" in out
    assert "needs at least 10,000 non-member scores" in " ".join(out.split())


def test_fit_and_predict_agree_with_the_folder(capsys, run_folder, tmp_path):
    code, out, _ = jaxmia(capsys, "fit", run_folder, "--out", tmp_path / "laws.json")
    assert code == 0
    assert (tmp_path / "laws.json").read_text() == (run_folder / "power_law.json").read_text()
    code, out, _ = jaxmia(capsys, "predict", run_folder, "--shots", 1000, "--classes", 3)
    assert code == 0
    assert "outside the fitted cells" in out


def test_predict_published_gives_the_published_law(capsys):
    code, out, _ = jaxmia(capsys, "predict", "--published", "--shots", 100)
    assert code == 0
    assert "2402.06674" in out
    # The line at FPR 0.1: log10 advantage = -0.508 log10 100 + 0.348 within the rounding of the table.
    tpr, advantage = map(
        float, re.search(r"^ *0\.1 +(0\.\d+) +(0\.\d+)", out.split("at S = 100")[1], re.M).groups()
    )
    assert advantage == pytest.approx(10 ** (-0.508 * 2 + 0.348), rel=0.02)
    assert tpr == pytest.approx(0.1 + advantage, abs=1e-5)


RECIPE = ["--steps", 200, "--shots", 100, "--classes", 10]


@pytest.mark.parametrize("batch", ["full", "200"])
@pytest.mark.parametrize(
    ("design", "adjacency"), [("bernoulli", "add_or_remove_one"), ("fixed_size", "replace_one")]
)
def test_dp_finds_noise_that_keeps_the_target_as_printed(capsys, batch, design, adjacency):
    words = [*RECIPE, "--batch", batch, "--design", design]
    code, out, _ = jaxmia(capsys, "dp", "--epsilon", 1, *words)
    assert code == 0
    assert adjacency in out
    assert re.search(
        r"accountant +PLD \(dp-accounting\), pessimistic; losses of (a step|all 200 steps as one) on", out
    )
    assert "not cryptographic" in out
    noise = re.search(r"noise multiplier +(\S+)", out)[1]
    code, out, _ = jaxmia(capsys, "dp", "--noise-multiplier", noise, *words)
    assert code == 0
    assert 0.999 < float(re.search(r"achieved +(\S+)", out)[1]) <= 1
    rows = re.findall(r"^ *(0\.\d+) +(\S+) +(\S+) +(\S+) *$", out, re.M)
    assert [float(row[0]) for row in rows] == [0.1, 0.01, 0.001]
    for fpr, ceiling, advantage, kairouz in ([float(cell) for cell in row] for row in rows):
        assert fpr < ceiling < kairouz <= 1
        assert advantage == pytest.approx(ceiling - fpr, rel=0.05)


def test_dp_without_noise_says_that_nothing_is_bounded(capsys):
    code, out, _ = jaxmia(capsys, "dp", "--epsilon", "inf", "--steps", 10, "--fpr", 0.05)
    assert code == 0
    assert re.search(r"achieved +inf", out)
    assert re.search(r"0\.05 +1 +0\.95 +1", out)


def test_help_of_dp_says_what_it_is_not(capsys):
    code, out, _ = jaxmia(capsys, "dp", "--help")
    assert code == 0
    assert "not cryptographic" in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["attack", "none.npz", "--out", "OUT", "--fpr", "0.1", "--fpr", "0.1"], "0.1 is given 2 times"),
        (["triage", "demo", "--fpr", "0.1", "--fpr", "0.1"], "0.1 is given 2 times"),
        (
            ["dp", "--epsilon", "1", "--steps", "9", "--fpr", "0.1", "--fpr", "0.1"],
            "0.1 is given 2 times",
        ),
        (["predict", "--published", "--epsilon", "1", "--epsilon", "1"], "1.0 is given 2 times"),
        (["run", "none.toml", "--out", "OUT"], "config='none.toml' must be a TOML file or one of"),
        (["run", "smoke", "--out", "OUT", "--set", "train.stepz=3"], "Did you mean 'steps'"),
        (["run", "smoke", "--out", "OUT", "--set", "train.steps=-1"], "train.steps=-1"),
        (["run", "smoke", "--out", "OUT", "--set", "data.features=NAN"], "got 1 rows with NaN"),
        (["run", "smoke", "--out", "OUT", "--set", "grid.shots=[999]"], "needs 2 x 999 = 1998 examples"),
        (["run", "smoke", "--out", "OUT", "--set", "fpr=[1e-7]"], "1e-07 needs 100000000 non-member scores"),
        (["run", "smoke", "--out", "OUT", "--set", "fpr=[1.5]"], "fpr.0=1.5"),
        (["run", "smoke", "--out", "OUT", "--memory", "8 gibi"], "memory='8 gibi' must be a number of bytes"),
        (["run", "smoke", "--out", "OUT", "--memory", "100kB"], "memory='0.0954 MiB' must be at least"),
        (["run", "smoke", "--out", "OUT", "--set", "privacy.epsilon=[0]"], "privacy.epsilon.0="),
        (
            ["run", "smoke", "--out", "OUT", "--set", "privacy.epsilon=[1]", "--set", "train.batch_size=10"],
            "not independent samples of each model's members",
        ),
        (["sweep", "none.toml", "--out", "OUT"], "config='none.toml' must be a TOML file or one of"),
        (["sweep", "study_smoke", "--out", "OUT", "--set", "recipes.adam.stepz=3"], "Did you mean 'steps'"),
        (
            ["sweep", "study_smoke", "--out", "OUT", "--set", "recipes.sgd.steps=3"],
            "name='sgd' must be one of",
        ),
        (
            ["sweep", "study_smoke", "--out", "OUT", "--set", "grid.shots=[999]"],
            "has enough examples for any cell",
        ),
        (["sweep", "study_smoke", "--out", "OUT", "--executor", "rai"], "Did you mean 'ray'"),
        (
            ["sweep", "study_smoke", "--out", "OUT", "--cpus", "2"],
            "must be 'ray' for --address, --cpus and --gpus",
        ),
        (
            ["sweep", "study_smoke", "--out", "OUT", "--executor", "ray", "--cpus", "0"],
            "cpus=0 must be an integer",
        ),
        (
            ["sweep", "smoke", "--out", "OUT", "--set", "train.statistics=NAN.npz"],
            "NAN.npz' is for normalize='standardize'",
        ),
        (
            [
                "run",
                "smoke",
                "--out",
                "OUT",
                "--set",
                "train.normalize=standardize",
                "--set",
                "train.statistics=NAN.npz",
            ],
            "NAN.npz' must be an existing .npz file",
        ),
        (["attack", "NONE", "--out", "OUT"], "none.npz' must be an existing .npz file"),
        (["attack", "NAN", "--out", "OUT"], "must hold the key 'member', got features, labels"),
        (["attack", "SCORES", "--out", "OUT", "--attack", "lirra"], "Did you mean 'lira'"),
        (["attack", "SCORES", "--out", "OUT", "--attack", "quantile"], "needs scores only"),
        (["attack", "SCORES", "--out", "OUT", "--fpr", "1e-9"], "1e-09 needs 10000000000 non-member scores"),
        (["attack", "SCORES", "--out", "OUT", "--target", "9"], "target=9 must be the row of a model, 0..8"),
        (["attack", "SCORES", "--out", "SCORES"], "must be a new or an empty folder"),
        (["fit", "OUT"], "must be a run folder with results.parquet"),
        (["predict", "OUT", "--shots", "10", "--classes", "3"], "must be a run folder with power_law.json"),
        (["predict", "--published", "--shots", "10", "--classes", "3"], "classes=3"),
        (["dp", "--steps", "5"], "Exactly one of epsilon=None and noise_multiplier=None must be given"),
        (["dp", "--steps", "5", "--epsilon", "0"], "epsilon=0.0 must be positive"),
        (["dp", "--steps", "5", "--epsilon", "1", "--batch", "20"], "shots=None must be given with batch=20"),
        (["dp", "--steps", "5", "--epsilon", "1", "--design", "paired"], "design='paired' must be one of"),
        (["dp", "--steps", "5", "--epsilon", "1", "--fpr", "1.5"], "fpr=1.5 must lie strictly"),
        (["predict", "--published", "--shots", "-1"], "shots=-1.0 must be a positive number"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(capsys, tmp_path, scores_file, words, message):
    features = np.ones((40, 2))
    features[3] = np.nan
    np.savez(tmp_path / "nan.npz", features=features, labels=np.arange(40) % 2)
    places = {
        "OUT": tmp_path / "out",
        "NONE": tmp_path / "none.npz",
        "NAN": tmp_path / "nan.npz",
        "SCORES": scores_file,
        "data.features=NAN": f"data.features={tmp_path / 'nan.npz'}",
    }
    code, _, err = jaxmia(capsys, *(places.get(word, word) for word in words))
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["nan.npz"]
