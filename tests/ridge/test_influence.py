"""Scores with one membership flipped, against heads re-trained with that membership flipped."""

import dataclasses
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references_frontier as references
from ridge_heads import small_pool, trained

from jaxmia._validate import InputError
from jaxmia.data.membership import MembershipMasks, draw_membership
from jaxmia.ridge.influence import added, blocks_of_units, inverse_hessian, removed, without_own
from jaxmia.ridge.paired import paired_scores
from jaxmia.scores import Scores, split_diverged
from jaxmia.training.contrasts import basis
from jaxmia.training.scoring import score
from jaxmia.training.settings import TrainConfig

EXACT = TrainConfig("newton", tolerance=1e-8)


@pytest.fixture(scope="module")
def weighted():
    """Inputs, positive semidefinite weights and penalty of a small problem, in float32."""
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(20, 3, 3))
    inputs = np.concatenate([rng.normal(size=(20, 4)), np.ones((20, 1))], axis=1)
    weights = roots @ roots.transpose(0, 2, 1) / 9
    return inputs.astype(np.float32), weights.astype(np.float32), np.float32([0.5, 0.5, 0.5, 0.5, 0.0])


def test_blocks_are_those_of_the_dense_inverse(weighted):
    inputs, weights, penalty = weighted
    inputs_of_units = jnp.asarray(inputs)[:, None]
    inverse = inverse_hessian([jnp.asarray(weights)], [inputs_of_units], jnp.asarray(penalty))
    found = blocks_of_units(inverse, inputs_of_units)
    dense = np.linalg.inv(
        references.hessian(inputs.astype(float), weights.astype(float), penalty.astype(float))
    )
    for record in range(20):
        np.testing.assert_allclose(
            found[record], references.block(dense, inputs[record], 3), rtol=1e-4, atol=1e-5
        )


def test_without_own_is_the_inverse_without_the_record(weighted):
    inputs, weights, penalty = weighted
    inputs_of_units = jnp.asarray(inputs)[:, None]
    inverse = inverse_hessian([jnp.asarray(weights)], [inputs_of_units], jnp.asarray(penalty))
    found = without_own(blocks_of_units(inverse, inputs_of_units), jnp.asarray(weights))
    for record in (0, 7, 19):
        others = np.delete(np.arange(20), record)
        dense = np.linalg.inv(
            references.hessian(inputs[others].astype(float), weights[others], penalty.astype(float))
        )
        np.testing.assert_allclose(
            found[record], references.block(dense, inputs[record], 3), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("size", [0.1, 1.0, 10.0])
def test_adding_undoes_removing(size):
    # At any leverage up to tens of logits: the small problem is convex, and damped Newton steps find the one solution.
    rng, directions = np.random.default_rng(0), jnp.asarray(basis(4))
    root = rng.normal(size=(3, 3))
    block, inside = (
        jnp.asarray(size * root @ root.T, jnp.float32),
        jnp.asarray(rng.normal(size=3), jnp.float32),
    )
    outside = removed(inside, block, jnp.eye(4)[1:2], directions)
    np.testing.assert_allclose(added(outside, block, jnp.eye(4)[1:2], directions), inside, atol=1e-3)
    half = inside + 0.5 * (outside - inside)
    np.testing.assert_allclose(added(half, block, jnp.eye(4)[1:2], directions, 0.5), inside, atol=1e-3)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("ridge", "dim", "classes"), [(3.0, 5, 3), (3.0, 5, 2), (100.0, 5, 3), (100.0, 100, 3)]
)
def test_flips_are_what_training_without_or_with_the_record_gives(ridge, dim, classes):
    # The rest of the objective is taken as quadratic between the two heads. Where no other record's logits move by
    # more than t, its curvature there is within a factor exp(2 t) of the one used (a softmax's curvature changes by no
    # more), and so is the effect.
    pool = small_pool(dim=dim, classes=classes)
    masks = draw_membership(jax.random.key(1), pool.labels, num_models=2)
    ensemble = trained(pool, masks, ridge, EXACT)
    paired = paired_scores(ensemble, pool, ridge=ridge)
    member = np.repeat(np.asarray(masks.member[:1]), 60, axis=0)
    member[np.arange(60), np.arange(60)] ^= True
    flipped = MembershipMasks(jnp.asarray(member), jnp.arange(60, dtype=jnp.int32), "bernoulli", 0.5)
    again = trained(pool, flipped, ridge, EXACT)
    truth = np.diagonal(np.asarray(score(again, pool).log_odds))
    kernel, bias = (np.asarray(again.params["params"][name]) for name in ("kernel", "bias"))
    moved = np.abs(
        (kernel - np.asarray(ensemble.params["params"]["kernel"])[0]) @ pool.features.T
        + (bias - np.asarray(ensemble.params["params"]["bias"])[0])[:, :, None]
    ).max(axis=1)
    np.fill_diagonal(moved, 0)
    bound = np.expm1(2 * moved.max(axis=1)) * np.abs(truth - np.asarray(paired.log_odds)[0])
    rounding = 1e-8 * 60 * np.square(np.linalg.norm(pool.features, axis=1)).max() / ridge + 1e-5
    assert (np.abs(np.asarray(paired.flipped_log_odds)[0] - truth) <= bound + rounding).all()
    assert np.median(bound) < np.median(
        np.abs(truth - np.asarray(paired.log_odds)[0])
    )  # the bound says something


