"""Vulnerability without shadows: each record's separation over re-trainings of a ridge head, from the pool alone.

A record's scores with and without it differ by its effect on the head (jaxmia.ridge.influence). Over re-trainings they
vary by the effect of all other candidates, each a member with probability r. Both follow from the average head and the
average inverse Hessian. A fit of the pool with every candidate at weight r yields neither, because a head adapts to its
members, whose gradients are then smaller, and because the inverse varies. So both are computed self-consistently from
heads without the candidate in question. This is the cavity method of statistical physics, a deterministic equivalent in
random matrix theory. Let B_i be the block of record i in the average inverse without it:

- mean logits u_i, u_in = u_i - (1 - r) B_i g(u_in): the average head solves sum_i r g(u_in,i) ⊗ x_i + ridge V = 0
  (twice the ridge with two classes, see jaxmia.training.contrasts.penalties);
- weights W_i = r Gamma_i (I + B_i Gamma_i)⁻¹ at u_in: the average inverse is that of sum_i W_i ⊗ x_i x_iᵀ + ridge I.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.stats import norm

from jaxmia._buckets import in_float32
from jaxmia._validate import check, check_fpr
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.normalization import in_span
from jaxmia.ridge.influence import (
    SEEN_AT_ONCE,
    added,
    blocks_of_records,
    check_size,
    each,
    inverse_hessian,
    removed,
    without_own,
)
from jaxmia.training.contrasts import basis, curvature, errors, from_params, penalties, with_bias
from jaxmia.training.newton import ABSENT, converged_head
from jaxmia.training.scoring import log_odds

_ITERATIONS = 30
# Tolerance: change of the blocks relative to the largest, and of the head relative to its norm.
_ENOUGH = 3e-3
_COMPARED = 0.9  # largest fluctuation at which results were compared with shadows: docs/frontier.md


@dataclasses.dataclass(frozen=True, eq=False)
class AnalyticVulnerability:
    """The moments of shadow scores, for every record, without shadows.

    Attributes:
        ridge: lambda.
        inclusion_rate: r.
        mean_in: float64[examples], mean log-odds over heads trained with the record, in nats.
        mean_out: float64[examples], the same over heads trained without it.
        std_in: float64[examples], standard deviation over heads trained with the record, in nats.
        std_out: float64[examples], the same over heads trained without it.
        separation: float64[examples], D = (mean_in - mean_out) / s, where s² is the mean of both variances;
            per_example_vulnerability estimates it from shadows.
        leverage: float64[examples], trace of B_i Gamma_i, the generalised leverage: the effect of a record on its own
            logits, for any label. It needs the blocks alone, and ranks records less well than D.
        fluctuation: root mean square standard deviation of the candidates' logits over heads without them.
        warnings: reasons why the results may be inaccurate; empty inside the tested range.
    """

    ridge: float
    inclusion_rate: float
    mean_in: np.ndarray
    mean_out: np.ndarray
    std_in: np.ndarray
    std_out: np.ndarray
    separation: np.ndarray
    leverage: np.ndarray
    fluctuation: float
    warnings: tuple[str, ...]

    def prior(self) -> dict[str, Float[np.ndarray, "sides examples"]]:
        """Return prior_mean and prior_variance, fields of Scores."""
        return {
            "prior_mean": np.stack([self.mean_in, self.mean_out]),
            "prior_variance": np.stack([self.std_in**2, self.std_out**2]),
        }

    def tpr(
        self, fpr: float, tails: tuple[np.ndarray, np.ndarray] | None = None
    ) -> Float[np.ndarray, "examples"]:
        """Return each record's TPR at one FPR per record.

        The upper tails of ridge heads' log-odds are lighter than Gaussian, by an amount that means and deviations do
        not determine. With tails from a few heads (jaxmia.ridge.triage.ridge_tails) both sides keep their own
        deviation: 1 - F_in((mean_out + F_out^-1(1 - fpr) std_out - mean_in) / std_in). Without tails, the TPR is
        Phi(Phi^-1(fpr) + D).

        Args:
            fpr: FPR of every record.
            tails: standardised residuals of members and non-members, ascending.

        Raises:
            InputError: if fpr is outside (0, 1).
        """
        check_fpr("fpr", fpr)
        if tails is None:
            return norm.cdf(norm.ppf(fpr) + self.separation)
        inside, outside = tails
        threshold = self.mean_out + np.quantile(outside, 1 - fpr) * self.std_out
        t = (threshold - self.mean_in) / self.std_in
        return 1 - np.searchsorted(inside, t, side="left") / inside.size

    def ranking(self) -> np.ndarray:
        """Return the indices int64[examples] of the records, the most vulnerable first."""
        return np.argsort(-self.separation, kind="stable")


class _Average(NamedTuple):
    """The average head, and for every record its block of the average inverse without it."""

    head: Array
    blocks: Array


class _Point(NamedTuple):
    """Result of one iteration, per record: logits, errors and weight as a member; A and B; also the inverse."""

    average: _Average
    contrasts: Array
    errors: Array
    weights: Array
    leverage: Array
    inverse: Array
    change: Array


@in_float32
def analytic_vulnerability(
    pool: FeatureSet, *, ridge: float, inclusion_rate: float = 0.5, memory: int | None = None
) -> AnalyticVulnerability:
    """Return every record's separation over re-trainings on random subsets of the pool, without training.

    The heads are those of optimizer="newton" with this ridge (scikit-learn's LogisticRegression with C = 1 / ridge),
    each trained on every candidate independently with probability r. docs/frontier.md compares the results with
    shadows.

    Args:
        pool: the candidates.
        ridge: lambda, above 0: scikit-learn's 1 / C.
        inclusion_rate: r.
        memory: largest number of bytes for the Hessian, its factor and inverse, and arrays over records; 8 GiB by
            default.

    Raises:
        InputError: for a ridge that is not positive, r outside (0, 1), a class without records, or a Hessian that does
            not fit into memory or that float32 cannot factorise.
    """
    check(0 < ridge < np.inf, "ridge", ridge, "be a finite number above 0")
    check(0 < inclusion_rate < 1, "inclusion_rate", inclusion_rate, "lie strictly between 0 and 1")
    counts = np.bincount(pool.labels, minlength=pool.num_classes)
    check(int(counts.min()) > 0, "records of the smallest class", int(counts.min()), "be at least 1")
    features = pool.features if len(pool.labels) >= pool.features.shape[1] else in_span(pool.features)[0]
    check_size(pool.num_classes, features.shape[1] + 1, len(pool.labels), memory)
    labels, inputs = jnp.asarray(pool.labels), with_bias(jnp.asarray(features))
    one_hot = jax.nn.one_hot(labels, pool.num_classes)
    average = _start(jnp.asarray(features), labels, one_hot, ridge, inclusion_rate)
    for step in range(_ITERATIONS):
        point = _step(average, inputs, one_hot, ridge, inclusion_rate)
        change = float(point.change)
        check(np.isfinite(change), "ridge", ridge, "be larger: float32 cannot factorise the Hessian")
        average = point.average
        if change < _ENOUGH or step == _ITERATIONS - 1:
            break
        del point  # frees its inverse before the next step allocates one
    found, fluctuation = _moments(point, inputs, one_hot, labels, inclusion_rate)
    mean_in, mean_out, variance_in, variance_out = np.asarray(found, np.float64)
    separation = (mean_in - mean_out) / np.sqrt((variance_in + variance_out) / 2)
    return AnalyticVulnerability(
        ridge=ridge,
        inclusion_rate=inclusion_rate,
        mean_in=mean_in,
        mean_out=mean_out,
        std_in=np.sqrt(variance_in),
        std_out=np.sqrt(variance_out),
        separation=separation,
        leverage=np.asarray(point.leverage, np.float64),
        fluctuation=float(fluctuation),
        warnings=tuple(_warnings(change, float(fluctuation), float(np.sum((1 - inclusion_rate) ** counts)))),
    )


def _warnings(change: float, fluctuation: float, absent: float) -> Sequence[str]:
    warnings = []
    if absent > ABSENT:
        warnings.append(
            f"A share of {absent:.2g} of all heads has no member of some class, and unbounded log-odds"
            " of its records. The estimates leave such heads out."
        )
    if change >= _ENOUGH:
        warnings.append(
            f"The average head did not converge: after {_ITERATIONS} steps it changes by {change:.2g}."
        )
    if fluctuation > _COMPARED:
        warnings.append(
            f"Logits vary by {fluctuation:.2g} between heads (ridge too small for so many records): estimates were"
            f" compared with shadows up to {_COMPARED} only."
        )
    return warnings


@jax.jit
def _start(features: Array, labels: Array, one_hot: Array, ridge: Array, rate: Array) -> _Average:
    """Return the start of the iteration: the pool fitted with all candidates at weight r."""
    classes = one_hot.shape[1]
    everyone = jnp.full(len(labels), rate, features.dtype)
    fitted = converged_head(
        everyone, features, labels, num_classes=classes, ridge=ridge, steps=100, tolerance=1e-6
    )
    return _Average(from_params(fitted), jnp.zeros((len(labels), classes - 1, classes - 1)))


@jax.jit
def _step(average: _Average, inputs: Array, one_hot: Array, ridge: Array, rate: Array) -> _Point:
    """Return the next iterate of the average head and the blocks."""
    directions = jnp.asarray(basis(one_hot.shape[1]))
    with jax.default_matmul_precision("highest"):
        penalty = penalties(ridge, one_hot.shape[1], inputs)

        def member(mean: Array, block: Array, label: Array) -> Array:
            return added(mean, block, label, directions, 1 - rate)

        def weight(contrast: Array, block: Array) -> Array:
            own = curvature(contrast, directions)
            found = rate * jnp.linalg.solve(jnp.eye(len(block)) + own @ block, own)
            return (found + found.T) / 2

        contrasts = each(member, inputs @ average.head.T, average.blocks, one_hot)
        own = each(lambda contrast, label: errors(contrast, label, directions), contrasts, one_hot)
        weights = each(weight, contrasts, average.blocks)
        inverse = inverse_hessian(weights, inputs, penalty)
        blocks = without_own(blocks_of_records(inverse, inputs), weights)
        gradient = rate * own.T @ inputs + penalty * average.head
        move = jnp.tensordot(inverse, gradient, axes=2)
        change = jnp.maximum(
            jnp.max(jnp.abs(blocks - average.blocks)) / jnp.max(jnp.abs(blocks)),
            jnp.linalg.norm(move) / jnp.linalg.norm(average.head),
        )
        leverage = each(
            lambda contrast, block: jnp.trace(block @ curvature(contrast, directions)), contrasts, blocks
        )
        return _Point(
            _Average(average.head - move, blocks), contrasts, own, weights, leverage, inverse, change
        )


@jax.jit
def _moments(point: _Point, inputs: Array, one_hot: Array, labels: Array, rate: Array) -> tuple[Array, Array]:
    """Return means and variances [4, examples] of the log-odds with and without each record, and the fluctuation.

    The membership of record j moves the head by H_-j⁻¹ (g_j ⊗ x_j), where H_-j excludes j. Its effect on the logits of
    record i, which is out, is (I - A_i W_i)⁻¹ times the uncorrected effect by A. Memberships are independent, so the
    variance is the sum of r (1 - r) times squared effects.
    """
    directions, blocks = jnp.asarray(basis(one_hot.shape[1])), point.average.blocks
    rest, size = blocks.shape[1], inputs.shape[1]
    with jax.default_matmul_precision("highest"):
        # B = A (I - W A)⁻¹ = (I - A W)⁻¹ A and so (I - A W)⁻¹ = I + B W.
        freed = jnp.eye(rest) + blocks @ point.weights
        moves = jnp.einsum("jba,jb->ja", freed, point.errors)
        images = (moves[:, :, None] * inputs[:, None, :]).reshape(-1, rest * size)
        images = (images @ point.inverse.reshape(rest * size, -1)).reshape(-1, rest, size)

        def spread(record: Array) -> Array:
            seen = (images @ inputs[record]).at[record].set(0.0)
            return rate * (1 - rate) * seen.T @ seen

        covariances = jax.lax.map(spread, jnp.arange(len(inputs)), batch_size=SEEN_AT_ONCE)
        covariances = freed @ covariances @ freed.transpose(0, 2, 1)

        def of_record(inside: Array, block: Array, label: Array, hot: Array, covariance: Array) -> Array:
            outside = removed(inside, block, hot, directions)

            def scored(contrast: Array) -> Array:
                return log_odds((directions @ contrast)[:, None], label[None])[0]

            to_inside = jnp.linalg.inv(jnp.eye(rest) + block @ curvature(inside, directions))
            slope_in, slope_out = to_inside.T @ jax.grad(scored)(inside), jax.grad(scored)(outside)
            variances = [slope @ covariance @ slope for slope in (slope_in, slope_out)]
            return jnp.stack([scored(inside), scored(outside), *variances])

        found = each(of_record, point.contrasts, blocks, labels, one_hot, covariances).T
        fluctuation = jnp.sqrt(jnp.mean(jnp.trace(covariances, axis1=1, axis2=2)) / (rest + 1))
        return found, fluctuation
