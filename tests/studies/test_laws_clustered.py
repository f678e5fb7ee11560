"""Laws whose cells depend on one another: pools nested in one another, data sets, and saturated cells."""

import numpy as np
import pandas as pd
import pytest
import rich.console
from scipy import stats

from jaxmia._validate import InputError
from jaxmia.cli.rendering import rendered
from jaxmia.cli.tables import laws_tables, required_tables
from jaxmia.laws.fit import fit_power_law
from jaxmia.laws.law import PER_RECORD, LawKey
from jaxmia.laws.required import required_shots
from jaxmia.studies.laws import fit_laws, laws_from_json, laws_to_json, quantile_rows

SHOTS = np.array([8.0, 16.0, 32.0, 64.0, 128.0])


def cells(data_sets, seeds, *, of_set=(0.0, 0.0), of_pool=(0.0, 0.0), noise=0.05, rng):
    """Cells on 0.7 S^-0.5; each data set and each pool has a height and a slope of its own, with these deviations."""
    tables = []
    for name in range(data_sets):
        of_data = of_set * rng.standard_normal(2)
        for seed in range(seeds):
            height, slope = of_data + of_pool * rng.standard_normal(2)
            errors = noise * rng.standard_normal(len(SHOTS))
            advantage = 0.7 * SHOTS**-0.5 * 10 ** (height + slope * np.log10(SHOTS / 32) + errors)
            tables.append(
                pd.DataFrame({"shots": SHOTS, "advantage": advantage}).assign(dataset=name, seed=seed)
            )
    return pd.concat(tables, ignore_index=True).assign(classes=2, fpr=0.01)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("data_sets", "seeds", "planted", "errors", "clusters"),
    [
        (1, 4, {"of_pool": (0.02, 0.1)}, "pools", 4),
        (4, 2, {"of_set": (0.02, 0.1), "of_pool": (0.02, 0.02)}, "data sets", 4),
    ],
)
def test_clustered_errors_cover_and_plain_ones_do_not(data_sets, seeds, planted, errors, clusters):
    """250 studies with planted heights and slopes: 95% intervals hold, plain ones of the slope do not."""
    rng, repeats = np.random.default_rng(7), 250
    covered = {"clustered": np.zeros(2), "plain": np.zeros(2)}
    for _ in range(repeats):
        table = cells(data_sets, seeds, **planted, rng=rng)
        clustered = fit_power_law(table)[0.01]
        plain = fit_power_law(table.drop(columns=["dataset", "seed"]))[0.01]
        assert (clustered.errors, clustered.clusters) == (errors, clusters)
        assert (plain.errors, plain.clusters) == ("cells", None)
        assert clustered.slope_shots == plain.slope_shots
        for name, law, degrees in (("clustered", clustered, clusters - 1), ("plain", plain, None)):
            quantile = stats.t.ppf(0.975, degrees or law.degrees_of_freedom)
            low, high = law.slope_shots_interval
            assert high - low == pytest.approx(2 * quantile * law.slope_shots_stderr)
            of_intercept = abs(law.intercept - np.log10(0.7)) <= quantile * law.intercept_stderr
            covered[name] += [low <= -0.5 <= high, of_intercept]
    low, high = stats.binom.ppf([1e-4, 1 - 1e-4], repeats, 0.95)
    assert ((covered["clustered"] >= low) & (covered["clustered"] <= high)).all()
    assert covered["plain"][0] < 0.85 * repeats


def test_clustered_covariance_is_the_sandwich():
    """CR1: (X'X)^-1 (sum of X_g' e_g e_g' X_g) (X'X)^-1 G / (G - 1) (N - 1) / (N - k)."""
    table = cells(1, 5, of_pool=(0.1, 0.0), rng=np.random.default_rng(8))
    law = fit_power_law(table)[0.01]
    design = np.column_stack([np.log10(table["shots"]), np.ones(len(table))])
    bread = np.linalg.inv(design.T @ design)
    residuals = np.log10(table["advantage"]) - design @ [law.slope_shots, law.intercept]
    meat = np.zeros((2, 2))
    for _, rows in table.groupby("seed").indices.items():
        score = design[rows].T @ residuals.to_numpy()[rows]
        meat += np.outer(score, score)
    factor = 5 / 4 * (len(table) - 1) / (len(table) - 2)
    np.testing.assert_allclose(law.covariance, factor * bread @ meat @ bread, rtol=1e-9)


