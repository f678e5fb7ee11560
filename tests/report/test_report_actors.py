"""The table of actors in a report: its numbers are those of the file, on the first page and in its own section."""

import numpy as np
import pandas as pd
import pytest

from jaxmia.audit import attack_scores as attack_run
from jaxmia.report import make_report
from jaxmia.report.page import to_html
from jaxmia.tables import Table


@pytest.fixture(scope="module", params=[None, 3])
def folder(request, tmp_path_factory):
    rng = np.random.default_rng(1)
    member, labels = rng.random((33, 240)) < 0.5, rng.integers(3, size=240)
    logits = rng.normal(size=(33, 240, 3))
    logits[:, np.arange(240), labels] += 1 + 1.5 * member
    out = tmp_path_factory.mktemp("attack") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attack_run, "plot_rocs", lambda *args, **options: [])
        attack_run.attack_scores(
            {"logits": logits, "labels": labels, "member": member},
            out,
            attack=["lira", "threshold"],
            fpr=[0.1],
            target=request.param,
            release=["labels", "rounded:2", "labels:8"],
            knowledge=["full", "shadows:8"],
        )
    return out


def test_the_numbers_are_those_of_the_file(folder):
    report, rows = make_report(folder), pd.read_parquet(folder / "actors.parquet")
    tables = {
        part.key: [block for block in part.blocks if isinstance(block, Table)] for part in report.sections
    }
    short = next(table for table in tables["summary"] if table.title.startswith("Who attacks"))
    ran = rows[rows["status"] == "ok"]
    assert len(short.rows) == len(ran.groupby(["knowledge", "release"])) == 4
    group = rows["targets"].iloc[0]
    for knows, actor, attack, average, _ in short.rows:
        where = (ran["knows"] == knows) & (ran["actor"] == actor) & (ran["targets"] == group)
        mine = ran[where & (ran["fpr_realised"] <= ran["fpr"])]
        assert average.value == mine["tpr"].max() == mine.set_index("attack")["tpr"][attack]
    assert tables["actors"]
    page = to_html(report)
    assert "a customer who sees decisions alone" in page
    assert "The model cannot be asked about noisy copies here" in page
