"""The levers that change the vulnerability of a ridge head, each a list of options for one pool."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.normalization import feature_statistics, standardized, unit_norm
from jaxmia.data.persons import grouped, main_class
from jaxmia.laws.fit import fit_power_law

MORE = (2, 4)
"""Times as many records that the power law is asked about."""
SHARES = (0.5, 0.25)
"""Shares of the records or persons to keep."""
NORMALISED = ("unit norm", "standardised")
"""Normalisations of the features."""


@dataclasses.dataclass(frozen=True, eq=False)
class Change:
    """One option of a lever: other records, features or classes, to be estimated at the given ridge.

    Attributes:
        lever: name of the lever.
        option: the change, in words.
        pool: the records that the head would train on.
        rows: int64[records], rows of the pool's records among the given records.
        note: a caveat for readers.
    """

    lever: str
    option: str
    pool: FeatureSet
    rows: np.ndarray
    note: str = ""


def take(pool: FeatureSet, rows: np.ndarray) -> FeatureSet:
    """Return some records of a pool."""
    person = None if pool.person is None else pool.person[rows]
    return dataclasses.replace(pool, features=pool.features[rows], labels=pool.labels[rows], person=person)


def other_features(pool: FeatureSet, components: Sequence[int]) -> list[Change]:
    """Return the options unit norm, standardised features, and projections on leading principal components."""
    everyone = np.arange(len(pool.labels))
    own = "statistics estimated from the records themselves are not accounted for"
    found = [
        Change("features", NORMALISED[0], unit_norm(pool), everyone),
        Change(
            "features", NORMALISED[1], standardized(pool, feature_statistics(pool.features)), everyone, own
        ),
    ]
    mean = pool.features.mean(axis=0, dtype=np.float64)
    _, _, directions = np.linalg.svd(pool.features - mean, full_matrices=False)
    for number in components:
        if number < min(pool.features.shape):
            projected = ((pool.features - mean) @ directions[:number].T).astype(np.float32)
            changed = dataclasses.replace(pool, features=projected)
            found.append(Change("features", f"{number} components", changed, everyone, own))
    return found


def fewer_records(
    pool: FeatureSet,
    key: jax.Array,
    shares: Sequence[float] = SHARES,
    *,
    person: np.ndarray | None = None,
) -> list[Change]:
    """Return options with nested shares of each class's records, or of each class's persons.

    Args:
        pool: the records.
        key: random key of the choice.
        shares: of the records or persons.
        person: [records], the person of each, if persons are chosen, by the class that most of their records are of.
    """
    whose, labels = np.arange(len(pool.labels)), pool.labels
    if person is not None:
        whose = grouped(person)[1]
        labels = main_class(whose, pool.labels)
    order = np.asarray(jax.random.permutation(key, len(labels)))
    place = np.empty(len(order), np.int64)
    for label in range(pool.num_classes):
        own = order[labels[order] == label]
        place[own] = np.arange(own.size)
    counts = np.bincount(labels, minlength=pool.num_classes)
    found = []
    for share in shares:
        kept = np.maximum(2, np.round(share * counts)).astype(np.int64)
        rows = np.flatnonzero((place < kept[labels])[whose])
        if (kept < counts).all() and np.bincount(pool.labels[rows], minlength=pool.num_classes).min() >= 2:
            what = "records" if person is None else "persons"
            found.append(Change(what, f"{share:.0%} of them", take(pool, rows), rows))
    return found


def more_records(rows: Sequence[Mapping[str, Any]], fpr: float) -> list[dict[str, Any]]:
    """Mean TPR with more records, extrapolated by the power law from estimates with fewer.

    Accuracy and the most vulnerable record's TPR are not extrapolated: no law of theirs was tested.

    Args:
        rows: of all records and of fewer, as advise makes them.
        fpr: of every record.

    Returns:
        A row for each factor of MORE; none where the estimates determine no law, or one that does not fall.
    """
    whole = rows[0]
    table = pd.DataFrame(rows)
    law = fit_power_law(
        pd.DataFrame(
            {
                "shots": table["records"] / table["classes"] / 2,
                "classes": table["classes"],
                "advantage": table["tpr"] - fpr,
                "fpr": fpr,
            }
        )
    )[fpr]
    if law.slope_shots is None or law.slope_shots >= 0:
        return []
    unknown = ("accuracy", "accuracy_low", "accuracy_high", "worst_tpr", "worst_low", "worst_high")
    nobody = {name: "" for name in whole if name in ("worst_record", "worst_person")}
    found = []
    for factor in MORE:
        shots = factor * whole["records"] / whole["classes"] / 2
        tpr = law.predict(shots=shots, classes=whole["classes"]).tpr
        found.append(
            {**whole, **dict.fromkeys(unknown, np.nan), "option": f"{factor} times as many", "tpr": tpr}
            | {"records": factor * whole["records"], "how": "law", **nobody, "note": "extrapolated"}
        )
    return found


def merged_classes(pool: FeatureSet, confusion: np.ndarray, numbers: Sequence[int]) -> list[Change]:
    """Return options that repeatedly merge the two most confused classes.

    Args:
        pool: the records.
        confusion: float64[classes, classes], share of a class's records (rows) that are given each label.
        numbers: numbers of classes of the options.
    """
    weights = np.bincount(pool.labels, minlength=pool.num_classes)[:, None]
    mistaken = confusion * weights
    groups = [[label] for label in range(pool.num_classes)]
    found = []
    while len(groups) > min(numbers, default=len(groups)):
        between = [
            (mistaken[np.ix_(one, other)].sum() + mistaken[np.ix_(other, one)].sum(), i, j)
            for i, one in enumerate(groups)
            for j, other in enumerate(groups[:i])
        ]
        _, i, j = max(between)
        groups[j] = groups[j] + groups.pop(i)
        if len(groups) in numbers:
            found.append(_merged(pool, groups))
    return found


def _merged(pool: FeatureSet, groups: Sequence[Sequence[int]]) -> Change:
    to_group = np.empty(pool.num_classes, np.int32)
    for number, group in enumerate(groups):
        to_group[list(group)] = number
    names = tuple(" + ".join(pool.class_names[label] for label in sorted(group)) for group in groups)
    changed = dataclasses.replace(pool, labels=to_group[pool.labels], class_names=names)
    merged = "; ".join(name for name, group in zip(names, groups, strict=True) if len(group) > 1)
    note = f"{merged}; the accuracy is that of an easier task"
    return Change("classes", f"merged to {len(groups)}", changed, np.arange(len(pool.labels)), note)


def without_the_most_vulnerable(
    pool: FeatureSet, separation: np.ndarray, shares: Sequence[float], *, person: np.ndarray | None = None
) -> list[Change]:
    """Return options without the records or persons of largest separation; those that remain are estimated again.

    Other records then become most vulnerable (the onion effect: Carlini, Jagielski, Zhang, Papernot, Terzis and Tramer
    2022, arXiv 2206.10469).

    Args:
        pool: the records.
        separation: [records], or [persons] ascending by name.
        shares: of the records or persons.
        person: [records], the person of each, if persons are left out.
    """
    order, found = np.argsort(-separation, kind="stable"), []
    whose = np.arange(len(pool.labels)) if person is None else grouped(person)[1]
    for share in shares:
        left = order[int(np.ceil(share * len(order))) :]
        rows = np.flatnonzero(np.isin(whose, left))
        counts = np.bincount(pool.labels[rows], minlength=pool.num_classes)
        if counts.min() >= 2:
            found.append(Change("leave out", f"the worst {share:.0%}", take(pool, rows), rows))
    return found
