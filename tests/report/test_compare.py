"""Two folders side by side: what was planted between them is found, and what is not there is not."""

import json

import numpy as np
import pandas as pd
import pytest
from commands import jaxmia as command

import jaxmia as jm
from jaxmia._validate import InputError
from jaxmia.audit import attack_scores as attack_run

MODELS, RECORDS, ROSE = 64, 200, 10


def scores_of(seed, *, shift):
    rng = np.random.default_rng(seed)
    member = rng.random((MODELS, RECORDS)) < 0.5
    return {"log_odds": rng.normal(size=member.shape) + shift * member, "member": member}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Attacks on scores of an earlier model, a like one, and one in which the first records' risk rose."""
    place = tmp_path_factory.mktemp("compared")
    higher = np.where(np.arange(RECORDS) < ROSE, 5.0, 0.5)
    arrays = {
        "earlier": scores_of(0, shift=0.5),
        "like": scores_of(1, shift=0.5),
        "later": scores_of(2, shift=higher),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attack_run, "plot_rocs", lambda *args, **options: [])
        for name, each in arrays.items():
            attack_run.attack_scores(each, place / name, attack=["lira"], fpr=[0.1])
    return place


def test_records_whose_risk_rose_are_found_and_no_others(folders):
    found = jm.compare(folders / "earlier", folders / "like", folders / "later")
    rose = found.records[found.records["rose"]].groupby("against")["id"].apply(set).to_dict()
    expected = {str(each) for each in range(ROSE)}
    assert rose["attacks in later"] >= expected
    assert len(rose["attacks in later"] - expected) <= 3  # a false discovery rate of 0.1
    assert len(rose.get("attacks in like", ())) <= 3
    assert found.records["id"].nunique() == RECORDS


def test_differences_are_of_the_folders_own_numbers(folders):
    found = jm.compare(folders / "earlier", folders / "later")
    changes = found.changes.set_index("what")
    tables = [pd.read_parquet(folders / name / "results.parquet") for name in ("earlier", "later")]
    best = [table[table["fpr_realised"] <= 0.1 + 1e-9]["tpr"].max() for table in tables]
    row = changes.loc["members, found by the best attack"]
    np.testing.assert_allclose(
        (row["earlier"], row["later"], row["difference"]), (*best, best[1] - best[0]), rtol=1e-12
    )
    records = [
        pd.read_parquet(folders / name / "per_example.parquet")["tpr"].mean() for name in ("earlier", "later")
    ]
    average = changes.loc["average record"]
    np.testing.assert_allclose((average["earlier"], average["later"]), records, rtol=1e-9)
    assert average["low"] > 0
    assert changes.loc["worst record", "low"] > 0
    same = jm.compare(folders / "earlier", folders / "like").changes.set_index("what")
    assert (same["low"] <= 0).all()
    assert (same["high"] >= 0).all()


def test_the_command_prints_and_writes_all_of_it(capsys, folders, tmp_path):
    out, page = tmp_path / "out", tmp_path / "page.html"
    words = ("compare", folders / "earlier", folders / "later", "--out", out, "--html", page)
    code, printed, _ = command(capsys, *words)
    assert code == 0
    assert "Records whose risk rose in attacks in later" in printed
    assert {path.name for path in out.iterdir()} == {"changes.parquet", "records.parquet", "compare.json"}
    content = json.loads((out / "compare.json").read_text())
    assert content["sections"][0]["key"] == "changes"
    assert "difference, 95% interval" in page.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("earlier",), "must be at least two"),
        (("earlier", "nothing"), "neither"),
        (("earlier", "earlier"), "must differ"),
    ],
)
def test_bad_folders_are_refused(folders, words, message):
    with pytest.raises(InputError, match=message):
        jm.compare(*(folders / word for word in words))


def test_a_page_that_cannot_be_is_refused_before_anything(capsys, folders, tmp_path):
    code, _, errors = command(
        capsys, "compare", folders / "earlier", folders / "later", "--html", tmp_path / "page.txt"
    )
    assert code == 2
    assert "must be a .html file" in errors
