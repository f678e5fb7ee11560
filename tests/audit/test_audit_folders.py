"""Audit folders used again: what depends on the head is that of the current head. Templates and settings."""

import io
import json
import tomllib

import numpy as np
import pytest
import safetensors.numpy
from audits import head_of_members, lay_out, real_records, ridge_head
from commands import jaxmia

from jaxmia._validate import InputError
from jaxmia.audit import attack_scores as attack_run
from jaxmia.audit import shadows as audit_shadows
from jaxmia.audit.recipe_fit import HeadScores, compare_recipe
from jaxmia.audit.records import AuditRecords, proposed_fprs
from jaxmia.audit.run import run_audit
from jaxmia.audit.settings import AuditConfig, load_audit
from jaxmia.audit.shadows import Trainer, shadows_key
from jaxmia.data.feature_set import feature_set
from jaxmia.report import make_report
from jaxmia.scores.rounding import Rounding


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with records and two heads in one file, of the same recipe but for the strength of their ridge."""
    folder, records = tmp_path_factory.mktemp("folders"), real_records()
    lay_out(folder, records, head_of_members(records))
    tensors = safetensors.numpy.load_file(folder / "head.safetensors")
    member = records["member"]
    weak = ridge_head(records["features"][member], records["labels"][member], strength=0.01, steps=500)
    tensors |= {"weak.weight": weak[0].astype(np.float32), "weak.bias": weak[1].astype(np.float32)}
    safetensors.numpy.save_file(tensors, folder / "both.safetensors")
    return folder


def audit_of(place, out, name, *more):
    head = (f"head.file={place / 'both.safetensors'}", f"head.weight={name}.weight", f"head.bias={name}.bias")
    return run_audit(load_audit(place / "audit.toml", ("shadows.models=16", *head, *more)), place / out)


def test_another_head_has_facts_of_its_own_and_the_same_shadows(place, monkeypatch):
    """Two heads in one file: neither its name nor its bytes distinguish them, only their outputs."""
    monkeypatch.setattr(attack_run, "plot_rocs", lambda *args, **options: [])
    first = audit_of(place, "out", "fc")
    (place / "out" / "report.html").write_text("on the first head")
    before = (place / "out" / "shadows" / "models-0-16.npz").read_bytes()
    second = audit_of(place, "out", "weak")
    assert (place / "out" / "shadows" / "models-0-16.npz").read_bytes() == before
    fresh = audit_of(place, "fresh", "weak")
    assert second.match == fresh.match != first.match
    assert second.records.equals(fresh.records)
    left_out = {"written", "finished"}
    found, expected = (json.loads((place / name / "audit.json").read_text()) for name in ("out", "fresh"))
    assert {k: v for k, v in found.items() if k not in left_out | {"warnings"}} == {
        k: v for k, v in expected.items() if k not in left_out | {"warnings"}
    }
    assert found["written"]["records.parquet"] == expected["written"]["records.parquet"]
    # The report on the first head is set aside, with a message.
    assert not (place / "out" / "report.html").exists()
    assert (place / "out" / "report.earlier.html").read_text() == "on the first head"
    assert any("report on an earlier audit" in line for line in second.warnings)
    # Nor does a report mix facts of one audit with rows of another.
    (place / "fresh" / "records.parquet").write_bytes((place / "out" / "scores.npz").read_bytes())
    with pytest.raises(InputError, match=r"records.parquet does not match audit.json"):
        make_report(place / "fresh")


def test_an_audit_goes_on_with_a_damaged_key_or_block(place, monkeypatch):
    """The key has a copy; a block that is no archive any more is trained again, to the same heads."""
    monkeypatch.setattr(attack_run, "plot_rocs", lambda *args, **options: [])
    first = audit_of(place, "damaged", "fc")
    shadows = place / "damaged" / "shadows"
    key, block = shadows / "key.json", shadows / "models-0-16.npz"
    kept, whole = key.read_bytes(), block.read_bytes()
    key.write_bytes(b"")
    block.write_bytes(whole[:100])
    again = audit_of(place, "damaged", "fc")
    assert again.records.equals(first.records)
    assert key.read_bytes() == kept
    with np.load(block) as found, np.load(io.BytesIO(whole)) as expected:
        assert all(np.array_equal(found[name], expected[name]) for name in expected.files)
    for name in ("key.json", ".key.json"):
        (shadows / name).write_bytes(b"")
    with pytest.raises(
        InputError, match=r"must be empty or hold an audit; .*its key.json is empty or damaged"
    ):
        audit_of(place, "damaged", "fc")


def test_a_fitted_recipe_is_of_the_head_that_it_was_fitted_to():
    """The key of shadows depends on the head's scores for a fitted recipe, but not for a given one."""
    data = feature_set(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1]), ["a", "b"])
    records = AuditRecords(data, np.array([True, True, False, False]), np.arange(4).astype(str))
    base = {"data": {"features": ""}, "head": {"file": ""}}
    one, other = np.arange(4.0), np.arange(1.0, 5.0)
    for train, same in (({"match": True}, False), ({"steps": 5}, True)):
        config = AuditConfig.model_validate(base | {"train": train})
        assert (shadows_key(config, records, one) == shadows_key(config, records, other)) == same


