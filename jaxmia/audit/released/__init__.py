"""Readers of the head to be released: weights of any framework, or only its outputs.

Each module reads one format. To add a format, write a function like those in READERS and add it there.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

from jaxmia._validate import InputError, check
from jaxmia.audit.released.archives import read_npz_head, read_safetensors_head
from jaxmia.audit.released.base import ReleasedHead
from jaxmia.audit.released.skops_file import read_skops_head
from jaxmia.data.feature_set import FeatureSet

__all__ = ["READERS", "ReleasedHead", "load_released"]

READERS: dict[str, Callable[..., ReleasedHead]] = {
    ".safetensors": read_safetensors_head,
    ".npz": read_npz_head,
    ".skops": read_skops_head,
}


_OF_TENSORS = "np.savez('head.npz', weight=..., bias=...), with weight [classes, dim]"
_OF_TORCH = "safetensors.torch.save_file(model.state_dict(), 'head.safetensors')"
_OF_SKLEARN = "skops.io.dump(model, 'head.skops')"
# Code to convert heads of other formats; pickles are never loaded.
_INSTEAD = dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), _OF_TORCH)
_INSTEAD |= dict.fromkeys((".pkl", ".pickle", ".joblib"), f"{_OF_SKLEARN} or {_OF_TORCH}")
_INSTEAD |= dict.fromkeys((".npy", ".h5", ".hdf5", ".keras", ".onnx", ".csv", ".msgpack"), _OF_TENSORS)


def load_released(
    path: str | os.PathLike[str], data: FeatureSet, *, weight: str = "", bias: str = ""
) -> ReleasedHead:
    """Return a linear head applied to the records, or a head of which only outputs are known.

    Args:
        path: .safetensors (such as PyTorch's state dict), .skops (scikit-learn; for the supported models see
            jaxmia.audit.released.estimators), or .npz with weight [classes, dim] and bias [classes] (optional), or with
            logits or probabilities [records, classes]; scikit-learn's names are accepted too. Pickles are never loaded.
            For two classes, a single row of weights, or one number per record, is for class 1 against class 0.
        data: the records, with features as inputs of the head or of the Pipeline in the file.
        weight: name of the weight tensor; by default the only tensor with a weight's name.
        bias: name of the bias tensor, or "none"; by default the one whose name matches the weight's.

    Raises:
        InputError: for a missing, unknown or damaged file, a model that is not a softmax of linear scores, an ambiguous
            or missing tensor, or shapes that do not fit the records.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"head={str(path)!r} must be an existing file of a head; there is none.")
    suffix = path.suffix.lower()
    instead = f": save it by {_INSTEAD[suffix]}" if suffix in _INSTEAD else ""
    check(suffix in READERS, "head", path.name, f"end in one of {', '.join(READERS)}{instead}")
    return READERS[suffix](path, data, weight=weight, bias=bias)
