"""Which evaluation has which name."""

import functools

import jax
import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, norm

from jaxmia.data.feature_set import demo_features
from jaxmia.data.membership import draw_membership
from jaxmia.data.pool import candidate_pool
from jaxmia.privacy.lower_bounds import best_epsilon, median_epsilon_lower_bound
from jaxmia.scores import Scores
from jaxmia.stats.resolution import clopper_pearson
from jaxmia.stats.result import AttackResult
from jaxmia.studies.assess import assess, result_rows, rocs
from jaxmia.studies.settings.attacks import AttackSettings
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.scoring import score
from jaxmia.training.settings import Hyperparams, TrainConfig
from jaxmia.vulnerability.curves import per_example_vulnerability

KEY = jax.random.key(21)


@pytest.fixture(scope="module")
def trained():
    """Real heads: their log-odds are nearly Gaussian, their likelihood ratios far from it."""
    pool = candidate_pool(demo_features(), classes=5, shots=48, key=KEY).data
    masks = draw_membership(KEY, pool.labels, num_models=129)
    return score(train_ensemble(KEY, pool, masks, Hyperparams(0.1), TrainConfig(steps=60)), pool)


def test_calibrated_rows_of_real_heads_realise_the_fpr_they_are_asked_for(trained):
    """The pitfall: a Gaussian null for a likelihood ratio gives a fifth of the FPR, and a TPR below chance."""
    rows = assess(
        [AttackSettings(name="lira"), AttackSettings(name="rmia")],
        trained,
        fprs=[0.2],
        evaluations=["pooled", "calibrated"],
    ).rows.set_index(["attack", "evaluation"])
    pooled, calibrated = rows.loc["lira", "pooled"], rows.loc["lira", "calibrated"]
    # Log-odds of real heads are only nearly Gaussian, which allows a tenth of the FPR. Counting error adds little,
    # even if the scores of one model were only one observation per class.
    counting = 4 * np.sqrt(0.2 * 0.8 / (129 * 5))
    assert abs(calibrated["fpr_realised"] - 0.2) < 0.02 + counting
    assert 0.2 < calibrated["tpr"] <= pooled["tpr"] + counting
    empirical = rows.loc["rmia", "calibrated_empirical"]
    assert empirical["status"] == "ok"
    assert empirical["tpr"] > 0.2


def test_attacks_flag_records_that_are_vulnerable(trained):
    settings = [AttackSettings(name="lira"), AttackSettings(name="threshold")]
    numbers, none = assess(settings, trained, fprs=[0.2, 0.001], evaluations=["pooled"]).flagged_by
    assert set(numbers) == {0, 1, 2}
    assert np.isnan(none).all()
    tpr = per_example_vulnerability(trained, 0.2).tpr
    assert tpr[numbers == 2].mean() > tpr[numbers == 1].mean() > tpr[numbers == 0].mean()


def test_offline_lira_has_no_gaussian_form(trained):
    offline = AttackSettings(name="lira", offline=True)
    rows = assess([offline], trained, fprs=[0.2], evaluations=["calibrated"]).rows
    assert set(rows["evaluation"]) == {"calibrated_empirical"}


def test_the_z_form_keeps_the_options_of_the_attack(trained):
    settings = [AttackSettings(name="lira", variance="global"), AttackSettings(name="lira")]
    rows = assess(settings, trained, fprs=[0.2], evaluations=["calibrated"]).rows
    assert rows["tpr"].nunique() == 2


def planted(rows, deviation, *, seed=5):
    """Statistics whose members are 1.5 above non-members, plus a Gaussian shift of each model."""
    rng = np.random.default_rng(seed)
    member = rng.random((rows, 400)) < 0.5
    shift = 1.5 + deviation * rng.normal(size=(rows, 1))
    return AttackResult(rng.normal(size=member.shape) + shift * member, member, np.ones_like(member))


def rows_of(result, **options):
    results = {"pooled": result}
    return result_rows("planted", results, rocs(results, **options), fprs=[0.1, 0.0001], **options)


