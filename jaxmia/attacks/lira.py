"""LiRA, the likelihood ratio attack (Carlini et al. 2022, arXiv 2112.03570): online, offline, calibrated."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.special

from jaxmia._validate import InputError, check_choice
from jaxmia.attacks.shadows import (
    RESOLUTION,
    Side,
    blocks_of,
    score_arrays,
    side_medians,
    side_moments,
    sides,
)
from jaxmia.attacks.shrinkage import (
    Residuals,
    levels,
    mean_residuals,
    posterior,
    prior_error,
    prior_means,
    prior_variances,
    residuals,
    shrunk,
    sums_of,
)
from jaxmia.scores import Scores
from jaxmia.stats.result import AttackResult

IN, OUT = True, False
_OfBlock = Callable[[bool, slice], np.ndarray]  # takes a side and a block of examples


class _Gaussian(NamedTuple):
    """N(centre, variance) of one side's shadows [models, block]; known is False where there is no shadow."""

    known: np.ndarray
    centre: np.ndarray
    variance: np.ndarray


def lira(
    scores: Scores,
    *,
    variance: str = "per_example",
    location: str = "mean",
    offline: bool = False,
    calibrated: bool = False,
    paired: bool = False,
) -> AttackResult:
    """Compare each target's log-odds s with Gaussians fitted to its shadows with and without the example.

    LiRA, the likelihood ratio attack: Carlini et al. 2022 (arXiv 2112.03570).

    Online: log N(s; mu_in, s_in) - log N(s; mu_out, s_out). Offline: log Phi((s - mu_out) / s_out),
    one-sided, from OUT shadows alone. Calibrated: z = sign(mu_in - mu_out) (s - mu_out) / s_out, to be compared with
    Phi^-1(1 - fpr): with many OUT shadows every example has the same FPR (Jälkö et al. 2026, arXiv 2605.25819). With n
    Gaussian OUT shadows and the mean as centre, z of a non-member follows sqrt((n + 1) / (n - 1)) times a Student-t
    with n - 1 degrees of freedom, so the realised FPR exceeds the nominal one for small n.

    Standard deviations are about the mean with ddof 0, even if the median is the centre. If a side has fewer than 2
    shadows of an example, or equal scores, the side's global deviation is used; if that is 0, the other side's; if that
    is 0 too, 1 nat (any common deviation gives the same ranking of a target's examples). Where a needed side has no
    shadow, the statistic is its "no evidence" value, 0 (offline log 1/2).

    Args:
        scores: log_odds and member [models, examples], at least 3 models.
        variance: "per_example"; "global": one deviation per side, of the residuals about the examples' centres over all
            shadows of the target; or "shrunk": per example, shrunk towards scores.prior_variance, the more so the fewer
            the shadows (jaxmia.attacks.shrinkage).
        location: the centre of a side: "mean"; "median"; or "shrunk": the mean, shrunk towards scores.prior_mean, the
            more so the fewer the shadows. "shrunk" is defined even without shadows.
        offline: use OUT shadows alone.
        calibrated: return z.
        paired: use every shadow on both sides, by scores.flipped_log_odds.

    Returns:
        float64 statistic [models, examples]; every model is the target once, with the others as its shadows.

    Raises:
        InputError: for bad scores, an unknown option, offline with calibrated, paired without flipped scores, or shrunk
            without prior means and variances.
    """
    check_choice("variance", variance, ("per_example", "global", "shrunk"))
    check_choice("location", location, ("mean", "median", "shrunk"))
    if offline and calibrated:
        raise InputError("calibrated=True needs IN shadows for its sign: offline=True must be left out.")
    log_odds, member = score_arrays(scores)
    both = sides(scores, paired=paired)
    shadows = {OUT: both.outside} if offline else {IN: both.inside, OUT: both.outside}
    if variance == "shrunk":
        shared = _shrunk_variances(shadows, prior_variances(scores))
    else:
        shared = _global_variances(shadows, location)
    centres = None if location == "mean" else _centres(shadows, location, scores)
    no_evidence = np.log(0.5) if offline else 0.0
    statistic, defined = np.empty(log_odds.shape), np.empty(log_odds.shape, bool)
    for columns in blocks_of(*log_odds.shape):
        block = log_odds[:, columns].astype(np.float64)
        fits = {
            side: _fit(
                *scored.block(columns),
                None if centres is None else centres(side, columns),
                shared(side, columns),
                per_example=variance == "per_example",
            )
            for side, scored in shadows.items()
        }
        known = np.logical_and.reduce([fit.known | (location == "shrunk") for fit in fits.values()])
        statistic[:, columns] = np.where(known, _statistic(block, fits, calibrated), no_evidence)
        defined[:, columns] = known
    own_moments = variance == "per_example" and location == "mean" and not paired
    null = ("z" if own_moments else "gaussian") if calibrated else "unknown"
    return AttackResult(statistic, member, defined, null)


