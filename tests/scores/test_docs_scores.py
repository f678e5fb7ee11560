"""The examples of docs/scores.md run as printed, in order, and so does its command."""

import pathlib
import re

import numpy as np
import pandas as pd
from commands import jaxmia

from jaxmia import AttackResult, attacks, load_scores
from jaxmia.scores.reading import KINDS

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "scores.md").read_text()


def test_examples_and_command_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for example in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(compile(example, "scores.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "OperatingPoint(evaluation='pooled', fpr=0.01" in printed
    assert "status='ok'" in printed
    command = re.search(r"```\n(jaxmia attack .*?)\n```", PAGE)[1].split()
    code, out, _ = jaxmia(capsys, *command[1:])
    assert code == 0
    assert "16 models, 500 examples" in out
    for name in re.findall(r"^\| `([\w.]+)` \|", PAGE.split("## Output")[1], re.M):
        assert (tmp_path / "audits" / "mine" / name).exists()
    stored = AttackResult(**np.load("audits/mine/statistics/lira.npz"))
    np.testing.assert_array_equal(stored.statistic, attacks.lira(load_scores("scores.npz")).statistic)
    assert (pd.read_parquet("audits/mine/controls.parquet")["status"] == "ok").all()


def test_every_key_is_documented():
    keys = set(re.findall(r"^\| `(\w+)` \|", PAGE.split("## The file")[1].split("## Output")[0], re.M))
    assert keys == {*KINDS, "member", "labels", "person", "population_log_odds", "target"}
