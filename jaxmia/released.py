"""The head that is to be released, as its owner has it: weights from any framework, or nothing but its outputs."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from jaxmia._npz import read_npz
from jaxmia._validate import InputError, check
from jaxmia.external import ExternalScores, scores_from_arrays
from jaxmia.features import FeatureSet

OUTPUTS = ("logits", "probabilities")
SUFFIXES = (".safetensors", ".npz", ".skops")


@dataclasses.dataclass(frozen=True, eq=False)
class ReleasedHead:
    """A head, or what it says of the records.

    Attributes:
        outputs: float[records, classes], logits or probabilities.
        kind: "logits" or "probabilities".
        weight: float64[classes, dim], None where only outputs are known.
        bias: float64[classes], zero without one; None where only outputs are known.
        notes: how the file was read, for the reader of the results.
    """

    outputs: np.ndarray
    kind: str
    weight: np.ndarray | None
    bias: np.ndarray | None
    notes: tuple[str, ...]

    @property
    def num_parameters(self) -> int | None:
        """Numbers that a release of the weights gives away; None where only outputs are known."""
        return None if self.weight is None or self.bias is None else self.weight.size + self.bias.size

    def scores(self, labels: np.ndarray, member: np.ndarray) -> ExternalScores:
        """Log-odds of the true class [1, records], with the head's own training set.

        Raises:
            InputError: as scores_from_arrays, for outputs that are not finite or no probabilities.
        """
        return scores_from_arrays(
            {self.kind: self.outputs[None], "labels": labels, "member": member[None].astype(bool)}
        )

    def predictions(self) -> np.ndarray:
        """The class it decides for, int[records]."""
        return self.outputs.argmax(axis=1)


def load_released(
    path: str | os.PathLike[str], data: FeatureSet, *, weight: str = "", bias: str = ""
) -> ReleasedHead:
    """Read a linear head and apply it to the records, or read its outputs.

    Args:
        path: .safetensors (as of PyTorch's state dict), .skops (a scikit-learn LogisticRegression), or .npz: with
            weight [classes, dim] and bias [classes] (optional), or with logits or probabilities [records, classes].
            Never a pickle. One row of weights is the logit of class 1 against class 0.
        data: the records; features as the head sees them.
        weight: name of the tensor; by default the only one with two axes.
        bias: name of the tensor; by default the only one with one axis.

    Raises:
        InputError: for a missing, foreign or damaged file, an ambiguous or missing tensor, or shapes that do not fit
            the records.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"head={str(path)!r} must be an existing file of a head; there is none.")
    check(path.suffix in SUFFIXES, "head", path.name, f"end in one of {', '.join(SUFFIXES)}")
    tensors = _READERS[path.suffix](path, data)
    try:
        given = [name for name in OUTPUTS if name in tensors]
        if given:
            check(len(given) == 1, "head", given, "hold logits or probabilities, not both")
            expected = (len(data.labels), data.num_classes)
            outputs = tensors[given[0]]
            rule = f"be {expected}: the records and classes of the features"
            check(outputs.shape == expected, f"{given[0]}.shape", outputs.shape, rule)
            return ReleasedHead(outputs, given[0], None, None, ("Only the head's outputs are known.",))
        return _linear(tensors, data, weight, bias)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _linear(tensors: dict[str, np.ndarray], data: FeatureSet, weight: str, bias: str) -> ReleasedHead:
    kernel = _tensor(tensors, weight, axes=2, what="weight")
    offset = _tensor(tensors, bias, axes=1, what="bias", optional=True)
    notes = []
    classes, dim = data.num_classes, data.features.shape[1]
    if kernel.shape == (dim, classes) and dim != classes:
        notes.append(f"The weight of shape {kernel.shape} is read as [dim, classes]: transposed.")
        kernel = kernel.T
    if offset is None:
        notes.append("The head has no bias.")
        offset = np.zeros(len(kernel))
    if classes == 2 and kernel.shape == (1, dim):
        notes.append("One row of weights is read as the logit of class 1 against class 0.")
        kernel, offset = (np.concatenate([np.zeros_like(part), part]) for part in (kernel, offset))
    rule = f"be {(classes, dim)}: the classes of the features and their dimension"
    check(kernel.shape == (classes, dim), "weight.shape", kernel.shape, rule)
    check(offset.shape == (classes,), "bias.shape", offset.shape, f"be {(classes,)}, one for each class")
    for name, values in (("weight", kernel), ("bias", offset)):
        bad = int(np.count_nonzero(~np.isfinite(values)))
        check(bad == 0, f"NaN or infinite values in {name}", bad, "be 0")
    logits = data.features.astype(np.float64) @ kernel.T + offset
    return ReleasedHead(logits, "logits", kernel, offset, tuple(notes))


