"""Every benchmark runs, tiny, and measures what it says."""

import importlib
import json
import pathlib

import numpy as np
import pytest

from jaxmia import attacks
from jaxmia.features import demo_features
from jaxmia.scores import Scores

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


def test_finite_pool_runs_and_corrects_by_its_factor(benchmark, tmp_path, capsys):
    benchmark("finite_pool").main([*FINITE_POOL, "--json", str(tmp_path / "rows.json")])
    rows = rows_of(tmp_path / "rows.json")
    assert capsys.readouterr().out.count("| heads, fixed_size |") == 3
    exact, fresh, plain, corrected = (row for row in rows if row["setting"] == "class means")
    assert exact["r"] == "fresh, exact"
    assert (fresh["r"], plain["correction"], corrected["correction"]) == ("fresh", "none", "finite_pool")
    for name, factor in {"D": 0.5, "D= / fresh": 0.5, "s_in / fresh": 2, "shift / fresh": 1}.items():
        assert corrected[name][0] == pytest.approx(plain[name][0] * factor**0.5, rel=1e-6)
    assert corrected["pooled 0.1"] is None  # ranks have no correction


def test_fresh_draws_hold_every_target_in_one_head_of_the_stated_size(benchmark, monkeypatch):
    """Seen from the training calls: S members of each class, one target of it at most, scored under that head."""
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
    assert {row["attack"].split(",")[0] for row in rows} == set(attacks.REGISTRY)
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
        row["K = 4"][0] for (fpr, name), row in rows.items() if fpr == 0.1 and name != "best"
    )
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


def test_train_speed_runs_and_every_way_trains_the_same_heads(benchmark, tmp_path):
    benchmark("train_speed").main([*TRAIN_SPEED, "--repeats", "1", "--json", str(tmp_path / "rows.json")])
    rows = {row["what"]: row for row in rows_of(tmp_path / "rows.json")}
    modes = ("shared order", "full batch", "Poisson")
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
        if name.startswith("scikit"):  # as few iterations as reach it
            assert row["loss"] <= full
        elif "full" not in name:  # batches differ, the recipe does not
            assert row["loss"] == pytest.approx(rows["gathered"]["loss"], abs=0.05)
            assert row["loss"] < np.log(2) - 0.1


def test_scaling_runs_and_its_exponent_is_the_slope(benchmark, tmp_path):
    options = ["--examples", "40", "--dim", "8", "--classes", "8", "--models", "4", "--steps", "4"]
    module = benchmark("scaling")
    module.main([*options, "--repeats", "1", "--json", str(tmp_path / "rows.json")])
    rows = rows_of(tmp_path / "rows.json")
    assert [row["quantity"] for row in rows] == ["examples", "dim", "classes", "models", "steps"]
    assert module.exponent([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx((2, 0), abs=1e-7)
    times = [rows[0][f"{share} of base, s"] for share in ("0.25", "0.5", "1")]
    assert rows[0]["exponent"][0] == pytest.approx(np.log2(times[2] / times[0]) / 2)


def test_the_overhead_of_a_sweep_is_small_and_its_memory_flat(benchmark, tmp_path):
    """A few cells, with bounds that a busy machine keeps; the slow test below has the stated ones."""
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
