"""Records or persons in groups with the same number of places, so that arrays over a group have one shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxmia.data.persons import checked_persons, grouped


class Layout(NamedTuple):
    """Indices of the units of one group and of their records.

    Attributes:
        units: int64[units], indices among all units.
        rows: int64[units, places], of their records; 0 where unused.
        used: bool[units, places].
    """

    units: np.ndarray
    rows: np.ndarray
    used: np.ndarray


class Group(NamedTuple):
    """The inputs of one group of units.

    Attributes:
        inputs: float32[units, places, inputs], 0 in unused places.
        one_hot: float32[units, places, classes], of the labels, 0 in unused places.
        first: number of units in the groups before.
    """

    inputs: Array
    one_hot: Array
    first: Array


def layouts(records: int, person: np.ndarray | None) -> list[Layout]:
    """Return the groups of single records, or of persons with about as many records.

    Args:
        records: number of records.
        person: [records], the person of each; None makes each record a unit of its own.

    Raises:
        InputError: as checked_persons.
    """
    if person is None:
        rows = np.arange(records)
        return [Layout(rows, rows[:, None], np.ones((records, 1), bool))]
    _, whose, number = grouped(checked_persons(person, records))
    order, starts = np.argsort(whose, kind="stable"), np.cumsum(number) - number
    places, found = np.array([_places(most) for most in number.tolist()]), []
    for width in np.unique(places):
        units = np.flatnonzero(places == width)
        used = np.arange(width) < number[units, None]
        within = np.where(used, starts[units, None] + np.arange(width), 0)
        found.append(Layout(units, np.where(used, order[within], 0), used))
    return found


def group_shapes(records: int, person: np.ndarray | None) -> list[tuple[int, int]]:
    """Return number and places of the units of every group; arguments as of layouts."""
    return [(len(layout.units), layout.used.shape[1]) for layout in layouts(records, person)]


def _places(records: int) -> int:
    """Return the number of places for so many records: 1, 2, 3, 4, 6, 8, 12, 16, 24, ..."""
    power = 1 << (records - 1).bit_length()
    return power * 3 // 4 if power >= 4 and records <= power * 3 // 4 else power


def groups_of(found: Sequence[Layout], inputs: Array, labels: Array, num_classes: int) -> tuple[Group, ...]:
    """Return the inputs of every group.

    Args:
        found: the layouts of the groups.
        inputs: [records, inputs].
        labels: int[records].
        num_classes: C.
    """
    groups, first = [], 0
    for layout in found:
        used = layout.used[..., None].astype(np.float32)
        one_hot = jax.nn.one_hot(labels[layout.rows], num_classes) * used
        groups.append(Group(inputs[layout.rows] * used, one_hot, jnp.asarray(first, jnp.int32)))
        first += len(layout.units)
    return tuple(groups)


def by_unit(found: Sequence[Layout], values: Sequence[Any]) -> np.ndarray:
    """Return [units, ...] of values [units of the group, ...] of every group."""
    first = np.asarray(values[0])
    total = np.empty((sum(len(layout.units) for layout in found), *first.shape[1:]), first.dtype)
    for layout, value in zip(found, values, strict=True):
        total[layout.units] = value
    return total


def by_record(found: Sequence[Layout], values: Sequence[Any]) -> np.ndarray:
    """Return [records] of values [units of the group, places] of every group."""
    total = np.empty(sum(int(layout.used.sum()) for layout in found), np.asarray(values[0]).dtype)
    for layout, value in zip(found, values, strict=True):
        total[layout.rows[layout.used]] = np.asarray(value)[layout.used]
    return total
