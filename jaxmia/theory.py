"""The simplified model of fine-tuning: closed forms and simulation, used to test the rest of the library.

In each class x ~ N(m_c, Sigma), the head of class c is the mean of its S members, and the score of x is its
inner product with the head of its own class: Tobaben et al. 2025 (arXiv 2402.06674). Closed forms: float64.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from scipy import stats

from jaxmia._buckets import in_float32
from jaxmia._validate import check, check_at_least, check_fpr


class ScoreMoments(NamedTuple):
    """Mean and standard deviation of each example's score, with it as a member (in) and without (out)."""

    mu_in: Float[np.ndarray | Array, " examples"]
    sigma_in: Float[np.ndarray | Array, " examples"]
    mu_out: Float[np.ndarray | Array, " examples"]
    sigma_out: Float[np.ndarray | Array, " examples"]


class ClassMeanScores(NamedTuple):
    """A simulation of the simplified model. Targets are sorted by class."""

    scores: Float[Array, "models targets"]
    member: Bool[Array, "models targets"]
    targets: Float[Array, "targets dim"]
    labels: Int[Array, " targets"]
    class_means: Float[Array, "classes dim"]


def fresh_moments(
    examples: np.ndarray | Array,
    own_means: np.ndarray | Array,
    *,
    shots: int,
    covariance: float | np.ndarray | Array,
) -> ScoreMoments:
    """Return the exact moments of the Gaussian scores if every model draws its other members independently.

    OUT is <x, mean of S fresh>, IN is <x, (x + sum of S - 1 fresh) / S>: mu_in - mu_out = <x, x - m> / S.

    Args:
        examples: float[examples, dim].
        own_means: float[examples, dim], the mean of the class of each example.
        shots: S, at least 2.
        covariance: Sigma of every class, [dim, dim], or the variance of each coordinate.

    Raises:
        InputError: if shapes differ, shots < 2, or Sigma is not positive along some example.
    """
    examples, own_means = _paired(examples, own_means)
    check_at_least("shots", shots, 2)
    own = np.einsum("nd,nd->n", examples, examples)
    others = np.einsum("nd,nd->n", examples, own_means)
    spread = _spread(examples, covariance)
    return ScoreMoments(
        mu_in=(own + (shots - 1) * others) / shots,
        sigma_in=spread * np.sqrt(shots - 1) / shots,
        mu_out=others,
        sigma_out=spread / np.sqrt(shots),
    )


def pool_moments(
    features: np.ndarray | Array,
    labels: np.ndarray | Array,
    *,
    shots: int,
) -> ScoreMoments:
    """Return the exact moments of the scores when models draw exactly S members per class from a fixed pool.

    The moments are conditional on the pool: sampling without replacement (Cochran 1977, Chapter 2). With v
    the sample variance of <x, x_j> over the n - 1 others of the class of x, the OUT variance is
    v / S (1 - S / (n - 1)) and the IN variance (S - 1) v / S² (1 - (S - 1) / (n - 1)): deviations are those
    of fresh draws times about sqrt(1 - r), r = S / n. The scores are only nearly Gaussian.

    Args:
        features: float[examples, dim], the pool.
        labels: int[examples].
        shots: S, at least 2; every class of the pool has more than S + 1 examples.

    Raises:
        InputError: if shapes differ, shots < 2, or a class is too small.
    """
    features, labels = np.asarray(features, dtype=np.float64), np.asarray(labels)
    check(features.ndim == 2 and features.size > 0, "features.shape", features.shape, "be [examples, dim]")
    check(labels.shape == features.shape[:1], "labels.shape", labels.shape, f"be {features.shape[:1]}")
    check_at_least("shots", shots, 2)
    moments = np.empty((4, len(features)))
    for label in np.unique(labels):
        rows = labels == label
        moments[:, rows] = _one_pool_moments(features[rows], shots)
    return ScoreMoments(*moments)


def threshold_tpr(moments: ScoreMoments, *, fpr: float) -> Float[np.ndarray | Array, " examples"]:
    """Return the exact TPR of thresholding each Gaussian score at its own FPR, on the side where members lie.

    For equal deviations the location-scale formula 1 - Phi(Phi^-1(1 - fpr) - |mu_in - mu_out| / sigma).

    Raises:
        InputError: fpr outside (0, 1).
    """
    check_fpr("fpr", fpr)
    shift = np.abs(moments.mu_in - moments.mu_out)
    return stats.norm.sf((moments.sigma_out * stats.norm.isf(fpr) - shift) / moments.sigma_in)


