"""Differential privacy of a DP-SGD recipe: epsilon, noise calibration and the ceiling on any attack.

The mechanism: at each of T steps, every member joins the batch with probability q (the sampling rate), independently
of all else; the gradients of the batch, each clipped to norm C (the clipping norm), are summed; Gaussian noise of
standard deviation noise_multiplier · C is added to every coordinate. q = 1 is the full batch.

(epsilon, delta)-DP: P(M(D) in S) <= e^epsilon P(M(D') in S) + delta for all S and all adjacent D, D'. Adjacent means

- "add_or_remove_one": one has a record more than the other, as in the "bernoulli" membership design;
- "replace_one": they differ in one record, as in "fixed_size". The record may pull the sum from -C to C.

An epsilon without its adjacency says nothing: full-batch epsilons of the two are those of mu and of 2 mu.

Computed from the privacy loss distribution (dp-accounting; Doroshenko et al. 2022, arXiv 2207.04380), discretised so
that epsilons and ceilings err upwards, and composed numerically. What they bound is the mechanism on
paper: JAX's generators are not cryptographic and its Gaussians are floating-point ones, so that training simulated with
them is evidence about DP-SGD, and no way to release a private model.
"""

from __future__ import annotations

import functools
import math
from typing import Any, cast

import numpy as np
import scipy.optimize
import scipy.stats

from jaxmia._validate import check, check_at_least, check_choice
from jaxmia.privacy.tradeoff import kairouz_ceiling

ADD_OR_REMOVE_ONE = "add_or_remove_one"
REPLACE_ONE = "replace_one"
# Adjacency: how far one record moves the sum of clipped gradients, in clipping norms.
SENSITIVITY = {ADD_OR_REMOVE_ONE: 1.0, REPLACE_ONE: 2.0}
ADJACENCY_OF_DESIGN = {"bernoulli": ADD_OR_REMOVE_ONE, "fixed_size": REPLACE_ONE}

MIN_DELTA = 1e-10  # below, the rounding of the numerical composition shows
NOISE_TOLERANCE = 1e-4  # relative, of a calibrated noise multiplier
# The grid of privacy losses. With 50 points to the standard deviation of a step's loss, epsilon is less than 1e-4 above
# its limit, relatively; finer grids gain nothing, as the rounding of many compositions grows with their points. A step
# gets at most 20 000 points, for speed, which coarsens the grid where rare losses are large.
POINTS_PER_DEVIATION = 50
POINTS_PER_STEP = 20_000
ALMOST_ONE = float(np.nextafter(1.0, 0.0))  # the delta of no privacy at all; a delta is less than 1
MAX_EPSILON = 30.0  # of the trade-off curve: e^-30 is 1e-13, far below any FPR that scores could resolve


def adjacency_for(design: str) -> str:
    """Return the adjacency under which a membership design's attacks may be compared with an epsilon.

    A model with the candidate and one without it are, over the draw of the others, adjacent in that sense.

    Args:
        design: "bernoulli" or "fixed_size".

    Raises:
        InputError: for an unknown design.
    """
    check_choice("design", design, ADJACENCY_OF_DESIGN)
    return ADJACENCY_OF_DESIGN[design]


def sampling_rate_of(batch: str | int, *, shots: int | None = None, classes: int | None = None) -> float:
    """Return q of a full batch, or of Poisson-sampled batches of an expected size among shots · classes members.

    The rate is that of the recipe, never of a model's realised number of members: epsilon must not differ by model.

    Args:
        batch: "full", or the expected number of members in a batch.
        shots: S, needed by an expected size.
        classes: C, needed by an expected size.

    Raises:
        InputError: for a batch that is neither, without shots or classes, or larger than shots · classes.
    """
    if batch == "full":
        return 1.0
    check(str(batch).isdecimal() and int(batch) > 0, "batch", batch, "be 'full' or a positive integer")
    for name, number in (("shots", shots), ("classes", classes)):
        check(number is not None, name, number, f"be given with batch={batch}")
        check_at_least(name, number, 1)
    members = cast(int, shots) * cast(int, classes)
    check(int(batch) <= members, "batch", batch, f"be at most shots x classes = {members}")
    return int(batch) / members


