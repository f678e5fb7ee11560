"""Audits of heads whose files say how they were trained."""

import json

import numpy as np
import pytest
from audits import audit_settings

from jaxmia._validate import InputError
from jaxmia.audit import attack_scores as attack_run
from jaxmia.audit.run import run_audit

MODELS = 16


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Unscaled records, and a Pipeline with balanced classes fitted to their members."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    skops = pytest.importorskip("skops.io", reason="skops is not installed")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    monkeypatch.setattr(attack_run, "plot_rocs", lambda *args, **options: [])
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3 % 2
    features = (50 + 20 * rng.normal(size=(120, 6)) + 30 * labels[:, None]).astype(np.float32)
    member = rng.random(120) < 0.5
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.25, class_weight="balanced"))
    skops.dump(head.fit(features[member].astype(float), labels[member]), tmp_path / "head.skops")
    np.savez(tmp_path / "features.npz", features=features, labels=labels, member=member)
    return tmp_path


def settings(place, **tables):
    return audit_settings(place, "head.skops", **{"shadows": {"models": MODELS}, **tables})


def test_the_file_of_a_pipeline_trains_the_shadows_on_what_its_head_sees(place):
    result = run_audit(settings(place), place / "out")
    shadows = json.loads((place / "out" / "audit.json").read_text())["shadows"]
    recipe = shadows["recipe"]
    assert (shadows["source"], shadows["fitted"]) == ("file", False)
    assert (recipe["optimizer"], recipe["ridge"], recipe["class_weight"]) == ("newton", 4.0, "balanced")
    assert shadows["mismatch"] < 0.25  # on unscaled features the shadows would be other heads
    assert "StandardScaler" in result.notes[0]
    assert not any("[train]" in line for line in result.warnings)


def test_another_recipe_is_warned_of_and_attacks_that_know_the_objective_refused(place):
    other = settings(place, train={"optimizer": "newton", "ridge": 1.0})
    result = run_audit(other, place / "out")
    assert any("trained with ridge = 4, class_weight = balanced" in line for line in result.warnings)
    for attack in ("whitebox", "analytic"):
        with pytest.raises(InputError, match=r"train.class_weight='balanced' must be 'none'"):
            run_audit(settings(place, attack=[attack]), place / "other")
    weights = {"optimizer": "newton", "ridge": 1.0, "class_weight": [1.0, 2.0, 3.0]}
    with pytest.raises(InputError, match=r"class_weight=\(1.0, 2.0, 3.0\) must hold a weight for each of 2"):
        run_audit(settings(place, train=weights), place / "other")
    assert not (place / "other").exists()
