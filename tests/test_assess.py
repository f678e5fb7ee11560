"""What is evaluated under which name."""

import jax
import numpy as np
import pytest
from scipy.stats import binom, norm

from jaxmia.assess import assess, result_rows, rocs
from jaxmia.config import AttackSettings
from jaxmia.ensemble import train_ensemble
from jaxmia.evaluation import AttackResult, clopper_pearson
from jaxmia.features import candidate_pool, demo_features
from jaxmia.membership import draw_membership
from jaxmia.scores import score
from jaxmia.training import Hyperparams, TrainConfig

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
    ).set_index(["attack", "evaluation"])
    pooled, calibrated = rows.loc["lira", "pooled"], rows.loc["lira", "calibrated"]
    # Log-odds of real heads are near Gaussian, not Gaussian: a tenth of the FPR is theirs; counting adds little,
    # even if the scores of one model were no more than one observation for each class.
    counting = 4 * np.sqrt(0.2 * 0.8 / (129 * 5))
    assert abs(calibrated["fpr_realised"] - 0.2) < 0.02 + counting
    assert 0.2 < calibrated["tpr"] <= pooled["tpr"] + counting
    empirical = rows.loc["rmia", "calibrated_empirical"]
    assert empirical["status"] == "ok"
    assert empirical["tpr"] > 0.2


def test_offline_lira_has_no_gaussian_form(trained):
    offline = AttackSettings(name="lira", offline=True)
    rows = assess([offline], trained, fprs=[0.2], evaluations=["calibrated"])
    assert set(rows["evaluation"]) == {"calibrated_empirical"}


def test_the_z_form_keeps_the_options_of_the_attack(trained):
    settings = [AttackSettings(name="lira", variance="global"), AttackSettings(name="lira")]
    rows = assess(settings, trained, fprs=[0.2], evaluations=["calibrated"])
    assert rows["tpr"].nunique() == 2


def planted(rows, deviation, *, seed=5):
    """Statistics whose members stand 1.5 above non-members, give or take a deviation of each model."""
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
    """Models that differ in what they give away: an interval that takes scores as independent is far too narrow."""
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
    """100 draws of 40 models: Clopper and Pearson's interval covers few of them, the one shown nearly all."""
    truth = norm.cdf((norm.ppf(0.1) + 1.5) / np.sqrt(2))  # of a new model: its shift is N(1.5, 1)
    rows = [rows_of(planted(40, 1.0, seed=seed)).iloc[0] for seed in range(100)]
    covered = {
        name: sum(row[f"{name}_low"] <= truth <= row[f"{name}_high"] for row in rows)
        for name in ("tpr", "tpr_counted")
    }
    assert covered["tpr_counted"] < 50
    assert covered["tpr"] >= binom.ppf(
        1e-3, 100, 0.92
    )  # percentile intervals of 40 models cover a little less