def delta_notes(delta: float, members: int) -> list[str]:
    """A line if delta is above 1 / n: publishing one of n members whole satisfies (0, 1 / n)-differential privacy."""
    if delta * members <= 1:
        return []
    return [
        f"delta={delta:g} is above 1/n = 1/{members} = {1 / members:.2g}, n the members: publishing one of them at"
        f" random in full is within it. Take a delta well below, as {0.1 / members:.1g}."
    ]


def dp_epsilon(
    *,
    noise_multiplier: float,
    sampling_rate: float,
    steps: int,
    delta: float,
    adjacency: str = ADD_OR_REMOVE_ONE,
) -> float:
    """Return the epsilon of a recipe at a delta: an upper bound, as a rule within 0.01% of the exact value.

    Args:
        noise_multiplier: standard deviation of the noise over the clipping norm; 0 gives inf.
        sampling_rate: q, the probability that a member joins the batch of a step.
        steps: T.
        delta: of the guarantee.
        adjacency: "add_or_remove_one" or "replace_one".

    Raises:
        InputError: noise negative or infinite, q outside (0, 1], T below 1, delta outside [1e-10, 1), or an unknown
            adjacency.
    """
    _check_recipe(noise_multiplier, sampling_rate, steps, adjacency)
    check_delta(delta)
    if noise_multiplier == 0:
        return math.inf
    return _epsilon(float(noise_multiplier), float(sampling_rate), int(steps), float(delta), adjacency)


def noise_multiplier_for(
    *,
    epsilon: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    adjacency: str = ADD_OR_REMOVE_ONE,
) -> float:
    """Return the least noise multiplier, to 0.01%, whose dp_epsilon does not exceed a target epsilon.

    Rounded towards more privacy. Searched once per recipe and process.

    Args:
        epsilon: target, inf for no noise.
        delta: of the guarantee.
        sampling_rate: q, the probability that a member joins the batch of a step.
        steps: T.
        adjacency: "add_or_remove_one" or "replace_one".

    Raises:
        InputError: epsilon not positive, q outside (0, 1], T below 1, delta outside [1e-10, 1), or an unknown
            adjacency.
    """
    check(epsilon > 0, "epsilon", epsilon, "be positive, or inf for no noise")
    _check_recipe(0.0, sampling_rate, steps, adjacency)
    check_delta(delta)
    if epsilon == math.inf:
        return 0.0
    return _calibrated_noise(float(epsilon), float(delta), float(sampling_rate), int(steps), adjacency)


def tpr_ceiling(
    fpr: np.ndarray | float,
    *,
    noise_multiplier: float,
    sampling_rate: float,
    steps: int,
    adjacency: str = ADD_OR_REMOVE_ONE,
) -> np.ndarray:
    """Return the largest TPR at an FPR that any attack on one record can have, from the full trade-off curve.

    It is the least kairouz_ceiling over all (epsilon, delta(epsilon)) of the recipe with epsilon >= 0, and so covers
    both directions of the adjacency (Dong, Roth and Su 2022, arXiv 1905.02383, Proposition 2.12).

    Args:
        fpr: fractions, any shape.
        noise_multiplier: standard deviation of the noise over the clipping norm; 0 allows a TPR of 1.
        sampling_rate: q, the probability that a member joins the batch of a step.
        steps: T.
        adjacency: "add_or_remove_one" or "replace_one".

    Returns:
        float64 of fpr's shape, from fpr to 1.

    Raises:
        InputError: fpr outside (0, 1), or as dp_epsilon.
    """
    _check_recipe(noise_multiplier, sampling_rate, steps, adjacency)
    fprs = np.asarray(fpr, np.float64)
    epsilons, deltas = _privacy_profile(float(noise_multiplier), float(sampling_rate), int(steps), adjacency)
    ceilings = [kairouz_ceiling(one, epsilon=epsilons, delta=deltas).min() for one in fprs.ravel()]
    return np.reshape(ceilings, fprs.shape)


def gdp_mu(*, noise_multiplier: float, steps: int, adjacency: str = ADD_OR_REMOVE_ONE) -> float:
    """Return mu of the full-batch recipe, which is exactly mu-Gaussian DP: sensitivity · sqrt(T) / noise_multiplier.

    Its ceiling is gaussian_ceiling(fpr, mu) (Dong, Roth and Su 2022, arXiv 1905.02383, Corollary 3.3). The sensitivity
    is 1 for "add_or_remove_one" and 2 for "replace_one".

    Raises:
        InputError: noise not positive and finite, T below 1, or an unknown adjacency.
    """
    check(noise_multiplier > 0, "noise_multiplier", noise_multiplier, "be positive")
    _check_recipe(noise_multiplier, 1.0, steps, adjacency)
    return SENSITIVITY[adjacency] * math.sqrt(steps) / noise_multiplier


