"""Labels, membership and ids can have any usual type."""

import numpy as np
import pytest

from jaxmia._validate import InputError
from jaxmia.data.feature_set import feature_set, load_features
from jaxmia.data.labels import record_ids, truth
from jaxmia.ridge.expected import AnalyticVulnerability
from jaxmia.ridge.triage import triage_features

X = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
NAMES = ["a", "b", "c"]


@pytest.mark.parametrize(
    ("labels", "names", "places"),
    [
        ([1, 2, 1, 2, 1, 2], ("1", "2"), [0, 1, 0, 1, 0, 1]),
        ([90210, 210, 210, 7, 7, 7], ("7", "210", "90210"), [2, 1, 1, 0, 0, 0]),
        ([-1, 1, -1, 1, 1, 1], ("-1", "1"), [0, 1, 0, 1, 1, 1]),
        ([0, 2**31 - 1, 0, 1, 1, 0], ("0", "1", "2147483647"), [0, 2, 0, 1, 1, 0]),
        ([2.0, 0.0, 2.0, 10.0, 0.0, 2.0], ("0", "2", "10"), [1, 0, 1, 2, 0, 1]),
        (["dog", "cat", "cat", "dog", "Cat", "dog"], ("Cat", "cat", "dog"), [2, 1, 1, 2, 0, 2]),
        ([b"n", b"m", b"m", b"n", b"\xe9", b"n"], ("\\xe9", "m", "n"), [2, 1, 1, 2, 0, 2]),
        ([True, False, True, True, False, True], ("False", "True"), [1, 0, 1, 1, 0, 1]),
        (np.array(["x", "y", "x", "y", "x", "y"], object), ("x", "y"), [0, 1, 0, 1, 0, 1]),
        (np.array([2**63 + 1, 0, 0, 0, 0, 0], np.uint64), ("0", str(2**63 + 1)), [1, 0, 0, 0, 0, 0]),
    ],
)
def test_what_occurs_are_the_classes_in_the_order_of_their_values(labels, names, places):
    data = feature_set(X, np.array(labels))
    assert data.class_names == names
    assert data.labels.dtype == np.int32
    np.testing.assert_array_equal(data.labels, places)


@pytest.mark.parametrize("labels", [[0, 2, 1, 0, 0, 2], [0.0, 2.0, 1.0, 0.0, 0.0, 2.0], list("acbaac")])
def test_labels_are_places_among_class_names_or_the_names_themselves(labels):
    data = feature_set(X, np.array(labels), NAMES)
    assert data.class_names == tuple(NAMES)
    np.testing.assert_array_equal(data.labels, [0, 2, 1, 0, 0, 2])


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([1, 2, 3, 1, 2, 3], NAMES, "Labels from 1: give labels - 1"),
        ([5, 7, 9, 5, 7, 9], NAMES, "np.unique"),
        ([0, 9, 0, 0, 0, 0], NAMES, "Or leave class_names out"),
        (list("abdabc"), NAMES, "labels='d' must be among class_names: a, b, c"),
        ([0, 0.5, 1, 0, 0, 0], None, r"got 1 that are none \(first: row 1 has 0.5\)"),
        ([0, np.nan, 1, 0, 0, 0], None, "row 1 has nan"),
        (["a", "", "b", "a", "b", "b"], None, "labels that are empty=1"),
        ([[0], [1], [0], [1], [0], [1]], None, r"give labels.ravel\(\)"),
        (np.eye(6), None, r"give labels.argmax\(axis=1\)"),
        (np.array([1j] * 6), None, "labels as integers, with class_names"),
        (np.array([1, "a", None, 2, 3, 4], object), None, "labels as integers, with class_names"),
        ([0, 1, 0, 1, 0, 1], ["same", "other", "same"], "class_names must differ, but 'same' is given 2"),
    ],
)
def test_labels_that_are_none_are_refused_with_what_to_type(labels, names, message):
    with pytest.raises(InputError, match=message) as error:
        feature_set(X, np.array(labels), names)
    assert len(str(error.value)) < 500


def test_messages_are_bounded_whatever_the_number_of_classes():
    with pytest.raises(InputError, match=r"\(5000 in all\)") as error:
        feature_set(X, np.array(["z"] * 6), [f"class {i}" for i in range(5000)])
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("names", [np.array("ab"), np.array([["a"], ["b"]])])
def test_names_of_classes_have_one_axis(tmp_path, names):
    np.savez(tmp_path / "f.npz", features=X, labels=np.array([0, 1] * 3), class_names=names)
    with pytest.raises(InputError, match=r"class_names.shape"):
        load_features(tmp_path / "f.npz")


@pytest.mark.parametrize(
    "member",
    [
        np.array([1, 0, 1]),
        np.array([1.0, 0.0, 1.0]),
        np.array([True, False, True]),
        np.array(["True", "false", "1"]),
        np.array([b"1.0", b"0", b"true"]),
    ],
)
def test_membership_is_read_as_it_is_written(member):
    np.testing.assert_array_equal(truth(member, "member", 3), [True, False, True])


@pytest.mark.parametrize("member", [[1, 2, 0], [0.5, 1, 0], [np.nan, 1, 0], ["yes", "no", ""], [1j, 0, 0]])
def test_membership_that_is_neither_true_nor_false_is_refused(member):
    with pytest.raises(InputError, match="member must be bool, or 0 and 1"):
        truth(np.array(member), "member", 3)


def test_ids_of_any_encoding_are_text_that_files_can_hold(tmp_path):
    ids = np.array([b"r1", b"caf\xc3\xa9", b"caf\xe9"])
    assert record_ids(ids, 3).tolist() == ["r1", "café", "caf\\xe9"]
    assert record_ids(np.array(["caf\udce9", "\ud800", "[red]"]), 3).tolist() == [
        "caf\\xe9",
        "\\ud800",
        "[red]",
    ]
    assert record_ids(np.array([7, 8]), 2).tolist() == ["7", "8"]
    with pytest.raises(InputError, match=r"ids\.shape"):
        record_ids(ids[None], 3)


@pytest.mark.thorough
def test_records_of_a_triage_keep_their_ids_in_a_file_of_an_upper_case_ending(tmp_path, monkeypatch):
    values = np.arange(6.0, 0, -1)
    found = AnalyticVulnerability(1.0, 0.5, *[values] * 6, fluctuation=1.0, warnings=())
    monkeypatch.setattr("jaxmia.ridge.triage.analytic_vulnerability", lambda *args, **options: found)
    ids = np.array(["caf\udce9", "[red]", *"cdef"])
    np.savez(tmp_path / "f.npz", features=X, labels=np.array(["[/b]", "no"] * 3), ids=ids)
    triage_features(tmp_path / "f.npz", fpr=[0.1], out=tmp_path / "r.CSV")
    lines = (tmp_path / "r.CSV").read_text().splitlines()
    assert [line.rsplit(",", 3)[0] for line in lines[1:4]] == ["caf\\xe9,[/b]", "[red],no", "c,[/b]"]
