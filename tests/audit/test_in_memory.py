"""Audits of arrays and fitted models, against the same in files; and how results are displayed."""

import json
import types

import numpy as np
import pandas as pd
import pytest
from commands import jaxmia

import jaxmia as jm
from jaxmia._validate import InputError
from jaxmia.audit.released.estimators import classifier_within

SETTINGS = {"fpr": (0.1,), "attack": ("lira", "threshold"), "shadows": {"models": 16}}
TRAIN = {"optimizer": "newton", "ridge": 1.0, "steps": 30}
CLASSES, DIM = 3, 6


@pytest.fixture(scope="module")
def records():
    """(features, labels, member, weight, bias): weights that fit the members better."""
    rng = np.random.default_rng(0)
    labels = np.arange(240) % CLASSES
    features = (rng.normal(size=(240, DIM)) + 2 * np.eye(CLASSES, DIM)[labels]).astype(np.float32)
    member = rng.random(240) < 0.5
    means = np.stack([features[member & (labels == label)].mean(axis=0) for label in range(CLASSES)])
    return features, labels, member, means.astype(np.float64), -np.square(means).sum(axis=1) / 2


@pytest.fixture(scope="module")
def audited(records, tmp_path_factory):
    features, labels, member, weight, bias = records
    out = tmp_path_factory.mktemp("audits") / "in memory"
    return jm.audit_head((weight, bias), features, labels, member, out=out, train=TRAIN, **SETTINGS)


def test_an_audit_in_memory_is_that_of_files(records, audited, tmp_path, capsys):
    features, labels, member, weight, bias = records
    np.savez(tmp_path / "features.npz", features=features, labels=labels, member=member)
    np.savez(tmp_path / "head.npz", weight=weight, bias=bias)
    (tmp_path / "audit.toml").write_text(
        'fpr = [0.1]\nattack = ["lira", "threshold"]\n[data]\nfeatures = "features.npz"\n[head]\nfile = "head.npz"\n'
        '[train]\noptimizer = "newton"\nridge = 1.0\nsteps = 30\n[shadows]\nmodels = 16\n'
    )
    code, _, said = jaxmia(capsys, "audit", tmp_path / "audit.toml", "--out", tmp_path / "audit")
    assert code == 0, said
    of_files = pd.read_parquet(tmp_path / "audit" / "records.parquet")
    pd.testing.assert_frame_equal(audited.records, of_files)
    of_files = pd.read_parquet(tmp_path / "audit" / "attack" / "results.parquet")
    pd.testing.assert_frame_equal(audited.attack.results, of_files)


@pytest.mark.parametrize("kind", ["mapping", "outputs", "torch", "strings"])
def test_heads_of_any_kind_are_read(records, audited, tmp_path, kind):
    features, labels, member, weight, bias = records
    head = {"weight": weight, "bias": bias}
    if kind == "outputs":
        head = {"logits": features @ weight.T + bias}
    elif kind == "torch":
        tensors = {name: _Tensor(values) for name, values in head.items()}
        head = types.SimpleNamespace(state_dict=lambda: tensors, children=lambda: [])
        head = _Module("Sequential", [_Module("Dropout"), _Module("Linear", tensors=tensors)])
    names = np.array(["ant", "bee", "cat"])
    given = names[labels] if kind == "strings" else labels
    result = jm.audit_head(head, features, given, member, out=tmp_path / "out", train=TRAIN, **SETTINGS)
    columns = [name for name in audited.records if result.records[name].dtype.kind == "f"]
    for name in columns:
        np.testing.assert_allclose(result.records[name], audited.records[name], rtol=1e-5, atol=1e-6)


class _Tensor:
    def __init__(self, values):
        self.values = values

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self.values


def _Module(name, inside=(), tensors=None):  # noqa: N802 - it makes classes of torch's names
    module = type(name, (), {})()
    module.children = lambda: inside
    module.modules = lambda: [module, *(each for child in inside for each in child.modules())]
    module.state_dict = lambda: tensors
    return module


def test_results_show_themselves(audited, tmp_path):
    assert repr(audited).startswith("AuditResult: 240 records; ")
    assert "TPR" in repr(audited)
    assert len(repr(audited)) < 200
    assert "<table" in audited._repr_html_()
    assert list(audited.to_frame()) == list(audited.records)
    brief = ["id", "class_name", "member", "tpr_0.1", "tpr_0.1_low", "tpr_0.1_high"]
    assert list(audited.brief_frame()) == brief
    for which in ({}, {"targets": "row 0"}, {"targets": "others", "evaluation": "per_target"}):
        assert audited.plot(**which)._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="targets='all' must be one of row 0, others"):
        audited.plot(targets="all")
    with pytest.raises(InputError, match=r"evaluation='pooled' must be one of per_target\."):
        audited.plot(targets="row 0", evaluation="pooled")
    page = audited.report(tmp_path / "page.html")
    assert "Membership inference report" in page.read_text()
    assert len(repr(audited.attack)) < 250
    assert audited.attack.to_frame() is audited.attack.results


