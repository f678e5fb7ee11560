"""Levers that the advisor computed, in the report: its section, the first page, and whose records they are of."""

import dataclasses
import json

import pandas as pd
import pytest

from jaxmia._validate import InputError
from jaxmia.advice.advice import Advice, judged
from jaxmia.advice.settings import AdviceSettings
from jaxmia.report import make_report, write_report
from jaxmia.report.advice import load_advice
from jaxmia.report.content import Lines

OPTIONS = pd.DataFrame(
    {
        "lever": ["as it is", "ridge", "ridge", "classes", "records", "privacy"],
        "option": ["ridge 1", "ridge 10", "ridge 100", "merged to 2", "2 times as many", "epsilon 1"],
        "ridge": [1.0, 10.0, 100.0, 1.0, 1.0, None],
        "records": 60,
        "classes": [3, 3, 3, 2, 3, 3],
        "accuracy": [0.9, 0.8, 0.5, 0.95, None, 0.6],
        "tpr": [0.4, 0.06, 0.02, 0.3, 0.2, 0.05],
        "worst_tpr": [0.95, 0.09, 0.03, 0.6, None, 0.05],
        "worst_low": [0.9, 0.08, 0.02, 0.5, None, 0.01],
        "worst_high": [0.99, 0.1, 0.04, 0.7, None, 0.05],
        "worst_record": ["<b>7</b>", "8", "9", "7", "", "any"],
        "how": ["analytic"] * 4 + ["law", "bound"],
        "note": "",
    }
)


@pytest.fixture
def advised(tmp_path):
    settings = AdviceSettings(fpr=0.01, max_tpr=0.1)
    return Advice(judged(OPTIONS, settings), settings, (), "abc").save(tmp_path / "advice")


def test_what_was_saved_is_read(advised):
    found = load_advice(advised, {"abc"})
    pd.testing.assert_frame_equal(found.options[list(OPTIONS)], OPTIONS, check_dtype=False, check_like=True)
    assert found.settings == json.loads(json.dumps(dataclasses.asdict(AdviceSettings())))
    assert found.beside.startswith("The advice is on the records of this report")
    assert load_advice(advised, {"another"}).beside.startswith("The advice is on other records")


def test_the_levers_are_in_the_report(attacked, advised, tmp_path):
    page, data = write_report(attacked, tmp_path / "report.html", advice=advised)
    content = json.loads(data.read_text())
    assert "What would lower it" in [each["title"] for each in content["sections"]]
    assert 'id="lowering"' in page.read_text()
    report = make_report(attacked, advice=advised)
    first = next(part for part in report.sections if part.key == "summary")
    lists = [block for block in first.blocks if isinstance(block, Lines)]
    lines = next(block.lines for block in lists if "would lower" in block.title)
    assert lines[0] == "Advice: " + load_advice(advised, ()).headline + "."
    assert "ridge, ridge 10, keeps within" in lines[0]
    # Of each lever the option that protects most; a bound is one, another task is said, and the law has no such number.
    assert [line.partition(" (")[0] for line in lines[1:]] == ["ridge", "classes", "privacy"]
    assert (
        "ridge (ridge 100): the record most at risk recognised in 3 in 100 (95% interval: 2 in 100 to 4"
        in lines[1]
    )
    assert "as it is 95 in 100; accuracy 0.500, as it is 0.900" in lines[1]
    assert lines[2].endswith("of an easier task")
    assert "recognised in at most 5 in 100, as it is" in lines[3]
    without = make_report(attacked)
    assert all(part.key != "lowering" for part in without.sections)


def test_a_folder_that_was_not_finished_is_refused(attacked, tmp_path):
    with pytest.raises(InputError, match="must be a folder that `jaxmia advise --out` finished"):
        make_report(attacked, advice=tmp_path)
