"""Reports show the numbers of the tables with interval and status, and nothing that they must not show."""

import html.parser
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from commands import jaxmia
from scipy.stats import beta, binom, norm

from jaxmia import write_report
from jaxmia._validate import InputError
from jaxmia.laws.published import published_lines
from jaxmia.report import make_report
from jaxmia.report.blocks.records import RecordsOf
from jaxmia.report.content import Picture, shown
from jaxmia.report.sections import PARTS
from jaxmia.scores import Scores
from jaxmia.studies.unit_rows import per_example_rows, rates_by_fpr
from jaxmia.tables import NONE, Measured, Table, number


@pytest.fixture(params=["audit", "run"])
def folder(request):
    return request.getfixturevalue({"audit": "audited", "run": "studied"}[request.param])


def section(content, key):
    return next(part for part in content["sections"] if part["key"] == key)


def tables(content):
    """All tables of a report's JSON, those under figures too."""
    for part in content["sections"]:
        for block in part["content"]:
            if "table" in block:
                yield block["table"]
            elif "figure" in block:
                yield block["figure"]["table"]


def table(content, start):
    return next(each for each in tables(content) if each["title"].startswith(start))


class Words(html.parser.HTMLParser):
    """The text of a page."""

    def __init__(self):
        super().__init__()
        self.words, self.silent, self.ids, self.links = [], 0, [], []

    def handle_starttag(self, tag, attrs):
        self.silent += tag in ("style", "script", "svg")
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]

    def handle_endtag(self, tag):
        self.silent -= tag in ("style", "script", "svg")

    def handle_data(self, data):
        if not self.silent:
            self.words.append(data)


def read(page):
    words = Words()
    words.feed(page.read_text())
    return words, " ".join("".join(words.words).split())


def test_page_and_json_have_the_same_sections_sentences_and_tables(folder, tmp_path):
    page, data = write_report(folder, tmp_path / "report.html")
    content, (parsed, text) = json.loads(data.read_text()), read(page)
    kind = "of_audit" if (folder / "audit.json").is_file() else "of_study"
    keys = [part.key for part in PARTS if getattr(part, kind) is not None]
    found = [part["key"] for part in content["sections"]]
    assert found == [
        *(key for key in keys if key in found or key not in ("persons", "actors", "lowering")),
        "annex",
        "glossary",
    ]
    for part in content["sections"]:
        assert part["key"] in parsed.ids
        for block in part["content"]:
            if "text" in block:
                assert " ".join(block["text"].split()) in text
    for each in tables(content):
        assert each["title"] in text
        assert {len(row) for row in each["rows"]} == {len(each["columns"])}, each["title"]


def test_every_number_of_an_estimate_has_an_interval_or_a_status(folder, tmp_path):
    _, data = write_report(folder, tmp_path / "report.html")
    bare = []
    for each in tables(json.loads(data.read_text())):
        for row in each["rows"]:
            for heading, cell in zip(each["columns"], row, strict=True):
                if not isinstance(cell, dict):
                    continue
                if cell["value"] is None:
                    assert cell["status"] != "ok"
                elif cell["low"] is None and cell["status"] == "ok":
                    bare.append(row[0] if heading == "answer" else heading)
                else:
                    ends = [
                        math.inf if end == "inf" else end
                        for end in (cell["low"], cell["value"], cell["high"])
                    ]
                    assert None in ends or ends == sorted(ends), (each["title"], row)
    # Numbers that are not estimates: counts, shares of a list, p-values, levels, worst cases over rows; and summaries
    # of a curve, whose points have intervals, in the tables that are also printed on a terminal.
    known = ("AUC", "acc.", "realised", "threshold")
    known += (
        "share of the top 1%",
        "published, C = 2",
        "p-value",
        "ε",
        "largest |TPR",
        "largest TPR as a share",
    )
    known += (
        "S, examples per class",
        "examples per class, S",
        "training records per parameter",
        "N per parameter",
    )
    assert [heading for heading in bare if not heading.startswith(known)] == []


