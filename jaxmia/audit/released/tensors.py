"""Find a head's weight and bias among named tensors, by name and never by shape alone."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from jaxmia._validate import InputError, check
from jaxmia.audit.released.base import ReleasedHead, class_order, linear_head, ordered_rows, shown
from jaxmia.data.feature_set import FeatureSet

# Names of outputs, including scikit-learn's; log-probabilities are logits, since their softmax is the probabilities.
OUTPUTS = {
    "logits": "logits",
    "probabilities": "probabilities",
    "predict_proba": "probabilities",
    "proba": "probabilities",
    "probs": "probabilities",
    "predict_log_proba": "log_probabilities",
    "log_probabilities": "log_probabilities",
    "log_probs": "log_probabilities",
}
NO_BIAS = "none"
# Last part of a weight's name, after an optional prefix such as PyTorch's (Keras appends :0), and its bias's name.
_WEIGHT = re.compile(r"^(?P<prefix>(?:.*[./_])?)(?P<word>weights?|kernel|coef_?|W|w)(?P<end>(?::0)?)$")
_BIASES = {
    "weight": ("bias",),
    "weights": ("biases", "bias"),
    "kernel": ("bias",),
    "coef_": ("intercept_",),
    "coef": ("intercept",),
    "W": ("b",),
    "w": ("b",),
}
_BY_CLASS = ("weight", "coef_", "coef")  # [classes, dim], in PyTorch, scikit-learn and jaxmia
_BY_INPUT = "kernel"  # [dim, classes], in Keras and flax
_WITH_RECORDS = ("labels", "member", "ids", "class_names", "classes_", "features")  # not part of a head


def head_of_tensors(
    tensors: Mapping[str, np.ndarray], data: FeatureSet, *, weight: str, bias: str
) -> ReleasedHead:
    """Return the head, or its outputs, found among named tensors.

    Args:
        tensors: tensors of the file, by name.
        data: the records.
        weight: name of the weight; by default the only tensor with a weight's name and two axes.
        bias: name of the bias, or "none"; by default the one whose name matches the weight's.

    Raises:
        InputError: for a missing or ambiguous tensor, for a tensor that would be ignored by mistake, and for shapes
            that do not fit the records.
    """
    given = [name for name in OUTPUTS if name in tensors]
    if not given or weight:
        return _weights(tensors, data, weight, bias)
    check(len(given) == 1, "head", given, "hold one kind of outputs, logits or probabilities")
    beside = [name for name in _floats(tensors) if _WEIGHT.match(name)]
    if beside:
        raise InputError(
            f"the head must hold weights or outputs, not both {shown(beside)} and {given[0]}: set"
            f" head.weight = {beside[0]!r} to read the weights, or use a file with {given[0]} only."
        )
    return _outputs(tensors, given[0], data)


def _outputs(tensors: Mapping[str, np.ndarray], name: str, data: FeatureSet) -> ReleasedHead:
    values, records, classes = tensors[name], len(data.labels), data.num_classes
    check(_is_float(values), f"{name}.dtype", str(values.dtype), "be float16, float32 or float64")
    kind, notes = OUTPUTS[name], ["Only the head's outputs are known."]
    if name != kind or kind == "log_probabilities":
        notes.append(f"Read: {name} {values.shape} as {kind.replace('_', '-')}.")
    logarithms = kind == "log_probabilities"
    kind = "logits" if logarithms else kind
    order = class_order(tensors["classes_"], data) if "classes_" in tensors else list(range(classes))
    alone = classes == 2 and not logarithms
    if alone and values.shape in ((records,), (records, 1)):
        positive = values.reshape(-1)
        negative = np.zeros_like(positive) if kind == "logits" else 1 - positive
        values = np.stack([negative, positive], axis=1)
        what = "logit of class 1 against class 0" if kind == "logits" else "probability of class 1"
        notes.append(f"One number for each record is taken as the {what} ({data.class_names[order[1]]}).")
    expected = (records, classes)
    rule = f"be {expected}: the records and classes of the features"
    if alone:
        rule += f", or {(records,)}, of class 1"
    check(values.shape == expected, f"{name}.shape", values.shape, rule)
    notes += _left_out(tensors, (name, "classes_"))
    return ReleasedHead(values[:, order], kind, None, None, tuple(notes))


def _weights(tensors: Mapping[str, np.ndarray], data: FeatureSet, weight: str, bias: str) -> ReleasedHead:
    floats = _floats(tensors)
    name = _named(tensors, weight, "weight") if weight else _only_weight(tensors, data)
    offset = "" if bias == NO_BIAS else _named(tensors, bias, "bias") if bias else _own_bias(name, tensors)
    left = [each for each in floats if each not in (name, offset)]
    if left and not weight:
        beside = f"{name} {floats[name].shape}" + (f" and {offset}" if offset else "")
        raise InputError(
            f"head.weight must name the weight if the file holds more than a head: {beside} would be"
            f" read, and {_described(floats, left)} ignored. Set head.weight = {name!r} to do so."
        )
    kernel, notes = _oriented(name, tensors[name], data)
    if not offset and bias != NO_BIAS:
        _refuse_lost_bias(floats, left, len(kernel))
        notes.append("The head has no bias.")
    values = np.zeros(len(kernel))
    if offset:
        values = _flat_bias(offset, tensors[offset], len(kernel))
    read = f"Read: {name} {tensors[name].shape}" + (
        f" and {offset} {tensors[offset].shape}." if offset else "."
    )
    notes = [read, *notes, *_left_out(tensors, (name, offset, "classes_"))]
    if "classes_" in tensors:
        kernel, values = ordered_rows(kernel, values, class_order(tensors["classes_"], data))
    return linear_head(kernel, values, data, notes)


def _is_float(values: np.ndarray) -> bool:
    return np.issubdtype(values.dtype, np.floating) or values.dtype.name == "bfloat16"


def _floats(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the tensors that may be part of a head: floats, except those about the records."""
    return {
        name: values
        for name, values in tensors.items()
        if name not in (*_WITH_RECORDS, *OUTPUTS) and _is_float(values)
    }


