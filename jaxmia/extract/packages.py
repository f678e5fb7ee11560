"""Packages of the extras `extract` and `audit`, imported when they are first needed."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from typing import Any

from jaxmia._validate import InputError

EXTRA = "pip install 'jaxmia[extract]'"
_OF_AUDIT = ("sklearn", "skops")  # packages of the extra `audit`
_OPERATORS = ("nms", "qnms")  # operators that torchvision registers with torch even if it could not load them
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def check_installed(*names: str) -> None:
    """Raise InputError, naming the extra, unless the packages are installed; nothing is imported."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            extra = EXTRA.replace("extract", "audit") if name in _OF_AUDIT else EXTRA
            raise InputError(f"jaxmia extract needs {name} here: {extra}.")


def load_package(name: str) -> Any:
    """Import one of the extra's packages.

    Raises:
        InputError: if it is not installed, or cannot be imported.
    """
    check_installed(name)
    try:
        if name in ("sentence_transformers", "timm", "transformers"):
            _mend_torchvision()
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        raise InputError(f"{name} must be importable: {one_line(error)}") from None


def package_versions(*names: str) -> dict[str, str]:
    """Return versions of installed packages, by pip's names."""
    return {name: importlib.metadata.version(name) for name in names}


def one_line(error: BaseException) -> str:
    """Return the first line of an error, or its type."""
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__


def _mend_torchvision() -> None:
    """Make torchvision importable if its compiled operators do not fit torch.

    PyPI has torchvision for CUDA only. With a CPU build of torch its operators do not load, so importing torchvision,
    timm and transformers fails. No backbone calls these operators, so registering their signatures with torch is
    enough.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    import torch

    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        for name in _OPERATORS:
            torch.library.define(f"torchvision::{name}", _SIGNATURE)
        importlib.import_module("torchvision")
