"""What a recipe that clips and samples records guarantees to a person with several: group privacy.

A person with up to k records moves the sum of clipped gradients by up to k clipping norms. On full batches that is a
Gaussian mechanism of k times the sensitivity, exactly: k mu instead of mu. With Poisson sampling of records the number
J of the person's records in a batch is binomial, and telling N(0, sigma^2) from a mixture of N(J, sigma^2) is the worst
case at every step (Ganesh 2024, arXiv 2401.10294): tight, and far below what k guarantees in a row would give.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.special
import scipy.stats


def group_step(noise: float, sampling_rate: float, records: int, interval: float) -> Any:
    """Return the distribution of one step's privacy loss for a person with as many records, sampled one by one.

    Args:
        noise: noise multiplier.
        sampling_rate: q, below 1.
        records: k.
        interval: spacing of the grid of losses.
    """
    from dp_accounting.pld import privacy_loss_distribution  # here because it takes a second

    return privacy_loss_distribution.from_mixture_gaussian_mechanism(
        noise,
        sensitivities=np.arange(records + 1.0),
        sampling_probs=_in_batch(sampling_rate, records),
        value_discretization_interval=interval,
    )


def group_spread(noise: float, sampling_rate: float, records: int) -> tuple[float, float]:
    """Return about the standard deviation of such a step's loss, and its largest value, by which grids are chosen.

    The variance of small losses is chi^2 of the mixture, E exp(J J' / noise^2) - 1 over two independent counts. It is
    at most that of the full batch, (k / noise)^2. The largest loss is that of a draw 10 deviations above k records.
    """
    counts, weights = np.arange(records + 1.0), np.log(_in_batch(sampling_rate, records))
    both = np.add.outer(weights, weights) + np.outer(counts, counts) / noise**2
    chi = math.sqrt(math.expm1(min(float(scipy.special.logsumexp(both)), 50.0)))
    drawn = records + 10 * noise
    largest = float(scipy.special.logsumexp(weights + (counts * drawn - counts**2 / 2) / noise**2))
    return min(records / noise, chi), largest


def _in_batch(sampling_rate: float, records: int) -> np.ndarray:
    """Return the probabilities of 0 .. k records in a batch, none of them 0."""
    found = scipy.stats.binom.pmf(np.arange(records + 1), records, sampling_rate)
    return np.asarray(np.maximum(found, np.finfo(float).tiny))