def asymptotic_log_advantage(
    examples: np.ndarray | Array,
    own_means: np.ndarray | Array,
    *,
    shots: int,
    covariance: float | np.ndarray | Array,
    fpr: float,
) -> Float[np.ndarray | Array, " examples"]:
    """Return the natural logarithm of TPR - FPR in the limit of many shots, exact up to log(1 + O(S^-1/2)).

    -1/2 log S - 1/2 Phi^-1(fpr)² + log(|<x, x - m>| / (sqrt(xᵀ Sigma x) sqrt(2 pi))): Tobaben et al. 2025,
    Theorem 2. Arguments as for fresh_moments, and fpr, a fraction.

    Raises:
        InputError: as fresh_moments; fpr outside (0, 1); or <x, x - m> = 0 for some example.
    """
    examples, own_means = _paired(examples, own_means)
    check_at_least("shots", shots, 1)
    check_fpr("fpr", fpr)
    shift = np.abs(np.einsum("nd,nd->n", examples, examples - own_means))
    lowest = float(shift.min())
    check(lowest > 0, "lowest |<x, x - m>|", lowest, "be positive: it has a logarithm here")
    scale = _spread(examples, covariance) * np.sqrt(2.0 * np.pi)
    return -0.5 * np.log(shots) - 0.5 * stats.norm.ppf(fpr) ** 2 + np.log(shift / scale)


@in_float32
def simulate_class_mean_scores(
    key: PRNGKeyArray,
    *,
    shots: int,
    classes: int,
    dim: int,
    noise_scale: float,
    num_models: int,
    targets_per_class: int = 1,
    models_per_chunk: int = 16,
) -> ClassMeanScores:
    """Draw scores of fixed targets under models with independent members, the setting of fresh_moments.

    Every model draws S members of each class; each target independently replaces the last one with probability 1/2.
    Targets of one class share the other S - 1 members of a model, so their scores are correlated; those of different
    classes are independent.

    Args:
        key: fixes class means, targets and models; a model depends on its index only, never on its chunk.
        shots: S, at least 2.
        classes: number of classes; their means are random points of the unit sphere.
        dim: feature dimension.
        noise_scale: standard deviation of each coordinate about the class mean, Sigma = noise_scale² I.
        num_models: number of models.
        targets_per_class: targets of each class.
        models_per_chunk: models simulated at once; a chunk holds models x classes x shots x dim numbers.

    Raises:
        InputError: a count is too small, or noise_scale is not positive.
    """
    check_at_least("shots", shots, 2)
    check_at_least("num_models", num_models, 1)
    check_at_least("models_per_chunk", models_per_chunk, 1)
    data_key, models_key = jax.random.split(key)
    targets, labels, class_means = simulated_features(
        data_key, classes=classes, per_class=targets_per_class, dim=dim, noise_scale=noise_scale
    )
    grouped = targets.reshape(classes, targets_per_class, dim)
    scores, member = _all_models(
        models_key,
        grouped,
        class_means,
        noise_scale,
        shots=shots,
        num_models=num_models,
        chunk=models_per_chunk,
    )
    return ClassMeanScores(scores, member, targets, labels, class_means)


@in_float32
def simulated_features(
    key: PRNGKeyArray, *, classes: int, per_class: int, dim: int, noise_scale: float
) -> tuple[Float[Array, "examples dim"], Int[Array, " examples"], Float[Array, "classes dim"]]:
    """Draw features of the simplified model, for a run through the ordinary pipeline.

    Args:
        key: fixes class means and examples.
        classes: number of classes.
        per_class: examples of each class.
        dim: feature dimension.
        noise_scale: standard deviation of each coordinate about the class mean, Sigma = noise_scale² I.

    Returns:
        float32 features [classes * per_class, dim] and int32 labels, sorted by class, and the class means
        [classes, dim]: random points of the unit sphere, which are nearly orthogonal where dim is large.

    Raises:
        InputError: a count below 1, or noise_scale not positive.
    """
    for name, value in {"classes": classes, "per_class": per_class, "dim": dim}.items():
        check_at_least(name, value, 1)
    check(0 < noise_scale < np.inf, "noise_scale", noise_scale, "be a positive number")
    means_key, noise_key = jax.random.split(key)
    directions = jax.random.normal(means_key, (classes, dim))
    class_means = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
    noise = noise_scale * jax.random.normal(noise_key, (classes, per_class, dim))
    features = (class_means[:, None, :] + noise).reshape(classes * per_class, dim)
    return features, jnp.repeat(jnp.arange(classes), per_class), class_means