def individual_mu(
    sum_of_squares: np.ndarray,
    *,
    noise_multiplier: float,
    clipping_norm: float,
    steps: int,
    adjacency: str = ADD_OR_REMOVE_ONE,
) -> np.ndarray:
    """Return each record's own mu along a full-batch run: mu_i² = sum_t ||clip(g_i,t)||² / (noise_multiplier · C)².

    An odometer of the realised run (Feldman and Zrnic 2021, arXiv 2008.11193): it depends on the data, is no guarantee
    without a filter that stops records at a bound fixed beforehand, and must not be published per record.

    Args:
        sum_of_squares: sum over the steps of squared clipped gradient norms, any shape.
        noise_multiplier: standard deviation of the noise over the clipping norm.
        clipping_norm: C.
        steps: T, to check the sums: none exceeds T C².
        adjacency: "add_or_remove_one"; the record that replaces another has a norm of its own, which is not known.

    Returns:
        float64 of sum_of_squares' shape, at most gdp_mu.

    Raises:
        InputError: a sum outside [0, T C²], C not positive, "replace_one", or as gdp_mu.
    """
    largest_mu = gdp_mu(noise_multiplier=noise_multiplier, steps=steps, adjacency=adjacency)
    check(adjacency == ADD_OR_REMOVE_ONE, "adjacency", adjacency, f"be {ADD_OR_REMOVE_ONE!r}")
    check(0 < clipping_norm < math.inf, "clipping_norm", clipping_norm, "be a positive number")
    share = np.asarray(sum_of_squares, np.float64) / (steps * clipping_norm**2)
    rounding = 1e-5  # of sums in float32
    check(
        bool(np.all((share >= 0) & (share <= 1 + rounding))),
        "sum_of_squares / (steps * clipping_norm**2)",
        share,
        "lie between 0 and 1",
    )
    return largest_mu * np.sqrt(np.minimum(share, 1))


def accountant_of(*, noise_multiplier: float, sampling_rate: float, steps: int, adjacency: str) -> str:
    """What the epsilon of a recipe is computed by, and how finely losses of a step are discretised, in words."""
    if noise_multiplier == 0:
        return "none: there is no noise"
    noise, composed = _composed(noise_multiplier, sampling_rate, steps)
    interval = _loss_interval(noise, sampling_rate, SENSITIVITY[adjacency])
    counted = "a step" if composed > 1 or steps == 1 else f"all {steps} steps as one"
    return f"PLD (dp-accounting), pessimistic; losses of {counted} on a grid of {interval:.2g}"


def check_noise(noise_multiplier: float) -> None:
    """Raise InputError unless it is a finite number of at least 0."""
    rule = "be a finite number of at least 0"
    check(0 <= noise_multiplier < math.inf, "noise_multiplier", noise_multiplier, rule)


def _check_sampling_rate(sampling_rate: float) -> None:
    check(0 < sampling_rate <= 1, "sampling_rate", sampling_rate, "lie in (0, 1]")


def check_delta(delta: float) -> None:
    """Raise InputError for no privacy at all, and for deltas too small to compute with."""
    check(MIN_DELTA <= delta < 1, "delta", delta, f"lie in [{MIN_DELTA:g}, 1)")


def _check_recipe(noise_multiplier: float, sampling_rate: float, steps: int, adjacency: str) -> None:
    check_noise(noise_multiplier)
    _check_sampling_rate(sampling_rate)
    check_at_least("steps", steps, 1)
    check_choice("adjacency", adjacency, SENSITIVITY)


@functools.lru_cache(maxsize=16)  # a distribution takes up to some megabytes
def _privacy_loss(noise: float, sampling_rate: float, steps: int, adjacency: str) -> Any:
    """Return the distribution of the privacy loss of all steps together."""
    # Imported here: it takes a second, which commands without privacy need not wait.
    import dp_accounting
    from dp_accounting.pld import privacy_loss_distribution

    noise, steps = _composed(noise, sampling_rate, steps)
    one_step = privacy_loss_distribution.from_gaussian_mechanism(
        noise,
        sampling_prob=sampling_rate,
        value_discretization_interval=_loss_interval(noise, sampling_rate, SENSITIVITY[adjacency]),
        neighboring_relation=dp_accounting.NeighboringRelation[adjacency.upper()],
    )
    return one_step.self_compose(steps) if steps > 1 else one_step