def test_heads_elsewhere_are_refused_with_the_error_they_would_bring():
    pool = small_pool()
    masks = draw_membership(jax.random.key(1), pool.labels, num_models=2)
    elsewhere = trained(pool, masks, 1.3)
    with pytest.raises(
        InputError, match=r"must be at most 0.0001: its head is not at the minimum"
    ) as refused:
        paired_scores(elsewhere, pool, ridge=1.0)
    model = int(re.search(r"of model (\d+)", str(refused.value))[1])
    stated = float(re.search(r"by ([\d.e-]+) on average", str(refused.value))[1])
    there = np.asarray(score(trained(pool, masks, 1.0), pool).log_odds)[model]
    off = np.abs(there - np.asarray(score(elsewhere, pool).log_odds)[model]).mean()
    assert stated == pytest.approx(off, rel=0.2)  # one Newton step of a change of a quarter in the ridge


def test_bad_input_is_refused():
    pool = small_pool()
    masks = draw_membership(jax.random.key(1), pool.labels, num_models=2)
    ensemble = trained(pool, masks, 1.0)
    for options, message in (
        ({"ridge": 0.0}, r"ridge=0.0 must be a finite number above 0"),
        ({"ridge": 1.0, "memory": 100}, r"memory='9.31e-08 GiB' must be at least .* the Hessian has 12 rows"),
    ):
        with pytest.raises(InputError, match=message):
            paired_scores(ensemble, pool, **options)


def test_flipped_scores_of_diverged_models_go_and_priors_stay():
    log_odds = np.ones((4, 3))
    log_odds[2, 1] = np.nan
    scores = Scores(
        log_odds, log_odds > 0, flipped_log_odds=np.arange(12.0).reshape(4, 3), prior_mean=np.ones((2, 3))
    )
    kept, diverged = split_diverged(dataclasses.replace(scores, prior_variance=np.ones((2, 3))))
    assert diverged.tolist() == [2]
    assert np.asarray(kept.flipped_log_odds)[:, 0].tolist() == [0, 3, 9]
    assert kept.prior_mean.shape == kept.prior_variance.shape == (2, 3)


SOLVED_IN_BLOCKS = """
import jax, jax.numpy as jnp, numpy as np
from jaxmia.ridge.influence import _BATCH, without_own
factors = jax.random.normal(jax.random.key(0), (_BATCH + 5, 4, 4))
blocks = factors @ factors.transpose(0, 2, 1) / 40
weights = blocks / 2
found = jax.jit(without_own)(blocks, weights)
blocks, weights = np.asarray(blocks, np.float64), np.asarray(weights, np.float64)
np.testing.assert_allclose(found, blocks @ np.linalg.inv(np.eye(4) - weights @ blocks), rtol=1e-2, atol=1e-5)
"""


def test_more_records_than_are_solved_at_once_end():
    """With two XLA threads, blocks and the remaining records used to wait for each other for ever."""
    subprocess.run([sys.executable, "-c", SOLVED_IN_BLOCKS], check=True, timeout=120)
