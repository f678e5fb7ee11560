"""A report refuses a study of other data beside an audit, and a folder that mixes two audits."""

import pathlib

import pandas as pd
import pytest

from jaxmia._validate import InputError
from jaxmia.report.beside import beside
from jaxmia.report.study import Study

CONTENT = {
    "features": {"sha256": "scaled", "given": "raw"},
    "records": {"dim": 30},
    "members_per_class": {"benign": 10, "malignant": 12},
}


def study(folder, *, sha256, classes=("benign", "malignant"), dim=30, network=None):
    """A run's folder with only the files that the check reads."""
    train = {} if network is None else {"network": network}
    cell = {"classes": len(classes), "parameters": len(classes) * (dim + 1)}
    identity = {"features": {"sha256": sha256}, "settings": {"train": train}}
    pd.DataFrame({"class_name": classes}).to_parquet(folder / "per_example.parquet")
    empty = pd.DataFrame()
    return Study(
        pathlib.Path(folder), {"identity": identity, "cells": {"a": cell}}, empty, empty, {}, empty, empty
    )


@pytest.mark.parametrize("sha256", ["scaled", "raw"])
def test_a_study_of_the_same_features_is_said_to_be(tmp_path, sha256):
    assert "the records of the audit" in beside(
        CONTENT, study(tmp_path, sha256=sha256, classes=("x", "y"), dim=7)
    )


def test_a_study_of_records_of_the_same_kind_is_said_to_be_of_others(tmp_path):
    found = beside(CONTENT, study(tmp_path, sha256="else", classes=("benign", "x")))
    assert "other records than the audit, with 1 of the audit's 2 classes" in found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 384}, "whose features have dimension 30; its own have 384"),
        (
            {"classes": ("cat", "dog")},
            r"none of its classes \(cat, dog\) is one of theirs \(benign, malignant\)",
        ),
    ],
)
def test_a_study_of_other_data_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        beside(CONTENT, study(tmp_path, sha256="else", **changes))


def test_a_network_s_parameters_are_no_dimension(tmp_path):
    assert "other records" in beside(CONTENT, study(tmp_path, sha256="else", dim=384, network="mlp"))
