"""Vulnerability without shadows, against its own equations written out, and against shadows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import references_frontier as references
import scipy.stats
from ridge_heads import NEWTON, small_pool
from typer.testing import CliRunner

from jaxmia import attacks
from jaxmia._validate import InputError
from jaxmia.cli.app import app
from jaxmia.data.feature_set import demo_features
from jaxmia.data.membership import draw_membership
from jaxmia.data.pool import candidate_pool
from jaxmia.ridge import cavity
from jaxmia.ridge.expected import AnalyticVulnerability, analytic_vulnerability
from jaxmia.ridge.influence import bytes_held
from jaxmia.ridge.triage import ridge_tails, triage_features
from jaxmia.ridge.units import Group
from jaxmia.scores import Scores
from jaxmia.training.contrasts import basis
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.scoring import score
from jaxmia.training.settings import Hyperparams
from jaxmia.vulnerability.curves import per_example_vulnerability


def literal(pool, ridge, rate):
    """Mean and variance in, mean and variance out of every record: the module's equations, by fixed-point iteration."""
    inputs = np.concatenate([pool.features, np.ones((len(pool.labels), 1))], axis=1).astype(float)
    directions, labels = basis(pool.num_classes).astype(float), pool.labels
    number, rest, size = len(labels), pool.num_classes - 1, inputs.shape[1]
    penalty, head = np.append(np.full(size - 1, ridge), 0.0), np.zeros((rest, size))
    blocks, inside = np.zeros((number, rest, rest)), np.zeros((number, rest))
    for _ in range(40):
        for i in range(number):  # u_in + (1 - r) B g(u_in) = V x
            for _ in range(30):
                gap = inside[i] - head @ inputs[i]
                gap += (1 - rate) * blocks[i] @ references.errors(inside[i], labels[i], directions)
                slope = np.eye(rest) + (1 - rate) * blocks[i] @ references.curvature(inside[i], directions)
                inside[i] -= np.linalg.solve(slope, gap)
        own = np.stack([references.errors(u, y, directions) for u, y in zip(inside, labels, strict=True)])
        curvatures = [references.curvature(u, directions) for u in inside]
        weights = np.stack(
            [rate * c @ np.linalg.inv(np.eye(rest) + b @ c) for b, c in zip(blocks, curvatures, strict=True)]
        )
        dense = references.hessian(inputs, weights, penalty)
        inverse = np.linalg.inv(dense)
        head -= (inverse @ (rate * own.T @ inputs + penalty * head).ravel()).reshape(rest, size)
        without = [
            np.linalg.inv(dense - np.kron(w, np.outer(x, x))) for w, x in zip(weights, inputs, strict=True)
        ]
        blocks = np.stack([references.block(w, x, rest) for w, x in zip(without, inputs, strict=True)])
    found = []
    for i in range(number):
        outside = inside[i] + blocks[i] @ own[i]
        wide, covariance = np.kron(np.eye(rest), inputs[i][:, None]), np.zeros((rest, rest))
        for j in set(range(number)) - {i}:
            both = np.linalg.inv(
                dense - sum(np.kron(weights[k], np.outer(inputs[k], inputs[k])) for k in (i, j))
            )
            move = wide.T @ both @ np.kron(own[j], inputs[j])
            covariance += rate * (1 - rate) * np.outer(move, move)

        def slope(contrasts, label=labels[i]):
            steps = 1e-5 * np.eye(rest)
            up, down = (
                [references.log_odds(contrasts + sign * step, label, directions) for step in steps]
                for sign in (1, -1)
            )
            return (np.array(up) - down) / 2e-5

        to_inside = np.linalg.inv(np.eye(rest) + blocks[i] @ references.curvature(inside[i], directions))
        slopes = to_inside.T @ slope(inside[i]), slope(outside)
        means = [references.log_odds(u, labels[i], directions) for u in (inside[i], outside)]
        found.append([*means, *(s @ covariance @ s for s in slopes)])
    return np.array(found).T


@pytest.mark.thorough
def test_solves_its_equations():
    # The literal variance removes records i and j from the Hessian together; ours one at a time, which differs by the
    # squared overlap of two of 60 records: leverage is at most a few tenths here.
    pool = small_pool(dim=4, scale=0.5)
    found = analytic_vulnerability(pool, ridge=2.0, inclusion_rate=0.4)
    mean_in, mean_out, variance_in, variance_out = literal(pool, 2.0, 0.4)
    np.testing.assert_allclose(found.mean_in, mean_in, atol=5e-3)
    np.testing.assert_allclose(found.mean_out, mean_out, atol=5e-3)
    np.testing.assert_allclose(found.std_in**2, variance_in, rtol=0.05)
    np.testing.assert_allclose(found.std_out**2, variance_out, rtol=0.05)


