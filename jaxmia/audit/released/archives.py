"""Readers of files with named tensors: .npz, and .safetensors such as PyTorch's state dict."""

from __future__ import annotations

import pathlib

import numpy as np

from jaxmia._npz import read_npz
from jaxmia._validate import InputError, check
from jaxmia.audit.released.base import ReleasedHead
from jaxmia.audit.released.tensors import head_of_tensors
from jaxmia.data.feature_set import FeatureSet


def read_npz_head(path: pathlib.Path, data: FeatureSet, *, weight: str, bias: str) -> ReleasedHead:
    """Return the head in an .npz; pickled objects are never loaded."""
    return _head(path, read_npz(path, name="head", required=(), optional=None), data, weight, bias)


def read_safetensors_head(path: pathlib.Path, data: FeatureSet, *, weight: str, bias: str) -> ReleasedHead:
    """Return the head in a .safetensors file."""
    return _head(path, read_safetensors(path), data, weight, bias)


def read_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Return all tensors of a .safetensors or .npz; raises InputError for other and damaged files."""
    suffix = path.suffix.lower()
    check(suffix in (".safetensors", ".npz"), "head", path.name, "end in .safetensors or .npz for an adapter")
    if suffix == ".npz":
        return read_npz(path, name="head", required=(), optional=None)
    return read_safetensors(path)


def read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Return the tensors of a .safetensors file.

    Raises:
        InputError: for a damaged file, or if safetensors is not installed.
    """
    try:
        import safetensors.numpy
    except ImportError:
        raise InputError("a .safetensors head needs safetensors: pip install 'jaxmia[audit]'.") from None
    try:
        tensors: dict[str, np.ndarray] = safetensors.numpy.load_file(path)
    except Exception as error:  # safetensors' own errors, and KeyError for dtypes that NumPy lacks
        raise InputError(
            f"{path} must be a readable .safetensors file of float16, bfloat16, float32 or float64: {error}."
        ) from None
    return tensors


def _head(
    path: pathlib.Path, tensors: dict[str, np.ndarray], data: FeatureSet, weight: str, bias: str
) -> ReleasedHead:
    try:
        return head_of_tensors(tensors, data, weight=weight, bias=bias)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
