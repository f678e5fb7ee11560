"""Every benchmark runs with tiny sizes and measures what it claims."""

import importlib
import itertools
import json
import pathlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.special
from published_attacks import cut_to
from scipy.stats import spearmanr

from jaxmia import attacks
from jaxmia.data.feature_set import demo_features, feature_set
from jaxmia.scores import Scores
from jaxmia.studies.folder.tables import load_results
from jaxmia.studies.sweep import run_sweep

FOLDER = pathlib.Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """Import a benchmark as `python benchmarks/NAME.py` would."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def rows_of(path):
    content = json.loads(path.read_text())
    assert "numpy" in content["machine"]
    assert "float32" in content["dtype"]
    return content["rows"]


FINITE_POOL = ["--shots", "4", "--targets", "2", "--classes", "2", "--models", "24", "--replicates", "2"]
FINITE_POOL += ["--multipliers", "2", "--designs", "fixed_size", "--steps", "5"]


@pytest.mark.thorough
def test_finite_pool_runs_and_corrects_by_its_factor(benchmark, tmp_path, capsys):
    benchmark("finite_pool").main([*FINITE_POOL, "--json", str(tmp_path / "rows.json")])
    rows = rows_of(tmp_path / "rows.json")
    assert capsys.readouterr().out.count("| heads, fixed_size |") == 3
    exact, fresh, plain, corrected = (row for row in rows if row["setting"] == "class means")
    assert exact["r"] == "fresh, exact"
    assert (fresh["r"], plain["correction"], corrected["correction"]) == ("fresh", "none", "finite_pool")
    for name, factor in {"D": 0.5, "D= / fresh": 0.5, "s_in / fresh": 2, "shift / fresh": 1}.items():
        assert corrected[name][0] == pytest.approx(plain[name][0] * factor**0.5, rel=1e-6)
    assert corrected["estimated 0.1"][0] < plain["estimated 0.1"][0]
    assert corrected["pooled 0.1"] is None  # ranks have no correction


def test_fresh_draws_hold_every_target_in_one_head_of_the_stated_size(benchmark, monkeypatch):
    """Checked on the training calls: S members per class, at most one target among them, scored under that head."""
    finite_pool = benchmark("finite_pool")
    calls, train_ensemble, score = [], finite_pool.train_ensemble, finite_pool.score

    def spy(key, pool, masks, *rest):
        heads = train_ensemble(key, pool, masks, *rest)
        calls.append((pool.labels, np.asarray(masks.member), heads))
        return heads

    monkeypatch.setattr(finite_pool, "train_ensemble", spy)
    data, rng = demo_features(), np.random.default_rng(0)
    chosen = finite_pool.choose_classes(data, 3)
    rows = [np.flatnonzero(data.labels == label) for label in chosen]
    targets, others = [row[:2] for row in rows], [row[2:50] for row in rows]
    arguments = finite_pool.argparse.Namespace(shots=4, targets=2, classes=3, models=5, replicates=1)
    config = finite_pool.TrainConfig(steps=3)
    scores = finite_pool.fresh_scores(
        arguments, data, targets, others, rng=rng, design="fixed_size", config=config
    )
    audited = finite_pool._feature_set(data, targets, chosen)
    assert len(calls) == 5
    for (labels, masks, heads), log_odds, member in zip(calls, scores.log_odds, scores.member, strict=True):
        for label in range(3):
            np.testing.assert_array_equal(masks[:, labels == label].sum(axis=1), 4)
            assert (masks[:, 2 * label : 2 * label + 2].sum(axis=1) <= 1).all()
        np.testing.assert_array_equal(masks[:, :6].sum(axis=0), member)
        under_all_heads = score(heads, audited).log_odds
        for target in np.flatnonzero(member):
            assert log_odds[target] == under_all_heads[masks[:, target].argmax(), target]


def test_attack_speed_runs(benchmark, tmp_path):
    sizes = ["--models", "33", "--examples", "64", "--loop-examples", "8", "--dim", "2"]
    benchmark("attack_speed").main([*sizes, "--json", str(tmp_path / "rows.json")])
    rows = rows_of(tmp_path / "rows.json")
    from_scores = set(attacks.REGISTRY) - attacks.READS_WEIGHTS - attacks.READS_PRIOR
    from_scores -= {"label_ratio"}  # it reads decisions
    assert {row["attack"].split(",")[0] for row in rows} == from_scores
    assert all(row["seconds"] > 0 for row in rows)


def test_the_loops_compute_what_the_attack_does(benchmark):
    """With equally many shadows on both sides of every example the half loop cuts nothing."""
    attack_speed = benchmark("attack_speed")
    rng = np.random.default_rng(3)
    member = np.argsort(rng.random((17, 30)), axis=0) < 8
    member[0] = False  # the target: 8 of its 16 shadows are IN, at every example
    member[1:] = np.argsort(rng.random((16, 30)), axis=0) < 8
    log_odds = rng.normal(size=(17, 30)) + member
    expected = attacks.lira(Scores(log_odds, member), location="median").statistic[0]
    for loop in (attack_speed.published_loop, attack_speed.published_half_loop):
        np.testing.assert_allclose(loop(log_odds, member, 0), expected, rtol=1e-9)


@pytest.mark.thorough
def test_accelerator_runs_on_a_cpu_which_then_agrees_with_itself(benchmark, tmp_path):
    benchmark("accelerator").main(["--quick", "--json", str(tmp_path / "rows.json")])
    rows = rows_of(tmp_path / "rows.json")
    found = {(row["part"], row["what"], row["format"]): row["value"] for row in rows}
    assert found["parity", "largest difference", "float32"] == 0
    assert 0 < found["parity", "largest difference", "bfloat16"] < 1
    assert all(row["value"] > 0 for row in rows if row["unit"] == "heads/s" and row["part"] == "training")


def test_shadow_budget_runs(benchmark, tmp_path):
    benchmark("shadow_budget").main(
        ["--quick", "--json", str(tmp_path / "rows.json"), "--plot", str(tmp_path / "plot.png")]
    )
    rows = {(row["FPR"], row["attack"]): row for row in rows_of(tmp_path / "rows.json")}
    assert rows[0.1, "lira"]["K = 1"] is None  # attacks with shadows need two
    assert 0 <= rows[0.1, "lira"]["K = 4"][0] <= 1
    assert rows[0.1, "threshold"]["K = 1"] == rows[0.1, "threshold"]["K = 4"]
    best = rows[0.1, "best"]["K = 4"]
    assert rows[0.1, best]["K = 4"][0] == max(
        row["K = 4"][0]
        for (fpr, name), row in rows.items()
        if fpr == 0.1 and name != "best" and row["K = 4"] is not None
    )
    assert (
        rows[0.1, "rmia"]["K = 4"] is None
    )  # a rank among the 16 non-members of a target does not resolve it
    assert rows[0.001, "best"]["K = 4"] is None  # 160 non-member scores do not resolve it
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_shadows_are_complementary_pairs_and_targets_stand_apart(benchmark):
    shadow_budget = benchmark("shadow_budget")
    arguments = shadow_budget.argparse.Namespace(shadows=4, targets=3)
    keys = shadow_budget.jax.random.split(shadow_budget.jax.random.key(0), 3)
    pool = shadow_budget.candidate_pool(demo_features(), classes=2, shots=4, key=keys[0], test_per_class=0)
    config = shadow_budget.TrainConfig(steps=2)
    shadows, targets = shadow_budget.trained_scores(arguments, pool, config, keys[1:])
    assert (shadows.member.shape, targets.member.shape) == ((4, 16), (3, 16))
    np.testing.assert_array_equal(shadows.member[::2], ~shadows.member[1::2])
    seen = []

    def attack(scores):
        seen.append(np.asarray(scores.log_odds))
        return attacks.threshold(scores)

    shadow_budget.with_shadows(attack, {}, targets, shadows, 2)
    for target, rows in enumerate(seen):
        np.testing.assert_array_equal(rows[0], targets.log_odds[target])
        pair = 2 * (target % 2)
        np.testing.assert_array_equal(rows[1:], shadows.log_odds[pair : pair + 2])


def test_an_absent_feature_set_is_skipped_and_said(benchmark, capsys):
    with pytest.raises(SystemExit) as end:
        benchmark("shadow_budget").main(["--features", "no/such.npz"])
    assert end.value.code == 0
    assert capsys.readouterr().out == "skipped: the feature set no/such.npz is absent\n"


@pytest.mark.thorough
def test_dp_speed_runs_and_its_heads_learn(benchmark, tmp_path):
    options = ["--models", "3", "--peer-heads", "1", "--examples", "40", "--classes", "2", "--dims", "8"]
    benchmark("dp_speed").main(
        [*options, "--steps", "30", "--repeats", "1", "--json", str(tmp_path / "rows.json")]
    )
    rows = rows_of(tmp_path / "rows.json")
    assert [(row["d"], row["q"]) for row in rows] == [(8, 1.0), (8, 0.2)]
    for row in rows:
        assert row["private / ordinary"] == pytest.approx(
            row["private, ms / step"] / row["ordinary, ms / step"]
        )
        assert float(row["accuracies"].split()[0]) > 0.6


@pytest.mark.thorough
def test_dp_persons_compares_both_units(benchmark, tmp_path):
    options = [
        "--models",
        "3",
        "--examples",
        "40",
        "--classes",
        "2",
        "--dim",
        "8",
        "--records",
        "2",
        "--steps",
        "4",
    ]
    benchmark("dp_persons").main([*options, "--repeats", "1", "--json", str(tmp_path / "rows.json")])
    rows = rows_of(tmp_path / "rows.json")
    assert [(row["K"], row["q"]) for row in rows] == [(2, 1.0), (2, 0.1)]
    for row in rows:
        ratio = row["by person, ms / step"] / row["by record, ms / step"]
        assert row["by person / by record"] == pytest.approx(ratio)


@pytest.mark.slow
def test_batch_order_compares_seed_by_seed(benchmark, tmp_path, monkeypatch):
    options = ["--models", "9", "--shots", "40", "--classes", "3", "--steps", "6", "--batch-size", "30"]
    options += ["--num-seeds", "2", "--optimizers", "sgd:1", "--json", str(tmp_path / "rows.json")]
    module = benchmark("batch_order")
    monkeypatch.setattr(module, "FPRS", (0.1,))
    module.main(options)
    shared, independent, difference = rows_of(tmp_path / "rows.json")
    for name in ("TPR at 0.1", "mu_in - mu_out", "sigma_in", "sigma_out"):
        assert difference[name][0] == pytest.approx(shared[name][0] - independent[name][0])
        assert difference[name][1] > 0
    assert (shared["optimizer"], shared["order"], independent["order"]) == ("sgd:1", "shared", "independent")


TRAIN_SPEED = ["--models", "4", "--peer-heads", "2", "--stack", "3", "--examples", "80", "--classes", "2"]
TRAIN_SPEED += ["--dims", "64", "--epochs", "10", "--batch-size", "10", "--threads", "1"]


@pytest.mark.slow
def test_train_speed_runs_and_every_way_trains_the_same_heads(benchmark, tmp_path):
    benchmark("train_speed").main([*TRAIN_SPEED, "--repeats", "1", "--json", str(tmp_path / "rows.json")])
    rows = {row["what"]: row for row in rows_of(tmp_path / "rows.json")}
    modes = ("shared order", "full batch", "independent", "Poisson")
    ours = {f"jaxmia, {mode}, {products}" for mode in modes for products in ("float32", "bfloat16")}
    assert {name for name, row in rows.items() if row["share of peak"] is not None} == ours
    assert rows.keys() > ours
    for name, row in rows.items():
        assert row["heads / s"] == pytest.approx(1 / row["s / head"])
        for column, products in (("shared order / this", "float32"), ("in bfloat16", "bfloat16")):
            shared = rows[f"jaxmia, shared order, {products}"]
            assert row[column] == pytest.approx(shared["heads / s"] / row["heads / s"])
        assert row["accuracy"] > 0.6
        full = rows["jaxmia, full batch, float32"]["loss"]
        if name.startswith(("scikit", "jaxmia to that loss")):  # as few iterations or steps as reach it
            assert row["loss"] <= full
        elif "full" not in name:  # batches differ, the recipe does not
            assert row["loss"] == pytest.approx(rows["gathered"]["loss"], abs=0.05)
            assert row["loss"] < np.log(2) - 0.1


@pytest.mark.thorough
def test_train_speed_alone_leaves_out_the_other_trainers(benchmark, tmp_path):
    options = ["--alone", "--products", "float32", "--repeats", "1", "--json", str(tmp_path / "rows.json")]
    benchmark("train_speed").main([*TRAIN_SPEED, *options])
    names = {row["what"] for row in rows_of(tmp_path / "rows.json")}
    modes = ("shared order", "full batch", "independent", "Poisson")
    assert names == {"gathered", *(f"jaxmia, {mode}, float32" for mode in modes)}


@pytest.mark.slow
def test_scaling_runs_and_its_exponent_is_the_slope(benchmark, tmp_path):
    options = ["--examples", "40", "--dim", "8", "--classes", "8", "--models", "4", "--steps", "4"]
    module = benchmark("scaling")
    module.main([*options, "--repeats", "1", "--json", str(tmp_path / "rows.json")])
    rows = rows_of(tmp_path / "rows.json")
    assert [row["quantity"] for row in rows] == ["examples", "dim", "classes", "models", "steps"]
    assert module.exponent([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx((2, 0), abs=1e-7)
    times = [rows[0][f"{share} of base, s"] for share in ("0.25", "0.5", "1")]
    assert rows[0]["exponent"][0] == pytest.approx(np.log2(times[2] / times[0]) / 2)


AUDIT_SPEED = ["--models", "25", "--shots", "10", "--classes", "2", "--epochs", "2", "--batch-size", "10"]
AUDIT_SPEED += ["--fprs", "0.2", "--peer-heads", "2", "--peer-targets", "3", "--repeats", "2"]


def test_audit_speed_runs_and_its_stages_add_up(benchmark, tmp_path):
    module = benchmark("audit_speed")
    module.main([*AUDIT_SPEED, "--json", str(tmp_path / "rows.json")])
    rows = {row["stage"]: row for row in rows_of(tmp_path / "rows.json")}
    published = "published, s (scaled)"
    for column in ["jaxmia, s"] + [published] * (rows["total"][published] is not None):
        stages = [rows[stage][column] for stage in module.STAGES]
        assert min(stages) > 0
        assert rows["total"][column] == pytest.approx(sum(stages))
    first = rows["total, first run with compilation"]
    assert first[published] == rows["total"][published]
    for row in rows.values():
        if row[published] is None:  # torch or scikit-learn is absent
            assert row["ratio"] is None
        else:
            assert row["ratio"] == pytest.approx(row[published] / row["jaxmia, s"])
    facts = json.loads((tmp_path / "rows.json").read_text())
    assert facts["largest relative difference of the statistics"] < 1e-6


def test_audit_speed_scales_a_part_to_the_whole_and_leaves_out_the_first_run(benchmark):
    module = benchmark("audit_speed")
    seconds = {}
    assert module.timed(seconds, "train", lambda wait: module.time.sleep(wait) or 7, 0.01, scale=100) == 7
    assert 1 <= seconds["train"] < 10
    turns = [dict.fromkeys(module.STAGES, value) for value in (1.0, 2.0, 9.0)]
    rows = module.table_rows(dict.fromkeys(module.STAGES, 100.0), turns, [turns[2]])
    assert [(row["jaxmia, s"], row["ratio"]) for row in rows] == [(2, 4.5)] * 4 + [(8, 4.5), (400, 0.09)]


def test_audit_speed_says_that_the_published_side_is_absent(benchmark, tmp_path, monkeypatch, capsys):
    module = benchmark("audit_speed")
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    module.main([*AUDIT_SPEED, "--json", str(tmp_path / "rows.json")])
    assert "published skipped: torch and sklearn absent" in capsys.readouterr().out
    rows = rows_of(tmp_path / "rows.json")
    assert {(row["published, s (scaled)"], row["ratio"]) for row in rows} == {(None, None)}
    assert all(row["jaxmia, s"] > 0 for row in rows)


def test_the_published_attack_of_audit_speed_is_lira_on_the_shadows_it_keeps(benchmark):
    """Compared on the shadows that the tests of published outputs select, with other code than the benchmark."""
    module = benchmark("audit_speed")
    rng = np.random.default_rng(5)
    member = rng.random((21, 40)) < 0.5
    log_odds = rng.normal(size=member.shape) + member
    others = member[1:]
    kept = cut_to(Scores(log_odds, member), 0, others.sum(axis=0).min(), (~others).sum(axis=0).min())
    expected = attacks.lira(kept, location="median").statistic[0]
    np.testing.assert_allclose(module.published_half_loop(log_odds, member, 0), expected, rtol=1e-6)
    np.testing.assert_allclose(module.lira_on_kept_shadows(log_odds, member, 0), expected, rtol=1e-9)


def test_audit_speed_ends_where_the_attacks_disagree(benchmark, monkeypatch):
    module = benchmark("audit_speed")
    rng = np.random.default_rng(6)
    member = np.argsort(rng.random((9, 30)), axis=0) < 4
    scores = Scores(rng.normal(size=member.shape) + member, member)
    assert module.agreement(scores, 2, [0.4])["largest relative difference of the statistics"] < 1e-6
    loop = module.published_half_loop
    monkeypatch.setattr(module, "published_half_loop", lambda *inputs: loop(*inputs) + 1e-5)
    with pytest.raises(SystemExit, match="the attacks disagree"):
        module.agreement(scores, 2, [0.4])
    member[:, 3] = np.arange(9) == 0
    with pytest.raises(SystemExit, match="as few as 0 shadows"):
        module.agreement(scores, 2, [0.4])


def test_published_scores_are_the_true_logit_against_the_others(benchmark):
    module = benchmark("audit_speed")
    rng = np.random.default_rng(7)
    pool = feature_set(rng.normal(size=(12, 5)), np.arange(12) % 3)
    kernels, biases = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 3))
    logits = np.einsum("nd,mcd->mnc", pool.features, kernels) + biases[:, None]
    others = np.where(np.arange(3) == pool.labels[:, None], -np.inf, logits)
    expected = logits[:, np.arange(12), pool.labels] - np.logaddexp.reduce(others, axis=2)
    np.testing.assert_allclose(module.published_scores((kernels, biases), pool), expected, rtol=1e-6)


TINY_GRID = ["grid.classes=[2]", "grid.shots=[10]", "shadows.models=12", "train.steps=2", "fpr=[0.1]"]
TINY_GRID += ['attack=["threshold"]']


@pytest.mark.slow
def test_startup_runs_fresh_processes_and_divides_by_the_import_of_jax(benchmark, tmp_path, monkeypatch):
    module = benchmark("startup")
    quick = (module.NOTHING, module.JAX, module.JAXMIA, module.HELP)
    monkeypatch.setattr(module, "COMMANDS", {name: module.COMMANDS[name] for name in quick})
    options = [part for override in TINY_GRID for part in ("--set", override)]
    options += ["--config", "smoke", "--repeats", "1", "--no-cache-runs"]
    module.main([*options, "--json", str(tmp_path / "rows.json")])
    rows = {row["what"]: row for row in rows_of(tmp_path / "rows.json")}
    nothing = rows[module.NOTHING]["seconds"]
    assert 0 < nothing < rows[module.JAX]["seconds"]
    assert rows[module.JAX]["over jax"] == 1
    ours = rows[module.JAXMIA]
    jax_alone = rows[module.JAX]["seconds"] - nothing
    assert ours["over jax"] == pytest.approx((ours["seconds"] - nothing) / jax_alone)
    grid = rows["grid, no cache"]
    kinds = [grid[kind] for kind in module.KINDS]
    assert min(kinds) > 0
    # The share is of the kinds' union.
    assert max(kinds) <= grid["share"] * grid["seconds"] * (1 + 1e-9)
    assert grid["share"] * grid["seconds"] <= sum(kinds) * (1 + 1e-9)
    assert grid["share"] < 1
    assert grid["programs"] >= 3  # membership, training, scores
    assert grid["from cache"] == 0


def test_startup_counts_nested_spans_once_and_judges_its_goals(benchmark):
    module = benchmark("startup")
    assert module.union_seconds([(5, 6), (0, 2), (1, 3), (0.5, 0.7)]) == 4
    tracing, _, compiling = module.KINDS.values()
    spans = [(tracing, 0, 2), (tracing, 1, 2), (compiling, 2, 3), ("another", 3, 9)]
    row = module.grid_row("grid", module.GridRun(10.0, spans, [module.CACHE_HIT, "another"], []))
    assert (row["tracing, s"], row["lowering, s"], row["compiling, s"]) == (2, 0, 1)
    assert (row["share"], row["goal"]) == (0.3, "share < 0.15: missed")
    assert (row["programs"], row["from cache"]) == (1, 1)
    seconds = {module.NOTHING: 1.0, module.JAX: 3.0, module.JAXMIA: 5.0, module.HELP: 0.4}
    goals = {row["what"]: row["goal"] for row in module.start_rows(seconds)}
    assert goals[module.JAXMIA] == "< 0.05 s over nothing: missed"
    assert goals[module.HELP] == "< 0.5 s: met"


def test_startup_gives_the_cache_to_the_second_and_third_grid_alone(benchmark, monkeypatch):
    module = benchmark("startup")
    caches, outs = [], []

    def run_process(command, environment):
        assert command[3:5] == ["run", "demo"]
        caches.append(environment.get(module.CACHE))
        outs.append(command[command.index("--out") + 1])
        pathlib.Path(command[2]).write_text('{"spans": [], "events": []}')
        return 1.0, "S=8 ---- 5 heads/s\nW: a warning\nW: a warning\n"

    monkeypatch.setattr(module, "run_process", run_process)
    monkeypatch.setenv(module.CACHE, "the user's own")
    arguments = module.argparse.Namespace(config="demo", set=[], no_cache_runs=False)
    runs = module.grid_runs(arguments)
    assert list(runs) == ["grid, no cache", "grid, empty cache", "grid, warm cache"]
    assert caches[0] is None
    assert caches[1] == caches[2] != "the user's own"
    assert len(set(outs)) == 3
    assert all(run.stderr == ["W: a warning"] for run in runs.values())


def test_startup_ends_where_a_process_fails(benchmark):
    module = benchmark("startup")
    with pytest.raises(SystemExit, match="ended with 3"):
        module.run_process(["-c", "import sys; sys.exit(3)"], module.os.environ)


@pytest.mark.thorough
def test_the_overhead_of_a_sweep_is_small_and_its_memory_flat(benchmark, tmp_path):
    """A few cells, with bounds for a busy machine; the slow test below has the stated bounds."""
    benchmark("sweep_overhead").main(["--cells", "25", "--json", str(tmp_path / "rows.json")])
    (row,) = rows_of(tmp_path / "rows.json")
    assert row["cells"] == 25
    assert row["overhead, s per cell"] < 0.6
    assert row["memory at the end, MiB"] < row["memory at a fifth, MiB"] + 40
    assert 0 < row["training and attacking, s per cell"] < 2


@pytest.mark.slow
def test_500_cells_cost_less_than_0_15_s_each_beyond_their_work_and_no_memory(benchmark, tmp_path):
    benchmark("sweep_overhead").main(["--json", str(tmp_path / "rows.json")])
    (row,) = rows_of(tmp_path / "rows.json")
    assert row["cells"] == 500
    assert row["overhead, s per cell"] < 0.15
    assert row["growth, MiB per 100 cells"] < 5


@pytest.mark.thorough
def test_the_study_reads_any_sweep(benchmark, tmp_path, capsys):
    settings = {
        "name": "any",
        "attack": ["lira"],
        "fpr": [0.1],
        "shadows": {"models": 17},
        "train": {"steps": 5, "normalize": "standardize"},
        "datasets": [
            {"name": "one", "features": "demo"},
            {"name": "two", "features": "demo", "classes": [2]},
        ],
        "recipes": [{"name": "adam"}],
        "grid": {"classes": [2, 3], "shots": [20, 40], "seeds": [0, 1]},
    }
    run_sweep(settings, tmp_path / "sweep")
    benchmark("study").main([str(tmp_path / "sweep"), "--figures", str(tmp_path / "figures")])
    said = capsys.readouterr().out
    assert "| one | 3 | 20 ... 40 | 4 | 2 |" in said
    left_out = said.split("Left out in turn")[1].split("Required")[0]
    assert left_out.count("| all | one | 0.1 |") == left_out.count("| all | two | 0.1 |") == 1
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert figures == {"study_advantage.png", "study_quantiles.png", "study_theory.png"}
    benchmark("of_run").main([str(tmp_path / "sweep"), str(tmp_path / "kept.json")])
    kept = json.loads((tmp_path / "kept.json").read_text())
    results = load_results(tmp_path / "sweep")
    assert kept["command"] == "jaxmia sweep any --out sweeps/any"
    assert kept["seconds"] > 0
    frame = pd.DataFrame(kept["rows"], columns=kept["columns"])
    np.testing.assert_array_equal(frame["tpr"].astype(float), results["tpr"])


@pytest.mark.thorough
def test_slopes_of_classes_are_those_that_were_planted(benchmark, monkeypatch, capsys):
    """log10 advantage = -0.5 log10 S + 0.2 log10 C + 0.5 log10 error - 0.5, where the error grows with C."""
    cells = itertools.product(("one", "two"), ("tuned", "untuned"), ("pooled", "calibrated"), (2, 5, 10))
    planted = [
        {"dataset": dataset, "recipe": recipe, "evaluation": evaluation, "classes": classes, "shots": shots}
        | {"seed": seed, "fpr": fpr, "accuracy": 1 - 0.01 * classes * (1 + seed) * (16 / shots) ** 0.1}
        for dataset, recipe, evaluation, classes in cells
        for shots, seed, fpr in itertools.product((16, 64), (0, 1), (0.1, 0.01))
    ]
    rows = pd.DataFrame(planted).assign(
        attack="lira", epsilon=np.inf, learning_rate=0.1, batch_size=8, steps=100
    )
    noise = 10 ** np.random.default_rng(0).normal(0, 1e-3, len(rows))
    laws = rows["shots"] ** -0.5 * rows["classes"] ** 0.2 * (1 - rows["accuracy"]) ** 0.5
    rows["advantage"] = 10**-0.5 * laws * noise
    rows["tpr"] = rows["fpr"] + rows["advantage"]
    module = benchmark("classes")
    monkeypatch.setattr(module, "load_results", lambda folders: rows)
    module.main(["sweep"])
    assert "| two | tuned | 5 | 64 | 0.1 | 8 | 100 | 0.935 |" in capsys.readouterr().out
    # The error is proportional to C: without it among the regressors the slope is 0.2 + 0.5.
    steps = module.steps_table(rows[rows["evaluation"] == "pooled"])
    assert [float(row["2 to 5"]) for row in steps] == pytest.approx([0.7] * 16, abs=0.01)
    alone, beside = module.slopes_table(rows), module.equal_error_table(rows)
    assert len(alone) == 2 * len(beside) == 24  # sets and both, recipes, evaluations; all cells and far
    for one in alone:
        assert float(one["FPR 0.01"].split(" ±")[0]) == pytest.approx(0.7, abs=0.01)
    for other in beside:
        assert float(other["slope of C, FPR 0.01"].split(" ±")[0]) == pytest.approx(0.2, abs=0.01)
        assert float(other["of the error, FPR 0.01"].split(" ±")[0]) == pytest.approx(0.5, abs=0.01)


@pytest.mark.thorough
def test_audits_of_scikit_learn_s_heads_agree_with_its_re_trainings(benchmark, tmp_path):
    """With 96 records, rank correlations exceed chance by four standard errors; non-members are called at the FPR."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    words = ["--shots", "16", "--classes", "3", "--outside", "24", "--models", "48", "--json"]
    benchmark("audit_agreement").main([*words, str(tmp_path / "rows.json")])
    rows = rows_of(tmp_path / "rows.json")
    assert [row["against the truth"] for row in rows] == [
        "audit, recipe given",
        "audit, recipe fitted",
        "study",
    ]
    for row in rows:
        assert row["rank correlation"] > 4 / np.sqrt(95)
    facts = json.loads((tmp_path / "rows.json").read_text())
    (others,) = (
        value for name, value in facts.items() if name.startswith("called at FPR 0.1") and "non-" in name
    )
    (members,) = (
        value for name, value in facts.items() if name.startswith("called at FPR 0.1") and "non-" not in name
    )
    # Non-members of 23 heads: even if all calls of a head are correlated, the standard error is at most 0.3 /
    # sqrt(23).
    assert others < 0.1 + 3 * 0.3 / np.sqrt(23) < members