@pytest.fixture(scope="module")
def against_shadows():
    """A pool of real features, its analytic vulnerability at ridge 1, and the scores of 1 024 shadows."""
    pool = candidate_pool(demo_features(), classes=4, shots=16, key=jax.random.key(0), test_per_class=0).data
    masks = draw_membership(jax.random.key(1), pool.labels, num_models=1024)
    hyper = Hyperparams(0.1, weight_decay=None, ridge=1.0)
    shadows = train_ensemble(jax.random.key(2), pool, masks, hyper, NEWTON)
    return pool, analytic_vulnerability(pool, ridge=1.0), score(shadows, pool)


@pytest.mark.thorough
def test_agrees_with_shadows_on_real_features(against_shadows):
    # What the docs promise at ridge 1: rank correlation 0.98 and mean TPR within 5%, beyond the shadows' own error.
    pool, found, scores = against_shadows
    curve = per_example_vulnerability(scores, 0.01)
    noise = np.mean(curve.separation_error**2)
    reliability = 1 - noise / curve.separation.var()
    rank = scipy.stats.spearmanr(found.separation, curve.separation)[0]
    assert (
        rank / np.sqrt(reliability)
        > 0.98 - 3 / np.sqrt(len(found.separation)) * noise / curve.separation.var()
    )
    tails = ridge_tails(pool, found, 0.01, jax.random.key(3))
    for fpr in (0.1, 0.01):
        truth = per_example_vulnerability(scores, fpr)
        # Errors of the records' TPR are treated as fully correlated, which bounds the error of the mean.
        assert (
            abs(found.tpr(fpr, tails).mean() / truth.tpr.mean() - 1)
            < 0.05 + truth.tpr_error.mean() / truth.tpr.mean()
        )


def test_tails_of_gaussians_give_the_closed_form():
    rng = np.random.default_rng(0)
    half = np.array([0.5, 1.0, 2.0])
    found = AnalyticVulnerability(
        *(1.0, 0.5, half, -half, np.full(3, 0.5), np.full(3, 2.0), half, half, 0.1, ())
    )
    tails = tuple(np.sort(rng.normal(size=1_000_000)) for _ in range(2))
    for fpr in (0.1, 0.01):
        expected = scipy.stats.norm.sf((scipy.stats.norm.isf(fpr) * 2.0 - 2 * half) / 0.5)
        # A quantile of a million draws is off by sqrt(fpr / 10^6) / density, here at most 0.004, times 4 deviations.
        np.testing.assert_allclose(found.tpr(fpr, tails), expected, atol=4 * 4 * 0.004 * 0.4 + 4 * 0.0005)


@pytest.mark.thorough
def test_two_classes_agree_with_shadows_of_the_same_ridge():
    """Half or twice the penalty moves the mean separation by a fifth and more."""
    pool = candidate_pool(demo_features(), classes=2, shots=16, key=jax.random.key(0), test_per_class=0).data
    masks = draw_membership(jax.random.key(1), pool.labels, num_models=512)
    shadows = train_ensemble(
        jax.random.key(2), pool, masks, Hyperparams(0.1, weight_decay=None, ridge=1.0), NEWTON
    )
    found = analytic_vulnerability(pool, ridge=1.0).separation
    halved = analytic_vulnerability(pool, ridge=0.5).separation
    curve = per_example_vulnerability(score(shadows, pool), 0.01)
    bound = 0.03 + 3 * np.sqrt(np.mean(curve.separation_error**2) / len(found))
    assert abs(found.mean() / curve.separation.mean() - 1) < bound
    assert abs(halved.mean() / curve.separation.mean() - 1) > 2 * bound