def test_a_page_needs_nothing_else_and_its_ids_are_its_own(folder, tmp_path):
    page, _ = write_report(folder, tmp_path / "report.html")
    parsed, _ = read(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    for link in parsed.links:
        assert link.startswith(("#", "data:")), link
        if link.startswith("#"):
            assert link[1:] in parsed.ids, link
    text = page.read_text()
    assert "default-src 'none'" in text
    assert set(re.findall(r"https?://[^\"'\s<)]+", text)) == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_no_report_says_anonymous_and_each_says_what_it_does_not_cover(folder, tmp_path):
    page, data = write_report(folder, tmp_path / "report.html")
    for path in (page, data):
        assert "anonymous" not in path.read_text().lower()
    assert "evidence of resistance to the tested attacks only" in json.dumps(
        section(json.loads(data.read_text()), "summary")["content"]
    )


def test_names_and_statements_are_text_not_markup(audited, tmp_path):
    page, _ = write_report(audited, tmp_path / "report.html")
    _, text = read(page)
    assert "<b>bold</b> & 'quoted'" in text
    assert "<i>City</i> hospital" in text
    assert "<b>" not in page.read_text()


def test_an_audit_s_numbers_are_those_of_its_tables(audited, tmp_path):
    _, data = write_report(audited, tmp_path / "report.html")
    content = json.loads(data.read_text())
    records = pd.read_parquet(audited / "records.parquet")
    results = pd.read_parquet(audited / "attack" / "results.parquet")
    members = records[records["member"]]
    head = table(content, "The most vulnerable record")["rows"][0]
    assert head[0] == "FPR 0.1"
    np.testing.assert_allclose(head[1]["value"], members["tpr_0.1"].mean())
    np.testing.assert_allclose(head[2]["value"], members["tpr_0.1_drawn"].max())
    own = results[(results["targets"] == "row 0") & (results["evaluation"] == "per_target")]
    best = own.loc[own["tpr"].idxmax()]
    found = table(content, "The attacker who was tested")["rows"][0]
    assert found[1] == f"{best['attack']}, per_target"
    np.testing.assert_allclose(found[3]["value"], best["fpr_realised"])
    assert found[2] | {"status": "", "reason": ""} == {
        "value": best["tpr"],
        "low": best["tpr_low"],
        "high": best["tpr_high"],
        "status": "",
        "reason": "",
    }
    curve = table(content, "TPR read off")
    at_tenth = dict(zip(curve["columns"], curve["rows"][0], strict=True))["FPR 0.1 or less"]
    of_lira = own[own["attack"] == "lira"].iloc[0]
    np.testing.assert_allclose(
        [at_tenth["value"], at_tenth["low"], at_tenth["high"]],
        of_lira[["tpr", "tpr_low", "tpr_high"]].astype(float),
    )
    called = table(content, "Of those called members by the best attack")["rows"][0]
    assert called[1] == best["attack"]
    np.testing.assert_allclose(called[2]["value"], best["tpr"] / (best["tpr"] + 0.1))  # at prior ½
    answers = dict(table(content, "How well it generalises")["rows"])
    recorded = json.loads((audited / "audit.json").read_text())
    gap = recorded["correct"]["members"] / 120 - recorded["correct"]["others"] / 120
    np.testing.assert_allclose(answers["generalisation gap"]["value"], gap)
    ranked = table(content, "The 50 records most at risk")["rows"]
    by_risk = members.sort_values(["tpr_0.1_drawn", "separation"], ascending=False, kind="stable")
    assert [row[1] for row in ranked] == list(by_risk["id"].head(50))
    assert ranked[0][3]["value"] == head[2]["value"]  # the worst record has one number
    assert dict(table(content, "Stated by the controller")["rows"])["to whom"] == "not stated"


def stated(audited, tmp_path, *lines):
    """The section on privacy of a report under a context of these lines."""
    (tmp_path / "context.toml").write_text("\n".join(("[context]", *lines)))
    _, data = write_report(audited, tmp_path / "report.html", context=tmp_path / "context.toml")
    return section(json.loads(data.read_text()), "privacy")["content"]


def test_a_stated_guarantee_is_tested_against_every_attack(audited, tmp_path):
    """ε = 0.01 leaves a TPR hardly above the FPR; ε = 30 leaves all."""
    chosen = ("randomised = true", 'adjacency = "replace_one"')
    tested = stated(audited, tmp_path, "epsilon = 0.01", *chosen)[1]["table"]
    assert tested["title"] == "The stated guarantee: contradicted by these tests together"
    attack, fpr, high, found, ceiling, verdict = tested["rows"][0]
    assert (attack, fpr, verdict) == ("lira", "0.1", "contradicted")
    # 12 of 120 non-members above the threshold, two tests, one side at 0.05 / 2 / 2.
    np.testing.assert_allclose(high["value"], beta.isf(0.0125, 13, 108))
    np.testing.assert_allclose(ceiling["value"], high["value"] * math.exp(0.01) + 1e-5, rtol=1e-3)
    assert found["low"] > ceiling["value"]
    tested = stated(audited, tmp_path, "epsilon = 30", *chosen)[1]["table"]
    assert tested["title"] == "The stated guarantee: not contradicted by these tests together"


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "the context does not say whether members were chosen at random"),
        (
            ["randomised = false", 'adjacency = "replace_one"'],
            "the context says that members were not chosen at random",
        ),
        (["randomised = true"], "the adjacency of the guarantee was not stated"),
    ],
)
def test_no_verdict_without_a_test(audited, tmp_path, lines, why):
    content = stated(audited, tmp_path, "epsilon = 0.01", *lines)
    assert why in content[1]["text"]
    assert not any("The stated guarantee" in block.get("table", {}).get("title", "") for block in content)
    assert "contradicted" not in json.dumps(content)


