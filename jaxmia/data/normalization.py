"""Normalisation of features: by statistics that are given, or by the pool's own."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib

import numpy as np
from jaxtyping import Float

from jaxmia._npz import read_npz
from jaxmia._validate import check, check_choice
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.pool import CandidatePool

NORMALIZATIONS = ("none", "unit", "standardize")


@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
    """What features are standardised by.

    Attributes:
        mean: float64[dim].
        scale: float64[dim], what the centred features are divided by: a deviation; 0 for a dead dimension.
    """

    mean: Float[np.ndarray, "dim"]
    scale: Float[np.ndarray, "dim"]

    def content_hash(self) -> str:
        """SHA-256 of both arrays, as little-endian float64."""
        digest = hashlib.sha256()
        for array in (self.mean, self.scale):
            digest.update(array.astype("<f8").tobytes())
        return digest.hexdigest()


def feature_statistics(features: Float[np.ndarray, "examples dim"]) -> FeatureStatistics:
    """Mean and deviation of each dimension over all examples given, in float64.

    A dimension whose values lie within a few steps of float32 is constant but for rounding: dead, its scale 0.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    scale = features.std(axis=0, dtype=np.float64)
    steps = 4 * float(np.finfo(np.float32).eps) * np.abs(features).max(axis=0)
    return FeatureStatistics(mean, np.where(np.ptp(features, axis=0) > steps, scale, 0.0))


def load_statistics(path: str | os.PathLike[str], *, dim: int) -> FeatureStatistics:
    """Load statistics from an .npz with `mean` and `scale`, both floating [dim]; scale 0 leaves a dimension at zero.

    Args:
        path: the file.
        dim: of the features that they are for.

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
    """(x - mean) / scale / sqrt(dim), computed in float64; dead dimensions (scale 0) become zero.

    By the data's own statistics the mean square norm is the share of dimensions that live: about 1, what learning
    rates and clipping norms are chosen for.
    """
    live = statistics.scale > 0
    divisor = np.where(live, statistics.scale, 1.0) * np.sqrt(data.features.shape[1])
    features = ((data.features - statistics.mean) / divisor * live).astype(np.float32)
    return dataclasses.replace(data, features=features)


def unit_norm(data: FeatureSet) -> FeatureSet:
    """Every example by its own norm, computed in float64; a zero stays zero."""
    norms = np.linalg.norm(data.features.astype(np.float64), axis=1, keepdims=True)
    features = (data.features / np.where(norms > 0, norms, 1.0)).astype(np.float32)
    return dataclasses.replace(data, features=features)


def in_span(
    features: Float[np.ndarray, "examples dim"],
) -> tuple[Float[np.ndarray, "examples examples"], Float[np.ndarray, "examples dim"]]:
    """Coordinates of the examples in an orthonormal basis of their span, and that basis."""
    directions, coordinates = np.linalg.qr(features.T.astype(np.float64))
    return coordinates.T.astype(np.float32), directions.T.astype(np.float32)


def normalized_pool(
    pool: CandidatePool, how: str, statistics: FeatureStatistics | None = None
) -> CandidatePool:
    """Normalise candidates and test split alike.

    Whose data the statistics see: all candidates of the pool, members and non-members of any model alike, and no test
    example. So every model of a cell trains on the same features and membership is not given away by them, but a
    candidate moves them a little whether it is a member or not. An (epsilon, delta) of DP-SGD is that of training on
    the features as they are: statistics of private data would have to be paid for, given ones (of public data) not.

    Args:
        pool: as of candidate_pool.
        how: "none"; "unit" (each example by its own norm); or "standardize" (each dimension, as in standardized).
        statistics: to standardise by; by default those of the pool's candidates.

    Raises:
        InputError: for another word.
    """
    check_choice("normalize", how, NORMALIZATIONS)
    if how == "none":
        return pool
    if how == "unit":
        return CandidatePool(unit_norm(pool.data), unit_norm(pool.test), pool.rows)
    statistics = statistics or feature_statistics(pool.data.features)
    return CandidatePool(standardized(pool.data, statistics), standardized(pool.test, statistics), pool.rows)
