"""Differential privacy of a DP-SGD recipe: epsilon, noise calibration and the ceiling on any attack.

The mechanism has T steps. At each step every member joins the batch independently with probability q (the sampling
rate). The gradients of the batch are clipped to norm C (the clipping norm) and summed, and Gaussian noise of standard
deviation noise_multiplier · C is added to every coordinate. q = 1 is the full batch.

(epsilon, delta)-DP: P(M(D) in S) <= e^epsilon P(M(D') in S) + delta for all S and all adjacent D, D'. The two
adjacencies are

- "add_or_remove_one": D or D' has one record more, as in the "bernoulli" membership design;
- "replace_one": D and D' differ in one record, as in "fixed_size". This record may move the sum from -C to C.

Where training clips and samples by person, "one" is a person and a member is one too. Where it does so by record, a
person with k records has what group privacy leaves (records_per_person).

State the adjacency with every epsilon: on full batches the mechanism is mu-Gaussian DP under the first and 2
mu-Gaussian DP under the second.

Epsilons and ceilings come from the privacy loss distribution (dp-accounting; Doroshenko et al. 2022, arXiv 2207.04380),
discretised so that they err upwards, and composed numerically. They bound the mathematical mechanism. JAX's generators
are not cryptographic and its Gaussians are in floating point, so training simulated here is evidence about DP-SGD, but
a model trained this way must not be released as private.
"""

from __future__ import annotations

import functools
import math
from typing import Any, cast

import numpy as np
import scipy.optimize
import scipy.stats

from jaxmia._validate import check, check_at_least, check_choice
from jaxmia.privacy.group import group_spread, group_step
from jaxmia.privacy.tradeoff import kairouz_ceiling

ADD_OR_REMOVE_ONE = "add_or_remove_one"
REPLACE_ONE = "replace_one"
# Sensitivity by adjacency: how far one record moves the sum of clipped gradients, in clipping norms.
SENSITIVITY = {ADD_OR_REMOVE_ONE: 1.0, REPLACE_ONE: 2.0}
ADJACENCY_OF_DESIGN = {"bernoulli": ADD_OR_REMOVE_ONE, "fixed_size": REPLACE_ONE}

MIN_DELTA = 1e-10  # below it, rounding errors of the numerical composition matter
MOST_RECORDS = 64  # of a person
NOISE_TOLERANCE = 1e-4  # relative tolerance of a calibrated noise multiplier
# The grid of privacy losses. With 50 points per standard deviation of a step's loss, epsilon exceeds its limit by less
# than 1e-4, relatively. Finer grids gain nothing, because rounding errors of many compositions grow with the number of
# points. For speed a step gets at most 20 000 points, which makes the grid coarser where rare losses are large.
POINTS_PER_DEVIATION = 50
POINTS_PER_STEP = 20_000
ALMOST_ONE = float(np.nextafter(1.0, 0.0))  # for delta = 1, no privacy: a delta must be less than 1
MAX_EPSILON = 30.0  # end of the trade-off curve: e^-30 is 1e-13, far below any FPR that scores resolve


def adjacency_for(design: str) -> str:
    """Return the adjacency under which a membership design's attacks may be compared with an epsilon.

    A model with the candidate and a model without it are adjacent in this sense, over the draw of the other members.

    Args:
        design: "bernoulli" or "fixed_size".

    Raises:
        InputError: for an unknown design.
    """
    check_choice("design", design, ADJACENCY_OF_DESIGN)
    return ADJACENCY_OF_DESIGN[design]