def test_a_study_s_numbers_are_those_of_its_tables(studied, tmp_path):
    _, data = write_report(studied, tmp_path / "report.html")
    content = json.loads(data.read_text())
    results = pd.read_parquet(studied / "results.parquet")
    per_example = pd.read_parquet(studied / "per_example.parquet")
    cell = per_example[
        (per_example["shots"] == 32) & np.isinf(per_example["epsilon"]) & (per_example["fpr"] == 0.1)
    ]
    head = table(content, "The most vulnerable record")["rows"][0]
    cells = table(content, "Cells: data and how well")
    last = dict(zip(cells["columns"], cells["rows"][-1], strict=True))
    assert (last["S"], last["N"], last["parameters"]) == (32, 96, 3 * (384 + 1))
    np.testing.assert_allclose(last["N per parameter"]["value"], 96 / 1155)
    np.testing.assert_allclose(head[2]["value"], cell["tpr_drawn"].max())
    np.testing.assert_allclose(head[1]["value"], cell["tpr"].mean())
    private = results[np.isfinite(results["epsilon"]) & (results["status"] == "ok")]
    rows = dict(table(content, "Heads of known privacy")["rows"])
    assert rows["rows above their ceiling beyond their interval"] == 0
    assert rows["resolved rows of private heads"] == len(private)
    law = json.loads((studied / "power_law.json").read_text())
    fit = next(
        each
        for each in law
        if (each["attack"], each["evaluation"], each["epsilon"]) == ("lira", "pooled", "inf")
    )
    slope = table(content, "The law: lira, pooled")["rows"][0][1]
    line = fit["lines"][0]
    np.testing.assert_allclose(
        [slope["value"], slope["low"]], [line["slope_shots"], line["slope_shots_interval"][0]]
    )
    required = table(content, "Examples per class until")["rows"]
    published = [row[5]["value"] for row in required if row[:3] == ["average record", "0.1", "1"]]
    assert published == [published_lines().line("average", 0.1).required_shots[1.0]]


def test_an_audit_takes_the_law_and_the_levels_of_privacy_from_a_study(audited, studied, tmp_path):
    _, data = write_report(audited, tmp_path / "report.html", study=studied)
    content = json.loads(data.read_text())
    assert table(content, "The law: lira, pooled")
    assert table(content, "Privacy levels under lira")
    _, data = write_report(audited, tmp_path / "alone.html")
    alone = json.loads(data.read_text())
    assert "published laws of other data" in json.dumps(section(alone, "law"))
    assert not any(each["title"].startswith("Privacy levels") for each in tables(alone))


def test_every_figure_has_words_and_a_table(folder):
    pictures = [
        block for part in make_report(folder).sections for block in part.blocks if isinstance(block, Picture)
    ]
    assert len(pictures) >= 2
    for picture in pictures:
        assert picture.alternative
        assert isinstance(picture.table, Table)
        assert 'role="img"' in picture.svg
        assert "#010203" not in picture.svg


def test_no_privacy_at_all_is_infinity_on_the_axis_of_epsilon(studied):
    drawn = {
        block.title: block.svg
        for part in make_report(studied).sections
        for block in part.blocks
        if isinstance(block, Picture)
    }
    assert ">∞</text>" in drawn["TPR under its ceiling"]
    assert ">16</text>" not in drawn["TPR under its ceiling"]


