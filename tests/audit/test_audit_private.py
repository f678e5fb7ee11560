"""Audits of private heads: shadows by DP-SGD too, and a warning for every figure above a guarantee."""

import json

import numpy as np
import pandas as pd
import pytest
import rich.console
from audits import CLASSES, head_of_members, lay_out, real_records
from scipy.stats import norm

from jaxmia._validate import InputError
from jaxmia.audit import attack_scores as attack_run
from jaxmia.audit.records import AuditRecords
from jaxmia.audit.run import run_audit
from jaxmia.audit.settings import AuditConfig, AuditPrivacySettings, load_audit
from jaxmia.audit.shadows import Trainer
from jaxmia.cli.rendering import rendered
from jaxmia.cli.tables import audit_tables
from jaxmia.data.feature_set import feature_set
from jaxmia.privacy.tradeoff import kairouz_ceiling
from jaxmia.report import make_report
from jaxmia.studies.settings.train import TrainSettings

NOISE, CLIP, STEPS, RATE, MODELS = 2.0, 1.0, 20, 0.5, 3000


def few_records():
    """120 records of two overlapping classes in three dimensions, a few of them far out."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    features = rng.normal(size=(120, 3)) * rng.choice([0.5, 3.0], p=[0.8, 0.2], size=(120, 1))
    features[:, 0] += labels
    return feature_set(features.astype(np.float32), labels, ["a", "b"])


def dp_sgd_by_hand(data, *, models, rate, rng):
    """Log-odds [models, records] and membership of re-trainings in NumPy: full batch, clipped, noisy (Abadi et al.)."""
    x = np.c_[data.features.astype(float), np.ones(len(data.labels))]
    y, norms = np.eye(2)[data.labels], np.linalg.norm(x, axis=1)
    member = rng.random((models, len(x))) < rate
    w = np.zeros((models, 2, x.shape[1]))
    for _ in range(STEPS):
        z = np.einsum("mcd,nd->mnc", w, x)
        p = np.exp(z - z.max(axis=2, keepdims=True))
        error = p / p.sum(axis=2, keepdims=True) - y
        lengths = np.linalg.norm(error, axis=2) * norms
        clipped = error * (member / np.maximum(1, lengths / CLIP))[:, :, None]
        total = np.einsum("mnc,nd->mcd", clipped, x) + rng.normal(size=w.shape) * NOISE * CLIP
        w -= RATE * total / (rate * len(x))
    z = np.einsum("mcd,nd->mnc", w, x)
    return np.where(data.labels == 1, 1, -1) * (z[..., 1] - z[..., 0]), member


def separations(log_odds, member):
    """D of every record: difference of means over the pooled deviation."""
    inside = np.where(member, log_odds, np.nan), np.where(member, np.nan, log_odds)
    (mean_in, mean_out), (in_, out) = (
        (np.nanmean(v, axis=0) for v in inside),
        (np.nanvar(v, axis=0) for v in inside),
    )
    return (mean_in - mean_out) / np.sqrt((in_ + out) / 2)


def test_private_shadows_agree_with_re_trainings_by_hand():
    """Slope of D through zero and mean TPR within 5%; the slope is corrected for the noise of the estimates."""
    data = few_records()
    records = AuditRecords(data, np.arange(120) % 4 < 2, np.arange(120).astype(str))
    privacy = AuditPrivacySettings(noise_multiplier=NOISE, clipping_norm=CLIP)
    train = TrainSettings(optimizer="sgd", learning_rate=RATE, steps=STEPS)
    trainer = Trainer(records, 0, privacy)
    guarantee = trainer.recipe(train).guarantee
    assert (guarantee.noise_multiplier, guarantee.sampling_rate, guarantee.steps) == (NOISE, 1.0, STEPS)
    mine = separations(*trainer.scores(train, (0, MODELS), stream=0))
    byhand = dp_sgd_by_hand(data, models=MODELS, rate=0.5, rng=np.random.default_rng(1))
    theirs = separations(*byhand)
    sampling = 4 / MODELS  # variance of D from so many models, half of them on each side
    slope = np.sum(mine * theirs) / (np.sum(theirs**2) - len(theirs) * sampling)
    assert slope == pytest.approx(1, abs=0.05)
    tprs = [norm.sf(norm.isf(0.1) - found).mean() for found in (mine, theirs)]
    assert tprs[0] == pytest.approx(tprs[1], rel=0.05)


def test_poisson_batches_count_against_the_members_of_a_shadow():
    records = AuditRecords(few_records(), np.arange(120) % 4 < 2, np.arange(120).astype(str))
    train = TrainSettings(optimizer="sgd", learning_rate=0.5, steps=5, batch_size=15, sampling="poisson")
    recipe = Trainer(records, 0, AuditPrivacySettings(epsilon=2.0)).recipe(train)
    assert recipe.hyper.sampling_rate == 0.25
    assert recipe.guarantee.epsilon == pytest.approx(2.0, rel=1e-3)
    with pytest.raises(InputError, match=r"train.batch_size=61 must be at most 60, the expected members"):
        Trainer(records, 0, None).recipe(train.model_copy(update={"batch_size": 61}))


@pytest.fixture(scope="module")
def stated(tmp_path_factory):
    """An audit of an ordinary head that is claimed to be private."""
    place = tmp_path_factory.mktemp("stated")
    records = real_records()
    lay_out(place, records, head_of_members(records), more="[context]\nepsilon = 1.0\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attack_run, "plot_rocs", lambda *args, **options: [])
        return run_audit(load_audit(place / "audit.toml", ("shadows.models=32",)), place / "out")


def test_figures_above_a_stated_guarantee_carry_a_warning(stated):
    ceiling = float(np.min(kairouz_ceiling(0.1, epsilon=1.0, delta=1e-5)))
    above = stated.records["tpr_0.1"] > ceiling
    assert above.any()
    table = pd.read_parquet(stated.path / "records.parquet")
    np.testing.assert_array_equal(table["above_guarantee"], above)
    assert any("trained without clipping and noise" in line for line in stated.warnings)
    (said,) = (line for line in stated.warnings if "that the head's guarantee allows" in line)
    assert said.startswith(
        f"{above.sum()} of {CLASSES * 80} records have a TPR over re-trainings at FPR 0.1 above"
    )


def test_report_and_terminal_mark_figures_above_the_guarantee(stated, capsys):
    report = make_report(stated.path).to_json()
    (ranked,) = (
        block["table"]
        for part in report["sections"]
        for block in part["content"]
        if "records most at risk" in block.get("table", {}).get("title", "")
    )
    assert ranked["columns"][-1] == "compared with the stated guarantee"
    assert ranked["rows"][0][-1] == "above"
    assert "that the head's guarantee allows" in json.dumps(report["sections"][0])
    console = rich.console.Console(width=150)
    console.print(
        *rendered(
            audit_tables(stated.attack.results, stated.records, stated.match.head, stated.match.shadows)
        )
    )
    assert "above" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"privacy": {}}, "one of noise_multiplier=None and epsilon=None must be given"),
        ({"privacy": {"epsilon": 1.0, "noise_multiplier": 1.0}}, "one of noise_multiplier"),
        ({"privacy": {"epsilon": 1.0}, "train": {"match": True}}, "fits a recipe without noise"),
        ({"privacy": {"epsilon": 1.0}, "train": {"optimizer": "newton", "ridge": 1.0}}, "DP-SGD takes steps"),
        (
            {"privacy": {"epsilon": 1.0}, "train": {"batch_size": 8}},
            "privacy amplification by sampling does not hold",
        ),
    ],
)
def test_privacy_that_no_recipe_has_is_refused(tables, message):
    base = {"data": {"features": "x"}, "head": {"file": "x"}, "train": {}}
    with pytest.raises(ValueError, match=message):
        AuditConfig.model_validate(base | tables)
