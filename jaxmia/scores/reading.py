"""Read Scores from an .npz of log-odds, logits or probabilities that any framework wrote."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping

import numpy as np
import scipy.special

from jaxmia._npz import read_npz
from jaxmia._validate import InputError, check, shown
from jaxmia.data.labels import label_values
from jaxmia.data.persons import checked_persons
from jaxmia.scores.external import ExternalScores
from jaxmia.scores.rounding import Rounding, cut_off, rounding_of

KINDS = ("log_odds", "logits", "probabilities")
LARGEST = 1e30  # largest |logit|: sums of larger ones overflow float32


def load_scores(source: str | os.PathLike[str]) -> ExternalScores:
    """Load scores from an .npz file whose keys are the arrays of scores_from_arrays.

    Never loads pickled objects.

    Args:
        source: the file.

    Returns:
        Scores, with labels, the target under audit, persons, and notes on what was changed while reading.

    Raises:
        InputError: for a missing or unreadable file, or arrays that scores_from_arrays refuses.
    """
    path = pathlib.Path(source)
    optional = (*KINDS, "labels", "population_log_odds", "target", "person")
    arrays = read_npz(path, name="scores", required=("member",), optional=optional)
    try:
        return scores_from_arrays(arrays)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def scores_from_arrays(arrays: Mapping[str, np.ndarray]) -> ExternalScores:
    """Check arrays of any framework and build Scores from them.

    Log-odds are computed in float64. Probabilities that are exactly 0 or 1, for example because an API rounds them, are
    cut off at half a unit of the rounding (jaxmia.scores.rounding); a note counts such pairs. Arrays stored as
    [examples, models] are transposed where the shapes show it, with a note.

    Args:
        arrays: exactly one of

            - log_odds: [models, examples], log p/(1-p) of the true class,
            - logits: [models, examples, classes],
            - probabilities: [models, examples, classes], or [models, examples] of the true class;

            and with it

            - member: the training sets: bool or 0/1 integers [models, examples], or integers [models, k], the
              examples each model trained on, padded with -1;
            - labels: [examples], the true classes; needed with a class axis: integers that are its columns, or values
              whose sorted order is that of the columns;
            - population_log_odds: [models, population], of examples that no model trained on (optional);
            - target: the row of the model under audit (optional);
            - person: [examples], integers or strings, the person of each example (optional): attacks are then on
              persons too, whose records must be in a model's training set all or not at all.

    Raises:
        InputError: for an array that is missing, has a wrong shape or dtype, or holds values that are not finite or are
            no probabilities; the message names it.
    """
    kinds = [kind for kind in KINDS if kind in arrays]
    hint = "" if kinds else " (losses -log p of the true class as probabilities: np.exp(-losses) in float64)"
    check(len(kinds) == 1, "scores", kinds, f"be given under one of the keys {', '.join(KINDS)}{hint}")
    check(
        "member" in arrays, "member", None, "be given: [models, examples], true where a model trained on it"
    )
    kind, values = kinds[0], arrays[kinds[0]]
    _check_values(kind, values, axes={"log_odds": (2,), "logits": (3,), "probabilities": (2, 3)}[kind])
    labels = _checked_labels(arrays.get("labels"), kind, values.shape)
    values, member, notes = _models_first(kind, values, labels, _checked_member(arrays["member"]))
    log_odds, rounding, number = _log_odds(kind, values, labels)
    of_all = values.ndim == 3 and labels is not None
    if rounding is not None:
        notes.append(_said(rounding, number, log_odds))
    population = arrays.get("population_log_odds")
    if population is not None:
        _check_values("population_log_odds", population, axes=(2,))
        check(
            len(population) == len(values),
            "population_log_odds.shape",
            population.shape,
            f"have {len(values)} rows, one for each model",
        )
        population = population.astype(_precision(population))
    return ExternalScores(
        log_odds,
        member,
        population,
        labels=labels,
        target=_checked_target(arrays, len(values)),
        notes=tuple(notes),
        rounding=rounding,
        person=None if "person" not in arrays else checked_persons(arrays["person"], log_odds.shape[1]),
        margin=_margin(kind, values, labels) if of_all and labels is not None else None,
        classes=values.shape[2] if of_all else None,
    )


def _said(rounding: Rounding, number: int, log_odds: np.ndarray) -> str:
    """Return the note on scores that were cut off."""
    if rounding.decimals is None and rounding.bits is None:
        what = f"{number} of {log_odds.size} pairs have a probability that is exactly 0 or 1"
    else:
        what = (
            f"Probabilities are {rounding}, and {number} of {log_odds.size} pairs are exactly 0 or 1 with it"
        )
    return (
        f"{what}: their log-odds are unknown, and are cut off at {log_odds.min():.3g} and"
        f" {log_odds.max():.3g}. Attacks find less than on logits, or on probabilities in full"
        " precision."
    )


def _check_values(name: str, values: np.ndarray, *, axes: tuple[int, ...]) -> None:
    layouts = {2: "[models, examples]", 3: "[models, examples, classes]"}
    right_shape = values.ndim in axes and values.size > 0
    check(
        right_shape,
        f"{name}.shape",
        values.shape,
        f"be {' or '.join(layouts[n] for n in axes)}, and not empty",
    )
    is_float = np.issubdtype(values.dtype, np.floating) and values.dtype.itemsize <= 8
    check(is_float, f"{name}.dtype", str(values.dtype), "be float16, float32 or float64")
    finite = np.isfinite(values)
    if not finite.all():
        raise InputError(
            f"{name} must be finite, got {np.count_nonzero(~finite)} NaN or infinite values (first: at"
            f" {_first(~finite)})."
        )


def _first(wrong: np.ndarray) -> tuple[int, ...]:
    """Return the index of the first True value."""
    return tuple(int(index) for index in np.unravel_index(int(np.argmax(wrong)), wrong.shape))


def _checked_labels(labels: np.ndarray | None, kind: str, shape: tuple[int, ...]) -> np.ndarray | None:
    if labels is None:
        check(len(shape) == 2, "labels", None, f"be given with {kind} of shape {shape}: [examples]")
        return None
    check(
        labels.ndim == 1 and len(labels) in shape[:2],
        "labels.shape",
        labels.shape,
        f"be [examples], one of the first two axes of {kind}, {shape}",
    )
    values = label_values(labels)
    if len(shape) == 2:
        return (
            values.astype(np.int64)
            if values.dtype.kind in "iu"
            else np.unique(values, return_inverse=True)[1]
        )
    check(shape[2] >= 2, f"{kind}.shape", shape, "have at least 2 classes")
    return _class_columns(values, shape[2])


def _class_columns(values: np.ndarray, classes: int) -> np.ndarray:
    """Return the class column of each label: the label itself, or its rank if there are `classes` distinct values."""
    if values.dtype.kind in "iu":
        wrong = (values < 0) | (values >= classes)
        if not wrong.any():
            return values.astype(np.int64)
        what = f"got {np.count_nonzero(wrong)} outside (first: example {_first(wrong)[0]} has {values[wrong][0]})"
    else:
        what = f"got names, as {shown(values[0])}"
    present, places = np.unique(values, return_inverse=True)
    if len(present) == classes:
        return places.astype(np.int64)
    raise InputError(
        f"labels must lie in 0..{classes - 1}, or have {classes} values, whose order is that of the columns; {what},"
        f" and {len(present)} values."
    )


def _checked_member(member: np.ndarray) -> np.ndarray:
    check(member.ndim == 2, "member.shape", member.shape, "be [models, examples] or [models, k]")
    if np.issubdtype(member.dtype, np.floating) and np.isin(member, (0.0, 1.0)).all():
        return member.astype(bool)
    check(
        member.dtype == bool or np.issubdtype(member.dtype, np.integer),
        "member.dtype",
        str(member.dtype),
        "be bool, or integers (0/1, or indices of examples), or floats 0.0 and 1.0",
    )
    return member


def _models_first(
    kind: str, values: np.ndarray, labels: np.ndarray | None, member: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the scores [models, examples, ...], member bool[models, examples], and notes.

    The length of labels shows which axis holds the examples, and the number of rows of indices shows which holds the
    models. A mask alone shows neither, since it may itself be transposed.
    """
    shape = values.shape[:2]
    is_mask = _is_mask(member, shape)
    if labels is not None:
        examples_first = len(labels) != shape[1]
    else:
        examples_first = not is_mask and len(member) != shape[0] and len(member) == shape[1]
    notes = []
    if examples_first:
        notes.append(_transposed(kind, values.shape))
        values = np.swapaxes(values, 0, 1)
    num_models, num_examples = values.shape[:2]
    if not is_mask:
        rule = f"have {num_models} rows, one for each model of {kind}, {shape}"
        check(len(member) == num_models, "member.shape", member.shape, rule)
        return values, _mask(member, num_examples), notes
    if member.shape != (num_models, num_examples):
        _check_transposed_mask(kind, shape, labels, member.shape)
        notes.append(_transposed("member", member.shape))
        member = member.T
    if labels is None and num_models > num_examples:
        notes.append(
            f"{num_models} models and only {num_examples} examples were read; if these are swapped, save"
            " arrays as [models, examples]."
        )
    return values, member.astype(bool), notes