def the_same_model_again():
    one = planted(1, 0.0)
    return AttackResult(*(np.tile(array, (40, 1)) for array in (one.statistic, one.member, one.defined)))


@pytest.mark.parametrize(
    ("result", "wider"), [(the_same_model_again(), "clopper_pearson"), (planted(40, 1.0), "bootstrap")]
)
def test_the_wider_of_two_intervals_is_the_one_shown(result, wider):
    """Models differ in vulnerability: an interval that treats scores as independent is far too narrow."""
    row, unresolved = (row for _, row in rows_of(result).iterrows())
    widths = {
        "clopper_pearson": row["tpr_counted_high"] - row["tpr_counted_low"],
        "bootstrap": row["tpr_models_high"] - row["tpr_models_low"],
    }
    assert row["interval"] == wider == max(widths, key=widths.get)
    assert row["tpr_high"] - row["tpr_low"] == widths[wider]
    counted = clopper_pearson(row["true_positives"], row["num_members"])
    assert (row["tpr_counted_low"], row["tpr_counted_high"]) == counted
    assert unresolved["interval"] == ""
    assert np.isnan(unresolved["tpr_low"])


def test_a_single_target_has_no_interval_over_models():
    row = rows_of(planted(40, 1.0), targets=[3]).iloc[0]
    assert row["interval"] == "clopper_pearson"
    assert np.isnan(row["tpr_models_low"])


def test_the_wider_interval_covers_where_models_differ():
    """50 draws of 40 models: Clopper and Pearson's interval covers few of them, the one shown nearly all."""
    truth = norm.cdf((norm.ppf(0.1) + 1.5) / np.sqrt(2))  # of a new model: its shift is N(1.5, 1)
    rows = [rows_of(planted(40, 1.0, seed=seed)).iloc[0] for seed in range(50)]
    covered = {
        name: sum(row[f"{name}_low"] <= truth <= row[f"{name}_high"] for row in rows)
        for name in ("tpr", "tpr_counted")
    }
    assert covered["tpr_counted"] < 25
    assert covered["tpr"] >= binom.ppf(
        1e-3, 50, 0.92
    )  # percentile intervals of 40 models cover a little less


def noise(seed, *, models=5, examples=200):
    rng = np.random.default_rng(seed)
    member = rng.random((models, examples)) < 0.5
    return Scores(rng.normal(size=member.shape), member)


def test_bounds_on_epsilon_of_all_attacks_hold_together():
    """Each audited statistic is bounded once, at a confidence corrected for their number; the best may be chosen."""
    settings = [AttackSettings(name=name) for name in ("lira", "threshold", "rmia")]
    asked = []

    def audit(result, *, confidence):
        asked.append(confidence)
        return float(len(asked))

    scores = noise(1)
    rows = assess(
        settings, scores, fprs=[0.1], evaluations=["pooled", "per_target", "calibrated"], audit=audit
    ).rows
    # lira as a ratio and as its z, threshold; rmia reads the target's membership.
    assert asked == [1 - 0.05 / 3] * 3
    by_row = rows.set_index(["attack", "evaluation"])["epsilon_lower_bound"]
    assert by_row["lira", "pooled"] == by_row["lira", "per_target"] != by_row["lira", "calibrated"]
    assert by_row["rmia"].isna().all()
    assert best_epsilon(rows.assign(seed=0)) == 3.0
    two = pd.concat([rows.assign(seed=0), rows.assign(seed=1, epsilon_lower_bound=1.0)])
    assert best_epsilon(two) == 2.0  # the median over seeds of each seed's best


def test_the_best_bound_of_several_attacks_on_noise_is_zero():
    settings = [AttackSettings(name=name) for name in ("lira", "threshold", "base", "bavaria_t")]
    audit = functools.partial(median_epsilon_lower_bound, delta=1e-5, design="bernoulli", inclusion_rate=0.5)
    best = [
        best_epsilon(
            assess(settings, noise(seed), fprs=[0.1], evaluations=["pooled"], audit=audit).rows.assign(seed=0)
        )
        for seed in range(40)
    ]
    assert sum(each > 0 for each in best) <= binom.ppf(1 - 1e-3, 40, 0.05)