def class_mean_heads(
    features: Float[Array, "examples dim"],
    labels: Int[Array, " examples"],
    *,
    member: Bool[Array, "models examples"],
    num_classes: int,
) -> Float[Array, "models classes dim"]:
    """Return the heads of every model, the means of its members of each class, by one product for all models.

    A class without members gets a zero head. The left factor holds models x classes x examples numbers.
    """
    of_class = labels == jnp.arange(num_classes)[:, None]
    counted = (member[:, None, :] & of_class[None, :, :]).astype(features.dtype)
    counts = counted.sum(axis=-1, keepdims=True)
    return (counted @ features) / jnp.maximum(counts, 1.0)


@functools.partial(jax.jit, static_argnames=("shots", "num_models", "chunk"))
def _all_models(
    key: PRNGKeyArray,
    targets: Float[Array, "classes per_class dim"],
    class_means: Float[Array, "classes dim"],
    noise_scale: float | Array,
    *,
    shots: int,
    num_models: int,
    chunk: int,
) -> tuple[Float[Array, "models targets"], Bool[Array, "models targets"]]:
    """Return scores and membership of all targets under all models, `chunk` models at a time."""

    def one(model_id: Int[Array, ""]) -> tuple[Float[Array, " targets"], Bool[Array, " targets"]]:
        model_key = jax.random.fold_in(key, model_id)
        return _one_model(model_key, targets, class_means, noise_scale, shots=shots)

    return jax.lax.map(one, jnp.arange(num_models), batch_size=chunk)


def _one_model(
    key: PRNGKeyArray,
    targets: Float[Array, "classes per_class dim"],
    class_means: Float[Array, "classes dim"],
    noise_scale: float | Array,
    *,
    shots: int,
) -> tuple[Float[Array, " targets"], Bool[Array, " targets"]]:
    """Return scores and membership of all targets under one model."""
    classes, per_class, dim = targets.shape
    members_key, coin_key = jax.random.split(key)
    members = class_means[:, None, :] + noise_scale * jax.random.normal(members_key, (classes, shots, dim))
    member = jax.random.bernoulli(coin_key, 0.5, (classes, per_class))
    last = jnp.where(member[:, :, None], targets, members[:, -1:, :])
    heads = (members[:, :-1, :].sum(axis=1, keepdims=True) + last) / shots
    scores = (targets * heads).sum(axis=-1)
    return scores.reshape(-1), member.reshape(-1)


def _one_pool_moments(pool: Float[np.ndarray, "examples dim"], shots: int) -> Float[np.ndarray, "4 examples"]:
    """Return the rows of ScoreMoments for one class."""
    others = len(pool) - 1
    check(
        others > shots,
        "pool",
        len(pool),
        f"hold more than {shots + 1} examples of each class at shots={shots}",
    )
    gram = pool @ pool.T
    own = np.diagonal(gram)
    mean = (gram.sum(axis=1) - own) / others
    deviations = gram - mean[:, None]
    np.fill_diagonal(deviations, 0.0)
    variance = (deviations**2).sum(axis=1) / (others - 1)
    return np.stack(
        [
            (own + (shots - 1) * mean) / shots,
            np.sqrt(variance * (shots - 1) / shots**2 * (1.0 - (shots - 1) / others)),
            mean,
            np.sqrt(variance / shots * (1.0 - shots / others)),
        ]
    )


def _paired(
    examples: np.ndarray | Array, own_means: np.ndarray | Array
) -> tuple[np.ndarray | Array, np.ndarray | Array]:
    examples, own_means = np.asarray(examples, dtype=np.float64), np.asarray(own_means, dtype=np.float64)
    check(examples.ndim == 2 and examples.size > 0, "examples.shape", examples.shape, "be [examples, dim]")
    same = own_means.shape == examples.shape
    check(same, "own_means.shape", own_means.shape, f"be that of the examples, {examples.shape}")
    return examples, own_means


def _spread(
    examples: np.ndarray | Array,
    covariance: float | np.ndarray | Array,
) -> np.ndarray | Array:
    """Return sqrt(xᵀ Sigma x), the standard deviation of <x, fresh draw>."""
    sigma = np.asarray(covariance, dtype=np.float64)
    if sigma.ndim == 0:
        sigma = sigma * np.eye(examples.shape[1])
    square = (examples.shape[1],) * 2
    check(sigma.shape == square, "covariance.shape", sigma.shape, f"be {square}, or covariance a number")
    variance = np.einsum("nd,de,ne->n", examples, sigma, examples, optimize=True)
    lowest = float(variance.min())
    check(lowest > 0, "lowest xᵀ Sigma x", lowest, "be positive")
    return np.sqrt(variance)
