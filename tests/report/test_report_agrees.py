"""A report agrees with its folder, number by number, and with itself: ordered quantities are in order."""

import csv
import json
import sys

import numpy as np
import pandas as pd
import pytest
from commands import jaxmia

from jaxmia import write_report
from jaxmia._validate import InputError
from jaxmia.report import make_report, pdf
from jaxmia.report.content import Picture, shown
from jaxmia.report.sections.glossary import TERMS
from jaxmia.tables import Measured, Table
from jaxmia.tables.attacks import targets_named, thresholds


@pytest.fixture(params=["audited", "studied", "attacked", "attacked_all"])
def folder(request):
    return request.getfixturevalue(request.param)


def tables(report):
    for section in report.sections:
        for block in section.blocks:
            if isinstance(block, Table):
                yield block
            elif isinstance(block, Picture):
                yield block.table


def table(report, start):
    return next(each for each in tables(report) if each.title.startswith(start))


def results_of(folder):
    path = folder / "attack" if (folder / "attack").is_dir() else folder
    return pd.read_parquet(path / "results.parquet")


def test_every_number_of_the_page_is_one_of_the_json(folder, tmp_path):
    page, data = write_report(folder, tmp_path / "report.html")
    text, content = page.read_text(encoding="utf-8"), json.loads(data.read_text())
    numbers = 0
    for each in tables(make_report(folder)):
        for row in each.rows:
            for cell in row:
                if isinstance(cell, Measured) and cell.value is not None:
                    assert f'<span class="number">{shown(cell)}</span>' in text, (each.title, cell)
                    numbers += 1
    assert numbers > 50
    assert str(content).count("'value'") >= numbers


def test_every_table_says_in_a_sentence_what_it_answers(folder):
    for each in tables(make_report(folder)):
        assert each.about.endswith("."), each.title


def test_rates_of_attacks_are_those_of_results(folder):
    """Tables of attacks of an audit or of scores, row by row; of a run its cells."""
    report, results = make_report(folder), results_of(folder)
    if "targets" not in results:
        rows = table(report, "All cells").rows
        first = results[["attack", "evaluation"]].iloc[0]
        mine = results[(results[["attack", "evaluation"]] == first).all(axis=1)]
        for name, fpr, realised, tpr in rows:
            private = np.isfinite(mine["epsilon"]) if "ε" in name else np.isinf(mine["epsilon"])
            shots = int(name.split("S = ")[1].split(",")[0])
            row = mine[(mine["shots"] == shots) & (mine["fpr"] == float(fpr)) & private].iloc[0]
            assert (tpr.value is None) == (row["status"] != "ok")
            if tpr.value is not None:
                np.testing.assert_allclose(
                    [tpr.value, realised.value], row[["tpr", "fpr_realised"]].astype(float)
                )
        return
    found = 0
    for (targets, evaluation), mine in results.groupby(["targets", "evaluation"]):
        title = f"{targets_named(targets).capitalize()}: {thresholds(evaluation)}"
        for each in tables(report):
            if each.title != title:
                continue
            for row in each.rows:
                cells = dict(zip(each.columns, row, strict=True))
                of = mine[(mine["attack"] == cells["attack"]) & (mine["fpr"] == float(cells["FPR"]))].iloc[0]
                if cells["TPR, 95% interval"].value is not None:
                    np.testing.assert_allclose(cells["TPR, 95% interval"].value, of["tpr"])
                    np.testing.assert_allclose(cells["realised"].value, of["fpr_realised"])
                    found += 1
    assert found


def test_what_must_be_ordered_is(folder):
    report, results = make_report(folder), results_of(folder)
    spread = table(report, "The most vulnerable record, and the average").rows
    for _, average, worst in spread:
        assert worst.value >= average.value
        assert worst.high >= average.high
    for column in (1, 2):  # finer FPRs below coarser ones
        values = [row[column].value for row in spread]
        assert values == sorted(values, reverse=True)
    ranked, quantiles = table(report, "The 50 records"), table(report, "Quantiles over")
    classes = table(report, "Vulnerability by class")
    first = ranked.columns.index(next(name for name in ranked.columns if name.startswith("TPR at FPR")))
    largest = classes.columns.index(next(name for name in classes.columns if name.startswith("largest")))
    worst = spread[0][2]
    assert ranked.rows[0][first].value == worst.value == quantiles.rows[-1][1].value
    assert max(row[largest].value for row in classes.rows) == worst.value
    assert {row[largest].status for row in classes.rows} <= {worst.status}
    known = [row[1].value for row in quantiles.rows if row[1].value is not None]
    assert known == sorted(known)
    if "targets" in results:
        own = [name for name in results["targets"].unique() if name != "others"]
        results = results[results["targets"].isin(own)]
    else:
        results = results[(results["shots"] == results["shots"].max()) & np.isinf(results["epsilon"])]
    for place, name, tpr, _ in table(report, "The attacker who was tested").rows:
        mine = results[(results["fpr"] == float(place.removeprefix("FPR "))) & (results["status"] == "ok")]
        kept = mine[mine["fpr_realised"] <= mine["fpr"]]
        if len(kept):
            assert name != "none"
            assert tpr.value == kept["tpr"].max()


