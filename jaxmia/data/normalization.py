"""Normalisation of features, by given statistics or by those of the pool."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib

import numpy as np
from jaxtyping import Float

from jaxmia._npz import read_npz
from jaxmia._validate import InputError, check, check_choice
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.pool import CandidatePool
from jaxmia.data.public import PublicProjection, projected

NORMALIZATIONS = ("none", "unit", "standardize", "public", "random")
PROJECTIONS = ("public", "random")


@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
    """The statistics that standardise features.

    Attributes:
        mean: float64[dim].
        scale: float64[dim], divisor of the centred features, a standard deviation; 0 for a constant (dead) dimension.
    """

    mean: Float[np.ndarray, "dim"]
    scale: Float[np.ndarray, "dim"]

    def content_hash(self) -> str:
        """SHA-256 of both arrays, as little-endian float64."""
        digest = hashlib.sha256()
        for array in (self.mean, self.scale):
            digest.update(array.astype("<f8").tobytes())
        return digest.hexdigest()


Normalizer = FeatureStatistics | PublicProjection
"""What is the same for all pools: from a file, or random directions."""


def feature_statistics(features: Float[np.ndarray, "examples dim"]) -> FeatureStatistics:
    """Return mean and standard deviation of each dimension over all given examples, in float64.

    A dimension whose values differ by only a few float32 steps is constant up to rounding: it is dead, with scale 0.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    scale = features.std(axis=0, dtype=np.float64)
    steps = 4 * float(np.finfo(np.float32).eps) * np.abs(features).max(axis=0)
    return FeatureStatistics(mean, np.where(np.ptp(features, axis=0) > steps, scale, 0.0))


def load_statistics(path: str | os.PathLike[str], *, dim: int) -> FeatureStatistics:
    """Load statistics from an .npz with `mean` and `scale`, both floating [dim]; scale 0 leaves a dimension at zero.

    Args:
        path: the file.
        dim: dimension of the features to normalise.

    Raises:
        InputError: for a missing or unreadable file, a missing key, another shape, values that are not finite, or a
            negative scale.
    """
    arrays = read_npz(pathlib.Path(path), name="statistics", required=("mean", "scale"))
    for name, array in arrays.items():
        rule = f"be [{dim}], as the features have"
        check(array.shape == (dim,), f"{path}: {name}.shape", array.shape, rule)
        floating = np.issubdtype(array.dtype, np.floating)
        check(floating, f"{path}: {name}.dtype", str(array.dtype), "be floating point")
        check(np.isfinite(array).all(), f"{path}: {name}", "not finite", "be finite")
    check((arrays["scale"] >= 0).all(), f"{path}: scale", float(arrays["scale"].min()), "be 0 or more")
    return FeatureStatistics(arrays["mean"].astype(np.float64), arrays["scale"].astype(np.float64))


def standardized(data: FeatureSet, statistics: FeatureStatistics) -> FeatureSet:
    """Return (x - mean) / scale / sqrt(dim), computed in float64; dead dimensions (scale 0) become zero.

    With the data's own statistics the mean squared norm is the share of dimensions that are not dead, about 1. Default
    learning rates and clipping norms assume this scale.
    """
    live = statistics.scale > 0
    divisor = np.where(live, statistics.scale, 1.0) * np.sqrt(data.features.shape[1])
    features = ((data.features - statistics.mean) / divisor * live).astype(np.float32)
    return dataclasses.replace(data, features=features)


def unit_norm(data: FeatureSet) -> FeatureSet:
    """Return every example divided by its norm, computed in float64; zero vectors stay zero."""
    norms = np.linalg.norm(data.features.astype(np.float64), axis=1, keepdims=True)
    features = (data.features / np.where(norms > 0, norms, 1.0)).astype(np.float32)
    return dataclasses.replace(data, features=features)


def in_span(
    features: Float[np.ndarray, "examples dim"],
) -> tuple[Float[np.ndarray, "examples examples"], Float[np.ndarray, "examples dim"]]:
    """Return coordinates of the examples in an orthonormal basis of their span, and this basis."""
    directions, coordinates = np.linalg.qr(features.T.astype(np.float64))
    return coordinates.T.astype(np.float32), directions.T.astype(np.float32)


def normalized_pool(pool: CandidatePool, how: str, statistics: Normalizer | None = None) -> CandidatePool:
    """Normalise candidates and test split alike.

    By default the statistics use all candidates of the pool, members and non-members of any model, and no test example.
    Every model of a cell then trains on the same features, so the statistics reveal no membership, though every
    candidate affects them a little. An (epsilon, delta) of DP-SGD covers training on fixed features only: statistics of
    private data would need extra privacy budget, while given statistics (of public data) need none.

    Args:
        pool: the pool that candidate_pool returned.
        how: "none"; "unit" (each example by its own norm); "standardize" (each dimension, as in standardized);
            "public" (projected on components of public features, then to norm 1); or "random" (on random directions).
        statistics: for "standardize", by default those of the pool's candidates; for "public" and "random", the
            projection.

    Raises:
        InputError: for an unknown `how`, or "public" or "random" without a projection.
    """
    if how == "none":
        return pool
    if how == "standardize" and not isinstance(statistics, FeatureStatistics):
        statistics = feature_statistics(pool.data.features)
    data, test = (normalized(examples, how, statistics) for examples in (pool.data, pool.test))
    return CandidatePool(data, test, pool.rows)


def normalized(data: FeatureSet, how: str, normalizer: Normalizer | None = None) -> FeatureSet:
    """Normalise features, each example by itself and by what is given.

    Args:
        data: the features.
        how: as in normalized_pool.
        normalizer: statistics for "standardize", a projection for "public" and "random".

    Raises:
        InputError: for an unknown `how`, or without what it needs.
    """
    check_choice("normalize", how, NORMALIZATIONS)
    if how == "none":
        return data
    if how == "unit":
        return unit_norm(data)
    if how in PROJECTIONS:
        if not isinstance(normalizer, PublicProjection):
            raise InputError(
                f"normalize={how!r} needs a PublicProjection: jaxmia.data.public.{how}_projection."
            )
        return projected(data, normalizer)
    if not isinstance(normalizer, FeatureStatistics):
        raise InputError(
            "normalize='standardize' needs FeatureStatistics: feature_statistics, load_statistics."
        )
    return standardized(data, normalizer)
