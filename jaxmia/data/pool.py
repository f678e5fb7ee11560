"""The candidate pool: the chosen classes of a feature set, the candidates for training, and a test split."""

from __future__ import annotations

from collections.abc import Sequence

import flax.struct
import jax
import numpy as np
from jaxtyping import Int

from jaxmia._buckets import in_float32, random_key
from jaxmia._shown import Shown
from jaxmia._validate import InputError, check, check_at_least, check_choice
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.person_pool import SHOTS_OF, check_persons, person_rows
from jaxmia.data.persons import UNITS


@flax.struct.dataclass
class CandidatePool(Shown):
    """The candidates of one experiment cell and a disjoint test split.

    Attributes:
        data: pool_multiplier x shots examples of each class, ordered by class, relabelled 0 .. C - 1; by person, all
            records of the persons drawn.
        test: examples of the same classes that no model trains on (possibly none); by person, of other persons.
        rows: int64[examples], the row of each candidate in the feature set it was drawn from.
    """

    data: FeatureSet
    test: FeatureSet
    rows: Int[np.ndarray, "examples"]

    __repr__ = Shown.__repr__

    def headline(self) -> str:
        """Return one line with the numbers of candidates and test examples."""
        return f"{self.data.headline()}, and {len(self.test.labels)} test examples"


def choose_classes(data: FeatureSet, classes: int | Sequence[str]) -> tuple[int, ...]:
    """Return the labels of the C largest classes (ties by label order) or of the named classes, in label order.

    Raises:
        InputError: for fewer than 2 classes, more than the data have, or an unknown name.
    """
    if isinstance(classes, int):
        check_at_least("classes", classes, 2)
        counts = np.bincount(data.labels, minlength=data.num_classes)
        present = int((counts > 0).sum())
        check(classes <= present, "classes", classes, f"be at most {present}, the classes that have examples")
        return tuple(sorted(int(label) for label in np.argsort(-counts, kind="stable")[:classes]))
    check(len(set(classes)) >= 2, "classes", list(classes), "name at least 2 different classes")
    for name in classes:
        check_choice("classes", name, data.class_names)
    return tuple(sorted({data.class_names.index(name) for name in classes}))


def check_candidates(
    data: FeatureSet,
    *,
    classes: int | Sequence[str],
    shots: int,
    multiplier: int = 2,
    unit: str = "record",
    shots_of: str = "records",
) -> tuple[int, ...]:
    """Return the labels that candidate_pool would choose, if the data have enough examples; nothing is drawn.

    Raises:
        InputError: naming the class and its count, if one has fewer than multiplier x shots examples.
    """
    check_at_least("shots", shots, 1)
    check_at_least("multiplier", multiplier, 2)
    check_choice("unit", unit, UNITS)
    check_choice("shots_of", shots_of, SHOTS_OF)
    chosen = choose_classes(data, classes)
    if unit == "person":
        check_persons(data, chosen, needed=multiplier * shots, shots_of=shots_of)
        return chosen
    check(shots_of == "records", "shots_of", shots_of, "be 'records' unless unit='person'")
    counts = np.bincount(data.labels, minlength=data.num_classes)
    for label in chosen:
        if counts[label] < multiplier * shots:
            raise InputError(
                f"shots={shots} needs {multiplier} x {shots} = {multiplier * shots} examples of each class,"
                f" but class {data.class_names[label]!r} has {counts[label]}."
            )
    return chosen


@in_float32
def candidate_pool(
    data: FeatureSet,
    *,
    classes: int | Sequence[str],
    shots: int,
    multiplier: int = 2,
    key: jax.Array | int,
    test_per_class: int = 200,
    unit: str = "record",
    shots_of: str = "records",
) -> CandidatePool:
    """Choose classes, a pool of multiplier x shots candidates of each, and a disjoint test split.

    For the same key, the pool for fewer shots is a subset of the pool for more shots, so that curves over shots are
    comparable.

    Args:
        data: the feature set to draw from.
        classes: number of classes C (the largest are taken), or their names.
        shots: S, training examples per class of each model.
        multiplier: m; a model trains on 1/m of the pool.
        key: random key, or a seed of the draw.
        test_per_class: largest number of test examples of each class, taken from examples outside the pool.
        unit: "person" draws persons, each with all their records in the chosen classes. A person is drawn for the class
            of most of their records (jaxmia.data.person_pool), and test examples are of persons outside the pool.
        shots_of: what shots count if unit is "person": "records" (the pool has at most multiplier x shots records for
            each class) or "persons".

    Raises:
        InputError: naming the class and its count, if one has fewer than multiplier x shots examples; by person without
            data.person.
    """
    check_at_least("test_per_class", test_per_class, 0)
    rows, test, chosen = candidate_rows(
        data,
        classes=classes,
        shots=shots,
        multiplier=multiplier,
        key=key,
        test_per_class=test_per_class,
        unit=unit,
        shots_of=shots_of,
    )
    return CandidatePool(_take(data, rows, chosen), _take(data, test, chosen), rows)


def candidate_rows(
    data: FeatureSet,
    *,
    classes: int | Sequence[str],
    shots: int,
    multiplier: int,
    key: jax.Array | int,
    test_per_class: int,
    unit: str = "record",
    shots_of: str = "records",
) -> tuple[Int[np.ndarray, "examples"], Int[np.ndarray, "test"], tuple[int, ...]]:
    """Return the rows of candidate_pool's candidates and test split, and the labels of its classes.

    Raises:
        InputError: as candidate_pool.
    """
    chosen = check_candidates(
        data, classes=classes, shots=shots, multiplier=multiplier, unit=unit, shots_of=shots_of
    )
    needed = multiplier * shots
    if unit == "person":
        pool, test = person_rows(
            data,
            chosen,
            needed=needed,
            shots_of=shots_of,
            key=random_key(key),
            test_per_class=test_per_class,
        )
        return pool, test, chosen
    pool_rows, test_rows = [], []
    for label in chosen:
        members = np.flatnonzero(data.labels == label)
        order = np.asarray(jax.random.permutation(jax.random.fold_in(random_key(key), label), members.size))
        pool_rows.append(members[order[:needed]])
        test_rows.append(members[order[max(needed, members.size - test_per_class) :]])
    return np.concatenate(pool_rows).astype(np.int64), np.concatenate(test_rows), chosen


def some_records(
    data: FeatureSet,
    *,
    classes: int | None,
    shots: int | None,
    key: jax.Array | int,
    unit: str = "record",
) -> tuple[FeatureSet, Int[np.ndarray, "examples"]]:
    """The candidates of candidate_pool without a test split, or all records where neither classes nor shots are given.

    If unit is "person", shots count persons.

    Returns:
        The records, and the row of each in data.

    Raises:
        InputError: for one of both without the other, or as candidate_pool.
    """
    if (classes is None) != (shots is None):
        raise InputError("classes and shots must be given together, or neither.")
    if classes is None or shots is None:
        return data, np.arange(len(data.labels))
    pool = candidate_pool(
        data,
        classes=classes,
        shots=shots,
        key=key,
        test_per_class=0,
        unit=unit,
        shots_of="persons" if unit == "person" else "records",
    )
    return pool.data, pool.rows


def _take(data: FeatureSet, rows: np.ndarray, chosen: Sequence[int]) -> FeatureSet:
    labels = np.searchsorted(np.array(chosen), data.labels[rows]).astype(np.int32)
    names = tuple(data.class_names[label] for label in chosen)
    person = None if data.person is None else data.person[rows]
    return FeatureSet(data.features[rows], labels, names, data.input_shape, person, data.backbone)