def test_logits_of_scikit_learn_s_heads_are_those_of_their_probabilities(benchmark):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    module = benchmark("audit_agreement")
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(60, 4)), np.arange(60) % 3
    for kind in module.HEADS:
        model = module.outside_head(kind, 1.0).fit(x, labels)
        shares = scipy.special.softmax(module.logits_of(model, x), axis=1)
        np.testing.assert_allclose(shares, model.predict_proba(x), rtol=1e-6)


@pytest.mark.slow
def test_audits_of_scikit_learn_s_files_train_by_the_file(benchmark, tmp_path):
    """One-vs-rest: with 96 records, the rank correlation exceeds chance by four standard errors."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    pytest.importorskip("skops", reason="skops is not installed")
    words = ["--shots", "16", "--classes", "3", "--outside", "64", "--models", "64", "--head", "one_vs_rest"]
    benchmark("audit_agreement").main([*words, "--json", str(tmp_path / "rows.json")])
    (row,) = rows_of(tmp_path / "rows.json")
    assert row["rank correlation"] > 4 / np.sqrt(95)
    facts = json.loads((tmp_path / "rows.json").read_text())
    assert "link = one_vs_rest" in facts["trained with"]


@pytest.mark.thorough
def test_whitebox_runs_below_every_ceiling(benchmark, tmp_path):
    sizes = ["--models", "48", "--shots", "12", "--projected", "30", "--dim", "4", "--classes", "2"]
    recipes = ["--recipes", "ridge", "sgd, ε = 1", "--json", str(tmp_path / "rows.json")]
    benchmark("whitebox").main([*sizes, *recipes])
    rows = {(row["recipe"], row["d"]): row for row in rows_of(tmp_path / "rows.json")}
    assert [row["n / (d C)"] for row in rows.values()] == [48 / 768, 15, 48 / 768, 15]
    ridge, private = rows["ridge", 384], rows["sgd, ε = 1", 384]
    assert ridge["stationarity 0.01"] == 1 > ridge["lira 0.01"]
    assert rows["ridge", 4]["stationarity 0.01"] < 1
    assert private["ceiling"] < 0.03
    assert all(row["above"] == 0 for row in rows.values())


def test_projected_features_keep_what_principal_components_hold(benchmark):
    data = feature_set(np.random.default_rng(0).normal(size=(50, 6)) * [9, 5, 1, 1, 1, 1], np.arange(50) % 2)
    few = benchmark("whitebox").projected(data, 2).features
    np.testing.assert_allclose(few.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.mean(np.sum(few**2, axis=1)), 1, rtol=1e-5)
    whole = np.cov(data.features.T)
    values = np.linalg.eigvalsh(whole)[::-1]
    ratio = few[:, 0].var() / few[:, 1].var()
    np.testing.assert_allclose(ratio, values[0] / values[1], rtol=1e-4)


@pytest.mark.thorough
def test_frontier_compares_with_a_truth_apart(benchmark, tmp_path, capsys):
    """Tiny: 40 records of 2 classes. The shadows' errors fall with K, and the analytic estimate needs none."""
    frontier, file = benchmark("frontier"), tmp_path / "rows.json"
    sizes = ["--classes", "2", "--shots", "10", "--dim", "12", "--truth", "512", "--plain", "16", "128"]
    frontier.main([*sizes, "--paired", "8", "--json", str(file)])
    rows = {(row["method"], row["K"]): row for row in rows_of(file)}
    expected = [("analytic", 0), ("plain", 16), ("plain", 128), ("paired", 8), ("paired, shrunk", 8)]
    assert list(rows) == expected
    assert (
        rows["analytic", 0]["error of D"] < rows["plain", 128]["error of D"] < rows["plain", 16]["error of D"]
    )
    assert rows["paired, shrunk", 8]["error of D"] < rows["plain", 128]["error of D"]
    capsys.readouterr()
    frontier.main(["--tables", str(file), str(file)])
    table = capsys.readouterr().out
    assert table.count("\n") == 2 + len(expected)
    assert f"| demo | 2 | 10 | 1 | plain | 128 | 1 | {rows['plain', 128]['D']:.3g} |" in table


