"""The result of a reader of heads: the head, with notes on what was read and what was ignored."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxmia._validate import InputError, check
from jaxmia.data.feature_set import FeatureSet
from jaxmia.scores.external import ExternalScores
from jaxmia.scores.reading import scores_from_arrays

_SHOWN = 8  # largest number of tensors or classes in one message


@dataclasses.dataclass(frozen=True, eq=False)
class ReleasedHead:
    """A head, or its outputs on the records.

    Attributes:
        outputs: float[records, classes], logits or probabilities.
        kind: "logits" or "probabilities".
        weight: float64[classes, dim], None if only outputs are known.
        bias: float64[classes], zeros for a head without bias; None if only outputs are known.
        notes: what was read and what was ignored, for readers of the results.
        warnings: reasons why results mean something else.
        features: float32[records, dim], the inputs of the head if the file, or [train], transforms the records;
            otherwise None.
        recipe: settings of [train] from the file. Without an optimizer they are incomplete, and the rest is fitted.
            None if the file has none.
        unknown_recipe: why shadows cannot use the file's recipe; otherwise empty.
        inside: number of an adapter's parameters, inside the network that makes the features.
    """

    outputs: np.ndarray
    kind: str
    weight: np.ndarray | None
    bias: np.ndarray | None
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    features: np.ndarray | None = None
    recipe: Mapping[str, Any] | None = None
    unknown_recipe: str = ""
    inside: int = 0

    @property
    def num_parameters(self) -> int | None:
        """Numbers that a release of the weights gives away; None where only outputs are known.

        The row of zeros that one row of weights is read with is none of them, and neither is a bias that is not there.
        """
        if self.weight is None or self.bias is None:
            return None
        given = np.any(self.weight != 0, axis=1) | (self.bias != 0)
        rows = 1 if len(given) == 2 and given.sum() == 1 else len(given)
        return int(rows * (self.weight.shape[1] + np.any(self.bias))) + self.inside

    def given(self, inputs: FeatureSet) -> ReleasedHead:
        """Return the head with the inputs that it was applied to, unless its file made its own of them."""
        return self if self.features is not None else dataclasses.replace(self, features=inputs.features)

    def scores(self, labels: np.ndarray, member: np.ndarray) -> ExternalScores:
        """Return log-odds of the true class [1, records], with the head's membership.

        Raises:
            InputError: as scores_from_arrays, for outputs that are not finite or are no probabilities.
        """
        return scores_from_arrays(
            {self.kind: self.outputs[None], "labels": labels, "member": member[None].astype(bool)}
        )

    def predictions(self) -> np.ndarray:
        """Return the predicted classes, int[records]."""
        decided: np.ndarray = self.outputs.argmax(axis=1)
        return decided


def linear_head(
    weight: np.ndarray, bias: np.ndarray, data: FeatureSet, notes: Sequence[str], **more: Any
) -> ReleasedHead:
    """Return the softmax head with these weights, applied to the records.

    Args:
        weight: float64[classes, dim]; with two classes [1, dim] is the logit of class 1 against class 0.
        bias: float64[rows].
        data: the records, with features as inputs of the head.
        notes: notes on reading.
        more: other fields of ReleasedHead.

    Raises:
        InputError: for shapes that do not fit the records, or values that are not finite.
    """
    classes, dim = data.num_classes, data.features.shape[1]
    notes = list(notes)
    if classes == 2 and weight.shape == (1, dim):
        notes.append("One row of weights is read as the logit of class 1 against class 0.")
        weight, bias = (np.concatenate([np.zeros_like(part), part]) for part in (weight, bias))
    rule = f"be {(classes, dim)}: the classes of the features and their dimension"
    check(weight.shape == (classes, dim), "weight.shape", weight.shape, rule)
    check(bias.shape == (classes,), "bias.shape", bias.shape, f"be {(classes,)}, one for each class")
    for name, values in (("weight", weight), ("bias", bias)):
        bad = int(np.count_nonzero(~np.isfinite(values)))
        check(bad == 0, f"NaN or infinite values in {name}", bad, "be 0")
    logits = data.features.astype(np.float64) @ weight.T + bias
    return ReleasedHead(logits, "logits", weight, bias, tuple(notes), **more)


def class_order(values: np.ndarray, data: FeatureSet) -> list[int]:
    """Return the index of each class of the records among a head's classes, by value.

    Args:
        values: the head's classes in its order: strings, integers, or whole floats.
        data: the records; class_names are values, or names of the labels 0 .. classes - 1.

    Raises:
        InputError: if the classes differ, or if names and numbers imply different orders.
    """
    given = [_as_text(value) for value in values.tolist()]
    found = []
    for names in (list(data.class_names), [str(label) for label in range(data.num_classes)]):
        if sorted(given) == sorted(names):
            found.append([given.index(name) for name in names])
    if not found:
        raise InputError(
            f"classes_={shown(given)} of the head must be the classes of the features,"
            f" {shown(data.class_names)}, or their numbers."
        )
    if any(order != found[0] for order in found):
        raise InputError(
            f"classes_={shown(given)} of the head may be the labels' numbers or the class_names"
            f" {shown(data.class_names)}, in another order: give class_names that are no numbers of other labels."
        )
    return found[0]


def ordered_rows(kernel: np.ndarray, values: np.ndarray, order: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and bias in the order of the records' classes; a single row is the second class's logit."""
    if order == list(range(len(order))):
        return kernel, values
    if len(kernel) == 1:
        kernel, values = (np.concatenate([np.zeros_like(part), part]) for part in (kernel, values))
    return kernel[order], values[order]


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def shown(names: Sequence[str]) -> str:
    """Return the names in one line of bounded length."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
