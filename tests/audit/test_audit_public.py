"""Audits of heads on projected features: what the head gets, and public files that are not public."""

import json

import numpy as np
import pytest
from audits import audit_settings, lay_out, real_records, ridge_head

from jaxmia._validate import InputError
from jaxmia.audit import attack_scores as attack_run
from jaxmia.audit.in_memory import audit_head
from jaxmia.audit.run import run_audit
from jaxmia.data.feature_set import demo_features, feature_set, save_features
from jaxmia.data.public import projected, public_projection

COMPONENTS = 8


def public_set():
    data = demo_features()
    rows = np.flatnonzero(data.labels >= 5)[:400]
    return feature_set(data.features[rows], data.labels[rows])


def laid_out(place):
    records, public = real_records(), public_set()
    save_features(public, place / "public.npz")
    data = feature_set(records["features"], records["labels"])
    inputs = projected(data, public_projection(public, COMPONENTS)).features
    member = records["member"]
    head = ridge_head(inputs[member], records["labels"][member], strength=1.0, steps=300)
    lay_out(place, records, head)
    train = {"normalize": "public", "public": str(place / "public.npz"), "components": COMPONENTS}
    return records, head, inputs, train | {"steps": 50}


def test_the_head_gets_projected_features_and_the_report_knows(tmp_path, monkeypatch):
    monkeypatch.setattr(attack_run, "plot_rocs", lambda *args, **options: [])
    records, head, inputs, train = laid_out(tmp_path)
    settings = audit_settings(tmp_path, train=train, shadows={"models": 32})
    result = run_audit(settings, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert content["shadows"]["normalised_by"] == "public features"
    assert content["records"]["dim"] == COMPONENTS
    correct = np.argmax(inputs @ head[0].T + head[1], axis=1) == records["labels"]
    assert sum(content["correct"].values()) == correct.sum()
    # The same in memory, with the public file named by [train].
    told = (head[0].astype(np.float32), head[1].astype(np.float32))
    again = audit_head(
        told, records["features"], records["labels"], records["member"], class_names=list(records["class_names"]),
        fpr=(0.1,), attack=("lira",), shadows={"models": 32}, train=train, out=tmp_path / "memory",
    )  # fmt: skip
    np.testing.assert_allclose(again.records["tpr_0.1"], result.records["tpr_0.1"])


def test_a_public_file_with_audited_records_is_refused(tmp_path):
    records, _, _, train = laid_out(tmp_path)
    held = np.concatenate([public_set().features, records["features"][3:5]])
    save_features(feature_set(held, np.arange(len(held)) % 2), tmp_path / "public.npz")
    with pytest.raises(InputError, match="2 of these are among its own"):
        run_audit(audit_settings(tmp_path, train=train), tmp_path / "out")
    assert not (tmp_path / "out").exists()
