"""What is evaluated under which name."""

import jax
import numpy as np
import pytest

from jaxmia.assess import assess
from jaxmia.config import AttackSettings
from jaxmia.ensemble import train_ensemble
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
