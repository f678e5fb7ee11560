"""`jm.advise`: options for a release with accuracy and vulnerability, and the most accurate one within a limit.

Ridge heads are estimated without shadows (jaxmia.ridge.expected); a few heads give accuracy and tails. Private heads
are bounded by their guarantee. All results are for heads that train on a random half of the records.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pandas as pd
import rich.console

from jaxmia._atomic import read_json, write_json
from jaxmia._hashes import content_key
from jaxmia._progress import item_progress
from jaxmia._validate import check
from jaxmia.advice.advice import Advice, judged
from jaxmia.advice.confirm import measured_ridge
from jaxmia.advice.estimates import SEPARATION_ERROR, RidgeEstimate, ridge_estimate, scaled
from jaxmia.advice.levers import (
    MORE,
    NORMALISED,
    SHARES,
    Change,
    fewer_records,
    merged_classes,
    more_records,
    other_features,
    without_the_most_vulnerable,
)
from jaxmia.advice.outputs import rounded_tpr
from jaxmia.advice.private import private_estimate
from jaxmia.advice.settings import AdviceSettings
from jaxmia.data.activations import check_no_folder
from jaxmia.data.feature_set import FeatureSet, load_features
from jaxmia.data.labels import record_ids
from jaxmia.data.persons import grouped, main_class
from jaxmia.privacy.accounting import MOST_RECORDS
from jaxmia.ridge.triage import persons_for

ROUNDED = (2, 1)
"""Decimals that released probabilities are rounded to."""
_HALVINGS = 3  # bisections of the interval between the ridges on either side of the limit
_VERSION = 2  # version of the rows' content


def advise(
    source: FeatureSet | str | os.PathLike[str],
    settings: AdviceSettings | None = None,
    *,
    ids: np.ndarray | None = None,
    out: str | os.PathLike[str] | None = None,
    console: rich.console.Console | None = None,
    **options: Any,
) -> Advice:
    """Return the effect of each lever on accuracy and vulnerability of a ridge head, and the options within a limit.

    Args:
        source: the records that the head would train on, an .npz or "demo"; 8 records of each class or more.
        settings: settings of the advisor; or give its fields by name: fpr=0.01, max_tpr=0.1, ...
        ids: names of the records [records], by default their row numbers.
        out: a folder that keeps finished options, so that a stopped call continues from them.
        console: console for progress, or None for no output.
        options: fields of AdviceSettings.

    Raises:
        InputError: for settings out of range, or records that cannot be used for estimates, before any work.
    """
    settings = dataclasses.replace(settings or AdviceSettings(), **options)
    check_no_folder(source, "advise")
    pool = source if isinstance(source, FeatureSet) else load_features(source)
    smallest = int(np.bincount(pool.labels, minlength=pool.num_classes).min())
    check(smallest >= 8, "records of the smallest class", smallest, "be 8 or more, to be halved at random")
    check(pool.num_classes > 1, "classes", pool.num_classes, "be 2 or more")
    names = record_ids(ids, len(pool.labels))
    person = persons_for(settings.unit, pool)
    if person is not None:
        _check_persons(pool, person, private=bool(settings.epsilons))
    work = _Work(pool, settings, names, None if out is None else pathlib.Path(out))
    with item_progress(console, "options", work.planned()) as done:
        rows = []
        for row in work.rows():
            rows.append(row)
            done(1)
    frame = judged(pd.DataFrame(rows), settings)
    if settings.confirm:
        frame = work.confirmed(frame)
    return Advice(frame, settings, work.said, work.content)


def _check_persons(pool: FeatureSet, person: np.ndarray, *, private: bool) -> None:
    """Raise InputError for too few persons of a class, or for one with too many records for private heads."""
    _, whose, number = grouped(person)
    smallest = int(np.bincount(main_class(whose, pool.labels), minlength=pool.num_classes).min())
    check(smallest >= 8, "persons of the smallest class", smallest, "be 8 or more, to be halved at random")
    if private:
        most, rule = int(number.max()), f"be at most {MOST_RECORDS} for private heads (or leave epsilons out)"
        check(most <= MOST_RECORDS, "records of one person", most, rule)


class _Work:
    """The options of one pool, in the order of their computation."""

    def __init__(
        self, pool: FeatureSet, settings: AdviceSettings, ids: np.ndarray, out: pathlib.Path | None
    ) -> None:
        self.pool, self.settings, self.ids, self.out = pool, settings, ids, out
        self.by_person = settings.unit == "person"
        self.key, self.content = jax.random.key(settings.seed), pool.content_hash()
        self.changes: dict[tuple[str, str], Change] = {}
        self.said: tuple[str, ...] = ()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield one option after the other."""
        settings = self.settings
        base = self.estimate(self.pool, settings.ridge)
        self.said = base.found.warnings
        whole = self.row(base, "as it is", f"ridge {settings.ridge:g}", self.pool)
        yield whole
        if settings.release == "probabilities":
            yield self.labels_only(base)
            if not self.by_person:
                yield from (self.rounded(base, decimals) for decimals in ROUNDED)
        path = {settings.ridge: whole["worst_high"]}
        for ridge in sorted(set(settings.ridges) - {settings.ridge}):
            row = self.kept_row(self.pool, ridge, "ridge", f"ridge {ridge:g}")
            path[ridge] = row["worst_high"]
            yield row
        yield from self.between(path)
        sizes = [whole | {"lever": f"{settings.unit}s"}]
        person = self.person_of(self.pool)
        for change in fewer_records(self.pool, jax.random.fold_in(self.key, 1), person=person):
            sizes.append(self.changed(change))
            yield sizes[-1]
        yield from more_records(sizes, settings.fpr)
        changes = (
            *other_features(self.pool, settings.components),
            *merged_classes(self.pool, base.confusion, self.fewer_classes()),
            *without_the_most_vulnerable(self.pool, base.found.separation, settings.leave_out, person=person),
        )
        for change in changes:
            yield self.changed(change)
        for epsilon in settings.epsilons:
            yield self.kept(("private", epsilon), functools.partial(self.private, epsilon))

    def planned(self) -> int:
        """Return the largest number of options that rows() yields."""
        settings = self.settings
        outputs = 0 if settings.release != "probabilities" else 1 + (0 if self.by_person else len(ROUNDED))
        lists = (
            *({settings.ridge, *settings.ridges}, SHARES, MORE, NORMALISED, settings.components),
            *(self.fewer_classes(), settings.leave_out, settings.epsilons),
        )
        return outputs + _HALVINGS + sum(len(options) for options in lists)

    def rounded(self, found: RidgeEstimate, decimals: int) -> dict[str, Any]:
        """Return the row for the given head if its probabilities are released with so many decimals."""
        moments = (scaled(found.found, 1 + shift) for shift in (-SEPARATION_ERROR, 0.0, SEPARATION_ERROR))
        fpr = self.settings.fpr
        low, exact, high = (rounded_tpr(each, found.tails, fpr, decimals) for each in moments)
        digits = f"{decimals} decimal{'s' if decimals > 1 else ''}"
        return self.row(found, "outputs", f"probabilities rounded to {digits}", self.pool) | {
            "worst_record": str(self.ids[exact.argmax()]),
            "tpr": float(exact.mean()),
            "worst_tpr": float(exact.max()),
            "worst_low": float(np.minimum(low, exact).max()),
            "worst_high": float(np.maximum(high, exact).max()),
        }

    def changed(self, change: Change) -> dict[str, Any]:
        """The row of a changed pool, at the ridge of the head as it is."""
        self.changes[change.lever, change.option] = change
        row = self.kept_row(change.pool, self.settings.ridge, change.lever, change.option, change.rows)
        return row | {"note": change.note}

    def fewer_classes(self) -> tuple[int, ...]:
        classes = self.pool.num_classes
        return tuple(sorted({max(2, classes - 1), max(2, classes // 2)} - {classes}))

    def between(self, path: dict[float, float]) -> Iterator[dict[str, Any]]:
        """Yield ridges between the largest one beyond the limit and the next one within it."""
        ridges = sorted(path)
        within = [ridge for ridge in ridges if path[ridge] <= self.settings.max_tpr]
        if not within or within[0] == ridges[0]:
            return
        high = within[0]
        low = max(ridge for ridge in ridges if ridge < high)
        for _ in range(_HALVINGS):
            ridge = float(f"{np.sqrt(low * high):.3g}")
            if ridge in (low, high):
                return
            row = self.kept_row(self.pool, ridge, "ridge", f"ridge {ridge:g}")
            low, high = (low, ridge) if row["worst_high"] <= self.settings.max_tpr else (ridge, high)
            yield row

    def person_of(self, pool: FeatureSet) -> np.ndarray | None:
        return pool.person if self.by_person else None

    def names(self, pool: FeatureSet, ids: np.ndarray) -> np.ndarray:
        """Return the names of a pool's records, or of its persons, ascending."""
        person = self.person_of(pool)
        return ids if person is None else np.unique(person).astype(str)

    def estimate(self, pool: FeatureSet, ridge: float) -> RidgeEstimate:
        options: dict[str, Any] = {"fpr": self.settings.fpr, "key": self.key, "memory": self.settings.memory}
        return ridge_estimate(pool, ridge=ridge, person=self.person_of(pool), **options)

    def kept_row(
        self, pool: FeatureSet, ridge: float, lever: str, option: str, rows: np.ndarray | None = None
    ) -> dict[str, Any]:
        """Return the row of an option, from the folder if it was computed before."""
        return self.kept(
            (pool.content_hash(), ridge, lever, option),
            lambda: self.row(self.estimate(pool, ridge), lever, option, pool, rows),
        )

    def kept(self, what: tuple[Any, ...], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if self.out is None:
            return compute()
        settings = self.settings
        question = (settings.fpr, settings.release, settings.delta, settings.seed, settings.unit)
        key = content_key([_VERSION, self.content, self.ids.tolist(), *question, *what])
        path = self.out / "options" / f"{key[:16]}.json"
        found = read_json(path)
        if isinstance(found, dict):
            return found
        row = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, row)
        return row

    def row(
        self,
        found: RidgeEstimate,
        lever: str,
        option: str,
        pool: FeatureSet,
        rows: np.ndarray | None = None,
    ) -> dict[str, Any]:
        ids = self.names(pool, self.ids if rows is None else self.ids[rows])
        labels = self.settings.release == "labels"
        tprs = (found.tpr_labels,) * 3 if labels else (found.tpr, found.tpr_low, found.tpr_high)
        return {
            "lever": lever,
            "option": option,
            "ridge": found.found.ridge,
            "records": len(pool.labels),
            "classes": pool.num_classes,
            "accuracy": found.accuracy,
            "accuracy_low": found.accuracy_low,
            "accuracy_high": found.accuracy_high,
            "tpr": float(tprs[0].mean()),
            "worst_tpr": float(tprs[0].max()),
            "worst_low": float(tprs[1].max()),
            "worst_high": float(tprs[2].max()),
            f"worst_{self.settings.unit}": str(ids[tprs[0].argmax()]),
            "how": "labels of a few heads" if labels else "analytic",
            "note": "",
        }

    def labels_only(self, found: RidgeEstimate) -> dict[str, Any]:
        """Return the row for the given head if only the predicted label is released."""
        worst = float(found.tpr_labels.max())
        names = self.names(self.pool, self.ids)
        changed = {
            f"worst_{self.settings.unit}": str(names[found.tpr_labels.argmax()]),
            "tpr": float(found.tpr_labels.mean()),
            "how": "labels of a few heads",
            "note": f"the most vulnerable {self.settings.unit}'s TPR is overstated, as the largest of noisy estimates",
        }
        return (
            self.row(found, "outputs", "predicted labels only", self.pool)
            | changed
            | dict.fromkeys(("worst_tpr", "worst_low", "worst_high"), worst)
        )

    def private(self, epsilon: float) -> dict[str, Any]:
        settings, key = self.settings, jax.random.fold_in(self.key, 2)
        options: dict[str, Any] = {
            "delta": settings.delta,
            "fpr": settings.fpr,
            "person": self.person_of(self.pool),
        }
        found = private_estimate(self.pool, epsilon=epsilon, key=key, **options)
        return {
            "lever": "privacy",
            "option": f"epsilon {epsilon:g}, delta {settings.delta:g}",
            "ridge": None,
            "records": len(self.pool.labels),
            "classes": self.pool.num_classes,
            "accuracy": found.accuracy,
            "accuracy_low": found.accuracy_low,
            "accuracy_high": found.accuracy_high,
            "tpr": found.ceiling,
            "worst_tpr": found.ceiling,
            "worst_low": settings.fpr,
            "worst_high": found.ceiling,
            f"worst_{settings.unit}": "any",
            "how": "bound",
            "note": "the largest TPR of any attack, of outputs and of weights",
        }

    def confirmed(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Measure the given head and the recommended option with shadow heads."""
        settings, frame = self.settings, frame.copy()
        names = ("accuracy", "tpr", "worst_tpr", "worst_low", "worst_high")
        for name in names:
            frame[f"measured_{name}"] = np.nan
        chosen = (frame["lever"] == "as it is") | frame["recommended"]
        for place in frame.index[chosen & frame["ridge"].notna() & (frame["lever"] != "outputs")]:
            row = frame.loc[place]
            change = self.changes.get((row["lever"], row["option"]))
            pool = self.pool if change is None else change.pool
            found = measured_ridge(
                pool,
                ridge=float(row["ridge"]),
                fpr=settings.fpr,
                shadows=settings.confirm,
                key=jax.random.fold_in(self.key, 3),
                person=self.person_of(pool),
            )
            frame.loc[place, [f"measured_{name}" for name in names]] = list(found)
        return frame
