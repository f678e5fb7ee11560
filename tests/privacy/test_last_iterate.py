"""The last-iterate heuristic: three derivations, its limits, and its name."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from commands import jaxmia

from jaxmia._validate import InputError
from jaxmia.privacy.accounting import dp_epsilon
from jaxmia.privacy.group import group_step
from jaxmia.privacy.last_iterate import last_iterate_epsilon
from jaxmia.report.blocks.privacy import last_iterate_table

RECIPES = [(0.6, 0.1, 50), (1.0, 0.5, 10), (4.0, 0.2, 100), (0.8, 0.01, 1000)]


@pytest.mark.parametrize(("noise", "rate", "steps"), RECIPES)
def test_it_is_the_hockey_stick_of_both_laws_integrated(noise, rate, steps):
    """By the trapezoid rule on a fine grid of y."""
    delta = 1e-5
    epsilon = last_iterate_epsilon(noise_multiplier=noise, sampling_rate=rate, steps=steps, delta=delta)
    deviation = noise * np.sqrt(steps)
    y = np.linspace(-12 * deviation, steps + 12 * deviation, 400_001)
    q = scipy.stats.norm.pdf(y, 0, deviation)
    counts = np.arange(steps + 1)
    weights = scipy.stats.binom.pmf(counts, steps, rate)
    p = sum(
        w * scipy.stats.norm.pdf(y, j, deviation) for j, w in zip(counts, weights, strict=True) if w > 1e-18
    )
    sticks = [np.trapezoid(np.maximum(a - np.exp(epsilon) * b, 0), y) for a, b in ((p, q), (q, p))]
    assert max(sticks) == pytest.approx(delta, rel=1e-3)


@pytest.mark.parametrize(("noise", "rate", "steps"), [(1.5, 0.3, 8)])
def test_it_is_the_accountants_one_step_of_a_mixture(noise, rate, steps):
    """A person with T records, each in the batch with probability q, and noise sigma sqrt(T): the same pair of laws."""
    losses = group_step(noise * np.sqrt(steps), rate, steps, 0.01)
    found = last_iterate_epsilon(noise_multiplier=noise, sampling_rate=rate, steps=steps, delta=1e-5)
    assert found == pytest.approx(losses.get_epsilon_for_delta(1e-5), rel=1e-2)


@pytest.mark.parametrize("noise", [0.7, 5.0])
def test_on_full_batches_it_is_the_guarantee(noise):
    recipe = {"noise_multiplier": noise, "sampling_rate": 1.0, "steps": 20, "delta": 1e-6}
    assert last_iterate_epsilon(**recipe) == pytest.approx(dp_epsilon(**recipe), rel=1e-3)


@pytest.mark.parametrize(("noise", "rate", "steps"), RECIPES)
def test_it_lies_below_the_guarantee(noise, rate, steps):
    recipe = {"noise_multiplier": noise, "sampling_rate": rate, "steps": steps, "delta": 1e-5}
    assert 0 < last_iterate_epsilon(**recipe) < dp_epsilon(**recipe)


def test_bad_values_are_refused():
    for wrong in ({"noise_multiplier": 0.0}, {"sampling_rate": 0.0}, {"steps": 0}, {"delta": 1.0}):
        recipe = {"noise_multiplier": 1.0, "sampling_rate": 0.5, "steps": 3, "delta": 1e-5} | wrong
        with pytest.raises(InputError):
            last_iterate_epsilon(**recipe)
    assert last_iterate_epsilon(noise_multiplier=1e4, sampling_rate=0.1, steps=2, delta=0.1) == 0


def test_the_command_shows_it_as_an_estimate_for_poisson_batches_only(capsys):
    words = ["dp", "--noise-multiplier", "1", "--steps", "50", "--shots", "50", "--classes", "10"]
    code, out, _ = jaxmia(capsys, *words, "--batch", "50", columns=150)
    assert code == 0
    expected = last_iterate_epsilon(noise_multiplier=1.0, sampling_rate=0.1, steps=50, delta=1e-5)
    (line,) = (line for line in out.splitlines() if "last-iterate" in line)
    assert "no guarantee" in line
    assert f"{expected:.3f}"[:4] in line
    assert "last-iterate" not in jaxmia(capsys, *words, columns=150)[1]


def test_the_report_sets_it_between_audit_and_accountant():
    row = {
        "dataset": "demo", "recipe": "default", "classes": 10, "shots": 50, "epsilon": 2.0, "delta": 1e-5,
        "noise_multiplier": 1.0, "sampling_rate": 0.1, "steps": 50, "adjacency": "add_or_remove_one",
        "epsilon_lower_bound": 0.3, "attack": "lira", "seed": 0, "evaluation": "pooled", "fpr": 0.1,
    }  # fmt: skip
    full = row | {"sampling_rate": 1.0}
    (table,) = last_iterate_table(pd.DataFrame([row, full]))
    assert len(table.rows) == 1
    expected = last_iterate_epsilon(noise_multiplier=1.0, sampling_rate=0.1, steps=50, delta=1e-5)
    assert table.rows[0][2].value == pytest.approx(expected)
    assert "no guarantee" in table.columns[2]
    assert last_iterate_table(pd.DataFrame([full])) == []
    assert last_iterate_table(pd.DataFrame([row | {"adjacency": "replace_one"}])) == []