def _described(tensors: Mapping[str, np.ndarray], names: list[str]) -> str:
    """Return names and shapes, and dtypes that no weight has."""
    return shown(
        [
            f"{name} {each.shape}" + ("" if _is_float(each) else f" of {each.dtype}")
            for name, each in ((name, tensors[name]) for name in names)
        ]
    )


def _left_out(tensors: Mapping[str, np.ndarray], read: tuple[str, ...]) -> list[str]:
    left = [name for name in tensors if name not in read]
    return [f"Left out: {_described(tensors, left)}."] if left else []


def _named(tensors: Mapping[str, np.ndarray], name: str, what: str) -> str:
    if name not in tensors:
        known = shown(sorted(tensors))
        raise InputError(f"head.{what}={name!r} must be one of its tensors: {known}.")
    rule = "be a floating dtype"
    check(_is_float(tensors[name]), f"head.{what}={name!r}: dtype", str(tensors[name].dtype), rule)
    return name


def _only_weight(tensors: Mapping[str, np.ndarray], data: FeatureSet) -> str:
    """Return the only tensor with a weight's name and two axes; for two classes one axis may be enough."""
    floats = _floats(tensors)
    named = [name for name in floats if _WEIGHT.match(name)]
    found = [name for name in named if floats[name].ndim == 2]
    if not found and data.num_classes == 2:
        found = [name for name in named if floats[name].shape == data.features.shape[1:]]
    if len(found) == 1:
        return found[0]
    held = _described(tensors, list(tensors)) or "nothing"
    if not found:
        raise InputError(
            "the head must hold a tensor of floats named weight, kernel or coef_ with two axes, or head.weight must"
            f" name it; or outputs named logits or probabilities [records, classes]; it has {held}."
        )
    sizes = (data.num_classes, data.features.shape[1])
    fitting = [name for name in found if floats[name].shape in (sizes, sizes[::-1])]
    fits = f" Of these {shown(fitting)} fits the records." if fitting else ""
    raise InputError(
        "head.weight must name the weight of the last linear layer, whose inputs are the features; the file has"
        f" {_described(floats, found)}.{fits}"
    )


def _own_bias(name: str, tensors: Mapping[str, np.ndarray]) -> str:
    """Return the name of the bias that matches the weight's name; empty without one."""
    match = _WEIGHT.match(name)
    if match is None:
        return ""
    for word in _BIASES[match["word"]]:
        own = f"{match['prefix']}{word}{match['end']}"
        if own in tensors:
            return _named(tensors, own, "bias")
    return ""


def _refuse_lost_bias(floats: dict[str, np.ndarray], left: list[str], rows: int) -> None:
    """Raise InputError if a tensor that would be ignored has the size of a bias."""
    like = [name for name in left if floats[name].size == rows]
    if like:
        raise InputError(
            f"head.bias must name the bias, or be {NO_BIAS!r} if the head has none: {_described(floats, like)}"
            " may be one, but no name matches the weight's."
        )


def _oriented(name: str, kernel: np.ndarray, data: FeatureSet) -> tuple[np.ndarray, list[str]]:
    """Return the weight as float64[rows, dim], and notes on changes."""
    check(kernel.ndim in (1, 2), f"{name}.shape", kernel.shape, "have two axes")
    classes, dim = data.num_classes, data.features.shape[1]
    kernel = (kernel[None] if kernel.ndim == 1 else kernel).astype(np.float64)
    match = _WEIGHT.match(name)
    word = match["word"] if match else ""
    turned = [f"The weight of shape {kernel.shape} is read as [dim, classes]: transposed."]
    if classes == dim and kernel.shape == (dim, classes):
        if word == _BY_INPUT:
            return kernel.T, turned
        if word not in _BY_CLASS:
            raise InputError(
                f"{name}.shape={kernel.shape} does not show which axis holds the classes, since both"
                " have the same length: save it as"
                " 'weight' [classes, dim] or 'kernel' [dim, classes]."
            )
        return kernel, [f"The weight of shape {kernel.shape} is read as [classes, dim], by its name."]
    rows = ((classes, dim), (1, dim)) if classes == 2 else ((classes, dim),)
    if kernel.shape not in rows and kernel.T.shape in rows:
        return kernel.T, turned
    return kernel, []


def _flat_bias(name: str, values: np.ndarray, rows: int) -> np.ndarray:
    """Return a bias as float64[rows], from zero axes, one axis, or two axes of which one has length 1."""
    fits = values.ndim <= 2 and values.size == rows == max(values.shape, default=1)
    rule = f"hold one number for each of the weight's {rows} rows"
    check(fits, f"{name}: bias.shape", values.shape, rule)
    return values.reshape(-1).astype(np.float64)