def _statistic(block: np.ndarray, fits: dict[bool, _Gaussian], calibrated: bool) -> np.ndarray:
    """Return the statistic of a block of examples: offline without an IN side, else calibrated or online."""
    out = fits[OUT]
    if IN not in fits:
        return scipy.special.log_ndtr((block - out.centre) / np.sqrt(out.variance))
    inside = fits[IN]
    if calibrated:
        shift = inside.centre - out.centre
        direction = np.where(np.abs(shift) > RESOLUTION, np.sign(shift), 0.0)
        return direction * (block - out.centre) / np.sqrt(out.variance)
    distance = (block - out.centre) ** 2 / out.variance - (block - inside.centre) ** 2 / inside.variance
    return (np.log(out.variance / inside.variance) + distance) / 2


def _fit(
    block: np.ndarray,
    on_side: np.ndarray,
    centre: np.ndarray | None,
    shared: np.ndarray,
    *,
    per_example: bool,
) -> _Gaussian:
    """Fit a Gaussian to one side's shadows of every target, about their mean or another centre.

    The shared variance is [models, 1 or block].
    """
    number, mean, variance = side_moments(block, on_side)
    own = per_example & (variance > RESOLUTION**2)
    return _Gaussian(number > 0, mean if centre is None else centre, np.where(own, variance, shared))


def _global_variances(shadows: dict[bool, Side], location: str) -> _OfBlock:
    """Return a function to each side's residual variance [models, 1] over all examples of a target, never 0."""
    variances = {}
    for side, scored in shadows.items():
        number, total, squares = np.zeros((3, len(scored.log_odds), 1))
        for columns in blocks_of(*scored.log_odds.shape):
            block, on_side = scored.block(columns)
            moments = side_moments(block, on_side)
            lag = moments.mean - side_medians(block, on_side) if location == "median" else np.zeros(())
            number += moments.number.sum(axis=1, keepdims=True)
            total += (moments.number * lag).sum(axis=1, keepdims=True)
            squares += (moments.number * (moments.variance + lag**2)).sum(axis=1, keepdims=True)
        number = np.maximum(number, 1)
        variances[side] = squares / number - (total / number) ** 2
    largest = np.maximum.reduce(list(variances.values()))
    largest = np.where(largest > RESOLUTION**2, largest, 1.0)
    filled = {side: np.where(own > RESOLUTION**2, own, largest) for side, own in variances.items()}
    return lambda side, columns: filled[side]


def _centres(shadows: dict[bool, Side], location: str, scores: Scores) -> _OfBlock:
    """Return a function to the centres [models, block] of a side and a block of examples, for centres but the mean."""
    if location == "median":
        return lambda side, columns: side_medians(*shadows[side].block(columns))
    (mean_in, mean_out), (variance_in, variance_out) = prior_means(scores), prior_variances(scores)
    prior = {IN: (mean_in, variance_in), OUT: (mean_out, variance_out)}

    def of_block(side: bool, columns: slice) -> Residuals:
        number, mean, _ = side_moments(*shadows[side].block(columns))
        return mean_residuals(number, mean, *(known[columns] for known in prior[side]))

    def drawn(side: bool, columns: slice) -> np.ndarray:
        mean, variance = (known[columns] for known in prior[side])
        return mean + np.sqrt(variance) * posterior(of_block(side, columns), errors[side])[0]

    errors = {}
    for side, scored in shadows.items():
        sums = [sums_of(of_block(side, columns)) for columns in blocks_of(*scored.log_odds.shape)]
        errors[side] = prior_error(np.sum(sums, axis=0))
    return drawn


def _shrunk_variances(shadows: dict[bool, Side], prior: np.ndarray) -> _OfBlock:
    """Return a function to the shrunk variances [models, block] of a side and a block of examples."""
    of_side = {IN: prior[0], OUT: prior[1]}

    def of_block(side: bool, columns: slice) -> Residuals:
        number, _, variance = side_moments(*shadows[side].block(columns))
        degrees = np.maximum(number - 1, 0)
        return residuals(variance * number / np.maximum(degrees, 1), degrees, of_side[side][columns])

    found = {}
    for side, scored in shadows.items():
        sums = [sums_of(of_block(side, columns)) for columns in blocks_of(*scored.log_odds.shape)]
        found[side] = levels(np.sum(sums, axis=0))
    return lambda side, columns: shrunk(of_block(side, columns), found[side], of_side[side][columns])[0]