def sampling_rate_of(batch: str | int, *, shots: int | None = None, classes: int | None = None) -> float:
    """Return q of a full batch, or of Poisson-sampled batches of an expected size among shots · classes members.

    The rate follows from the recipe, never from a model's realised number of members, since epsilon must not depend on
    the model.

    Args:
        batch: "full", or the expected number of members in a batch.
        shots: S, needed with an expected size.
        classes: C, needed with an expected size.

    Raises:
        InputError: if batch is neither "full" nor a positive integer, exceeds shots · classes, or needs shots and
            classes that are missing.
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
    """Return a warning if delta > 1 / n: publishing one of n members in full satisfies (0, 1 / n)-DP."""
    if delta * members <= 1:
        return []
    return [
        f"delta={delta:g} is above 1/n = 1/{members} = {1 / members:.2g} for n members: it permits"
        f" publishing one random member in full. Choose a much smaller delta, such as {0.1 / members:.1g}."
    ]


def dp_epsilon(
    *,
    noise_multiplier: float,
    sampling_rate: float,
    steps: int,
    delta: float,
    adjacency: str = ADD_OR_REMOVE_ONE,
    records_per_person: int = 1,
) -> float:
    """Return the epsilon of a recipe at a delta: an upper bound, usually within 0.01% of the exact value.

    Computed from the privacy loss distribution (dp-accounting; Doroshenko et al. 2022, arXiv 2207.04380).

    Args:
        noise_multiplier: standard deviation of the noise over the clipping norm; 0 gives inf.
        sampling_rate: q, the probability that a member joins the batch of a step.
        steps: number of steps T.
        delta: delta of the guarantee.
        adjacency: "add_or_remove_one" or "replace_one".
        records_per_person: k, the largest number of records of a person. Above 1, the result holds for persons although
            records are clipped and sampled one by one (jaxmia.privacy.group).

    Raises:
        InputError: if the noise multiplier is negative or infinite, q outside (0, 1], T below 1, delta outside [1e-10,
            1), or the adjacency unknown.
    """
    _check_recipe(noise_multiplier, sampling_rate, steps, adjacency, records_per_person)
    check_delta(delta)
    if noise_multiplier == 0:
        return math.inf
    recipe = float(noise_multiplier), float(sampling_rate), int(steps), float(delta), adjacency
    return _epsilon(*recipe, int(records_per_person))


def noise_multiplier_for(
    *,
    epsilon: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    adjacency: str = ADD_OR_REMOVE_ONE,
    records_per_person: int = 1,
) -> float:
    """Return the smallest noise multiplier, to 0.01%, whose dp_epsilon does not exceed a target epsilon.

    The result is rounded towards more privacy, and cached per recipe for the life of the process.

    Args:
        epsilon: target epsilon; inf for no noise.
        delta: delta of the guarantee.
        sampling_rate: q, the probability that a member joins the batch of a step.
        steps: number of steps T.
        adjacency: "add_or_remove_one" or "replace_one".
        records_per_person: k, the largest number of records of a person. Above 1, the result holds for persons although
            records are clipped and sampled one by one (jaxmia.privacy.group).

    Raises:
        InputError: if epsilon is not positive, q outside (0, 1], T below 1, delta outside [1e-10, 1), or the adjacency
            unknown.
    """
    check(epsilon > 0, "epsilon", epsilon, "be positive, or inf for no noise")
    _check_recipe(0.0, sampling_rate, steps, adjacency, records_per_person)
    check_delta(delta)
    if epsilon == math.inf:
        return 0.0
    recipe = float(epsilon), float(delta), float(sampling_rate), int(steps), adjacency
    return _calibrated_noise(*recipe, int(records_per_person))


def tpr_ceiling(
    fpr: np.ndarray | float,
    *,
    noise_multiplier: float,
    sampling_rate: float,
    steps: int,
    adjacency: str = ADD_OR_REMOVE_ONE,
    records_per_person: int = 1,
) -> np.ndarray:
    """Return the largest TPR at an FPR that any attack on one record can have, from the full trade-off curve.

    It is the smallest kairouz_ceiling over all pairs (epsilon, delta(epsilon)) of the recipe with epsilon >= 0, so it
    covers both directions of the adjacency (Dong, Roth and Su 2022, arXiv 1905.02383, Proposition 2.12).

    Args:
        fpr: fractions in (0, 1), any shape.
        noise_multiplier: standard deviation of the noise over the clipping norm; 0 allows a TPR of 1.
        sampling_rate: q, the probability that a member joins the batch of a step.
        steps: number of steps T.
        adjacency: "add_or_remove_one" or "replace_one".
        records_per_person: k, the largest number of records of a person. Above 1, the result holds for persons although
            records are clipped and sampled one by one (jaxmia.privacy.group).

    Returns:
        float64 of fpr's shape, from fpr to 1.

    Raises:
        InputError: if an fpr is outside (0, 1), or as dp_epsilon.
    """
    _check_recipe(noise_multiplier, sampling_rate, steps, adjacency, records_per_person)
    fprs = np.asarray(fpr, np.float64)
    recipe = float(noise_multiplier), float(sampling_rate), int(steps), adjacency
    epsilons, deltas = _privacy_profile(*recipe, int(records_per_person))
    ceilings = [kairouz_ceiling(one, epsilon=epsilons, delta=deltas).min() for one in fprs.ravel()]
    return np.reshape(ceilings, fprs.shape)


def gdp_mu(*, noise_multiplier: float, steps: int, adjacency: str = ADD_OR_REMOVE_ONE) -> float:
    """Return mu = sensitivity · sqrt(T) / noise_multiplier of a full-batch recipe, which is exactly mu-Gaussian DP.

    Its ceiling is gaussian_ceiling(fpr, mu) (Dong, Roth and Su 2022, arXiv 1905.02383, Corollary 3.3). The sensitivity
    is 1 for "add_or_remove_one" and 2 for "replace_one".

    Raises:
        InputError: unless the noise multiplier is positive and finite, T at least 1, and the adjacency known.
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
    """Return each record's mu in a full-batch run: mu_i² = sum_t ||clip(g_i,t)||² / (noise_multiplier · C)².

    This is an odometer of the realised run (Feldman and Zrnic 2021, arXiv 2008.11193). It depends on the data, gives no
    guarantee without a filter that stops each record at a bound fixed in advance, and must not be published per record.

    Args:
        sum_of_squares: sum over steps of each record's squared clipped gradient norm, any shape.
        noise_multiplier: standard deviation of the noise over the clipping norm.
        clipping_norm: C, positive.
        steps: number of steps T, to check that no sum exceeds T C².
        adjacency: "add_or_remove_one" only: for "replace_one" the norms of the replacing record are not known.

    Returns:
        float64 of sum_of_squares' shape, at most gdp_mu.

    Raises:
        InputError: if a sum is outside [0, T C²], C is not positive, for "replace_one", or as gdp_mu.
    """
    largest_mu = gdp_mu(noise_multiplier=noise_multiplier, steps=steps, adjacency=adjacency)
    check(adjacency == ADD_OR_REMOVE_ONE, "adjacency", adjacency, f"be {ADD_OR_REMOVE_ONE!r}")
    check(0 < clipping_norm < math.inf, "clipping_norm", clipping_norm, "be a positive number")
    share = np.asarray(sum_of_squares, np.float64) / (steps * clipping_norm**2)
    rounding = 1e-5  # relative error of sums in float32
    check(
        bool(np.all((share >= 0) & (share <= 1 + rounding))),
        "sum_of_squares / (steps * clipping_norm**2)",
        share,
        "lie between 0 and 1",
    )
    return largest_mu * np.sqrt(np.minimum(share, 1))