@pytest.mark.thorough
def test_prediction_of_a_new_pools_cell_covers():
    rng, repeats = np.random.default_rng(9), 250
    hits = 0
    for _ in range(repeats):
        table = cells(1, 5, of_pool=(0.1, 0.0), rng=rng)
        new = cells(1, 1, of_pool=(0.1, 0.0), rng=rng)["advantage"].iloc[-1]
        found = fit_power_law(table)[0.01].predict(shots=128, classes=2)
        hits += found.low <= new <= found.high
    assert hits >= stats.binom.ppf(1e-4, repeats, 0.95)


@pytest.mark.parametrize(("data_sets", "seeds"), [(1, 1), (1, 2), (2, 1)])
def test_too_few_clusters_leave_the_plain_error_under_its_name(data_sets, seeds):
    table = cells(data_sets, seeds, rng=np.random.default_rng(10))
    law = fit_power_law(table)[0.01]
    assert (law.errors, law.clusters) == ("cells", None)
    assert law == fit_power_law(table.drop(columns=["dataset", "seed"]))[0.01]


def test_what_errors_are_over_survives_json():
    table = cells(1, 4, rng=np.random.default_rng(11)).assign(
        attack="lira", evaluation="pooled", epsilon=np.inf, recipe="default"
    )
    laws = fit_laws(table)
    content = laws_to_json(laws)
    assert content[0]["lines"][0]["errors"] == "pools"
    assert content[0]["lines"][0]["clusters"] == 4
    assert laws_from_json(content) == laws


def records(shots, tprs):
    cell = {"dataset": "a", "recipe": "default", "classes": 2, "shots": shots, "seed": 0, "epsilon": np.inf}
    return pd.DataFrame({"tpr_drawn": tprs, "status": "ok", "fpr": 0.1}).assign(**cell)


def test_saturated_quantiles_are_named_and_have_no_law_and_no_required_shots():
    """Half of the records have TPR 1 at every S: a line through them has slope 0 and a tiny error."""
    table = pd.concat(
        [records(shots, np.repeat([0.1 + 0.5 * shots**-0.5, 1 - 1e-6], 50)) for shots in SHOTS],
        ignore_index=True,
    )
    rows = pd.DataFrame(quantile_rows(table))
    assert set(rows["status"][rows["evaluation"] == "maximum"]) == {"saturated"}
    assert set(rows["status"][rows["evaluation"] == "quantile 0.5"]) == {"ok"}
    laws = fit_laws(rows)
    saturated = laws[LawKey(PER_RECORD, "maximum")]
    assert (saturated[0.1].status, saturated[0.1].num_saturated, saturated[0.1].slope_shots) == (
        "saturated",
        5,
        None,
    )
    assert "0.99 or more in 5 of 5 cells" in saturated[0.1].reason
    with pytest.raises(InputError, match=r"is saturated: TPR is 0\.99 or more"):
        required_shots(saturated, epsilon=1.0, delta=1e-5, fpr=0.1, classes=2)
    np.testing.assert_allclose(laws[LawKey(PER_RECORD, "quantile 0.5")][0.1].slope_shots, -0.5, rtol=1e-9)


def test_saturated_cells_do_not_flatten_a_law_that_others_carry():
    advantage = np.minimum(8 * SHOTS**-0.8, 0.9)  # 0.9 at S = 8 alone, where the law says 1.5
    table = {"shots": SHOTS, "classes": [2] * 5, "advantage": advantage, "fpr": [0.1] * 5}
    law = fit_power_law(table)[0.1]
    np.testing.assert_allclose(law.slope_shots, -0.8, rtol=1e-9)
    assert (law.num_saturated, law.num_cells, law.num_censored) == (1, 4, 0)
    assert law.held_out_fit(table).num_cells == 4


def test_tables_name_what_errors_are_over_and_what_is_saturated():
    columns = {"attack": "lira", "evaluation": "pooled", "epsilon": np.inf, "recipe": "default"}
    table = cells(1, 4, rng=np.random.default_rng(12)).assign(**columns)
    full = pd.concat([table, table.assign(fpr=0.1, advantage=0.9)], ignore_index=True)
    text = shown(laws_tables(fit_laws(full)))
    assert "standard errors over 4 pools" in text
    assert "saturated" in text.split("cells")[-2]
    text = shown(laws_tables(fit_laws(table[table["seed"] == 0])))
    assert "standard errors over cells (plain: fewer than 3 data sets or pools)" in text
    assert (
        shown(required_tables(fit_laws(full), epsilons=[1.0], delta=1e-5, classes=2)).count("saturated: TPR")
        == 1
    )


def shown(blocks):
    console = rich.console.Console(width=150)
    with console.capture() as capture:
        console.print(*rendered(blocks))
    return capture.get()
