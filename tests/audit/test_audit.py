"""The audit of a head that was trained elsewhere."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from audits import CLASSES, EACH, STRENGTH, audit_settings, head_of_members, lay_out, real_records
from commands import jaxmia

from jaxmia._validate import InputError
from jaxmia.audit import attack_scores as attack_run
from jaxmia.audit import recipe_fit
from jaxmia.audit import shadows as audit_shadows
from jaxmia.audit.recipe_fit import HeadScores, fit_recipe
from jaxmia.audit.records import AuditRecords, load_records
from jaxmia.audit.released import load_released
from jaxmia.audit.rows import record_rows
from jaxmia.audit.run import run_audit
from jaxmia.audit.shadows import Trainer
from jaxmia.data.feature_set import feature_set
from jaxmia.report import write_report
from jaxmia.scores import Scores


@pytest.fixture(scope="module")
def records():
    return real_records()


@pytest.fixture(scope="module")
def head(records):
    return head_of_members(records)


@pytest.fixture
def place(tmp_path, records, head):
    """A folder with features, the head, and an audit file."""
    lay_out(tmp_path, records, head)
    return tmp_path


def settings(place, **tables):
    train = {"steps": 300, "schedule": "cosine", "weight_decay": STRENGTH / 120}
    return audit_settings(place, **{"train": train, "shadows": {"models": 48}, **tables})


def data_of(records):
    return feature_set(records["features"], records["labels"], records["class_names"].tolist())


def test_every_format_gives_the_same_logits(records, head, place):
    weight, bias = head
    expected = records["features"].astype(np.float64) @ weight.T + bias
    np.savez(place / "head.npz", weight=weight, bias=bias)
    np.savez(place / "turned.npz", weight=weight.T, bias=bias)
    for name in ("head.npz", "turned.npz", "head.safetensors"):
        read = load_released(place / name, data_of(records))
        np.testing.assert_allclose(read.outputs, expected, atol=1e-4)
        assert read.num_parameters == CLASSES * 385
    assert "transposed" in load_released(place / "turned.npz", data_of(records)).notes[1]
    np.savez(place / "outputs.npz", logits=expected)
    outputs = load_released(place / "outputs.npz", data_of(records))
    assert outputs.num_parameters is None
    np.testing.assert_array_equal(outputs.outputs, expected)


def test_one_row_of_weights_is_the_logit_of_class_1(records, place):
    two = records["labels"] < 2
    data = feature_set(records["features"][two], records["labels"][two], ["a", "b"])
    weight = np.random.default_rng(1).normal(size=(1, 384))
    np.savez(place / "row.npz", weight=weight, bias=np.array([0.5]))
    read = load_released(place / "row.npz", data)
    logit = data.features.astype(np.float64) @ weight[0] + 0.5
    np.testing.assert_allclose(read.outputs[:, 1] - read.outputs[:, 0], logit, atol=1e-9)


def test_a_scikit_learn_head_is_read_without_pickle(records, place):
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    skops = pytest.importorskip("skops.io", reason="skops is not installed")
    model = linear.LogisticRegression(C=10).fit(records["features"], records["labels"])
    skops.dump(model, place / "head.skops")
    read = load_released(place / "head.skops", data_of(records))
    np.testing.assert_allclose(read.outputs, model.decision_function(records["features"]), atol=1e-5)


def test_a_planted_strength_of_the_ridge_is_recovered(records, head, place):
    """Summed loss + s/2 ||W||² over n members is mean loss + (s/n)/2 ||W||²."""
    config = settings(place, train={"match": True})
    loaded = load_records(config)
    own = load_released(config.head.file, loaded.data).scores(loaded.data.labels, loaded.member)
    scores = HeadScores(np.asarray(own.scores.log_odds)[0].astype(np.float64))
    match = fit_recipe(Trainer(loaded, 0, None), config, scores, None)
    assert 0.7 < match.train.weight_decay / (STRENGTH / 120) < 1.4
    assert match.mismatch < recipe_fit.MISMATCH


def test_an_audit_tells_members_and_resumes_in_the_same_bytes(place, records, monkeypatch):
    result = run_audit(place / "audit.toml", place / "out")
    rows = result.attack.results
    own = rows[(rows["targets"] == "row 0") & (rows["attack"] == "lira") & (rows["fpr"] == 0.1)]
    per_target = own[own["evaluation"] == "per_target"].iloc[0]
    assert per_target["num_nonmembers"] == 120
    assert per_target["tpr_low"] > 0.15  # beyond chance, on a head of 40 records a class
    assert result.warnings == ()
    table = result.records
    assert table["member"].sum() == 120
    assert table["p_value"][table["member"]].median() < 0.1 < table["p_value"][~table["member"]].median()
    before = (place / "out" / "records.parquet").read_bytes()
    (place / "out" / "shadows" / "models-32-48.npz").unlink()  # as a kill leaves it
    monkeypatch.setattr(recipe_fit, "compare_recipe", None)  # how near the shadows come to the head is known
    run_audit(place / "audit.toml", place / "out")
    assert (place / "out" / "records.parquet").read_bytes() == before
    content = json.loads((place / "out" / "audit.json").read_text())
    smallest = int(np.bincount(records["labels"][records["member"]]).min())
    expected = {"members": 120, "others": 120, "classes": 3, "smallest_class_members": smallest, "dim": 384}
    assert content["records"] == expected
    with pytest.raises(InputError, match="holds the audit of another recipe or set of records"):
        run_audit(settings(place, seed=1), place / "out")


@pytest.mark.thorough
def test_a_planted_record_is_flagged_by_heads_that_saw_it_and_not_by_others(records, place):
    """A mislabelled record under 16 heads with it and 16 without: p-values of the latter are uniform."""
    labels = records["labels"].copy()
    labels[0] = (labels[0] + 1) % CLASSES
    np.savez(place / "features.npz", **records | {"labels": labels})
    config = settings(place)
    loaded = load_records(config)
    log_odds, member = Trainer(loaded, 0, None).scores(config.train, (0, 64), stream=0)
    given, seen = Trainer(loaded, 1, None).scores(config.train, (0, 32), stream=0)
    p_values = []
    for own, mine in zip(given, seen, strict=True):
        stacked = Scores(np.concatenate([own[None], log_odds]), np.concatenate([mine[None], member]))
        of_head = AuditRecords(loaded.data, mine, loaded.ids)
        table = record_rows(config, of_head, own, stacked, {})
        p_values.append(table.set_index("id").loc["0", "p_value"])
    p_values, inside = np.array(p_values), seen[:, 0]
    assert np.all(p_values[inside] < 0.01)
    # Uniform: of 16 the share below 0.1 exceeds 6 with probability below 1e-3.
    assert np.count_nonzero(p_values[~inside] < 0.1) <= 6
    assert np.median(p_values[~inside]) > 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"member": np.ones_like}, "All records are members", marks=pytest.mark.slow),
        (
            {"features": lambda x: np.concatenate([x[:-1], x[:1]])},
            "non-members have exactly the features of a member",
        ),
    ],
)
def test_what_makes_results_mean_something_else_is_said(place, records, change, message, monkeypatch):
    monkeypatch.setattr(attack_run, "plot_rocs", lambda *args, **options: [])
    changed = dict(records)
    for name, function in change.items():
        changed[name] = function(records[name])
    if "features" in change:
        changed["member"] = records["member"].copy()
        changed["member"][[0, -1]] = True, False
    np.savez(place / "features.npz", **changed)
    result = run_audit(settings(place), place / "out")
    assert any(message in line for line in result.warnings), result.warnings


@pytest.mark.thorough
def test_what_is_known_without_shadows_joins_an_audit_of_a_ridge_head(place, monkeypatch):
    """Shadows are at their minimum, like the head. The attack without shadows finds at least as much as 24 shadows."""
    monkeypatch.setattr(attack_run, "plot_rocs", lambda *args, **options: [])
    train = {"optimizer": "newton", "ridge": STRENGTH}
    shrunk = {"name": "lira", "variance": "shrunk", "location": "shrunk"}
    attacks = ["lira", shrunk, "analytic"]
    result = run_audit(settings(place, train=train, shadows={"models": 24}, attack=attacks), place / "out")
    assert result.warnings == ()
    rows = result.attack.results.query("targets == 'row 0' and evaluation == 'per_target'").set_index(
        "attack"
    )
    assert (rows["tpr_low"] > 0.1).all()
    assert rows.loc["analytic", "tpr_high"] >= rows.loc["lira", "tpr"]
    for attack in attacks[1:]:
        with pytest.raises(InputError, match=r"train.optimizer='adam' must be 'newton'"):
            run_audit(settings(place, attack=[attack]), place / "other")
    paired = {"name": "lira", "paired": True}
    with pytest.raises(InputError, match="leave out paired=true"):
        run_audit(settings(place, train=train, attack=[paired]), place / "other")


@pytest.mark.thorough
def test_attacks_on_weights_join_an_audit_and_stand_in_its_report(place, monkeypatch):
    """A ridge head of 120 records with 770 free parameters: its stationarity equation reveals all members."""
    monkeypatch.setattr(attack_run, "plot_rocs", lambda *args, **options: [])
    plain = run_audit(settings(place, shadows={"models": 24}), place / "out")
    assert list(plain.attack.results["attack"].unique()) == ["lira"]
    trained, train = [], audit_shadows.train_ensemble
    monkeypatch.setattr(
        audit_shadows, "train_ensemble", lambda *args, **options: trained.append(1) or train(*args, **options)
    )
    attacks = ["lira", "whitebox", {"name": "whitebox", "method": "stationarity"}]
    white = settings(place, shadows={"models": 24}, attack=attacks)
    result = run_audit(white, place / "out")
    assert len(trained) == 1  # the one block again, for its weights; the recipe's match is kept
    rows = result.attack.results.query("targets == 'row 0' and evaluation == 'per_target'").set_index(
        "attack"
    )
    of_lira = plain.attack.results.query("targets == 'row 0' and evaluation == 'per_target'").iloc[0]
    assert rows.loc["lira", "tpr"] == of_lira["tpr"] < 1
    assert (rows.loc[["whitebox", "whitebox(method=stationarity)"], "tpr"] > of_lira["tpr_high"]).all()
    assert rows.loc["whitebox(method=stationarity)", "tpr"] == 1
    again = run_audit(white, place / "out")
    assert len(trained) == 1
    pd.testing.assert_frame_equal(again.attack.results, result.attack.results)

    _, data = write_report(place / "out", place / "report.html")
    content = json.loads(data.read_text())
    blocks = [block for section in content["sections"] for block in section["content"]]
    table = next(
        block["table"] for block in blocks if block.get("table", {}).get("title", "").startswith("White-box")
    )
    assert [row[0] for row in table["rows"]] == [*attacks[:2], "whitebox(method=stationarity)"]
    for name, _, found in table["rows"]:
        given = rows.loc[name, ["tpr", "tpr_low", "tpr_high"]].astype(float)
        np.testing.assert_allclose([found["value"], found["low"], found["high"]], given)
    assert "knows the candidates" in table["note"]
    assert "run: whitebox, whitebox(method=stationarity)" in json.dumps(content)


def test_attacks_on_weights_need_a_head_s_weights(place, records, head, monkeypatch):
    weight, bias = head
    np.savez(place / "outputs.npz", logits=records["features"].astype(np.float64) @ weight.T + bias)
    monkeypatch.setattr(audit_shadows, "train_ensemble", lambda *_: pytest.fail("trained"))
    white = settings(place, head="outputs.npz", attack=["whitebox"])
    with pytest.raises(InputError, match=r"head='outputs.npz' must hold weights for attack 'whitebox'"):
        run_audit(white, place / "out")
    assert not (place / "out").exists()


def test_shadows_unlike_the_head_are_said(place, monkeypatch):
    monkeypatch.setattr(attack_run, "plot_rocs", lambda *args, **options: [])
    result = run_audit(settings(place, train={"steps": 300, "weight_decay": 0.1}), place / "out")
    assert any("do not resemble the head" in line for line in result.warnings)


def test_the_command_line_writes_a_template_and_audits(capsys, place):
    code, out, _ = jaxmia(capsys, "audit", "--init", place / "new.toml")
    assert code == 0
    text = (place / "new.toml").read_text()
    assert "[context]" in text
    code, _, err = jaxmia(capsys, "audit", "--init", place / "new.toml")
    assert (code, err.count("\n")) == (2, 1)
    code, out, _ = jaxmia(capsys, "audit", place / "audit.toml", "--out", place / "out", columns=130)
    assert code == 0
    assert "Members most at risk" in out
    assert re.search(r"lira +0\.\d+", out)
    assert pd.read_parquet(place / "out" / "records.parquet")["id"].nunique() == CLASSES * EACH


BAD = [
    ({}, ["--set", "head.file=nothing.npz"], "must be an existing file of a head"),
    (
        {},
        ["--set", "head.file=features.npz"],
        "features.npz: the head must hold a tensor of floats named weight, kernel or coef_",
    ),
    ({}, ["--set", "head.file=audit.toml"], "must end in one of .safetensors, .npz, .skops"),
    ({}, ["--set", "head.weight=wait"], "head.weight='wait' must be one of its tensors: fc.bias, fc.weight"),
    ({}, ["--set", "head.weight=fc.bias"], "weight.shape=(1, 3) must be (3, 384)"),
    ({"features": lambda x: x[:, :100]}, [], "weight.shape=(3, 384) must be (3, 100)"),
    (
        {"class_names": lambda names: np.append(names, "more")},
        [],
        "classes without a member=['more'] must be none",
    ),
    ({"member": lambda m: m[:-1]}, [], "member.shape=(239,) must be (240,)"),
    ({"member": lambda m: m * 0.5}, [], "be bool, or 0 and 1"),
    ({"member": lambda m: m + 1}, [], "be bool, or 0 and 1"),
    ({"member": np.zeros_like}, [], "no record is marked as a training member"),
    ({"labels": lambda y: y + 1}, [], "labels must lie in 0..2"),
    ({"labels": lambda y: y + 0.5}, [], "labels must be whole numbers or strings"),
    ({"features": lambda x: np.where(x > 0.1, np.nan, x)}, [], "must be finite"),
    ({"ids": lambda _: np.zeros(240, int)}, [], "different ids=1 must be 240"),
    ({}, ["--set", "data.members=head.safetensors"], "must be an .npz archive as np.savez writes it"),
    (
        {},
        ["--set", "train.match=true"],
        "match=true fits the recipe, so schedule, steps, weight_decay must be left out",
    ),
    ({}, ["--set", "train.normalize=standardize"], "features are the inputs of the head"),
    ({}, ["--set", "shadows.models=2"], "shadows.models=2"),
    ({}, ["--set", "fpr=[0.0]"], "fpr.0=0.0"),
    ({}, ["--set", "fpr=[1e-7]"], "cannot be resolved"),
    ({}, ["--set", 'attack=["lirra"]'], "Did you mean 'lira'"),
    ({}, ["--set", "context.release=everything"], "context.release='everything'"),
    ({}, ["--set", "context.adjacency=add"], "context.adjacency='add'"),
    ({}, ["--set", "context.randomised=perhaps"], "input should be True, False or 'not stated'"),
    ({}, ["--set", "heads.file=x"], "unknown key 'heads'"),
    (
        {},
        ["--memory", "1KB", "--set", 'attack=["whitebox"]'],
        "for method='mahalanobis' on 240 candidates",
    ),
    (
        {},
        [
            "--memory",
            "1KB",
            "--set",
            'attack=["analytic"]',
            "--set",
            'train={"optimizer"="newton","ridge"=1.0}',
        ],
        "records 2 x 2 blocks (--memory SIZE, memory=)",
    ),
    ({}, ["--out", "FILE"], "must be a folder, but it is a file"),
    ({}, ["--out", "FULL"], "must be empty or hold an audit"),
]


@pytest.mark.parametrize(("change", "words", "message"), BAD)
def test_bad_input_is_one_line_and_exit_code_2(capsys, monkeypatch, place, records, change, words, message):
    monkeypatch.chdir(place)  # where paths of --set start
    changed = dict(records)
    for name, function in change.items():
        changed[name] = function(records.get(name))
    np.savez(place / "features.npz", **changed)
    places = {"FILE": place / "audit.toml", "FULL": place}
    words = [places.get(word, word) for word in words]
    out = [] if "--out" in words else ["--out", place / "out"]
    code, _, err = jaxmia(capsys, "audit", place / "audit.toml", *out, *words)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("name", "outputs", "message"),
    [
        ("probabilities", np.full((240, 3), 0.5), "sum to 1"),
        ("probabilities", np.full((240, 3), -1.0), "must lie in [0, 1]"),
        ("logits", np.full((240, 3), np.nan), "finite"),
        ("logits", np.zeros((240, 4)), "logits.shape=(240, 4) must be (240, 3)"),
        ("logits", np.zeros((239, 3)), "logits.shape=(239, 3) must be (240, 3)"),
    ],
)
def test_bad_outputs_are_named(capsys, monkeypatch, place, name, outputs, message):
    monkeypatch.chdir(place)
    np.savez(place / "outputs.npz", **{name: outputs})
    words = ["--out", place / "out", "--set", "head.file=outputs.npz"]
    code, _, err = jaxmia(capsys, "audit", place / "audit.toml", *words)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


@pytest.mark.parametrize("override", ["fpr=[0.1,0.1]", 'attack=["lira","lira"]'])
def test_entries_that_stand_twice_are_refused(capsys, place, override):
    code, _, err = jaxmia(capsys, "audit", place / "audit.toml", "--out", place / "twice", "--set", override)
    assert (code, err.count("\n")) == (2, 1)
    assert "twice" in err or "2 times" in err or "differ" in err, err


@pytest.mark.thorough
def test_an_audit_has_its_table_of_actors(place):
    named = {"release": ["labels", "labels:4", "rounded:1", "weights"], "knowledge": ["full", "shadows:8"]}
    result = run_audit(settings(place, attack=["lira", "whitebox"], **named), place / "out")
    rows = pd.read_parquet(place / "out" / "attack" / "actors.parquet")
    pd.testing.assert_frame_equal(rows, result.attack.actors)
    assert set(rows["targets"]) == {"row 0", "others"}
    plain = result.attack.results.query(
        "attack == 'whitebox' and evaluation == 'per_target' and targets == 'row 0'"
    )
    mine = rows.query(
        "attack == 'whitebox' and release == 'weights' and knowledge == 'full' and targets == 'row 0'"
    )
    assert mine["tpr"].tolist() == plain["tpr"].tolist()
    assert rows.query("release == 'labels:4' and attack == 'lira'")["status"].eq("ok").all()
    assert rows.query("release == 'labels' and attack == 'lira'")["status"].eq("not run").all()
    # Shadows from before actors asked have no decisions: they are trained again, with the same result.
    before = (place / "out" / "scores.npz").read_bytes()
    run_audit(settings(place, attack=["lira"], release=["labels:2"]), place / "out")
    assert (place / "out" / "scores.npz").read_bytes() == before


@pytest.mark.thorough
def test_rounded_outputs_leave_no_finer_actor(place, records, head):
    weight, bias = head
    logits = records["features"].astype(np.float64) @ weight.T + bias
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.savez(place / "outputs.npz", probabilities=np.round(p / p.sum(axis=1, keepdims=True), 2))
    named = {"release": ["labels", "labels:4", "rounded:2", "rounded:3", "logits", "weights"]}
    config = settings(place, head="outputs.npz", **named)
    rows = run_audit(config, place / "out").attack.actors
    whole = rows.groupby("release")["status"].unique().map(lambda names: "ok" in names)
    assert whole.to_dict() == {
        "labels": True,
        "labels:4": False,
        "rounded:2": True,
        "rounded:3": False,
        "logits": False,
        "weights": False,
    }


def test_actors_that_cannot_be_are_refused_before_training(capsys, place):
    words = ("--out", str(place / "out"), "--set", 'release=["weights:2"]')
    assert jaxmia(capsys, "audit", str(place / "audit.toml"), *words)[0] == 2
    assert not (place / "out").exists()