def test_the_truths_own_noise_does_not_lower_a_rank_correlation(benchmark):
    """4 000 records, heavy tails of D, and a truth whose error is as large as the spread of D."""
    rng = np.random.default_rng(0)
    exact = 0.7 + 0.25 * rng.standard_t(3, 4000)
    estimate = exact + 0.02 * rng.normal(size=4000)
    member = np.arange(64)[:, None] % 2 == np.arange(4000) % 2
    log_odds = exact * member + rng.normal(size=member.shape)
    truth = benchmark("frontier").Truth(Scores(log_odds, member), estimate)
    assert spearmanr(estimate, truth.separation)[0] < 0.8
    assert truth.rank(estimate) == pytest.approx(spearmanr(estimate, exact)[0], abs=4 / np.sqrt(4000))


@pytest.mark.thorough
def test_flips_agree_with_trainings(benchmark, tmp_path):
    sizes = ["--classes", "2", "--shots", "8", "--ridge", "1", "--models", "2", "--flips", "21"]
    benchmark("flips").main([*sizes, "--json", str(tmp_path / "rows.json")])
    rows = rows_of(tmp_path / "rows.json")
    assert [row["flip"] for row in rows] == ["remove", "add"]
    assert sum(row["flips"] for row in rows) == 21
    for row in rows:
        assert row["50%"] < 0.02  # docs/frontier.md has 0.4% of 1 000 flips


