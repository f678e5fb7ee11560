"""Privacy end to end: attacks under their ceiling, a canary that nearly reaches it, broken DP-SGD caught."""

import functools
import json

import jax
import numpy as np
import pandas as pd
import pytest
from references_accounting import gaussian_epsilon
from scipy import stats

from jaxmia import attacks
from jaxmia._validate import InputError
from jaxmia.cli.tables import results_tables
from jaxmia.data.feature_set import feature_set
from jaxmia.data.membership import draw_membership
from jaxmia.privacy.accounting import noise_multiplier_for, tpr_ceiling
from jaxmia.privacy.lower_bounds import epsilon_lower_bound
from jaxmia.scores import Scores
from jaxmia.stats.result import AttackResult
from jaxmia.studies.folder.tables import load_table
from jaxmia.studies.run import run_experiment
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.scoring import score
from jaxmia.training.settings import Hyperparams, TrainConfig

TAIL = 1e-6  # probability that a correct implementation fails one comparison
SETTINGS = {
    "attack": ["lira", "rmia", "base", "bavaria_t", "threshold"],
    "fpr": [0.1, 0.01],
    "grid": {"shots": [16], "classes": [5]},
    "shadows": {"models": 129},
    "train": {"steps": 20},
    "privacy": {"epsilon": [float("inf"), 8, 2, 0.5]},
}


