"""Causes of a void audit: found before training, reported first, and never found where nothing is wrong."""

import html
import json

import numpy as np
import pytest
from audits import CLASSES, EACH, head_of_members, lay_out, real_records
from commands import jaxmia

from jaxmia._validate import InputError
from jaxmia.audit import shadows as audit_shadows
from jaxmia.audit.checks import (
    VoidAuditError,
    check_goes_together,
    void_findings,
    warnings_after,
    warnings_before,
)
from jaxmia.audit.records import AuditRecords
from jaxmia.audit.run import run_audit
from jaxmia.audit.settings import AuditConfig
from jaxmia.data.feature_set import feature_set
from jaxmia.report import write_report

CONFIG = AuditConfig.model_validate({"data": {"features": ""}, "head": {"file": ""}, "train": {}})


@pytest.fixture(scope="module")
def given():
    """Real records, and the logits of the ridge head of their members."""
    records = real_records()
    weight, bias = head_of_members(records)
    return records, records["features"].astype(np.float64) @ weight.T + bias


def findings(records, logits, *, private=False, **changes):
    found, own = of_audit(records | changes, logits)
    return void_findings(found, logits.argmax(axis=1), own, private=private)


def of_audit(records, logits):
    """The records as an audit has them, and log-odds of the head."""
    data = feature_set(records["features"], records["labels"], records["class_names"].tolist())
    rows = np.arange(len(data.labels))
    others = logits.copy()
    others[rows, data.labels] = -np.inf
    own = logits[rows, data.labels] - np.logaddexp.reduce(others, axis=1)
    return AuditRecords(data, records["member"], rows.astype(str)), own


def test_a_head_and_its_records_go_together(given):
    assert findings(*given) == ()
    check_goes_together((), force=False)


@pytest.mark.parametrize("seed", range(20))
def test_heads_that_learnt_nothing_of_note_are_not_void(seed):
    """Balanced or not, with weak features: heads by a strong ridge on their own members."""
    rng = np.random.default_rng(seed)
    shares = np.array([0.6, 0.3, 0.1]) if seed % 2 else np.full(3, 1 / 3)
    labels = np.concatenate([np.arange(3), rng.choice(3, p=shares, size=117)])
    features = rng.normal(size=(120, 5)) + 0.5 * np.eye(3, 5)[labels]
    member = rng.random(120) < 0.5
    member[:3] = True
    weight, bias = np.zeros((3, 5)), np.zeros(3)
    for _ in range(300):
        z = features[member] @ weight.T + bias
        p = np.exp(z - z.max(axis=1, keepdims=True))
        error = p / p.sum(axis=1, keepdims=True) - np.eye(3)[labels[member]]
        weight -= 0.5 * (error.T @ features[member] / member.sum() + 0.1 * weight)
        bias -= 0.5 * error.mean(axis=0)
    records = {
        "features": features.astype(np.float32),
        "labels": labels,
        "class_names": np.array(["a", "b", "c"]),
        "member": member,
    }
    assert findings(records, features @ weight.T + bias) == ()


def test_an_order_of_labels_is_found_whichever_it_is(given):
    records, logits = given
    turned = findings(records, logits, labels=(records["labels"] + 1) % CLASSES)
    names = records["class_names"]
    assert "of its members correctly" in turned[0]
    assert f"{names[1]} as {names[0]}" in turned[0]
    assert "(1) labels and the head's rows have different orders" in turned[-1]
    exchanged = findings(records, logits[:, [1, 0, 2]])
    assert f"{names[0]} as {names[1]}, {names[1]} as {names[0]}" in exchanged[0]


def test_two_exchanged_classes_of_ten_are_found():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 20)
    logits = 4 * np.eye(10)[labels] + rng.normal(size=(200, 10))
    records = {
        "features": rng.normal(size=(200, 4)).astype(np.float32),
        "labels": labels,
        "class_names": np.array([f"c{c}" for c in range(10)]),
        "member": np.arange(200) % 2 == 0,
    }
    assert findings(records, logits) == ()
    order = np.arange(10)
    order[[3, 7]] = 7, 3
    found = findings(records, logits[:, order])
    assert "c3 as c7, c7 as c3" in found[0]