@pytest.mark.thorough
def test_per_record_compares_estimates_with_heads_that_did_not_make_them(benchmark, tmp_path, capsys):
    per_record = benchmark("per_record")
    scores = tmp_path / "scores.npz"
    arguments = ["--classes", "3", "--shots", "8", "--truth", "400", "--heads", "64", "--shadows", "32"]
    for _ in range(2):  # the second time from the saved scores
        per_record.main([*arguments, "--scores", str(scores), "--json", str(tmp_path / "rows.json")])
        rows = rows_of(tmp_path / "rows.json")
    assert [row["FPR"] for row in rows] == [0.1, 0.01, 0.001]
    assert rows[0]["residuals"] == pytest.approx(1, abs=0.1)
    assert rows[0]["realised FPR"] == pytest.approx(1, abs=0.2)
    per_record.main([*arguments, "--noise", "32", "--json", str(tmp_path / "noise.json")])
    noise = rows_of(tmp_path / "noise.json")
    assert noise[0]["true"] == pytest.approx(0.1, abs=0.01)
    assert "K" in capsys.readouterr().out


@pytest.mark.thorough
@pytest.mark.parametrize("near", [[], ["--near"]])
def test_persons_are_told_better_than_records(benchmark, tmp_path, near):
    sizes = ["--classes", "2", "--shots", "12", "--models", "17", "--records", "3"]
    benchmark("persons").main([*sizes, *near, "--json", str(tmp_path / "rows.json")])
    rows = {row["attack"]: row for row in rows_of(tmp_path / "rows.json")}
    assert set(rows) == {"records", "joint", "sum of ratios", "LiRA on sums"}
    assert rows["joint"]["pooled 0.1"] > rows["records"]["pooled 0.1"]
    assert rows["sum of ratios"]["calibrated 0.1"] is None


