"""Records sorted by person, and the norms of persons' gradients in closed form, for DP-SGD whose unit is the person.

The gradient of a linear head on the records of one person is sum_j e_j x_j^T, e_j the error of the logits and x_j the
features with a 1 for the bias, if there is one. Its squared norm is sum_jk (e_j . e_k) (x_j . x_k): a small Gram matrix
of the person's features, the same for all models and steps, and products of errors. No gradient is formed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxmia._validate import InputError
from jaxmia.privacy.accounting import MOST_RECORDS

_CLASSES = 16  # whose products are written out at once


class PersonRows(NamedTuple):
    """What clipping by person reads of examples that are sorted by person.

    Attributes:
        whose: int32[examples], number of the person, ascending.
        place: int32[examples], of a record among its person's, from 0.
        products: [examples, most], of the features' dtype: (x_j, 1) . (x_{j+s}, 1), without the ones for heads without
            a bias, with the person's record s places later; 0 where the person has none there.
    """

    whose: Int[Array | np.ndarray, "examples"]
    place: Int[Array | np.ndarray, "examples"]
    products: Float[Array | np.ndarray, "examples most"]


def person_rows(
    features: Float[np.ndarray, "examples dim"],
    whose: Int[np.ndarray, "examples"],
    examples: int,
    *,
    intercept: bool = True,
) -> PersonRows:
    """Work out what PersonRows holds, on the host.

    Args:
        features: of all examples, sorted by person.
        whose: number of each example's person, from 0, ascending.
        examples: that the program is compiled for; those beyond the pool's are one more person's, who is no member.
        intercept: whether heads have a bias.
    """
    records = np.bincount(whose)
    starts = np.cumsum(records) - records
    place = np.arange(len(whose)) - starts[whose]
    left = records[whose] - place  # records of the person from this one on
    products = np.zeros((examples, int(records.max())), features.dtype)
    for later in range(products.shape[1]):
        rows = np.flatnonzero(left > later)
        pairs = np.einsum("nd,nd->n", features[rows], features[rows + later], dtype=np.float64)
        with np.errstate(over="ignore"):  # infinite: whoever's it is counts as nothing
            products[rows, later] = intercept + pairs
    padding = (0, examples - len(whose))
    whose = np.pad(whose, padding, constant_values=len(records))
    return PersonRows(whose.astype(np.int32), np.pad(place, padding).astype(np.int32), products)


def sorted_persons(
    person: np.ndarray, member: Bool[np.ndarray, "models examples"]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the order that sorts examples by person, and the number of the person of each example.

    Args:
        person: [examples], whose record each example is.
        member: whom each model trains on.

    Raises:
        InputError: for a person with more records than MOST_RECORDS, or with some that a model trains on and others
            that it does not.
    """
    names, whose, records = np.unique(person, return_inverse=True, return_counts=True)
    most = int(records.argmax())
    if records[most] > MOST_RECORDS:
        raise InputError(
            f"person={names[most].item()!r} must have at most {MOST_RECORDS} records to be clipped by person, but has"
            f" {records[most]}: leave records out."
        )
    order = np.argsort(whose, kind="stable")
    inside = np.add.reduceat(member[:, order], np.cumsum(records) - records, axis=1, dtype=np.int64)
    split = ((inside > 0) & (inside < records)).any(axis=0)
    if split.any():
        raise InputError(
            f"person={names[split.argmax()].item()!r} has some records in a model's training set and others out of it,"
            f" and so have {np.count_nonzero(split) - 1} more persons; membership must be drawn by person."
        )
    return order, whose


def person_norms(
    errors: Float[Array, "rest rows"],
    counted: Bool[Array, "rows"],
    persons: PersonRows,
    *,
    share: float = 0.0,
) -> Float[Array, "rows"]:
    """Bound the norm of every record's person: of the sum of the gradients of the person's rows that count.

    Sums of products of either sign round by a share of sum_j ||e_j|| ||x_j||, however small they come out. The bound
    adds that, and a share of the same that the caller's rounding takes.

    Args:
        errors: p_i - y_i of all classes but the last, whose own is minus their sum (heads.logit_errors).
        counted: which rows count: all or none of a person's.
        persons: of these rows, sorted by person but for rows that do not count.
        share: of sum_j ||e_j|| ||x_j||, by which what is summed may differ from the gradient.

    Returns:
        A norm for each row, that of its person; NaN if it is not finite.
    """
    rows, most = persons.products.shape
    pairs = _pair_products(errors, min(most, rows))
    own = pairs[0] * persons.products[:, 0]
    squares = own
    for later, product in enumerate(persons.products.T[1 : len(pairs)], start=1):
        # Beyond the person: nothing, whatever another person's errors are.
        squares += jnp.where(product != 0, 2 * pairs[later] * product, 0.0)
    at = jnp.arange(rows, dtype=persons.place.dtype)
    first = jnp.where(counted, at - persons.place, at)  # the row of the person's first record
    of_rows = jnp.where(counted, jnp.stack([squares, jnp.sqrt(own)]), 0.0)
    square, reach = jnp.zeros_like(of_rows).at[:, first].add(of_rows)[:, first]
    rounding = (errors.shape[0] + most + 4) * float(jnp.finfo(errors.dtype).eps) / 2
    return jnp.sqrt(jnp.maximum(square, 0.0) + rounding * reach**2) + share * reach


def _pair_products(errors: Float[Array, "rest rows"], most: int) -> list[Float[Array, "rows"]]:
    """Products of each row's errors with those of the row s places later, s = 0 .. most - 1; 0 where there is none.

    Of all classes, and written out by class: XLA's sums along any axis but the last take ten times as long on a CPU.
    """
    rows = errors.shape[1]

    def of_classes(classes: Sequence[Float[Array, "rows"]]) -> list[Array]:
        sums = []
        for later in range(most):
            total = classes[0][: rows - later] * classes[0][later:]
            for row in classes[1:]:
                total += row[: rows - later] * row[later:]
            sums.append(jnp.pad(total, (0, later)))
        return sums

    found = of_classes([jnp.sum(errors, axis=0)])  # the last class
    if len(errors) <= _CLASSES:
        return list(map(jnp.add, found, of_classes(list(errors))))
    blocks = jnp.pad(errors, ((0, -len(errors) % _CLASSES), (0, 0))).reshape(-1, _CLASSES, rows)

    def add(total: list[Array], block: Array) -> tuple[list[Array], None]:
        return list(map(jnp.add, total, of_classes(list(block)))), None

    return list(jax.lax.scan(add, found, blocks)[0])