def test_fitting_has_models_of_its_own_whatever_the_shadows(place):
    """No shadow of the audit was used to fit the recipe, whatever their number."""
    config = load_audit(place / "audit.toml")
    records = real_records()
    data = feature_set(records["features"], records["labels"], records["class_names"].tolist())
    trainer = Trainer(AuditRecords(data, records["member"], np.arange(240).astype(str)), 0, None)
    drawn = {}
    for stream in (audit_shadows.SHADOWS, audit_shadows.FITTING):
        train = config.train.model_copy(update={"steps": 1})
        drawn[stream] = trainer.scores(train, (0, 8), stream=stream)[1]
    assert not (drawn[0][:, None] == drawn[1][None]).all(axis=2).any()


def test_shadows_go_through_the_rounding_of_the_head(place):
    records = real_records()
    data = feature_set(records["features"], records["labels"], records["class_names"].tolist())
    of_audit = AuditRecords(data, records["member"], np.arange(240).astype(str))
    train = load_audit(place / "audit.toml").train.model_copy(update={"steps": 2})
    rounding = Rounding(0.1, decimals=1)
    found = compare_recipe(
        Trainer(of_audit, 0, None), train, HeadScores(rounding.applied(np.linspace(-9, 9, 240)), rounding)
    )
    raw, member = Trainer(of_audit, 0, None).scores(train, (0, 8), stream=audit_shadows.FITTING)
    assert found.shadows["mean log-odds of members"] == rounding.applied(raw[member]).mean()


@pytest.mark.parametrize(
    ("others", "rate", "overstated"),
    [(200, 0.5, np.sqrt(2)), (100, 0.75, 2), (20, 0.75, 2.25), (10, 0.5, 1.97), (0, 0.5, 2)],
)
def test_shadows_share_no_more_than_three_quarters(others, rate, overstated):
    """D is proportional to 1 / sqrt(members) and 1 / sqrt(1 - r): never more than 2.31 times that of fresh draws."""
    member = np.arange(400) >= others
    data = feature_set(np.ones((400, 1), np.float32), np.arange(400) % 2, ["a", "b"])
    records = AuditRecords(data, member, np.arange(400).astype(str))
    assert records.inclusion_rate == rate
    assert records.overstated == pytest.approx(overstated, abs=0.01)
    assert records.overstated < 2.31


def test_few_non_members_are_warned_of_by_count(place, monkeypatch):
    monkeypatch.setattr(attack_run, "plot_rocs", lambda *args, **options: [])
    records = real_records()
    member = np.ones(240, bool)
    member[np.flatnonzero(~records["member"])[:8]] = False
    np.savez(place / "few.npz", **records | {"member": member})
    result = audit_of(place, "few", "fc", f"data.features={place / 'few.npz'}")
    assert any(
        "Only 8 of 240 records are non-members" in line and "0.1 takes 100" in line
        for line in result.warnings
    )
    (said,) = (line for line in result.warnings if "Shadows train on" in line)
    assert "Shadows train on 50% of the records, the head on 96.7%" in said
    assert "by a factor of up to 2" in said


def test_attack_options_are_checked_before_training(capsys, place, monkeypatch):
    monkeypatch.setattr(audit_shadows, "train_ensemble", lambda *_: pytest.fail("trained"))
    words = ("--set", 'attack=[{name="lira",variance="glob"}]', "--out", place / "options")
    code, _, err = jaxmia(capsys, "audit", place / "audit.toml", *words)
    assert (code, err.count("\n")) == (2, 1)
    assert "variance='glob'" in err
    assert not (place / "options").exists()


@pytest.mark.parametrize(
    ("others", "fprs", "words"),
    [
        (None, [0.1], "no key 'member' tells"),
        (1000, [0.1, 0.01], "1000 non-members resolve (0.1 takes 100, 0.01 takes 1000, 0.001 takes 10000)"),
        (60, [0.17], "60 non-members resolve"),
        (4, [0.1], "4 non-members are too few for any FPR of the head itself"),
    ],
)
def test_init_proposes_what_the_records_resolve(capsys, tmp_path, others, fprs, words):
    number = 200 if others is None else others + 20
    arrays = {"features": np.ones((number, 2), np.float32), "labels": np.arange(number) % 2}
    if others is not None:
        arrays["member"] = np.arange(number) >= others
    np.savez(tmp_path / "f.npz", **arrays)
    assert list(proposed_fprs(tmp_path / "f.npz")[0]) == fprs
    code, _, _ = jaxmia(capsys, "audit", "--init", tmp_path / "a.toml", "--features", tmp_path / "f.npz")
    assert code == 0
    text = (tmp_path / "a.toml").read_text()
    assert words in text
    settings = tomllib.loads(text)
    assert settings["fpr"] == fprs
    assert settings["data"]["features"] == "f.npz"
    config = load_audit(tmp_path / "a.toml")
    assert list(config.fpr) == fprs


def test_init_without_features_says_what_each_fpr_takes(capsys, tmp_path):
    assert jaxmia(capsys, "audit", "--init", tmp_path / "a.toml")[0] == 0
    text = (tmp_path / "a.toml").read_text()
    assert "0.1 takes 100, 0.01 1 000, 0.001 10 000" in text
    assert "@" not in text
    assert tomllib.loads(text)["fpr"] == [0.1]
    code, _, err = jaxmia(capsys, "audit", "x.toml", "--out", "o", "--features", "f.npz")
    assert (code, err.count("\n")) == (2, 1)
    assert "be given with --init" in err
