"""Attacks on files of scores, and audits, by person."""

import json

import numpy as np
import pandas as pd
import pytest
from commands import jaxmia

from jaxmia import audit_head
from jaxmia._validate import InputError
from jaxmia.attacks.by_person import attack_persons
from jaxmia.attacks.persons import joint_lira
from jaxmia.audit.attack_scores import attack_scores
from jaxmia.audit.persons import persons_read
from jaxmia.audit.settings import load_audit, write_template
from jaxmia.cli.tables import persons_tables
from jaxmia.data.feature_set import feature_set, save_features
from jaxmia.privacy.accounting import tpr_ceiling
from jaxmia.scores.reading import scores_from_arrays
from jaxmia.stats.operating_points import operating_points
from jaxmia.tables.attacks import attack_tables

MODELS, PERSONS = 33, 90
RECIPE = {"optimizer": "newton", "ridge": 3.0}


def planted(shift=1.5, seed=0):
    """Scores of persons with 1 to 3 records in random order, shifted by membership."""
    rng = np.random.default_rng(seed)
    person = rng.permutation(np.repeat(np.arange(PERSONS), rng.integers(1, 4, PERSONS)))
    member = (rng.random((MODELS, PERSONS)) < 0.5)[:, person]
    names = np.array([f"p{number:02}" for number in range(PERSONS)])[person]
    return {"log_odds": rng.normal(size=member.shape) + shift * member, "member": member, "person": names}


def with_splits(arrays, model):
    """The same with the first two persons of several records split under a model."""
    member = arrays["member"].copy()
    names, counts = np.unique(arrays["person"], return_counts=True)
    for name in names[counts > 1][:2]:
        member[model, np.flatnonzero(arrays["person"] == name)[0]] ^= True
    return arrays | {"member": member}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    path = tmp_path_factory.mktemp("attacks") / "scores"
    return attack_scores(planted(), path, attack=["lira", "threshold"], fpr=[0.1, 0.01])


def test_files_of_scores_with_persons_are_attacked_on_both(attacked):
    arrays = planted()
    results = attacked.results
    assert set(results["unit"]) == {"record", "person"}
    scores = scores_from_arrays(arrays)
    of_persons = results[(results["unit"] == "person") & (results["evaluation"] == "pooled")]
    for attack in ("lira", "threshold"):
        points = operating_points(attack_persons(attack, scores, arrays["person"]), (0.1, 0.01))
        given = of_persons[of_persons["attack"] == attack]
        np.testing.assert_array_equal(given["tpr"], [point.tpr for point in points])
    (joint,) = results[(results["unit"] == "person") & (results["evaluation"] == "calibrated")][
        "fpr_realised"
    ][:1]
    point = operating_points(
        joint_lira(scores, arrays["person"], calibrated=True), (0.1,), evaluation="calibrated"
    )
    assert joint == point[0].fpr_realised
    persons = pd.read_parquet(attacked.path / "per_person.parquet")
    assert len(persons) == 2 * PERSONS
    assert (persons["record_tpr"].notna()).all()
    assert not (attacked.controls["status"] == "failed").any()
    assert len(attacked.controls) == 4
    held = np.load(attacked.path / "statistics-persons" / "lira.npz")
    assert held["statistic"].shape == (MODELS, PERSONS)
    assert (attacked.path / "plots" / "roc-all-pooled-persons.png").exists()
    assert json.loads((attacked.path / "manifest.json").read_text())["persons"] == PERSONS
    assert "90 persons" in repr(attacked.read)
    assert "lira on persons" in repr(attacked)
    tables = [table for table in attack_tables(results) if not isinstance(table, str)]
    assert {row[0] for row in tables[0].rows} == {"records", "persons"}


def test_a_split_person_of_the_model_under_audit_is_left_out_and_counted(tmp_path):
    arrays = with_splits(planted(), 5)
    run = attack_scores(arrays | {"target": np.array(5)}, tmp_path / "a", attack=["lira"], fpr=[0.2])
    assert "2 of 90 persons have some records among the members" in run.read.notes[-1]
    counted = run.results.groupby(["targets", "unit"])[["num_members", "num_nonmembers"]].max().sum(axis=1)
    assert counted["row 5", "person"] == PERSONS - 2
    assert counted["row 5", "record"] == arrays["member"].shape[1]
    read = persons_read(scores_from_arrays(arrays | {"target": np.array(5)}))
    assert read.kept.sum() == len(read.person) < arrays["member"].shape[1]
    assert len(np.unique(read.person)) == PERSONS - 2


def test_persons_that_are_split_elsewhere_are_refused(tmp_path, capsys):
    with pytest.raises(
        InputError, match=r"person=p\d\d has some records .* 1 more persons; draw membership by"
    ):
        attack_scores(with_splits(planted(), 5), tmp_path / "a", attack=["lira"], fpr=[0.1])
    assert not (tmp_path / "a").exists() or not any((tmp_path / "a").iterdir())
    np.savez(tmp_path / "s.npz", **planted() | {"person": planted()["person"][:-1]})
    code, _, said = jaxmia(capsys, "attack", tmp_path / "s.npz", "--out", tmp_path / "b")
    assert code == 2
    assert "person.shape" in said
    assert "Traceback" not in said