def _is_mask(member: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Return whether member is bool or 0/1 rather than indices; more than two distinct indices cannot all be 0 or 1."""
    if member.dtype == bool:
        return True
    may_be = member.shape in (shape, shape[::-1]) or member.shape[1] > 2
    return may_be and bool(((member == 0) | (member == 1)).all())


def _transposed(name: str, shape: tuple[int, ...]) -> str:
    return f"{name} of shape {shape} is read as [examples, models]: transposed."


def _check_transposed_mask(
    kind: str, shape: tuple[int, ...], labels: np.ndarray | None, member_shape: tuple[int, ...]
) -> None:
    """Refuse a mask whose shape is wrong, or is transposed without labels to show whether mask or scores are."""
    rule = f"equal the {shape} of {kind}, or be [models, k]"
    check(sorted(member_shape) == sorted(shape), "member.shape", member_shape, rule)
    if labels is None:
        raise InputError(
            f"member.shape={member_shape} must equal the {shape} of {kind}: one of them is transposed,"
            " and the shapes do not show which. Save both as [models, examples], or add labels"
            " [examples]."
        )


def _mask(indices: np.ndarray, num_examples: int) -> np.ndarray:
    """Return bool[models, examples] from the examples [models, k] of each model, -1 for none."""
    wrong = (indices < -1) | (indices >= num_examples)
    if wrong.any():
        raise InputError(
            f"member must hold indices of examples, 0..{num_examples - 1}, or -1 for none; got"
            f" {np.count_nonzero(wrong)} others (first: {indices[wrong][0]} at {_first(wrong)})."
        )
    model, place = np.nonzero(indices >= 0)
    counts = np.zeros((len(indices), num_examples), np.int64)
    np.add.at(counts, (model, indices[model, place]), 1)
    if counts.max() > 1:
        row, example = _first(counts > 1)
        raise InputError(
            f"member must name an example once per model; model {row} names example {example} twice."
        )
    return counts > 0


def _log_odds(
    kind: str, values: np.ndarray, labels: np.ndarray | None
) -> tuple[np.ndarray, Rounding | None, int]:
    """Return log-odds of the true class [models, examples], their rounding, and the number of pairs cut off."""
    if kind == "log_odds":
        return values.astype(_precision(values)), None, 0
    if labels is None or values.ndim == 2:
        return _of_true_class_probabilities(values)
    if kind == "logits":
        return _of_logits(values, labels), None, 0
    return _of_probabilities(values, labels)


def _margin(kind: str, values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return by how much the true class's value exceeds the largest of the others, in logits or log probabilities."""
    examples = np.arange(len(labels))
    margin = np.empty(values.shape[:2], np.float64)
    smallest = np.finfo(np.float64).tiny
    for model, row in enumerate(values):
        others = row.astype(np.float64)
        if kind == "probabilities":
            others = np.log(np.maximum(others, smallest))
        true = others[examples, labels]
        others[examples, labels] = -np.inf
        margin[model] = true - others.max(axis=1)
    return margin


def _precision(values: np.ndarray) -> type[np.floating]:
    """Return float64 for float64 arrays, float32 for all others."""
    return np.float64 if values.dtype.itemsize == 8 else np.float32


def _of_logits(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return z_y - logsumexp_{j != y} z_j, which neither overflows nor saturates, so nothing is cut off."""
    _check_no_probabilities(logits)
    largest = max(abs(float(logits.max())), abs(float(logits.min())))
    check(largest <= LARGEST, "max |logits|", largest, f"be at most {LARGEST:g}")
    log_odds = np.empty(logits.shape[:2], _precision(logits))
    examples = np.arange(len(labels))
    for model, row in enumerate(logits):
        others = row.astype(np.float64)
        true = others[examples, labels]
        others[examples, labels] = -np.inf
        log_odds[model] = true - scipy.special.logsumexp(others, axis=1)
    return log_odds


def _check_no_probabilities(logits: np.ndarray) -> None:
    """Refuse probabilities given as logits: their log-odds would be small and wrong without any warning."""
    if logits.min() < 0 or logits.max() > 1:
        return
    off = float(np.abs(logits.sum(axis=2, dtype=np.float64) - 1).max())
    rounding = rounding_of(logits)
    if off <= max(_sum_tolerance(logits, rounding), 1e-2):
        raise InputError(
            "logits lie in [0, 1] and sum to 1 over classes: they are probabilities, so give them as 'probabilities'."
        )


def _of_probabilities(
    probabilities: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, Rounding | None, int]:
    """Return log p_y - log sum_{j != y} p_j, which keeps digits that 1 - p_y rounds away; the rounding; and cut-offs.

    For probabilities rounded to decimals the sum over the others has no extra digits, and log-odds come from p_y.
    """
    _check_in_unit_interval(probabilities)
    rounding = rounding_of(probabilities)
    _check_sums(probabilities, rounding)
    true, rest = np.empty((2, *probabilities.shape[:2]))
    examples = np.arange(len(labels))
    for model, row in enumerate(probabilities):
        others = row.astype(np.float64)
        true[model] = others[examples, labels]
        others[examples, labels] = 0
        rest[model] = others.sum(axis=1)
    if rounding is not None and rounding.decimals is not None:
        rest = np.round(1 - true, rounding.decimals)
    return _cut_off(true, rest, rounding, probabilities.dtype)


def _of_true_class_probabilities(probabilities: np.ndarray) -> tuple[np.ndarray, Rounding | None, int]:
    """Return log p - log(1 - p), the rounding and cut-offs; 1 - p is no finer than the format's resolution below 1."""
    _check_in_unit_interval(probabilities)
    true, rounding = probabilities.astype(np.float64), rounding_of(probabilities)
    grain = float(np.finfo(probabilities.dtype).epsneg) if rounding is None else rounding.grain
    return _cut_off(true, 1 - true, rounding, probabilities.dtype, finest=grain / 2)


def _cut_off(
    true: np.ndarray, rest: np.ndarray, rounding: Rounding | None, dtype: np.dtype, *, finest: float = 0.0
) -> tuple[np.ndarray, Rounding | None, int]:
    """Return log(true / rest) with rest at least `finest`, the rounding, and how many values are exactly 0 or 1."""
    rounding = rounding or cut_off(true, rest, dtype)
    number = int(np.count_nonzero((true == 0) | (rest == 0)))
    rest = np.maximum(rest, finest)
    log_odds = np.log(true) - np.log(rest) if rounding is None else rounding.log_odds(true, rest)
    return log_odds.astype(np.float64 if dtype.itemsize == 8 else np.float32), rounding, number


def _check_in_unit_interval(probabilities: np.ndarray) -> None:
    wrong = (probabilities < 0) | (probabilities > 1)
    if wrong.any():
        raise InputError(
            f"probabilities must lie in [0, 1], got {np.count_nonzero(wrong)} outside (first:"
            f" {probabilities[wrong][0]} at {_first(wrong)})."
        )


def _sum_tolerance(probabilities: np.ndarray, rounding: Rounding | None) -> float:
    """Return how far from 1 the sums over classes may be.

    C rounding errors of relative size eps add up like a random walk, to eps sqrt(C); four times that is allowed.
    float64 arrays often hold values computed in float32, so float32's eps is the finest used. Decimals may each be off
    by half a unit.
    """
    eps = max(float(np.finfo(dtype).eps) for dtype in (probabilities.dtype, np.float32))
    classes: int = probabilities.shape[2]
    if rounding is None:
        return 4 * eps * float(np.sqrt(classes))
    if rounding.decimals is None:
        return 4 * max(eps, 2 * rounding.grain) * float(np.sqrt(classes))
    return 4 * eps * float(np.sqrt(classes)) + classes * rounding.unit / 2


def _check_sums(probabilities: np.ndarray, rounding: Rounding | None) -> None:
    """Refuse probabilities that do not sum to 1 over classes within rounding."""
    tolerance = _sum_tolerance(probabilities, rounding)
    sums = probabilities.sum(axis=2, dtype=np.float64)
    wrong = np.abs(sums - 1) > tolerance
    if wrong.any():
        raise InputError(
            f"probabilities must sum to 1 over classes within {tolerance:.1g}, got {np.count_nonzero(wrong)} pairs"
            f" that do not (first: {sums[wrong][0]:.6g} at {_first(wrong)}). Save the softmax's output"
            " unchanged; for one-vs-rest heads give log_odds of the true class; give the softmax's"
            " input as 'logits'."
        )


def _checked_target(arrays: Mapping[str, np.ndarray], num_models: int) -> int | None:
    if "target" not in arrays:
        return None
    target = arrays["target"]
    is_integer = target.size == 1 and np.issubdtype(target.dtype, np.integer)
    check(is_integer, "target", target.tolist(), "be one integer, the row of a model")
    return check_target(int(target.item()), num_models)


def check_target(target: int, num_models: int) -> int:
    """Return the row of the model under audit.

    Raises:
        InputError: if there is no such row.
    """
    check(0 <= target < num_models, "target", target, f"be the row of a model, 0..{num_models - 1}")
    return target
