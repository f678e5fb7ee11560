"""The head that is to be released, as its owner has it: weights from any framework, or nothing but its outputs.

One file owns one format. A new one is a function like those of READERS, and a line there.
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
# What to type where a head is in another format: pickles are never loaded.
_INSTEAD = dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), _OF_TORCH)
_INSTEAD |= dict.fromkeys((".pkl", ".pickle", ".joblib"), f"{_OF_SKLEARN} or {_OF_TORCH}")
_INSTEAD |= dict.fromkeys((".npy", ".h5", ".hdf5", ".keras", ".onnx", ".csv", ".msgpack"), _OF_TENSORS)


def load_released(
    path: str | os.PathLike[str], data: FeatureSet, *, weight: str = "", bias: str = ""
) -> ReleasedHead:
    """Read a linear head and apply it to the records, or read its outputs.

    Args:
        path: .safetensors (as of PyTorch's state dict), .skops (of scikit-learn: jaxmia.audit.released.estimators has
            what is read), or .npz: with weight [classes, dim] and bias [classes] (optional), or with logits or
            probabilities [records, classes], also by scikit-learn's names. Never a pickle. With two classes one row of
            weights, or one number for each record, is of class 1 against class 0.
        data: the records; features as the head sees them, or as the Pipeline in the file does.
        weight: name of the tensor; by default the only weight by its name.
        bias: name of the tensor, or "none"; by default the one that goes with the weight's name.

    Raises:
        InputError: for a missing, foreign or damaged file, a model that is no softmax of linear scores, an ambiguous or
            missing tensor, or shapes that do not fit the records.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"head={str(path)!r} must be an existing file of a head; there is none.")
    suffix = path.suffix.lower()
    instead = f": save it by {_INSTEAD[suffix]}" if suffix in _INSTEAD else ""
    check(suffix in READERS, "head", path.name, f"end in one of {', '.join(READERS)}{instead}")
    return READERS[suffix](path, data, weight=weight, bias=bias)