def clinic(seed=0):
    """240 records of 92 persons in two classes; half of the persons are members."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(240), rng.integers(1, 5, 240))[:240]
    features = rng.normal(size=(240, 12)).astype(np.float32) + 0.5 * np.eye(2, 12)[person % 2]
    members = rng.permutation(person.max() + 1)[: person.max() // 2]
    return features, person % 2, np.isin(person, members), np.array([f"p{number:03}" for number in person])


@pytest.fixture(scope="module")
def head():
    from sklearn.linear_model import LogisticRegression

    features, labels, member, _ = clinic()
    return LogisticRegression(C=1 / RECIPE["ridge"], tol=1e-8).fit(features[member], labels[member])


def audited(head, out, member=None, **settings):
    features, labels, known, person = clinic()
    member = known if member is None else member
    given = {"fpr": (0.1,), "attack": ("lira",), "shadows": {"models": 32}} | settings
    return audit_head(head, features, labels, member, person=person, out=out, **given)


@pytest.fixture(scope="module")
def audit(head, tmp_path_factory):
    return audited(head, tmp_path_factory.mktemp("audits") / "audit")


def test_an_audit_by_person_trains_shadows_on_whole_persons(audit):
    _, _, member, person = clinic()
    names, whose, number = np.unique(person, return_inverse=True, return_counts=True)
    scores = np.load(audit.path / "scores.npz")
    for row in scores["member"][1:]:
        inside = np.bincount(whose, weights=row)
        assert np.isin(inside / number, (0, 1)).all()
    persons = pd.read_parquet(audit.path / "persons.parquet")
    pd.testing.assert_frame_equal(persons, audit.persons)
    by_name = persons.set_index("person").loc[names]
    np.testing.assert_array_equal(by_name["num_records"], number)
    np.testing.assert_array_equal(by_name["trained_on"], np.bincount(whose, weights=member))
    np.testing.assert_array_equal(by_name["member"], np.bincount(whose, weights=member) > 0)
    assert (np.diff(persons["tpr_0.1"]) <= 0).all()
    records = audit.records.groupby("person")["tpr_0.1"].max()
    np.testing.assert_allclose(by_name["record_tpr_0.1"], records.loc[names])
    assert by_name[["z", "p_value"]].notna().all(axis=None)
    content = json.loads((audit.path / "audit.json").read_text())
    assert content["persons"]["persons"] == len(names)
    assert content["persons"]["split"] == 0
    assert "persons.parquet" in content["written"]
    assert f"240 records of {len(names)} persons" in repr(audit)
    (table, *_) = persons_tables(persons)
    assert table.columns[:3] == ("person", "class", "records")


def test_a_person_that_the_head_was_trained_on_in_part_is_warned_of(head, tmp_path):
    _, _, member, person = clinic()
    names, first, number = np.unique(person, return_index=True, return_counts=True)
    member = member.copy()
    member[first[number > 1][:3]] ^= True
    result = audited(head, tmp_path / "audit", member)
    assert any(
        f"3 of {len(names)} persons have some records among the members" in line for line in result.warnings
    )
    split = result.persons[result.persons["member"].isna()]
    assert len(split) == 3
    assert split["z"].isna().all()
    assert split["tpr_0.1"].notna().all()  # over re-trainings they are whole


def test_an_audit_by_record_of_persons_says_so(head, tmp_path):
    result = audited(head, tmp_path / "audit", membership={"unit": "record"})
    assert result.persons is None
    assert not (tmp_path / "audit" / "persons.parquet").exists()
    assert any("persons have several records, and the audit is by record" in line for line in result.warnings)
    assert json.loads((tmp_path / "audit" / "audit.json").read_text())["persons"]["persons"] == 92
    with pytest.raises(InputError, match="holds the audit of another"):  # other shadows
        audited(head, tmp_path / "audit")


@pytest.mark.thorough
@pytest.mark.parametrize("unit", ["person", "record"])
def test_ceilings_of_an_audit_by_person_are_of_persons(head, tmp_path, unit):
    noise = {"noise_multiplier": 8.0, "unit": unit}
    recipe = {"optimizer": "sgd", "steps": 5, "learning_rate": 0.5}
    result = audited(head, tmp_path / "audit", privacy=noise, train=recipe, shadows={"models": 16})
    content = json.loads((result.path / "audit.json").read_text())
    most = 1 if unit == "person" else 4  # of clinic, by group privacy
    (ceiling,) = content["ceilings"]
    expected = tpr_ceiling(0.1, noise_multiplier=8.0, sampling_rate=1.0, steps=5, records_per_person=most)
    np.testing.assert_allclose(ceiling["tpr"], expected)
    privacy = content["shadows"]["privacy"]
    assert (privacy["unit"], privacy["records_per_person"]) == ("person", most)


def test_what_an_audit_by_person_needs(head, tmp_path):
    features, labels, member, person = clinic()
    with pytest.raises(InputError, match="needs to know whose each record is"):
        audit_head(head, features, labels, member, membership={"unit": "person"}, out=tmp_path / "a")
    noise = {"epsilon": 1.0, "unit": "person"}
    with pytest.raises(InputError, match=r"privacy\.unit='person' needs membership\.unit='person'"):
        audited(head, tmp_path / "b", privacy=noise, train={"steps": 10}, membership={"unit": "record"})
    save_features(feature_set(features, labels, person=person), tmp_path / "records.npz")
    write_template(tmp_path / "audit.toml", features=tmp_path / "records.npz", by_person=True)
    assert load_audit(tmp_path / "audit.toml").by_person
    write_template(tmp_path / "other.toml")
    assert not load_audit(tmp_path / "other.toml").by_person