@pytest.mark.thorough
def test_scores_in_memory_are_attacked_as_files_are(tmp_path):
    rng = np.random.default_rng(0)
    member = rng.random((16, 200)) < 0.5
    scores = {"log_odds": rng.normal(size=(16, 200)) + 2 * member, "member": member}
    np.savez(tmp_path / "scores.npz", **scores)
    of_file = jm.attack_scores(tmp_path / "scores.npz", tmp_path / "file", fpr=(0.1,))
    given = jm.audit_scores(scores, out=tmp_path / "memory", fpr=(0.1,))
    for kind, same in (("read", jm.load_scores(tmp_path / "scores.npz")), ("scores", jm.Scores(**scores))):
        pd.testing.assert_frame_equal(
            jm.audit_scores(same, out=tmp_path / kind, fpr=(0.1,)).results, of_file.results
        )
    pd.testing.assert_frame_equal(given.results, of_file.results)
    manifest = json.loads((given.path / "manifest.json").read_text())
    assert manifest["source"] == "in memory"
    with pytest.raises(InputError, match="unit='person' must be 'record'"):
        given.plot(unit="person")
    assert repr(given).startswith("AttackRun: 16 models x 200 examples, ")
    axes = given.plot().axes[0]
    assert axes.get_title() == "pooled, targets: all"
    rows = given.results[given.results["evaluation"] == "pooled"].dropna(subset="tpr")  # resolved
    bars = [ends[:, 1] for bar in axes.containers for ends in bar.lines[2][0].get_segments()]
    np.testing.assert_allclose(bars, rows[["tpr_low", "tpr_high"]])
    assert set(given.records["example"]) == set(range(200))


def test_what_cannot_be_read_is_named(records):
    features, labels, member, weight, bias = records
    with pytest.raises(InputError, match=r"head=ndarray must be a fitted classifier .* 'probabilities'"):
        jm.audit_head(features @ weight.T, features, labels, member)
    two = _Module("Sequential", [_Module("Linear"), _Module("ReLU"), _Module("Linear")])
    with pytest.raises(InputError, match="must be one torch Linear: give the last layer"):
        jm.audit_head(two, features, labels, member)
    with pytest.raises(InputError, match="unknown key 'fprs'"):
        jm.audit_head((weight, bias), features, labels, member, fprs=(0.1,))
    with pytest.raises(InputError, match="member"):
        jm.audit_head((weight, bias), features, labels, member[:-1])
    with pytest.raises(InputError, match=r"data=.* must be left out"):
        jm.audit_head((weight, bias), features, labels, member, data={"features": "x.npz"})


def test_a_scikit_learn_pipeline_with_a_data_frame_and_names_of_classes(records, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not here")
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    features, labels, member, *_ = records
    table = pd.DataFrame(features, columns=[f"x{number}" for number in range(DIM)])
    table["ward"] = np.array(["north", "south"])[labels % 2]
    columns = make_column_transformer(
        (StandardScaler(), list(table.columns[:-1])), (OneHotEncoder(), ["ward"])
    )
    names = np.array(["ant", "bee", "cat"])[labels]
    model = make_pipeline(columns, LogisticRegression()).fit(table[member], names[member])
    result = jm.audit_head(model, table, names, member, out=tmp_path / "out", **SETTINGS)
    assert any("OneHotEncoder" in note or "ColumnTransformer" in note for note in result.notes)
    assert not result.void
    # The recipe is the estimator's own, C = 1, and the head comes near its shadows.
    assert result.match.train.ridge == 1.0


def test_columns_are_numbers_in_the_order_of_the_fit_or_named(records, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not here")
    from sklearn.linear_model import LogisticRegression

    features, labels, member, *_ = records
    table = pd.DataFrame(features, columns=[f"x{number}" for number in range(DIM)])
    table["old"] = labels > 0
    table["visits"] = pd.array(labels, dtype="Int64")
    head = LogisticRegression().fit(table[member].astype(float), labels[member])
    read = classifier_within(head, table)
    np.testing.assert_array_equal(read.features, table.astype(float))
    assert (read.model, read.transformed, read.notes) == (head, False, ())
    with pytest.raises(
        InputError, match=r"features\.columns=.*must be those that the LogisticRegression was fitted"
    ):
        jm.audit_head(head, table[table.columns[::-1]], labels, member)
    table["visits"] = "many"
    with pytest.raises(
        InputError, match=r"the columns=\['visits'\] must be numbers, or inputs that the first steps"
    ):
        jm.audit_head(head, table, labels, member)


def test_texts_go_through_a_pipeline_and_are_those_of_its_numbers(records, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not here")
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline

    _, labels, member, *_ = records
    words = np.array([["ant", "bee", "cat"][label] for label in labels])
    rng = np.random.default_rng(0)
    texts = [
        f"{word} {rng.choice(['by', 'on', 'in'])} {rng.choice(['sea', 'air', 'land'])}" for word in words
    ]
    search = GridSearchCV(
        make_pipeline(CountVectorizer(), LogisticRegression()), {"logisticregression__C": [1.0]}
    )
    search.fit([text for text, inside in zip(texts, member, strict=True) if inside], words[member])
    read = classifier_within(search, texts)
    best = search.best_estimator_
    np.testing.assert_array_equal(read.features, best[:-1].transform(texts).toarray())
    assert read.model is best[-1]
    assert "GridSearchCV" in read.notes[0]
    assert "CountVectorizer" in read.notes[1]
    with pytest.raises(InputError, match="must be numbers, or inputs that the first steps"):
        jm.audit_head(best[-1], texts, labels, member)