def test_attacks_on_persons_are_timed_beside_records(benchmark, tmp_path):
    benchmark("persons").main(["--speed", "--sizes", "17", "60", "20", "--json", str(tmp_path / "rows.json")])
    rows = rows_of(tmp_path / "rows.json")
    assert [row["attack"] for row in rows] == [
        "lira",
        "rmia",
        "bavaria_t",
        "threshold",
        "lira, calibrated",
        "all",
    ]
    assert all(row["ratio"] >= 0 for row in rows)


@pytest.mark.thorough
def test_adapters_are_counted_timed_and_planned(tmp_path):
    """In a process of its own: JAX fills trees with placeholders when it lowers, which the tests' types refuse."""
    words = ["--quick", "--json", str(tmp_path / "rows.json")]
    subprocess.run([sys.executable, str(FOLDER / "adapters.py"), *words], check=True, capture_output=True)
    rows = rows_of(tmp_path / "rows.json")
    assert [row["models"] for row in rows] == [1, 3, 1, 3]
    assert all(1 < row["GFLOP x one"] <= 3 for row in rows if row["models"] == 3)
    held = json.loads((tmp_path / "rows.json").read_text())
    assert 0 < held["of the budget"] < 1


def test_adapters_study_compares_with_the_head_of_the_same_shots(benchmark):
    study = benchmark("adapters_study")
    row = {"S": 8, "member_loss": 1.0, "x head, pooled 0.1": 0.4}
    rows = [row | {"trained": "linear"}, row | {"trained": "film", "x head, pooled 0.1": 0.3}]
    rows += [row | {"trained": "linear", "member_loss": 2.0, "x head, pooled 0.1": 0.2}]
    found = study.with_ratios(rows)
    assert [each["x head, pooled 0.1"] for each in found] == [1.0, 0.75, 0.5]
