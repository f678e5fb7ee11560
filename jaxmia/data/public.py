"""Projection on what public features have in common: fewer dimensions for a private head, at no privacy.

A projection on random directions, which needs no data at all, is what it must beat.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from jaxmia._validate import InputError, check
from jaxmia.data.feature_set import FeatureSet, load_features


@dataclasses.dataclass(frozen=True, eq=False)
class PublicProjection:
    """The leading principal components of public features, or random directions.

    Attributes:
        mean: float64[dim], of the public features; 0 for random directions.
        directions: float64[dim, components], orthonormal, the one of the largest variance first.
        source: SHA-256 of the public features; "random" for random directions.
    """

    mean: Float[np.ndarray, "dim"]
    directions: Float[np.ndarray, "dim components"]
    source: str

    def content_hash(self) -> str:
        """SHA-256 of what it is made from: the public features and the number of components."""
        return hashlib.sha256(f"{self.source} {self.directions.shape[1]}".encode()).hexdigest()

    def leading(self, components: int) -> PublicProjection:
        """Return the projection on the first of its components."""
        return dataclasses.replace(self, directions=self.directions[:, :components])


def random_projection(dim: int, components: int) -> PublicProjection:
    """Return random orthonormal directions, the same for all data of this dimension; nothing is centred.

    Raises:
        InputError: for more components than dimensions.
    """
    check(1 <= components <= dim, "components", components, f"lie between 1 and {dim}")
    draws = np.random.default_rng(0).normal(size=(dim, components))
    return PublicProjection(np.zeros(dim), np.linalg.qr(draws)[0], "random")


def public_projection(public: FeatureSet, components: int) -> PublicProjection:
    """Fit a projection to public features, in float64. Labels are not used.

    Args:
        public: features of the same extractor, none of them of a person to be protected.
        components: dimensions to keep.

    Raises:
        InputError: for more components than dimensions or public records.
    """
    most = min(public.features.shape)
    check(1 <= components <= most, "components", components, f"lie between 1 and {most}")
    mean = public.features.mean(axis=0, dtype=np.float64)
    centred = public.features - mean
    variances, directions = np.linalg.eigh(centred.T @ centred)
    leading = directions[:, np.argsort(-variances, kind="stable")[:components]]
    # The sign of an eigenvector is arbitrary: the largest entry is positive.
    signs = np.sign(leading[np.abs(leading).argmax(axis=0), np.arange(components)])
    return PublicProjection(mean, leading * signs, public.content_hash())


def load_projection(
    path: str | os.PathLike[str], *, components: int | None, private: FeatureSet
) -> PublicProjection:
    """Fit a projection to a file of public features.

    Args:
        path: an .npz of features and labels, or "demo".
        components: dimensions to keep; None for all that the features determine.
        private: what the projection is for.

    Raises:
        InputError: if the file is not what it should be, is of another dimension, or holds a record of private.
    """
    public = load_features(path)
    dim = private.features.shape[1]
    check(
        public.features.shape[1] == dim,
        f"{path}: dim",
        public.features.shape[1],
        f"be {dim}, as the features'",
    )
    check_public(public, private, str(path))
    return public_projection(public, components or min(public.features.shape))


def check_public(public: FeatureSet, private: FeatureSet, name: str) -> None:
    """Refuse public features with a record of the private ones, recognised by content, also in half precision.

    Raises:
        InputError: with the number of such records.
    """
    known = set(_contents(public.features))
    shared = sum(content in known for content in _contents(private.features))
    if shared:
        raise InputError(
            f"public={name!r} must hold no record of the private features, but {shared} of these are among its"
            " own: what is estimated from them would not be public."
        )


def _contents(features: Float[np.ndarray, "examples dim"]) -> Iterator[bytes]:
    """Yield what every record is recognised by: its features as float16, as they are where float16 is too small."""
    with np.errstate(over="ignore"):
        half = features.astype(np.float16)
    for whole, short in zip(np.ascontiguousarray(features), half, strict=True):
        yield short.tobytes() if np.isfinite(short).all() else whole.tobytes()


def projected(data: FeatureSet, projection: PublicProjection) -> FeatureSet:
    """Centre, project and divide by the norm: every example of its own, in float64. A zero vector stays zero.

    Norm 1 suits the clipping norm of DP-SGD: after the projection alone norms vary, and small ones drown in the noise.
    """
    features = (data.features - projection.mean) @ projection.directions
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return dataclasses.replace(data, features=(features / np.where(norms > 0, norms, 1.0)).astype(np.float32))
