"""The realised FPR is shown beside each TPR, and marked where it differs from the nominal one."""

import numpy as np
import pandas as pd
import pytest
import rich.console
from commands import jaxmia

from jaxmia import run_experiment
from jaxmia.cli.rendering import rendered
from jaxmia.cli.tables import brief_tables, results_tables, sweep_tables
from jaxmia.laws.fit import fit_power_law
from jaxmia.plots import power_law_figure
from jaxmia.stats.realised import realised_fpr
from jaxmia.stats.resolution import clopper_pearson
from jaxmia.studies import grid
from jaxmia.studies.settings.toml import load_config
from jaxmia.tables.attacks import attack_tables
from jaxmia.tables.rates import realised

SHOTS = (8, 16, 32, 64, 128, 256)


def results(false_positives, *, evaluation="calibrated", seeds=3, fprs=(0.1,)):
    """Rows of a run whose cells realise so many false positives of 10 000 at each FPR."""
    rows = [
        {"classes": 10, "shots": shots, "seed": seed, "fpr": fpr, "tpr": 0.5 * shots**-0.3 + fpr}
        for shots in SHOTS
        for seed in range(seeds)
        for fpr in fprs
    ]
    table = pd.DataFrame(rows).assign(
        **{"dataset": "demo", "recipe": "default", "attack": "lira", "evaluation": evaluation},
        **{"epsilon": np.inf, "accuracy": 0.8, "status": "ok", "reason": "", "num_nonmembers": 10_000},
        **{"auc": 0.7, "balanced_accuracy": 0.6, "threshold": np.nan, "targets": "all"},
    )
    table["advantage"] = table["tpr"] - table["fpr"]
    table["tpr_low"], table["tpr_high"] = table["tpr"] - 0.01, table["tpr"] + 0.01
    table["false_positives"] = [round(false_positives * fpr / 0.1) for fpr in table["fpr"]]
    return table


def printed(blocks, width=80):
    console = rich.console.Console(width=width)
    with console.capture() as capture:
        console.print(*rendered(blocks))
    return capture.get()


def test_rows_of_several_seeds_are_counted_together():
    """Each seed's own interval still holds 0.1; that of all three does not."""
    rows = results(1050)
    alone, together = (realised_fpr(part) for part in (rows[(rows["seed"] == 0)], rows))
    assert not realised_fpr(rows.iloc[[0]]).off
    low, high = clopper_pearson(1050 * len(rows), 10_000 * len(rows))
    assert together == (0.105, low, high, True)
    assert alone.fpr == 0.105
    unresolved = rows.assign(status="unresolved", false_positives=None)
    assert np.isnan(realised_fpr(unresolved).fpr)
    assert realised(unresolved).value is None


@pytest.mark.parametrize(("count", "marked"), [(1000, False), (600, True)])
def test_every_table_marks_a_cell_whose_fpr_is_another(count, marked):
    rows = results(count)
    for tables in (results_tables, sweep_tables, attack_tables, lambda table: brief_tables(table, {})):
        text = printed(tables(rows), width=120)
        assert f"{count / 10_000:g}{'†' if marked else ' '}" in text
        assert ("†: the realised FPR is off" in text) == marked
    assert realised(rows).status == ("off" if marked else "ok")


@pytest.mark.parametrize(("count", "marked"), [(1000, False), (600, True)])
def test_plots_draw_such_cells_hollow(count, marked):
    rows = results(count)
    figure = power_law_figure(rows, fit_power_law(rows), title="law")
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert ("FPR 0.1: realised FPR off" in labels) == marked


def test_a_run_prints_one_screen_and_verbose_prints_all(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(grid, "plot_power_law", lambda *args: [])
    words = ["shadows.models=17", "grid.shots=[8,16]", "train.steps=5", "fpr=[0.1,0.01]"]
    run_experiment(load_config("smoke", words), tmp_path / "out")
    sets = [word for each in words for word in ("--set", each)]
    code, brief, _ = jaxmia(capsys, "run", "smoke", "--out", tmp_path / "out", *sets)
    assert code == 0
    assert len(brief.splitlines()) <= 40
    assert brief.count("realised") == 2
    assert brief.count("log10(TPR - FPR)") == 1
    assert "--verbose" in brief
    code, full, _ = jaxmia(capsys, "run", "smoke", "--out", tmp_path / "out", *sets, "--verbose")
    assert code == 0
    assert full.count("realised") > 2
    for name in ("quantiles over the records", "threshold, pooled"):
        assert name in full
        assert name not in brief


def test_the_demo_s_grid_fits_a_screen():
    """6 shots, 3 FPRs, 2 evaluations, all of it marked; law, control, notes and where the rest is take 16 lines."""
    fprs = (0.1, 0.01, 0.001)
    rows = [results(600, fprs=fprs), results(1000, evaluation="pooled", fprs=fprs)]
    text = printed(brief_tables(pd.concat(rows, ignore_index=True), {}))
    assert len(text.splitlines()) <= 40 - 16
    assert text.count("0.006†") == len(SHOTS)  # nothing is wrapped
    more = pd.concat([*rows, *(each.assign(classes=5) for each in rows)], ignore_index=True)
    assert "and 18 more" in printed(brief_tables(more, {}))