def test_ceilings_of_one_epsilon_are_ordered_and_told_apart(studied):
    report = make_report(studied)
    alone = {row[0]: row[1].value for row in table(report, "The largest TPR that").rows}
    levels = table(report, "Privacy levels")
    assert "ceiling of the mechanism" in levels.columns
    for row in levels.rows:
        cells = dict(zip(levels.columns, row, strict=True))
        if cells["ε"].value == 8 and cells["FPR"] == "0.1":
            assert cells["ceiling of the mechanism"].value <= alone["ε = 8"]
    other = table(report, "The largest success of attribute inference")
    assert other.rows[0][2].value == alone["ε = 8"]  # 1 - f(b) at b = 0.1 is the ceiling at FPR 0.1


@pytest.mark.parametrize(("name", "end"), [("attacked", "--target 3"), ("attacked_all", "--fpr 0.01")])
def test_a_report_of_attacks_names_its_command_and_nothing_that_it_cannot_know(request, name, end):
    report = make_report(request.getfixturevalue(name))
    assert [section.key for section in report.sections] == [
        *("summary", "context", "declared", "results", "records", "controls", "not-covered", "reproduction"),
        *("annex", "glossary"),
    ]
    rows = dict(table(report, "To reproduce").rows)
    assert rows["command"].startswith("jaxmia attack in memory --out out --attack lira --attack threshold")
    assert rows["command"].endswith(end)


def test_ids_are_in_the_csv_and_in_the_page_only_if_they_may_be(audited, tmp_path):
    with_ids = write_report(audited, tmp_path / "with.html")
    without = write_report(audited, tmp_path / "without.html", show_ids=False)
    assert (tmp_path / "with.csv").read_text() == (tmp_path / "without.csv").read_text()
    rows = list(csv.DictReader((tmp_path / "without.csv").read_text().splitlines()))
    records = pd.read_parquet(audited / "records.parquet")
    members = records[records["member"]].sort_values(
        ["tpr_0.1_drawn", "separation"], ascending=False, kind="stable"
    )
    assert [row["id"] for row in rows] == list(members["id"].astype(str).head(50))
    np.testing.assert_allclose([float(row["tpr_0.1"]) for row in rows], members["tpr_0.1_drawn"].head(50))
    listed = [table(make_report(audited, show_ids=show), "The 50").columns[1] for show in (True, False)]
    assert listed == ["record", "class"]
    finding = [json.loads(data.read_text())["sections"][0]["content"] for _, data in (with_ids, without)]
    named = [f"The record most at risk, {rows[0]['id']}, is" in str(content) for content in finding]
    assert named == [True, False]


def test_a_declared_limit_is_judged_by_the_worst_record(audited, tmp_path):
    (tmp_path / "context.toml").write_text("[context]\nlimit = { fpr = 0.1, tpr = 0.2 }\n")
    report = make_report(audited, context=tmp_path / "context.toml")
    finding = next(block for block in report.sections[0].blocks if getattr(block, "kind", "") == "finding")
    assert (
        "at most 20 in 100 recognised at one false alarm in ten. What these tests found is beyond it"
        in finding.lines[-1]
    )
    (tmp_path / "context.toml").write_text("[context]\nlimit = { fpr = 0.05, tpr = 0.2 }\n")
    report = make_report(audited, context=tmp_path / "context.toml")
    finding = next(block for block in report.sections[0].blocks if getattr(block, "kind", "") == "finding")
    assert "nothing was tested at that rate" in finding.lines[-1]


def test_terms_have_places_of_their_own():
    keys = [term.key for term in TERMS]
    forms = [form for term in TERMS for form in (term.name, *term.also)]
    assert len(keys) == len(set(keys))
    assert len(forms) == len(set(forms))


def test_without_its_printer_a_pdf_is_refused_with_the_command_to_type(
    monkeypatch, capsys, attacked, tmp_path
):
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    with pytest.raises(InputError, match=r"pip install 'jaxmia\[pdf\]'"):
        pdf.check_printer()
    code, _, err = jaxmia(capsys, "report", attacked, "--out", tmp_path / "report.html", "--pdf")
    assert (code, err.count("\n")) == (2, 1)
    assert not (tmp_path / "report.html").exists()