def test_attack_without_shadows_finds_what_a_thousand_find(against_shadows):
    _, found, scores = against_shadows
    result = attacks.analytic(dataclasses.replace(scores, **found.prior()))
    expected = scipy.stats.norm.logpdf(scores.log_odds, found.mean_in, found.std_in)
    expected -= scipy.stats.norm.logpdf(scores.log_odds, found.mean_out, found.std_out)
    np.testing.assert_allclose(result.statistic, expected, rtol=1e-6, atol=1e-6)
    z = attacks.analytic(dataclasses.replace(scores, **found.prior()), calibrated=True).statistic
    direction = np.sign(found.mean_in - found.mean_out)
    np.testing.assert_allclose(z, direction * (scores.log_odds - found.mean_out) / found.std_out, rtol=1e-5)
    areas = []
    for each in (result, attacks.lira(scores)):
        ranks = scipy.stats.rankdata(each.statistic)
        inside = each.member.ravel()
        areas.append((ranks[inside].mean() - (inside.sum() + 1) / 2) / np.count_nonzero(~inside))
    assert (
        areas[0] > areas[1] - 0.005
    )  # the standard error of an AUC of 1 024 targets' 128 pairs each is below 0.002


@pytest.mark.thorough
def test_what_was_never_compared_with_shadows_is_said():
    pool = small_pool()
    inside, outside = (analytic_vulnerability(pool, ridge=ridge) for ridge in (1.0, 1e-4))
    assert inside.fluctuation < 0.9 < outside.fluctuation
    assert inside.warnings == ()
    assert any("compared with shadows up to 0.9 only" in line for line in outside.warnings)
    few = analytic_vulnerability(small_pool(examples=24), ridge=1.0)  # 3 classes of 8: 3 / 2**8 of the heads
    assert any("A share of 0.012 of all heads has no member of some class" in line for line in few.warnings)


def test_bad_input_is_refused():
    pool = small_pool()
    for options, message in (
        ({"ridge": -1.0}, r"ridge=-1.0 must be a finite number above 0"),
        ({"ridge": 1.0, "inclusion_rate": 1.0}, r"inclusion_rate=1.0 must lie strictly between 0 and 1"),
        ({"ridge": 1.0, "memory": 10}, r"memory=.* must be at least .* the Hessian has 12 rows"),
    ):
        with pytest.raises(InputError, match=message):
            analytic_vulnerability(pool, **options)
    with pytest.raises(InputError, match=r"prior_mean=None must be given"):
        attacks.analytic(Scores(np.zeros((3, 2)), np.eye(3, 2) > 0))


def test_triage_ranks_and_writes(tmp_path):
    out = tmp_path / "records.csv"
    result = CliRunner().invoke(
        app, ["triage", "demo", "--classes", "3", "--shots", "6", "--top", "2", "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert "The 2 most vulnerable records" in result.output
    assert "36 records" in result.output
    table = pd.read_csv(out)
    assert table["separation"].is_monotonic_decreasing
    for fpr in (0.1, 0.01, 0.001):  # higher or lower than with one Gaussian deviation, but in the same order
        assert table[f"tpr_{fpr:g}"].between(0, 1).all()
        assert scipy.stats.spearmanr(table[f"tpr_{fpr:g}"], table["separation"])[0] > 0.9
    data = demo_features()
    assert (np.array(data.class_names)[data.labels[table["id"]]] == table["class_name"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 3}, "classes and shots must be given together"),
        ({"fpr": [0.0]}, "fpr=0.0 must lie strictly between 0 and 1"),
        ({"fpr": []}, "hold at least one FPR"),
        ({"out": "records.txt"}, "end in one of .csv, .parquet"),
        ({"out": "nowhere/records.csv"}, "be a file in a folder that exists"),
    ],
)
def test_triage_refuses_before_it_computes(options, message):
    with pytest.raises(InputError, match=message):
        triage_features("demo", **options)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("records", "classes", "dim", "places"),
    [(500, 3, 20, 1), (80, 10, 40, 1), (3000, 8, 3, 1), (1000, 3, 20, 4)],
)
def test_the_memory_that_is_counted_holds_what_xla_allocates(records, classes, dim, places):
    def zeros(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    rest, size, units = classes - 1, dim + 1, records // places
    group = Group(
        zeros(units, places, size), zeros(units, places, classes), jax.ShapeDtypeStruct((), jnp.int32)
    )
    blocks = (zeros(units, places * rest, places * rest),)
    average, inverse = cavity.Average(zeros(rest, size), blocks), zeros(rest, size, rest, size)
    point = cavity.Point(average, inverse, zeros())
    counted = bytes_held(rest, size, [(units, places)])
    held = []
    for lowered in (
        cavity.iterated.lower(average, (group,), zeros(), zeros()),
        cavity.moments.lower(point, (group,), zeros()),
    ):
        found = lowered.compile().memory_analysis()
        held.append(found.temp_size_in_bytes + found.output_size_in_bytes + found.argument_size_in_bytes)
    assert counted / 4 < max(held) < counted  # of the largest step