def _composed(noise: float, sampling_rate: float, steps: int) -> tuple[float, int]:
    """Return noise and steps that are left to compose: on full batches T Gaussian mechanisms are one of less noise."""
    return (noise / math.sqrt(steps), 1) if sampling_rate == 1 else (noise, steps)


def _loss_interval(noise: float, sampling_rate: float, sensitivity: float) -> float:
    """Return the spacing of the grid of losses of one step, in nats."""
    # chi² of a sampled Gaussian against the unsampled, q² (e^(1/noise²) - 1), is the variance of small losses; a step's
    # loss is no more spread than that of the full batch, 1/noise. The cut keeps the exponential finite.
    chi = sampling_rate * math.sqrt(math.expm1(min(noise**-2, 50.0)))
    deviation = sensitivity * min(1 / noise, chi)
    # The largest loss, log(1 + q e^loss of the full batch), noise beyond 10 deviations cut: at small rates it is far
    # above the deviation, and a grid as fine as that would take millions of points, hundreds of millions when composed.
    largest = float(np.logaddexp(0.0, math.log(sampling_rate) + (10 + 0.5 / noise) / noise))
    return max(deviation / POINTS_PER_DEVIATION, largest / POINTS_PER_STEP)


@functools.lru_cache(maxsize=256)
def _privacy_profile(
    noise: float, sampling_rate: float, steps: int, adjacency: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return points (epsilon, delta) of a recipe, on a scale that is fine wherever the losses are."""
    if noise == 0:
        return np.zeros(1), np.array([ALMOST_ONE])
    losses = _privacy_loss(noise, sampling_rate, steps, adjacency)
    top = min(losses.get_epsilon_for_delta(MIN_DELTA), MAX_EPSILON)
    if top == 0:  # the losses are below the resolution of delta
        epsilons = np.zeros(1)
    else:
        epsilons = np.unique(np.append(np.linspace(0, top, 4000), np.geomspace(1e-6 * top, top, 4000)))
    deltas = losses.get_delta_for_epsilon(epsilons)
    return epsilons, np.clip(deltas, 0.0, ALMOST_ONE)  # rounding may leave [0, 1)


@functools.lru_cache(maxsize=4096)
def _epsilon(noise: float, sampling_rate: float, steps: int, delta: float, adjacency: str) -> float:
    return float(_privacy_loss(noise, sampling_rate, steps, adjacency).get_epsilon_for_delta(delta))


@functools.lru_cache(maxsize=4096)
def _calibrated_noise(
    epsilon: float, delta: float, sampling_rate: float, steps: int, adjacency: str
) -> float:
    def excess(log_noise: float) -> float:
        return _epsilon(math.exp(log_noise), sampling_rate, steps, delta, adjacency) - epsilon

    low = high = math.log(_guessed_noise(epsilon, delta, sampling_rate, steps, adjacency))
    stride = 0.05
    while excess(high) > 0:
        low, high, stride = high, high + stride, 2 * stride
    while excess(low) <= 0:
        low, high, stride = low - stride, low, 2 * stride
    log_noise = scipy.optimize.brentq(excess, low, high, xtol=NOISE_TOLERANCE / 2)
    while excess(log_noise) > 0:
        log_noise += NOISE_TOLERANCE / 2
    return math.exp(log_noise)


def _guessed_noise(epsilon: float, delta: float, sampling_rate: float, steps: int, adjacency: str) -> float:
    """Return about the noise for a target: the mu of a Gaussian mechanism there, and the central limit of the steps."""
    quantile = max(scipy.stats.norm.isf(delta), 0.0)
    mu = math.sqrt(quantile**2 + 2 * epsilon) - quantile  # epsilon is about mu²/2 + quantile mu
    per_step = mu / (SENSITIVITY[adjacency] * math.sqrt(steps))
    return max(1 / math.sqrt(math.log1p((per_step / sampling_rate) ** 2)), sampling_rate / per_step / 2)
