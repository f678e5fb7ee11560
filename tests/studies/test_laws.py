"""Laws of joined tables: records' quantiles, and data sets that were left out of the fit."""

import json
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from commands import jaxmia

import jaxmia as jm
from jaxmia._deprecated import warn_renamed
from jaxmia._validate import InputError
from jaxmia.laws.fit import fit_power_law
from jaxmia.laws.law import PER_RECORD, LawKey
from jaxmia.laws.required import required_shots
from jaxmia.studies.laws import fit_laws, laws_from_json, leave_one_dataset_out, load_laws, quantile_rows

SHOTS = np.array([8, 16, 32, 64, 128])
CELL = {"recipe": "default", "epsilon": np.inf, "attack": "lira", "evaluation": "pooled", "fpr": 0.1}


def results(dataset, *, scale, slope=-0.5, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    rows = [
        {"dataset": dataset, "classes": c, "shots": s, "seed": n} | CELL
        for c in (2, 5)
        for s in SHOTS
        for n in (0, 1)
    ]
    table = pd.DataFrame(rows)
    line = scale * table["shots"] ** slope * table["classes"] ** 0.1
    return table.assign(advantage=line * 10 ** (noise * rng.standard_normal(len(table))))


def test_r_squared_on_the_fitted_cells_is_that_of_the_fit():
    cells = results("a", scale=0.5, noise=0.1)
    law = fit_power_law(cells)[0.1]
    judged = law.held_out_fit(cells)
    assert judged.num_cells == len(cells)
    np.testing.assert_allclose(judged.r_squared, law.r_squared, rtol=1e-10)
    np.testing.assert_allclose(judged.factor, 1.0, rtol=1e-10)  # least squares leave no mean error


def test_a_planted_factor_of_another_data_set_is_recovered():
    here, there = results("a", scale=0.5), results("b", scale=0.3)
    judged = fit_power_law(here)[0.1].held_out_fit(there)
    np.testing.assert_allclose(judged.factor, 0.6, rtol=1e-10)
    observed = np.log10(there["advantage"])
    by_hand = 1 - len(there) * np.log10(0.6) ** 2 / ((observed - observed.mean()) ** 2).sum()
    np.testing.assert_allclose(judged.r_squared, by_hand, rtol=1e-9)


def test_a_law_says_nothing_of_classes_that_it_does_not_know():
    one = results("a", scale=0.5).query("classes == 2")
    assert fit_power_law(one)[0.1].held_out_fit(results("b", scale=0.5))[1:] == (None, None)


def test_every_data_set_is_left_out_in_turn_and_judged_by_the_others():
    table = pd.concat([results("a", scale=0.5), results("b", scale=0.5), results("c", scale=1.0)])
    rows = leave_one_dataset_out(table).set_index("dataset")
    np.testing.assert_allclose(rows.loc["c", "factor"], 2.0, rtol=1e-9)
    np.testing.assert_allclose(rows.loc["a", "slope_shots"], -0.5, rtol=1e-9)
    # The others, one at this height and one at twice it, predict their geometric mean.
    np.testing.assert_allclose(rows.loc["a", "factor"], 1 / np.sqrt(2), rtol=1e-9)
    together = leave_one_dataset_out(table, ["a", "b"])
    assert together["dataset"].tolist() == ["a, b"]
    np.testing.assert_allclose(together["factor"], 0.5, rtol=1e-9)


def test_parallel_laws_of_clusters_have_the_errors_of_cells():
    law = fit_power_law(pd.concat([results("a", scale=0.5), results("c", scale=1.0)]))[0.1]
    assert law.errors == "cells"
    assert law.slope_shots_stderr > 0.01  # a factor of 2 between the cells of one S


@pytest.mark.parametrize(
    ("held_out", "message"),
    [(["z"], "held_out='z' must be one of a, b"), (["a", "b"], "must leave a data set to fit, of a, b")],
)
def test_what_cannot_be_left_out_is_named(held_out, message):
    table = pd.concat([results("a", scale=0.5), results("b", scale=0.5)])
    with pytest.raises(InputError, match=message):
        leave_one_dataset_out(table, held_out)


def test_the_former_name_works_and_warns_once():
    table = pd.concat([results("a", scale=0.5), results("b", scale=0.5)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_renamed.cache_clear()
        for _ in range(2):
            pd.testing.assert_frame_equal(jm.laws_elsewhere(table), leave_one_dataset_out(table))
    (warning,) = caught
    assert str(warning.message).startswith("laws_elsewhere is called leave_one_dataset_out now")
    assert warning.category is DeprecationWarning


def test_one_data_set_cannot_be_left_out():
    with pytest.raises(InputError, match="must leave a data set to fit, of a"):
        leave_one_dataset_out(results("a", scale=0.5))


def records(shots, number, scale):
    """Records whose TPR at FPR 0.1 are 0.1 + scale S^-1/2 (1 ... number) / number, in random order."""
    ranks = np.random.default_rng(shots).permutation(number) + 1
    cell = {"dataset": "a", "recipe": "default", "classes": 2, "shots": shots, "seed": 0, "epsilon": np.inf}
    tpr = 0.1 + scale * shots**-0.5 * ranks / number
    return pd.DataFrame({"tpr_drawn": tpr, "status": "ok", "fpr": 0.1}).assign(**cell)


def test_quantiles_are_order_statistics_and_resolve_with_enough_records():
    rows = pd.DataFrame(quantile_rows(records(16, 200, 0.8))).set_index("evaluation")
    expected = {"quantile 0.5": 100, "quantile 0.9": 180, "quantile 0.99": 198, "maximum": 200}
    for name, rank in expected.items():
        np.testing.assert_allclose(rows.loc[name, "advantage"], 0.8 * 16**-0.5 * rank / 200, rtol=1e-12)
    assert rows.loc["quantile 0.999", "status"] == "unresolved"
    assert "needs at least 1000" in rows.loc["quantile 0.999", "reason"]


def test_unresolved_records_do_not_count():
    table = records(16, 200, 0.8)
    table.loc[table["tpr_drawn"] > table["tpr_drawn"].median(), "status"] = "unresolved"
    rows = pd.DataFrame(quantile_rows(table)).set_index("evaluation")
    np.testing.assert_allclose(rows.loc["maximum", "advantage"], 0.8 * 16**-0.5 / 2, rtol=1e-12)


def test_planted_laws_of_quantiles_are_recovered():
    table = pd.concat([records(int(shots), 100, 0.8) for shots in SHOTS])
    laws = fit_laws(pd.DataFrame(quantile_rows(table)))
    for name, share in {"quantile 0.5": 0.5, "quantile 0.9": 0.9, "maximum": 1.0}.items():
        law = laws[LawKey(PER_RECORD, name)][0.1]
        np.testing.assert_allclose((law.slope_shots, 10**law.intercept), (-0.5, 0.8 * share), rtol=1e-9)
    assert laws[LawKey(PER_RECORD, "quantile 0.999")][0.1].num_unresolved == len(SHOTS)


def test_laws_of_folders_hold_averages_and_quantiles(tmp_path):
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        results(name, scale=0.5).to_parquet(folder / "results.parquet")
        table = pd.concat([records(int(shots), 100, 0.8) for shots in SHOTS]).assign(dataset=name)
        table.to_parquet(folder / "per_example.parquet")
    laws = load_laws([tmp_path / "one", tmp_path / "two"])
    assert laws[LawKey("lira", "pooled")][0.1].num_cells == 40
    assert laws[LawKey(PER_RECORD, "maximum")][0.1].num_cells == 2 * len(SHOTS)
    assert load_laws(tmp_path / "one")[LawKey(PER_RECORD, "maximum")][0.1].num_cells == len(SHOTS)


@pytest.fixture
def folder(tmp_path):
    """A sweep's folder as laws see it: two data sets, the second twice as vulnerable."""
    scales = {"one": 0.2, "two": 0.4}
    tables = [results(name, scale=scale, noise=0.02) for name, scale in scales.items()]
    pd.concat(tables, ignore_index=True).to_parquet(tmp_path / "results.parquet")
    tables = [
        records(int(s), 100, scale).assign(dataset=name) for s in SHOTS for name, scale in scales.items()
    ]
    pd.concat(tables, ignore_index=True).to_parquet(tmp_path / "per_example.parquet")
    return tmp_path


def test_command_line_puts_required_shots_beside_the_published_ones(capsys, folder):
    laws_file = folder / "power_law.json"
    assert jaxmia(capsys, "fit", folder, "--out", laws_file)[0] == 0
    laws = laws_from_json(json.loads(laws_file.read_text()))
    assert laws == load_laws(folder)
    code, out, _ = jaxmia(
        capsys, "predict", folder, "--epsilon", 1, "--epsilon", 0.5, "--classes", 2, columns=150
    )
    assert code == 0
    parts = re.split(r"\n(?=\S.*(?:pooled|quantile|maximum))", out)
    pooled, worst = (next(part for part in parts if word in part[:40]) for word in ("pooled", "maximum"))
    # FPR and ε on the left, ceiling, S, low-high, published: of the paper's table, average and worst record.
    row = r" (1|0\.5) +0\.\d+ +([\d,.e+]+)‡? ([\d,.e+]+)-([\d,.e+]+) +([\d,.e+]+) *$"
    rows = {part: re.findall(row, part, re.M) for part in (pooled, worst)}
    assert [(found[0], found[-1]) for found in rows[pooled]] == [("1", "160"), ("0.5", "1,100")]
    assert [(found[0], found[-1]) for found in rows[worst]] == [("1", "7,000,000"), ("0.5", "260,000,000")]
    wanted = required_shots(laws[LawKey("lira", "pooled")], epsilon=0.5, delta=1e-5, fpr=0.1, classes=2)
    shown = rows[pooled][1][1:4]
    for text, value in zip(shown, (wanted.shots, wanted.low, wanted.high), strict=True):
        np.testing.assert_allclose(
            float(text.replace(",", "")), value, rtol=0.05, atol=0.5
        )  # two digits, whole S


def test_command_line_judges_laws_on_data_sets_that_were_left_out(capsys, folder):
    code, out, _ = jaxmia(capsys, "fit", folder, "--across", columns=150)
    assert code == 0
    of_lira = out.split("lira, pooled")[2].split("per record")[0]
    factors = re.findall(r"^ *(one|two) +0\.1 +\S+ +\S+ +\S+ +(\S+)", of_lira, re.M)
    for (name, factor), expected in zip(factors, (0.5, 2.0), strict=True):
        assert (name, float(factor)) == (name, pytest.approx(expected, rel=0.05))
    code, out, _ = jaxmia(
        capsys, "fit", folder, "--hold-out", "two", "--out", folder / "laws.json", columns=150
    )
    assert code == 0
    laws = laws_from_json(json.loads((folder / "laws.json").read_text()))
    assert laws[LawKey("lira", "pooled")][0.1].num_cells == 20  # of "one" alone
    assert len(re.findall(r"^ *two +0\.1", out, re.M)) == len(laws)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "DIR", "--hold-out", "tow"], "held_out='tow' must be one of one, two. Did you mean 'two'?"),
        (["fit", "DIR", "--hold-out", "two", "--across"], "must not be given together"),
        (["predict", "DIR", "--classes", "2"], "--shots or --epsilon must be given"),
        (["predict", "DIR", "--epsilon", "-1", "--classes", "2"], "epsilon=-1.0"),
        (["predict", "DIR", "--epsilon", "1", "--delta", "2", "--classes", "2"], "delta=2.0"),
    ],
)
def test_command_line_names_what_is_wrong(capsys, folder, words, message):
    jaxmia(capsys, "fit", folder, "--out", folder / "power_law.json")
    code, _, err = jaxmia(capsys, *(folder if word == "DIR" else word for word in words))
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
