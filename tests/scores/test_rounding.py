"""Rounded and saturated probabilities: found, cut off at the rounding, and never taken for something else."""

import numpy as np
import pytest

from jaxmia._validate import InputError
from jaxmia.scores.reading import scores_from_arrays
from jaxmia.scores.rounding import rounding_of

RNG = np.random.default_rng(0)
LABELS = RNG.integers(4, size=60)
LOGITS = RNG.normal(scale=4, size=(8, 60, 4)) + 6 * np.eye(4)[LABELS]
MEMBER = RNG.random((8, 60)) < 0.5


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def read(values, kind="probabilities"):
    return scores_from_arrays({kind: values, "labels": LABELS, "member": MEMBER})


EXACT = read(LOGITS, "logits").scores.log_odds


@pytest.mark.parametrize(
    ("decimals", "dtype"), [*((k, np.float64) for k in (1, 2, 4, 6)), *((k, np.float32) for k in (1, 2, 4))]
)
@pytest.mark.parametrize("classes", [2, 4])
def test_decimals_are_found_and_log_odds_end_at_half_a_unit(decimals, dtype, classes):
    p = softmax(LOGITS)
    if classes == 2:
        true = np.take_along_axis(p, LABELS[None, :, None], axis=2)[..., 0].round(decimals)
        labels = LABELS.clip(0, 1)
        p = np.stack([np.where(labels, 1 - true, true), np.where(labels, true, 1 - true)], axis=2)
        found = scores_from_arrays({"probabilities": p.astype(dtype), "labels": labels, "member": MEMBER})
    else:
        found = read(p.round(decimals).astype(dtype))
    assert found.rounding.decimals == decimals
    limit = np.log(2 * 10.0**decimals - 1)
    assert np.abs(found.scores.log_odds).max() == pytest.approx(limit, rel=1e-6)
    assert f"rounded to {decimals} decimal" in found.notes[0]
    # Scores of other heads that go through it are those that rounding their probabilities gives.
    np.testing.assert_allclose(found.rounding.applied(EXACT), found.scores.log_odds, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wider", [np.float16, np.float32, np.float64])
def test_float16_is_found_in_any_format_and_moves_other_scores_alike(wider):
    found = read(softmax(LOGITS).astype(np.float16).astype(wider))
    assert found.rounding.bits == 11
    applied = found.rounding.applied(EXACT)
    assert applied.max() <= np.log(2.0**25)
    # The others' sum is rounded once instead of three times: a few of its units of 2^-24 where it is small.
    middle = np.abs(EXACT) < 8
    np.testing.assert_allclose(applied[middle], found.scores.log_odds[middle], atol=0.01)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_that_were_not_rounded_pass_as_they_are(dtype):
    for scale in (0.1, 1.0, 5.0):
        found = read(softmax(scale * LOGITS.astype(dtype)).astype(dtype))
        assert found.rounding is None
        assert found.notes == ()
    assert rounding_of(np.full((3, 4, 2), 0.5, dtype)) is None  # a head at zero


def test_saturated_float64_never_reaches_744():
    p = softmax(LOGITS * 200)
    assert (p == 1).any()
    found = read(np.where(p > 1 - 1e-9, 1.0, np.where(p < 1e-9, 0.0, p)))
    assert np.abs(found.scores.log_odds).max() < 38
    clipped = found.rounding.applied(np.array([-1000.0, 0.5, 1000.0]))
    np.testing.assert_allclose(clipped, [-found.rounding.limit, 0.5, found.rounding.limit])


@pytest.mark.parametrize("decimals", [2, 4, 15])
def test_probabilities_are_not_taken_for_logits(decimals):
    with pytest.raises(InputError, match="they are probabilities, so give them as 'probabilities'"):
        read(softmax(LOGITS).round(decimals), "logits")


def test_sums_that_rounding_does_not_explain_are_refused_without_bad_advice():
    p = softmax(LOGITS).round(3)
    p[0, 0, 0] += 0.004
    with pytest.raises(InputError, match="must sum to 1") as refused:
        read(p)
    assert "Unnormalised scores go under" not in str(refused.value)