def accountant_of(
    *, noise_multiplier: float, sampling_rate: float, steps: int, adjacency: str, records_per_person: int = 1
) -> str:
    """Return how the epsilon of a recipe is computed, and the spacing of the grid of losses, in words."""
    if noise_multiplier == 0:
        return "none: there is no noise"
    noise, composed = _composed(noise_multiplier, sampling_rate, steps)
    interval = _loss_interval(noise, sampling_rate, SENSITIVITY[adjacency], records_per_person)
    counted = "a step" if composed > 1 or steps == 1 else f"all {steps} steps as one"
    return f"PLD (dp-accounting), pessimistic; losses of {counted} on a grid of {interval:.2g}"


def check_noise(noise_multiplier: float) -> None:
    """Raise InputError unless the noise multiplier is a finite number of at least 0."""
    rule = "be a finite number of at least 0"
    check(0 <= noise_multiplier < math.inf, "noise_multiplier", noise_multiplier, rule)


def check_records_per_person(records_per_person: int) -> None:
    """Raise InputError unless a person may have as many records."""
    check_at_least("records_per_person", records_per_person, 1)
    rule = f"be at most {MOST_RECORDS}: leave records of whoever has more out"
    check(records_per_person <= MOST_RECORDS, "records_per_person", records_per_person, rule)


def _check_sampling_rate(sampling_rate: float) -> None:
    check(0 < sampling_rate <= 1, "sampling_rate", sampling_rate, "lie in (0, 1]")


def check_delta(delta: float) -> None:
    """Raise InputError for delta >= 1 (no privacy), and for deltas too small to compute with."""
    check(MIN_DELTA <= delta < 1, "delta", delta, f"lie in [{MIN_DELTA:g}, 1)")


def _check_recipe(
    noise_multiplier: float, sampling_rate: float, steps: int, adjacency: str, records_per_person: int = 1
) -> None:
    check_noise(noise_multiplier)
    _check_sampling_rate(sampling_rate)
    check_at_least("steps", steps, 1)
    check_choice("adjacency", adjacency, SENSITIVITY)
    check_records_per_person(records_per_person)
    known = records_per_person == 1 or sampling_rate == 1 or adjacency == ADD_OR_REMOVE_ONE
    rule = f"be {ADD_OR_REMOVE_ONE!r} for persons whose records are sampled one by one"
    check(known, "adjacency", adjacency, rule)


@functools.lru_cache(maxsize=16)  # a distribution takes up to a few megabytes
def _privacy_loss(noise: float, sampling_rate: float, steps: int, adjacency: str, records: int = 1) -> Any:
    """Return the distribution of the privacy loss of all steps together."""
    # Imported here because it takes a second, which commands without privacy need not spend.
    import dp_accounting
    from dp_accounting.pld import privacy_loss_distribution

    noise, steps = _composed(noise, sampling_rate, steps)
    interval = _loss_interval(noise, sampling_rate, SENSITIVITY[adjacency], records)
    if records > 1 and sampling_rate < 1:
        one_step = group_step(noise, sampling_rate, records, interval)
    else:
        one_step = privacy_loss_distribution.from_gaussian_mechanism(
            noise / records,
            sampling_prob=sampling_rate,
            value_discretization_interval=interval,
            neighboring_relation=dp_accounting.NeighboringRelation[adjacency.upper()],
        )
    return one_step.self_compose(steps) if steps > 1 else one_step


