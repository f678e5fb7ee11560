"""The law against planted lines, the normal equations written out, simulation and the published table."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from jaxmia._validate import InputError
from jaxmia.laws.fit import fit_power_law
from jaxmia.laws.law import PowerLawFit
from jaxmia.laws.published import published_lines
from jaxmia.laws.required import required_shots
from jaxmia.privacy.tradeoff import kairouz_ceiling

SHOTS = np.array([8.0, 16.0, 32.0, 64.0, 128.0])
CLASSES = np.array([2, 5, 10])
TAIL = 1e-4  # probability that a correct implementation fails a statistical test, both sides together


def planted_table(fpr=0.01, noise=0.0, seed=0):
    """A grid of (S, C) cells on 0.7 S^-0.5 C^0.2, with Gaussian noise on log10(advantage)."""
    shots, classes = (axis.ravel() for axis in np.meshgrid(SHOTS, CLASSES))
    errors = noise * np.random.default_rng(seed).standard_normal(len(shots))
    advantage = 0.7 * shots**-0.5 * classes**0.2 * 10**errors
    return pd.DataFrame({"shots": shots, "classes": classes, "advantage": advantage, "fpr": fpr})


def binomial_bounds(trials, probability):
    """Counts outside these bounds occur with probability at most TAIL."""
    return stats.binom.ppf([TAIL / 2, 1 - TAIL / 2], trials, probability)


class NormalEquations:
    """Least squares with an intercept, written out: the reference for the fit and its intervals."""

    def __init__(self, table):
        columns = [np.log10(table["shots"])]
        if table["classes"].nunique() > 1:
            columns.append(np.log10(table["classes"]))
        design = np.column_stack([*columns, np.ones(len(table))])
        response = np.log10(table["advantage"].to_numpy())
        inverse = np.linalg.inv(design.T @ design)
        self.coefficients = inverse @ design.T @ response
        residuals = response - design @ self.coefficients
        self.degrees = len(response) - design.shape[1]
        self.variance = residuals @ residuals / self.degrees
        self.covariance = self.variance * inverse
        self.r_squared = 1 - residuals @ residuals / ((response - response.mean()) ** 2).sum()

    def interval(self, row, confidence):
        centre = row @ self.coefficients
        width = stats.t.ppf((1 + confidence) / 2, self.degrees) * math.sqrt(
            self.variance + row @ self.covariance @ row
        )
        return 10 ** (centre - width), 10 ** (centre + width)


def test_planted_law_is_recovered_exactly():
    law = fit_power_law(planted_table())[0.01]
    found = (law.slope_shots, law.slope_classes, law.intercept)
    np.testing.assert_allclose(found, (-0.5, 0.2, math.log10(0.7)), rtol=1e-9)
    assert law.status == "ok"
    assert law.r_squared == pytest.approx(1)
    assert law.classes == (2, 5, 10)
    assert law.shots_range == (8, 128)


def test_one_number_of_classes_leaves_no_slope_for_it():
    table = planted_table().query("classes == 5")
    law = fit_power_law(table)[0.01]
    np.testing.assert_allclose((law.slope_shots, law.intercept), (-0.5, math.log10(0.7 * 5**0.2)), rtol=1e-9)
    assert law.slope_classes is None
    assert law.classes == (5,)
    with pytest.raises(InputError, match=r"classes=2 must be 5"):
        law.predict(shots=16, classes=2)


@pytest.mark.parametrize("query", ["shots * classes < 600", "classes == 5"])
def test_errors_and_intervals_agree_with_the_normal_equations(query):
    table = planted_table(noise=0.1).query(query)
    law = fit_power_law(table)[0.01]
    reference = NormalEquations(table)
    errors = np.sqrt(np.diag(reference.covariance))
    width = stats.t.ppf(0.975, reference.degrees) * errors[0]
    slope = reference.coefficients[0]
    np.testing.assert_allclose(law.slope_shots, slope, rtol=1e-9)
    np.testing.assert_allclose(law.slope_shots_stderr, errors[0], rtol=1e-9)
    np.testing.assert_allclose(law.slope_shots_interval, (slope - width, slope + width), rtol=1e-9)
    np.testing.assert_allclose(
        (law.intercept, law.intercept_stderr), (reference.coefficients[-1], errors[-1])
    )
    np.testing.assert_allclose(law.covariance, reference.covariance, rtol=1e-9)
    np.testing.assert_allclose(law.residual_scale, math.sqrt(reference.variance), rtol=1e-9)
    np.testing.assert_allclose(law.r_squared, reference.r_squared, rtol=1e-9)
    assert law.degrees_of_freedom == reference.degrees

    prediction = law.predict(shots=500, classes=5, confidence=0.9)
    row = np.array([math.log10(500), math.log10(5), 1.0])[
        [0, -1] if law.slope_classes is None else slice(None)
    ]
    np.testing.assert_allclose((prediction.low, prediction.high), reference.interval(row, 0.9), rtol=1e-9)
    np.testing.assert_allclose(prediction.advantage, 10 ** (row @ reference.coefficients), rtol=1e-9)


def test_class_slope_error_is_that_of_the_normal_equations():
    table = planted_table(noise=0.1)
    law = fit_power_law(table)[0.01]
    reference = NormalEquations(table)
    error = math.sqrt(reference.covariance[1, 1])
    width = stats.t.ppf(0.975, reference.degrees) * error
    slope = reference.coefficients[1]
    np.testing.assert_allclose((law.slope_classes, law.slope_classes_stderr), (slope, error), rtol=1e-9)
    np.testing.assert_allclose(law.slope_classes_interval, (slope - width, slope + width), rtol=1e-9)


def test_prediction_interval_covers_a_new_cell_as_often_as_it_says():
    """With Gaussian residuals coverage is exact: hits ~ Binomial(laws, confidence), each FPR its own law."""
    num_laws, confidence = 1000, 0.8
    rng = np.random.default_rng(1)
    fprs = np.linspace(0.001, 0.1, num_laws)
    noise = 0.1 * rng.standard_normal((num_laws, len(SHOTS) + 1))
    true = math.log10(0.7) - 0.5 * np.log10(np.append(SHOTS, 1000.0))
    advantage = 10 ** (true + noise)
    table = {
        "shots": np.tile(SHOTS, num_laws),
        "classes": np.full(num_laws * len(SHOTS), 2),
        "advantage": advantage[:, :-1].ravel(),
        "fpr": np.repeat(fprs, len(SHOTS)),
    }
    fit = fit_power_law(table)
    predictions = [fit.predict(shots=1000, classes=2, fpr=fpr, confidence=confidence) for fpr in fprs]
    hits = sum(p.low <= new <= p.high for p, new in zip(predictions, advantage[:, -1], strict=True))
    low, high = binomial_bounds(num_laws, confidence)
    assert low <= hits <= high


def test_censored_and_unresolved_cells_are_counted_and_leave_the_line_alone():
    table = planted_table()
    extra = pd.DataFrame(
        {
            "shots": [512.0, 1024.0, 2048.0],
            "classes": [2, 2, 5],
            "advantage": [0.0, -0.01, np.nan],
            "fpr": 0.01,
        }
    )
    law = fit_power_law(pd.concat([table, extra], ignore_index=True))[0.01]
    assert (law.num_cells, law.num_censored, law.num_unresolved) == (15, 2, 1)
    assert law.slope_shots == pytest.approx(-0.5, rel=1e-9)
    assert law.shots_range == (8, 128)


def test_missing_values_of_pandas_are_unresolved():
    table = planted_table()
    table["advantage"] = table["advantage"].astype("Float64")
    table.loc[3, "advantage"] = pd.NA
    assert fit_power_law(table)[0.01].num_unresolved == 1


def test_each_fpr_has_its_own_law():
    fit = fit_power_law(pd.concat([planted_table(fpr=0.001), planted_table(fpr=0.1).query("shots > 8")]))
    assert list(fit) == [0.1, 0.001]
    assert [law.num_cells for law in fit.lines] == [12, 15]
    with pytest.raises(InputError, match=r"fpr=0\.5 must be one that the law was fitted at: 0\.1, 0\.001"):
        fit[0.5]


@pytest.mark.parametrize(
    ("shots", "classes", "advantage", "reason"),
    [
        ([8, 8, 8], [2, 2, 2], [0.3, 0.2, 0.1], "2 or more values of shots, got 1"),
        ([8, 16, 32], [2, 2, 2], [0.3, -0.2, 0.0], "2 or more values of shots, got 1"),
        ([8, 16], [2, 2], [0.3, 0.2], "more cells than the 2 coefficients, got 2"),
        ([8, 16, 16], [2, 2, 4], [0.3, 0.2, 0.2], "more cells than the 3 coefficients, got 3"),
        ([8, 16, 32, 64], [2, 4, 8, 16], [0.4, 0.3, 0.2, 0.1], "slopes are not identified"),
        ([8, 16], [2, 2], [np.nan, np.nan], "2 or more values of shots, got 0"),
    ],
)
def test_cells_that_determine_no_line_say_why(shots, classes, advantage, reason):
    fit = fit_power_law(
        {"shots": shots, "classes": classes, "advantage": advantage, "fpr": [0.1] * len(shots)}
    )
    law = fit[0.1]
    assert law.status == "undetermined"
    assert reason in law.reason
    assert law.num_cells + law.num_censored + law.num_unresolved == len(shots)
    assert law.slope_shots is None
    with pytest.raises(InputError, match="undetermined"):
        fit.predict(shots=16, classes=2, fpr=0.1)
    with pytest.raises(InputError, match="undetermined"):
        required_shots(fit, epsilon=1.0, delta=1e-5, fpr=0.1, classes=2)


def test_constant_advantage_is_a_law_without_r_squared():
    law = fit_power_law(
        {"shots": [8, 16, 32], "classes": [2] * 3, "advantage": [0.25] * 3, "fpr": [0.1] * 3}
    )[0.1]
    assert law.slope_shots == pytest.approx(0, abs=1e-12)
    assert law.r_squared is None


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("shots", 0, "shots=0.0 must be a positive number"),
        ("shots", -4, "shots=-4.0 must be a positive number"),
        ("shots", np.nan, "shots=nan must be a positive number"),
        ("classes", 0, "classes=0.0 must be a whole number"),
        ("classes", 2.5, "classes=2.5 must be a whole number"),
        ("fpr", 0.0, "fpr=0.0 must lie strictly between 0 and 1"),
        ("fpr", 1.0, "fpr=1.0 must lie strictly between 0 and 1"),
        ("fpr", np.nan, "fpr=nan must lie strictly between 0 and 1"),
        ("advantage", 12.5, "advantage=12.5 must lie in"),
        ("advantage", "high", "must hold numbers"),
    ],
)
def test_bad_values_are_named(column, value, message):
    table = planted_table().astype({column: object})
    table.loc[4, column] = value
    with pytest.raises(InputError, match=message):
        fit_power_law(table)


def test_bad_tables_are_named():
    with pytest.raises(InputError, match="lacks classes, fpr"):
        fit_power_law(planted_table()[["shots", "advantage"]])
    with pytest.raises(InputError, match="columns of one length"):
        fit_power_law({"shots": [8, 16], "classes": [2], "advantage": [0.1, 0.2], "fpr": [0.1, 0.1]})
    with pytest.raises(InputError, match="rows=0"):
        fit_power_law(planted_table().iloc[:0])


def test_json_round_trip():
    table = pd.concat([planted_table(noise=0.1), planted_table(fpr=0.1).iloc[:1]])
    fit = fit_power_law(table)
    text = json.dumps(fit.to_dict(), allow_nan=False)
    assert PowerLawFit.from_dict(json.loads(text)) == fit
    with pytest.raises(InputError, match="come from PowerLawFit"):
        PowerLawFit.from_dict({"lines": [{"fpr": 0.1, "slope": -0.5}]})
    with pytest.raises(InputError, match="come from PowerLawFit"):
        PowerLawFit.from_dict({})


def test_prediction_says_when_it_caps_and_extrapolates():
    fit = fit_power_law(planted_table(noise=0.01))
    inside = fit.predict(shots=16, classes=4, fpr=0.01)
    assert not inside.extrapolated
    assert not inside.capped
    assert inside.tpr == inside.advantage + 0.01
    assert fit.predict(shots=4, classes=4, fpr=0.01).extrapolated
    assert fit.predict(shots=16, classes=20, fpr=0.01).extrapolated
    steep = fit.predict(shots=0.1, classes=10, fpr=0.01)
    assert steep.capped
    assert steep.tpr == 1
    assert steep.advantage > 1


def test_a_hopelessly_wide_interval_is_infinite_not_an_overflow():
    table = {"shots": [8, 16, 32], "classes": [2] * 3, "advantage": [0.8, 1e-6, 0.8], "fpr": [0.1] * 3}
    prediction = fit_power_law(table).predict(shots=64, classes=2, fpr=0.1, confidence=0.999)
    assert prediction.low == 0
    assert prediction.high == math.inf


@pytest.mark.parametrize(
    "bad",
    [
        {"shots": 0},
        {"shots": math.inf},
        {"shots": math.nan},
        {"classes": 0},
        {"confidence": 1.0},
        {"fpr": 0.3},
    ],
)
def test_prediction_refuses_bad_arguments(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        fit_power_law(planted_table()).predict(**{"shots": 8, "classes": 2, "fpr": 0.01, **bad})


@pytest.mark.parametrize("query", ["shots * classes < 600", "classes == 5"])
def test_required_shots_invert_the_prediction(query):
    fit = fit_power_law(planted_table(noise=0.05).query(query))
    required = required_shots(fit, epsilon=1.0, delta=1e-5, fpr=0.01, classes=5)
    prediction = fit.predict(shots=required.shots, classes=5, fpr=0.01)
    assert required.status == "ok"
    assert prediction.tpr == pytest.approx(kairouz_ceiling(0.01, epsilon=1.0, delta=1e-5), rel=1e-9)
    assert required.extrapolated == prediction.extrapolated


@pytest.mark.parametrize("query", ["shots * classes < 600", "classes == 5"])
@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_calibration_interval_is_the_prediction_band_by_brute_force(query, confidence):
    """All S of a fine grid whose prediction interval holds the ceiling lie in [low, high], and fill it."""
    fit = fit_power_law(planted_table(noise=0.1).query(query))
    required = required_shots(fit, epsilon=2.0, delta=1e-5, fpr=0.01, classes=5, confidence=confidence)
    target = required.ceiling - 0.01
    grid = np.logspace(-2, 7, 4001)
    predictions = [fit.predict(shots=s, classes=5, fpr=0.01, confidence=confidence) for s in grid]
    held = grid[[p.low <= target <= p.high for p in predictions]]
    step = grid[1] / grid[0]
    assert held[0] / step <= required.low <= held[0]
    assert held[-1] <= required.high <= held[-1] * step
    assert len(held) == 1 + round(math.log(held[-1] / held[0]) / math.log(step)), "the set has no gap"


def test_calibration_interval_of_an_exact_law_closes():
    required = required_shots(fit_power_law(planted_table()), epsilon=1.0, delta=1e-5, fpr=0.01, classes=5)
    assert required.low == pytest.approx(required.shots, rel=1e-6)
    assert required.high == pytest.approx(required.shots, rel=1e-6)


def test_a_slope_that_cannot_be_told_from_zero_bounds_nothing():
    table = {"shots": [8, 16, 32], "classes": [2] * 3, "advantage": [0.2, 0.1, 0.18], "fpr": [0.1] * 3}
    required = required_shots(fit_power_law(table), epsilon=0.5, delta=1e-5, fpr=0.1, classes=2)
    assert required.status == "ok"
    assert required.low is None
    assert required.high is None
    assert "does not differ from 0" in required.reason


@pytest.mark.parametrize(
    ("advantage", "status"),
    [([0.1, 0.2, 0.3], "never"), ([0.3, 0.299999, 0.299998], "never")],
    ids=["rising", "nearly flat: the ceiling is met beyond 1e300"],
)
def test_required_shots_say_when_there_are_none(advantage, status):
    fit = fit_power_law({"shots": [8, 16, 32], "classes": [2] * 3, "advantage": advantage, "fpr": [0.1] * 3})
    required = required_shots(fit, epsilon=0.1, delta=0.0, fpr=0.1, classes=2)
    assert (required.status, required.shots) == (status, None)


def test_a_ceiling_without_advantage_is_met_by_no_law():
    required = required_shots(fit_power_law(planted_table()), epsilon=0.0, delta=0.0, fpr=0.01, classes=5)
    assert (required.status, required.shots) == ("no_advantage", None)


PUBLISHED = [
    (line, epsilon, shots)
    for line in published_lines().lines
    for epsilon, shots in line.required_shots.items()
]


@pytest.mark.parametrize(
    ("line", "epsilon", "shots"), PUBLISHED, ids=[f"{p[0].record}-{p[0].law.fpr}-{p[1]}" for p in PUBLISHED]
)
def test_published_lines_give_the_published_required_shots(line, epsilon, shots):
    delta = published_lines().delta
    required = required_shots(line, epsilon=epsilon, delta=delta, fpr=line.law.fpr, classes=2)
    assert f"{required.shots:.1e}" == f"{shots:.1e}"
    assert (required.low, required.high, required.extrapolated) == (None, None, None)
    assert "no standard errors" in required.reason


@pytest.mark.parametrize("line", published_lines().lines, ids=lambda line: f"{line.record}-{line.law.fpr}")
def test_published_ranges_are_those_that_the_rounding_leaves(line):
    """Extremes by linear programming over the lines whose required shots round to the published figures."""
    rows, bounds = [], []
    for epsilon, shots in line.required_shots.items():
        ceiling = kairouz_ceiling(line.law.fpr, epsilon=epsilon, delta=published_lines().delta)
        target = math.log10(ceiling - line.law.fpr)
        half = 0.05 * 10 ** math.floor(math.log10(shots))
        rows += [[-math.log10(shots - half), -1], [math.log10(shots + half), 1]]
        bounds += [-target, target]
    extremes = [
        optimize.linprog(objective, A_ub=rows, b_ub=bounds, bounds=[(None, None)] * 2).x @ np.abs(objective)
        for objective in ([1, 0], [-1, 0], [0, 1], [0, -1])
    ]
    np.testing.assert_allclose([*line.slope_shots_range, *line.intercept_range], extremes, atol=6e-5)
    centre = np.array([line.law.slope_shots, line.law.intercept])
    assert (np.array(rows) @ centre < bounds).all()


def test_published_slope_of_the_worst_record_is_that_of_the_maximum():
    published = published_lines()
    low, high = published.line("worst", 0.1).slope_shots_range
    assert low <= published.quantile_slopes["max"] <= high
    assert set(published.quantile_slopes) == {"0.99", "0.999", "0.9999", "max"}


def test_published_lines_are_known_at_two_classes_only():
    line = published_lines().line("average", 0.01)
    with pytest.raises(InputError, match="fitted at C = 2 only"):
        required_shots(line, epsilon=1.0, delta=1e-5, fpr=0.01, classes=10)
    with pytest.raises(InputError, match=r"fpr=0\.1 must be one"):
        required_shots(line, epsilon=1.0, delta=1e-5, fpr=0.1, classes=2)


def test_published_lines_that_do_not_exist_are_refused():
    with pytest.raises(InputError, match="record='mean'"):
        published_lines().line("mean", 0.1)
    with pytest.raises(
        InputError, match=r"fpr=0\.01 must be an FPR that was published for the worst record: 0\.1"
    ):
        published_lines().line("worst", 0.01)