def _tensor(
    tensors: dict[str, np.ndarray], name: str, *, axes: int, what: str, optional: bool = False
) -> Any:
    """The tensor of that name in float64, or the only one with so many axes."""
    if name:
        if name not in tensors:
            raise InputError(f"{what}={name!r} must be one of its tensors: {', '.join(tensors)}.")
        check(tensors[name].ndim == axes, f"{what}={name!r}: shape", tensors[name].shape, f"have {axes} axes")
        return tensors[name].astype(np.float64)
    found = [key for key, value in tensors.items() if value.ndim == axes]
    if not found and optional:
        return None
    if len(found) != 1:
        has = ", ".join(f"{key} {value.shape}" for key, value in tensors.items())
        raise InputError(
            f"a head must have one tensor with {axes} axes, or {what} must name it; it has {has or 'none'}."
        )
    return tensors[found[0]].astype(np.float64)


def _read_npz(path: pathlib.Path, data: FeatureSet) -> dict[str, np.ndarray]:
    return read_npz(path, name="head", required=(), optional=("weight", "bias", *OUTPUTS))


def _read_safetensors(path: pathlib.Path, data: FeatureSet) -> dict[str, np.ndarray]:
    try:
        import safetensors.numpy
    except ImportError:
        raise InputError("a .safetensors head needs safetensors: pip install 'jaxmia[audit]'.") from None
    try:
        return safetensors.numpy.load_file(path)
    except Exception as error:  # its own kinds, and KeyError for dtypes that NumPy lacks
        raise InputError(
            f"{path} must be a readable .safetensors file of float16, float32 or float64: {error}."
        ) from None


def _read_skops(path: pathlib.Path, data: FeatureSet) -> dict[str, np.ndarray]:
    try:
        import skops.io
    except ImportError:
        raise InputError("a .skops head needs skops: pip install 'jaxmia[audit]'.") from None
    try:
        untrusted = skops.io.get_untrusted_types(file=path)
        model: Any = None if untrusted else skops.io.load(path)
    except Exception as error:  # of whatever kind: zip, JSON, missing keys
        raise InputError(f"{path} must be a readable .skops file: {error}.") from None
    check(not untrusted, "types in the .skops file", untrusted, "be scikit-learn's and NumPy's alone")
    names = [
        type(model).__name__,
        *(name for name in ("coef_", "intercept_", "classes_") if hasattr(model, name)),
    ]
    check(len(names) == 4, f"{path}: model", names[0], "be a fitted linear classifier, as LogisticRegression")
    classes = [str(value) for value in model.classes_.tolist()]
    orders = [list(data.class_names), [str(label) for label in range(data.num_classes)]]
    rule = f"be the classes of the features in their order: {', '.join(data.class_names)} (or their numbers)"
    check(classes in orders, f"{path}: classes_", classes, rule)
    return {"weight": model.coef_, "bias": model.intercept_}


_READERS = {".safetensors": _read_safetensors, ".npz": _read_npz, ".skops": _read_skops}