def _composed(noise: float, sampling_rate: float, steps: int) -> tuple[float, int]:
    """Return the noise and steps to compose: T full-batch Gaussian mechanisms equal one with noise / sqrt(T)."""
    return (noise / math.sqrt(steps), 1) if sampling_rate == 1 else (noise, steps)


def _loss_interval(noise: float, sampling_rate: float, sensitivity: float, records: int = 1) -> float:
    """Return the spacing of the grid of losses of one step, in nats."""
    if records > 1 and sampling_rate < 1:
        deviation, largest = group_spread(noise, sampling_rate, records)
        return max(deviation / POINTS_PER_DEVIATION, largest / POINTS_PER_STEP)
    noise = noise / records
    # For small losses the variance is chi² of the sampled Gaussian, q² (e^(1/noise²) - 1). A step's standard deviation
    # is at most that of the full batch, 1/noise. The cut keeps the exponential finite.
    chi = sampling_rate * math.sqrt(math.expm1(min(noise**-2, 50.0)))
    deviation = sensitivity * min(1 / noise, chi)
    # The largest loss is log(1 + q e^(loss of the full batch)), with noise cut at 10 standard deviations. At small
    # rates it is far above the standard deviation: a grid that fine would need millions of points, and hundreds of
    # millions when composed.
    largest = float(np.logaddexp(0.0, math.log(sampling_rate) + (10 + 0.5 / noise) / noise))
    return max(deviation / POINTS_PER_DEVIATION, largest / POINTS_PER_STEP)


@functools.lru_cache(maxsize=256)
def _privacy_profile(
    noise: float, sampling_rate: float, steps: int, adjacency: str, records: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Return points (epsilon, delta) of a recipe, on a grid that is fine where its losses lie."""
    if noise == 0:
        return np.zeros(1), np.array([ALMOST_ONE])
    losses = _privacy_loss(noise, sampling_rate, steps, adjacency, records)
    top = min(losses.get_epsilon_for_delta(MIN_DELTA), MAX_EPSILON)
    if top == 0:  # all losses are below the resolution of delta
        epsilons = np.zeros(1)
    else:
        epsilons = np.unique(np.append(np.linspace(0, top, 4000), np.geomspace(1e-6 * top, top, 4000)))
    deltas = losses.get_delta_for_epsilon(epsilons)
    return epsilons, np.clip(deltas, 0.0, ALMOST_ONE)  # rounding may fall outside [0, 1)


@functools.lru_cache(maxsize=4096)
def _epsilon(
    noise: float, sampling_rate: float, steps: int, delta: float, adjacency: str, records: int
) -> float:
    losses = _privacy_loss(noise, sampling_rate, steps, adjacency, records)
    return float(losses.get_epsilon_for_delta(delta))


@functools.lru_cache(maxsize=4096)
def _calibrated_noise(
    epsilon: float, delta: float, sampling_rate: float, steps: int, adjacency: str, records: int
) -> float:
    def excess(log_noise: float) -> float:
        return _epsilon(math.exp(log_noise), sampling_rate, steps, delta, adjacency, records) - epsilon

    sensitivity = records * SENSITIVITY[adjacency]
    low = high = math.log(_guessed_noise(epsilon, delta, sampling_rate, steps, sensitivity))
    stride = 0.05
    while excess(high) > 0:
        low, high, stride = high, high + stride, 2 * stride
    while excess(low) <= 0:
        low, high, stride = low - stride, low, 2 * stride
    log_noise = scipy.optimize.brentq(excess, low, high, xtol=NOISE_TOLERANCE / 2)
    while excess(log_noise) > 0:
        log_noise += NOISE_TOLERANCE / 2
    return math.exp(log_noise)


def _guessed_noise(
    epsilon: float, delta: float, sampling_rate: float, steps: int, sensitivity: float
) -> float:
    """Return a first guess of the noise: the target's mu as a Gaussian mechanism, and the steps' central limit."""
    quantile = max(scipy.stats.norm.isf(delta), 0.0)
    mu = math.sqrt(quantile**2 + 2 * epsilon) - quantile  # epsilon is about mu²/2 + quantile mu
    per_step = mu / (sensitivity * math.sqrt(steps))
    return max(1 / math.sqrt(math.log1p((per_step / sampling_rate) ** 2)), sampling_rate / per_step / 2)