def test_features_that_were_not_scaled_are_found(given):
    """The head of standardised features, applied to features as they came."""
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 2
    scaled = rng.normal(size=(100, 3)) + np.where(labels[:, None], 1.0, -1.0)
    weight = np.array([[-1.0, -1, -1], [1, 1, 1]])
    raw = scaled * [100.0, 20, 0.1] + [500.0, -300, 10]
    records = {
        "features": raw.astype(np.float32),
        "labels": labels,
        "class_names": np.array(["a", "b"]),
        "member": np.arange(100) % 4 < 2,
    }
    assert findings(records, scaled @ weight.T) == ()
    found = findings(records, raw @ weight.T)
    assert "that of a guess among 2 classes 0.693" in found[0]
    assert "(1) the features were not scaled" in found[-1]
    assert findings(records, raw @ weight.T, private=True) == ()  # noise could have done it


def test_a_head_that_decides_for_one_class_throughout_is_asked_about_its_scaler_first():
    """Saturated, and right on the smaller class only: another class order would score better, but is not the cause."""
    labels = np.arange(200) % 8 // 5  # 0 of five in eight, 1 of three
    records = {
        "features": np.zeros((200, 2), np.float32),
        "labels": labels,
        "class_names": np.array(["a", "b"]),
        "member": np.arange(200) % 16 < 8,
    }
    logits = np.tile([-100.0, 100.0], (200, 1)) + np.random.default_rng(0).normal(size=(200, 2))
    found = findings(records, logits)
    assert "that of a guess among 2 classes" in found[0]
    assert len(found) == 2
    assert "(1) the features were not scaled" in found[1]
    assert "(2) labels and the head's rows have different orders" in found[1]


def test_another_network_is_at_chance(given):
    records, logits = given
    small = 0.01 * np.random.default_rng(1).normal(size=logits.shape)
    found = findings(records, small)
    assert "no better than chance" in found[0]
    assert "(3) the features come from a network" in found[-1]


@pytest.mark.parametrize(("number", "void"), [(240, True), (100, True), (40, False)])
def test_swapped_members_are_found_on_small_sets_too(given, number, void):
    """With 40 records it is among the warnings; with shadows more may be found."""
    records, logits = given
    kept = np.random.default_rng(2).permutation(CLASSES * EACH)[:number]
    part = {name: array if name == "class_names" else array[kept] for name, array in records.items()}
    assert findings(part, logits[kept]) == ()
    found = findings(part, logits[kept], member=~part["member"])
    if not void:
        said = warnings_before(CONFIG, *of_audit(part | {"member": ~part["member"]}, logits[kept]))
        assert any("is member true for those it was trained on" in line for line in said)
        return
    assert "lower log-odds on its members" in found[0]
    assert found[1].endswith("(1) member is inverted: true where the head was not trained on the record")


def test_members_below_others_beside_the_shadows_are_said(given):
    records, logits = given
    found, _ = of_audit(records, logits)
    ratio = np.where(records["member"], -1.0, 1.0) + np.random.default_rng(3).normal(size=240)
    assert len(list(warnings_after(found, ratio, mismatch=0.1, limit=0.25))) == 1
    assert list(warnings_after(found, -ratio, mismatch=0.1, limit=0.25)) == []


def test_a_void_audit_stops_before_training_and_force_says_so_first(capsys, tmp_path, given, monkeypatch):
    records, _ = given
    lay_out(tmp_path, records | {"labels": (records["labels"] + 1) % CLASSES}, head_of_members(records))
    train = audit_shadows.train_ensemble
    monkeypatch.setattr(audit_shadows, "train_ensemble", lambda *_: pytest.fail("trained"))
    words = ("audit", tmp_path / "audit.toml", "--out", tmp_path / "out", "--set", "shadows.models=16")
    code, out, err = jaxmia(capsys, *words)
    assert (code, err.count("\n"), out) == (2, 1, "")
    assert "error: the head does not fit these records" in err
    assert "--force" in err
    assert not (tmp_path / "out").exists()
    with pytest.raises(VoidAuditError):
        run_audit(tmp_path / "audit.toml", tmp_path / "out")
    assert issubclass(VoidAuditError, InputError)
    monkeypatch.setattr(audit_shadows, "train_ensemble", train)
    code, out, _ = jaxmia(capsys, *words, "--force")
    assert code == 0
    assert out.startswith("VOID: the head does not fit these records.")
    content = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert "of its members correctly" in content["void"][0]
    # In the report it is above all figures.
    page = write_report(tmp_path / "out")[0].read_text(encoding="utf-8")
    void = page.index("Void: the model does not fit these records")
    assert page.index("<main") < void < page.index("This report says what was tested")
    assert page[page.index("<main") : void].count("<table") <= 1  # its own
    assert html.escape(content["void"][0]) in page
