"""Scoring of trained models on examples: log-odds of the true class (Scores), accuracy, gradient norms."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmia._buckets import bucket, in_float32
from jaxmia.data.feature_set import FeatureSet
from jaxmia.scores import Scores
from jaxmia.training.ensemble import ShadowEnsemble
from jaxmia.training.heads import Params
from jaxmia.training.trainables import Inputs, Trainable, trainable

_BLOCK_BYTES = 2**28


def log_odds(
    logits: Float[Array, "classes examples"], labels: Int[Array, "examples"]
) -> Float[Array, "examples"]:
    """Return z_y - logsumexp_{j != y} z_j = log p/(1-p) of the true class; it neither overflows nor saturates."""
    is_label = jnp.arange(logits.shape[0])[:, None] == labels
    true_logit = jnp.sum(jnp.where(is_label, logits, 0.0), axis=0)
    return true_logit - jax.nn.logsumexp(jnp.where(is_label, -jnp.inf, logits), axis=0)


@in_float32
def score(ensemble: ShadowEnsemble, pool: FeatureSet) -> Scores:
    """Return the log-odds of every candidate under every model, computed in blocks of models.

    Args:
        ensemble: M trained models.
        pool: the candidates that they were trained on.

    Returns:
        Scores with log_odds float32[models, examples], log p / (1 - p) of the true class in nats, and member.
    """
    linked = {"softmax": _log_odds_of_models, "one_vs_rest": _log_odds_of_sigmoids}[ensemble.link]
    values = _for_all_models(linked, ensemble, _padded(pool))[:, : len(pool.labels)]
    return Scores(values, np.asarray(ensemble.masks.member))


@in_float32
def margins(ensemble: ShadowEnsemble, pool: FeatureSet) -> Float[np.ndarray, "models examples"]:
    """Return z_y - max_{j != y} z_j of every candidate under every model: positive where the decision is right."""
    return _for_all_models(_margins_of_models, ensemble, _padded(pool))[:, : len(pool.labels)]


def right_decisions(
    key: jax.Array, ensemble: ShadowEnsemble, pool: FeatureSet, *, copies: int
) -> Int[np.ndarray, "models examples"]:
    """Return how many decisions are right on each candidate and noisy copies of it, 0 to copies + 1.

    A copy adds Gaussian noise to the features, of 1/16 to 4 times the deviation of each over the candidates, in
    geometric steps; every model is asked about the same copies. The number of right decisions grows with the distance
    to the boundary, which attacks on labels alone measure so (Choquette-Choo et al. 2021, arXiv 2007.14321, section
    4.1; the scales are this project's).

    Args:
        key: key of the noise.
        ensemble: the models.
        pool: the candidates, with features of any shape [examples, ...].
        copies: number of copies of each candidate.
    """
    features = np.asarray(pool.features, np.float32)
    deviation = features.std(axis=0, keepdims=True)
    right = (margins(ensemble, pool) > 0).astype(np.int64)
    for copy, scale in enumerate(2.0 ** np.linspace(-4, 2, copies)):
        noise = np.asarray(jax.random.normal(jax.random.fold_in(key, copy), features.shape, np.float32))
        noisy = dataclasses.replace(pool, features=features + np.float32(scale) * deviation * noise)
        right += margins(ensemble, noisy) > 0
    return right


@in_float32
def gradient_norms(ensemble: ShadowEnsemble, pool: FeatureSet) -> Float[np.ndarray, "models examples"]:
    """Return the norm of each candidate's loss gradient, (p_i - y_i) [x_i, 1]^T, under each model.

    Large gradients at the end of training indicate vulnerability: Tobaben et al., first version of arXiv 2402.06674.

    Args:
        ensemble: M trained heads.
        pool: the candidates that they were trained on.

    Returns:
        float32[models, examples], L2 norms; NaN for networks and for links other than softmax.
    """
    if ensemble.network is not None or ensemble.link != "softmax":
        return np.full(ensemble.masks.member.shape, np.nan, np.float32)
    lengths = np.sqrt(np.square(pool.features, dtype=np.float64).sum(axis=1) + 1).astype(np.float32)
    errors = _for_all_models(_error_norms_of_models, ensemble, _padded(pool))[:, : len(pool.labels)]
    return errors * lengths


@in_float32
def accuracy(ensemble: ShadowEnsemble, test: FeatureSet) -> Float[np.ndarray, "models"]:
    """Return the share of examples that each model classifies correctly.

    Args:
        ensemble: M trained models.
        test: labelled examples, with the inputs and classes that the models were trained on.

    Returns:
        float32[models], fractions; NaN for an empty set.
    """
    if len(test.labels) == 0:
        return np.full(len(ensemble.masks.model_ids), np.nan, np.float32)
    return _for_all_models(_accuracy_of_models, ensemble, test)


def _padded(pool: FeatureSet) -> FeatureSet:
    """Pad the candidates up to their bucket, so that other sizes in the bucket reuse the program."""
    padding = (0, bucket(len(pool.labels)) - len(pool.labels))
    return dataclasses.replace(
        pool, features=np.pad(pool.features, (padding, (0, 0))), labels=np.pad(pool.labels, padding)
    )


def _for_all_models(function: jax.stages.Wrapped, ensemble: ShadowEnsemble, data: FeatureSet) -> np.ndarray:
    params, kind = ensemble.params, trainable(ensemble.network)
    num_models = jax.tree.leaves(params)[0].shape[0]
    per_example = data.num_classes + kind.activations(data)
    size = max(1, _BLOCK_BYTES // (4 * per_example * len(data.labels)))
    inputs, labels = kind.inputs(data), jnp.asarray(data.labels)
    blocks = [
        np.asarray(
            function(
                jax.tree.map(lambda leaf, start=start: leaf[start : start + size], params),
                inputs,
                labels,
                kind,
            )
        )
        for start in range(0, num_models, size)
    ]
    return np.concatenate(blocks)


@functools.partial(jax.jit, static_argnames="kind")
@functools.partial(jax.vmap, in_axes=(0, None, None, None))
def _log_odds_of_models(params: Params, inputs: Inputs, labels: Array, kind: Trainable[Any]) -> Array:
    return log_odds(kind.logits(params, inputs), labels)


@functools.partial(jax.jit, static_argnames="kind")
@functools.partial(jax.vmap, in_axes=(0, None, None, None))
def _log_odds_of_sigmoids(params: Params, inputs: Inputs, labels: Array, kind: Trainable[Any]) -> Array:
    """Return log-odds for one sigmoid per class, normalised: the softmax of the log sigmoids."""
    return log_odds(jax.nn.log_sigmoid(kind.logits(params, inputs)), labels)


@functools.partial(jax.jit, static_argnames="kind")
@functools.partial(jax.vmap, in_axes=(0, None, None, None))
def _margins_of_models(params: Params, inputs: Inputs, labels: Array, kind: Trainable[Any]) -> Array:
    logits = kind.logits(params, inputs)
    is_label = jnp.arange(logits.shape[0])[:, None] == labels
    true_logit = jnp.sum(jnp.where(is_label, logits, 0.0), axis=0)
    return true_logit - jnp.max(jnp.where(is_label, -jnp.inf, logits), axis=0)


@functools.partial(jax.jit, static_argnames="kind")
@functools.partial(jax.vmap, in_axes=(0, None, None, None))
def _accuracy_of_models(params: Params, inputs: Inputs, labels: Array, kind: Trainable[Any]) -> Array:
    predictions = jnp.argmax(kind.logits(params, inputs), axis=0)
    return jnp.mean(predictions == labels, dtype=jnp.float32)


@functools.partial(jax.jit, static_argnames="kind")
@functools.partial(jax.vmap, in_axes=(0, None, None, None))
def _error_norms_of_models(params: Params, inputs: Inputs, labels: Array, kind: Trainable[Any]) -> Array:
    probabilities = jax.nn.softmax(kind.logits(params, inputs), axis=0)
    is_label = jnp.arange(probabilities.shape[0])[:, None] == labels
    # 1 - p_y loses all digits where p_y is near 1; the sum over the other classes does not.
    others = jnp.where(is_label, 0.0, probabilities)
    return jnp.sqrt(jnp.sum(others, axis=0) ** 2 + jnp.sum(others**2, axis=0))