def changed(**tables):
    return SETTINGS | {name: {**SETTINGS[name], **values} for name, values in tables.items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_experiment(SETTINGS, tmp_path_factory.mktemp("privacy") / "run")


def exceeding(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows whose TPR lies above the ceiling at their realised FPR, by more than the errors of both rates."""
    low = stats.beta.ppf(TAIL, rows["true_positives"], rows["num_members"] - rows["true_positives"] + 1)
    high = stats.beta.isf(TAIL, rows["false_positives"] + 1, rows["num_nonmembers"] - rows["false_positives"])
    ceilings = [
        float(tpr_ceiling(fpr, noise_multiplier=noise, sampling_rate=rate, steps=20, adjacency=adjacency))
        for fpr, noise, rate, adjacency in zip(
            high, rows["noise_multiplier"], rows["sampling_rate"], rows["adjacency"], strict=True
        )
    ]
    return rows[low > ceilings]


@pytest.mark.thorough
def test_no_attack_exceeds_its_ceiling(run):
    private = run.results.query("epsilon < inf and status == 'ok'")
    # RMIA's statistic is a rank among its target's own non-members, which are too few for these FPRs.
    assert set(private["attack"]) == set(SETTINGS["attack"]) - {"rmia"}
    assert set(private["epsilon"]) == {0.5, 2, 8}
    assert exceeding(private).empty
    assert (
        private["epsilon_lower_bound"].dropna() <= private["epsilon"][private["epsilon_lower_bound"].notna()]
    ).all()


def test_the_manifest_names_the_accountant_of_every_private_cell(run):
    manifest = json.loads((run.path / "manifest.json").read_text())
    named = {
        entry["epsilon"]: entry.get("privacy", {}).get("accountant") for entry in manifest["cells"].values()
    }
    assert named.pop("inf") is None
    assert all(
        name.startswith("PLD (dp-accounting), pessimistic; losses of all 20") for name in named.values()
    )
    assert set(named) == {8, 2, 0.5}


def test_ordinary_training_is_caught_by_the_ceiling_of_private_training(run):
    """The comparison can fail: heads without privacy exceed what epsilon 0.5 allows."""
    ordinary = run.results.query("epsilon == inf and status == 'ok' and attack == 'lira'")
    private = run.results.query("epsilon == 0.5")
    claimed = ordinary.assign(noise_multiplier=private["noise_multiplier"].iloc[0])
    assert len(exceeding(claimed)) == len(claimed)


def test_a_leak_of_one_rank_is_caught():
    """RMIA as published, with a non-member in its own population, exceeds the ceiling of epsilon 0.5 at low FPR."""
    rng = np.random.default_rng(0)
    member = rng.random((129, 160)) < 0.5
    honest = attacks.rmia(Scores(rng.normal(size=member.shape), member))
    outside = (~member).sum(axis=1, keepdims=True)
    leaky = np.where(member, honest.statistic, honest.statistic * (outside - 1) / outside)
    noise = noise_multiplier_for(epsilon=0.5, delta=1e-5, sampling_rate=1, steps=20)
    caught = []
    for statistic in (honest.statistic, leaky):
        called = statistic >= np.quantile(statistic[~member], 0.999, method="inverted_cdf") + 1e-12
        rows = pd.DataFrame(
            {
                "true_positives": [np.sum(called & member)],
                "num_members": member.sum(),
                "false_positives": np.sum(called & ~member),
                "num_nonmembers": np.sum(~member),
                "noise_multiplier": noise,
                "sampling_rate": 1.0,
                "adjacency": "add_or_remove_one",
            }
        )
        caught.append(len(exceeding(rows)))
    assert caught == [0, 1]


def test_rows_say_what_privacy_they_are_of(run):
    rows = run.results
    assert set(rows["epsilon"]) == {0.5, 2, 8, np.inf}
    for epsilon in (0.5, 2, 8):
        level = rows[rows["epsilon"] == epsilon]
        noise = noise_multiplier_for(epsilon=epsilon, delta=1e-5, sampling_rate=1, steps=20)
        assert set(level["noise_multiplier"]) == {noise}
        expected = tpr_ceiling(level["fpr"].to_numpy(), noise_multiplier=noise, sampling_rate=1, steps=20)
        np.testing.assert_array_equal(level["tpr_ceiling"], expected)
        assert set(level["audit"]) == {"one_run_fdp"}
    ordinary = rows[rows["epsilon"] == np.inf]
    assert set(ordinary["noise_multiplier"]) == {0.0}
    assert set(ordinary["tpr_ceiling"]) == {1.0}
    assert set(ordinary["audit"]) == {"one_run"}
    assert (ordinary.query("attack == 'lira'")["epsilon_lower_bound"] > 1).all()
    assert (
        rows["epsilon_lower_bound"].isna().equals(rows["attack"] == "rmia")
    )  # it reads the target's membership
    assert set(rows["adjacency"]) == {"add_or_remove_one"}
    assert set(load_table(run.path, "per_example")["epsilon"]) == {0.5, 2, 8, np.inf}
    accuracies = rows.groupby("epsilon")["accuracy"].first()
    assert accuracies[0.5] < accuracies[8] - 0.1
    assert {path.stem for path in (run.path / "plots").iterdir()} >= {"accuracy-pooled", "ceiling-pooled"}
    assert {law.epsilon for law in run.laws} == {0.5, 2, 8, np.inf}


@pytest.mark.thorough
def test_an_ordinary_run_grows_by_privacy_levels_and_keeps_its_rows(tmp_path):
    small = changed(shadows={"models": 17}, privacy={"epsilon": [float("inf")]})
    before = run_experiment(small, tmp_path / "run").results
    grown = run_experiment(
        changed(shadows={"models": 17}, privacy={"epsilon": [float("inf"), 2]}), tmp_path / "run"
    )
    assert (grown.cells_computed, grown.heads_trained) == (1, 17)
    after = grown.results.query("epsilon == inf").reset_index(drop=True)
    pd.testing.assert_frame_equal(after, before)
    with pytest.raises(InputError, match=r"privacy.delta=1e-06 must equal the 1e-05"):
        run_experiment(changed(shadows={"models": 17}, privacy={"delta": 1e-6}), tmp_path / "run")
    again = run_experiment(changed(shadows={"models": 17}, privacy={"epsilon": [2]}), tmp_path / "run")
    assert again.cells_computed == 0


@pytest.mark.thorough
def test_poisson_batches_and_replace_one_are_accounted_as_such(tmp_path):
    settings = changed(
        train={"batch_size": 20, "sampling": "poisson"},
        shadows={"models": 33, "design": "fixed_size"},
        privacy={"epsilon": [1]},
    )
    rows = run_experiment(settings | {"attack": ["lira"]}, tmp_path / "run").results
    assert set(rows["sampling_rate"]) == {20 / 80}
    noise = noise_multiplier_for(epsilon=1, delta=1e-5, sampling_rate=0.25, steps=20, adjacency="replace_one")
    assert set(rows["noise_multiplier"]) == {noise}
    assert set(rows["audit"]) == {"none"}  # memberships of a fixed size are no independent coins
    assert rows["epsilon_lower_bound"].isna().all()
    assert exceeding(rows.query("status == 'ok'")).empty


def test_the_table_shows_the_best_bound_of_all_attacks(run):
    """A weak attack does not lower the bound of others; RMIA has no bound, in any order."""
    rows = run.results.sort_values("attack", key=lambda names: names != "rmia", kind="stable")
    heading, pooled, *_ = results_tables(rows)
    assert "the best of the attacks proves at 95%, corrected for their number" in heading
    shown = pooled.rows[0][5].value  # S = 16, ordinary training
    bounds = rows.query("evaluation == 'pooled' and epsilon == inf")["epsilon_lower_bound"]
    assert shown == bounds.max()
    weaker = rows.assign(epsilon_lower_bound=rows["epsilon_lower_bound"].where(rows["attack"] == "lira", 0.0))
    assert list(results_tables(weaker))[1].rows[0][5].value == shown


# ---- A worst-case canary ----

STEPS, MODELS, DELTA, CLIP = 10, 4000, 0.1, 1.0
NOISE = np.sqrt(STEPS)  # the recipe is 1-GDP


@functools.cache
def canary_statistics(clipping_norm: float, noise_multiplier: float) -> AttackResult:
    """Log-odds of a mislabelled example of huge norm, under many models of which half trained on it."""
    rng = np.random.default_rng(1)
    labels = np.arange(40) % 2
    features = rng.normal(size=(40, 8)) / np.sqrt(8) + labels[:, None]
    features[0], labels[0] = 1e3 * np.ones(8) / np.sqrt(8), 0  # the side of class 1
    pool = feature_set(features, labels)
    masks = draw_membership(jax.random.key(2), pool.labels, num_models=MODELS)
    masks = masks.replace(member=masks.member.at[:, 1:].set(True))  # the worst case: all others are known
    # So small a step that the canary's own loss never falls to where its gradient would no longer be clipped.
    hyper = Hyperparams(20 / (STEPS * 1e3), clipping_norm=clipping_norm, noise_multiplier=noise_multiplier)
    ensemble = train_ensemble(
        jax.random.key(3), pool, masks, hyper, TrainConfig("sgd", steps=STEPS, private=True)
    )
    statistic = np.asarray(score(ensemble, pool).log_odds[:, :1], np.float64)
    return AttackResult(statistic, np.asarray(masks.member[:, :1]), np.ones((MODELS, 1), bool))


@pytest.mark.thorough
def test_a_worst_case_canary_comes_near_the_ceiling():
    """At FPR 0.1: at least half of the ceiling's advantage, and not above it by more than sampling allows."""
    result = canary_statistics(CLIP, NOISE)
    inside, outside = result.statistic[result.member], result.statistic[~result.member]
    threshold = np.quantile(outside, 0.9)
    fpr, tpr = np.mean(outside > threshold), np.mean(inside > threshold)
    ceiling = float(tpr_ceiling(0.1, noise_multiplier=NOISE, sampling_rate=1, steps=STEPS))
    assert ceiling == pytest.approx(stats.norm.cdf(stats.norm.ppf(0.1) + 1), abs=1e-3)
    assert tpr - fpr > 0.5 * (ceiling - 0.1)
    slope = stats.norm.pdf(stats.norm.ppf(ceiling)) / stats.norm.pdf(stats.norm.ppf(0.1))
    error = np.sqrt(ceiling * (1 - ceiling) / len(inside) + slope**2 * 0.09 / len(outside))
    assert tpr < ceiling + 5 * error


@pytest.mark.parametrize(
    ("clipping_norm", "noise_multiplier"),
    [(CLIP, NOISE / 2), (1e6, NOISE * CLIP / 1e6)],
    ids=["noise halved", "clipping off"],
)
def test_broken_training_is_caught_by_the_audit_and_honest_training_is_not(clipping_norm, noise_multiplier):
    claimed = gaussian_epsilon(DELTA, mu=1.0)
    assert epsilon_lower_bound(canary_statistics(CLIP, NOISE), delta=DELTA).epsilon < claimed
    broken = canary_statistics(clipping_norm, noise_multiplier)
    assert epsilon_lower_bound(broken, delta=DELTA).epsilon > claimed