def planted(separation, models=64, draws=100):
    rng = np.random.default_rng(3)
    examples = pd.DataFrame({"id": np.arange(len(separation)), "class_name": ""})
    for _ in range(draws):
        member = rng.random((models, len(separation))) < 0.5
        scores = Scores(rng.normal(size=member.shape) + separation * member, member)
        rows = per_example_rows(scores, [0.1], examples)
        yield RecordsOf("planted", pd.concat([examples, rates_by_fpr(rows, [0.1])], axis=1), [0.1], 32.0)


@pytest.mark.parametrize(("statistic", "name"), [(np.max, "worst"), (np.mean, "average")])
def test_intervals_cover_planted_truth(statistic, name):
    """95% or more, over 100 draws: fewer than the binomial's 1e-4 quantile at 95% would be a defect."""
    separation = np.random.default_rng(2).gamma(2.0, 0.5, size=200)
    truth = statistic(norm.cdf(norm.ppf(0.1) + separation))
    found = [getattr(records, name)(0.1) for records in planted(separation)]
    covered = sum(each.low <= truth <= each.high for each in found)
    assert covered >= binom.ppf(1e-4, 100, 0.95)


def test_too_few_residuals_to_count_are_an_extrapolation():
    rates = {f"tpr_0.01{end}": [0.1] * 10 for end in ("", "_low", "_high", "_drawn", "_low_all", "_high_all")}
    frame = pd.DataFrame({"separation": [1.0] * 10} | rates)
    assert RecordsOf("few", frame, [0.01], 99.9).worst(0.01).status == "extrapolated"
    assert RecordsOf("enough", frame, [0.01], 100.0).worst(0.01).status == "ok"


def test_numbers_are_shown_with_their_interval_and_without_it():
    assert shown(Measured(0.5, 0.25, 0.75)) == "0.500 (0.250 to 0.750)"
    assert shown(Measured(-0.5)) == "−0.500"
    assert shown(Measured(None, status="unresolved")) == ""
    assert shown(number(0.5, error=0.25)) == "0.500 ± 0.250"
    assert number(math.nan) == NONE
    assert number(0.5, error=0.25).to_json() == {"value": 0.5, "error": 0.25, "status": "ok", "reason": ""}
    assert Measured(math.inf, form="g").to_json()["value"] == "inf"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["NOTHING"], "it has neither manifest.json nor audit.json"),
        (["AUDIT", "--study", "NOTHING"], "must be a run folder with manifest.json"),
        (["STUDY", "--study", "AUDIT"], "must be given with the folder of an audit"),
        (["AUDIT", "--out", "report.pdf"], "must be a .html file in a folder that exists"),
        (["AUDIT", "--out", "nowhere/report.html"], "must be a file in a folder that exists"),
        (["AUDIT", "--context", "NOTHING"], "must be a file that can be read"),
        (["AUDIT", "--context", "EMPTY"], "must have a table [context]"),
        (["AUDIT", "--context", "WRONG"], "unknown key 'releases'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, audited, studied, tmp_path, words, message):
    (tmp_path / "empty.toml").write_text("")
    (tmp_path / "wrong.toml").write_text('[context]\nreleases = "weights"\n')
    places = {"AUDIT": audited, "STUDY": studied, "NOTHING": tmp_path, "EMPTY": tmp_path / "empty.toml"}
    places["WRONG"] = tmp_path / "wrong.toml"
    code, _, err = jaxmia(capsys, "report", *(places.get(word, word) for word in words))
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_the_command_line_writes_both_files(capsys, studied):
    code, out, _ = jaxmia(capsys, "report", studied, columns=200)
    assert code == 0
    assert (studied / "report.html").is_file()
    assert (
        f"Written: {studied / 'report.html'}, {studied / 'report.json'} and {studied / 'report.csv'}" in out
    )


def test_an_audit_of_an_earlier_version_is_refused(tmp_path):
    (tmp_path / "audit.json").write_text('{"settings": {"name": "old"}}')
    with pytest.raises(InputError, match="run it again, its shadows are kept"):
        write_report(tmp_path)


def test_an_unfinished_folder_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"settings": {}}')
    with pytest.raises(InputError, match="there is none, or no cell is done yet"):
        write_report(tmp_path)


def test_a_report_says_whether_attacks_and_seeds_agree(audited):
    """48 shadows are too few for ranks at FPR 0.1: the report says so; tests/test_stability.py has the counts."""
    blocks = [block for part in make_report(audited).sections for block in part.blocks]
    assert any(
        isinstance(block, str) and block.startswith("Stability over attacks: not resolved")
        for block in blocks
    )
    assert "flagged_by" not in pd.read_parquet(audited / "records.parquet")
