"""What tables say of rates and laws, against the rows and laws themselves."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq

from jaxmia.laws.fit import PowerLawFit, fit_power_law
from jaxmia.privacy.tradeoff import kairouz_ceiling
from jaxmia.tables import NONE, Measured, Table, number
from jaxmia.tables.laws import predicted, required, required_table, slope
from jaxmia.tables.rates import best_of, over_runs, over_seeds

FPR, DELTA = 0.1, 1e-5


def rows(**columns):
    made = {
        "tpr": [0.2, 0.3, 0.9],
        "seed": [0, 1, 2],
        "fpr": 0.1,
        "fpr_realised": 0.1,
        "false_positives": 10,
        "num_nonmembers": 100,
        "status": "ok",
        "reason": "",
        "tpr_low": 0.1,
        "tpr_high": [0.4, 0.5, 1.0],
    }
    return pd.DataFrame(made | columns)


def test_seeds_are_joined_by_median_and_outermost_ends():
    assert over_seeds(rows()) == Measured(0.3, 0.1, 1.0)
    runs = rows(accuracy=[0.5, 0.7, 0.6])
    assert over_runs(runs, "accuracy") == Measured(0.6, 0.5, 0.7)
    assert over_runs(pd.concat([runs, runs]), "accuracy") == Measured(0.6, 0.5, 0.7)  # twice the same cells
    assert best_of(rows()) == Measured(0.9, 0.1, 1.0)


def test_seeds_without_a_number_are_told():
    some = rows(status=["ok", "unresolved", "ok"], reason=["", "too few", ""])
    found = over_seeds(some)
    assert (found.value, found.status, found.reason) == (0.55, "partial", "some seeds have no number")
    none = rows(status=["unresolved", "saturated", "unresolved"], reason="too few")
    assert over_seeds(none) == Measured(None, status="saturated, unresolved", reason="too few")


def test_none_and_nan_are_no_number():
    assert number(None) == number(math.nan) == NONE
    assert number(0.5, ".1f", error=0.1) == Measured(0.5, form=".1f", error=0.1)


def test_json_has_every_cell():
    table = Table("t", ("a", "b"), (("x", number(0.5, error=0.1)), ("y", Measured(math.inf))), "n")
    error = {"value": 0.5, "error": 0.1, "status": "ok", "reason": ""}
    infinite = {"value": "inf", "low": None, "high": None, "status": "ok", "reason": ""}
    cells = [["x", error], ["y", infinite]]
    assert table.to_json() == {"title": "t", "columns": ["a", "b"], "rows": cells, "note": "n", "about": ""}


@pytest.fixture(scope="module")
def law():
    """log10 advantage = -0.5 log10 S + 0.2 with a little noise, at C = 3."""
    rng = np.random.default_rng(0)
    shots = np.repeat([8, 16, 32, 64, 128], 3)
    advantage = 10 ** (0.2 - 0.5 * np.log10(shots) + 0.01 * rng.normal(size=len(shots)))
    table = {"shots": shots, "classes": np.full(len(shots), 3), "advantage": advantage, "fpr": FPR}
    return fit_power_law(pd.DataFrame(table))[FPR]


def test_a_prediction_is_the_line_s_and_its_interval_that_of_one_new_cell(law):
    found = predicted(law, shots=100, classes=3)
    np.testing.assert_allclose(found.value, FPR + 10**law.intercept * 100**law.slope_shots)
    assert found.low < found.value < found.high
    assert (found.status, found.reason) == ("ok", "")
    beyond = predicted(law, shots=1000, classes=3)
    assert (beyond.status, beyond.reason) == ("extrapolated", "outside the fitted cells")
    high = predicted(law, shots=1, classes=3)
    assert (high.value, high.reason) == (1.0, "outside the fitted cells, TPR cut at 1")


def test_required_examples_are_where_the_prediction_meets_the_ceiling(law):
    ceiling = float(kairouz_ceiling(FPR, epsilon=1.0, delta=DELTA))
    found = required(law, epsilon=1.0, delta=DELTA, classes=3)
    at = brentq(lambda shots: predicted(law, shots=shots, classes=3).value - ceiling, 1, 1e6)
    np.testing.assert_allclose(found.value, at, rtol=1e-9)
    table = required_table(
        "t", {"average record": PowerLawFit((law,))}, epsilons=[1.0], delta=DELTA, classes=3
    )
    name, fpr, epsilon, allowed, shots, published = table.rows[0]
    assert (name, fpr, epsilon, shots) == ("average record", "0.1", "1", found)
    assert allowed.value == ceiling
    assert published.value == 160  # of the published table, at two classes


def test_a_law_that_says_nothing_says_why(law):
    assert slope(law).value == law.slope_shots
    elsewhere = predicted(law, shots=10, classes=5)
    assert (elsewhere.value, elsewhere.reason) == (None, "the law holds at C = 3, not at 5")
    full = pd.DataFrame({"shots": [8, 16, 32], "classes": 3, "advantage": 0.9, "fpr": FPR})
    saturated = fit_power_law(full)[FPR]
    for found in (slope(saturated), required(saturated, epsilon=1.0, delta=DELTA, classes=3)):
        assert (found.value, found.status) == (None, "saturated")
