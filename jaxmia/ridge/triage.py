"""Rank records or persons by vulnerability in a ridge head: only a few shadows are trained, for the tails."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxmia._atomic import check_writable, write_parquet, write_text
from jaxmia._npz import read_npz
from jaxmia._validate import InputError, check, check_choice, check_different, check_fpr
from jaxmia.attacks.shadows import sides
from jaxmia.data.activations import check_no_folder
from jaxmia.data.feature_set import DEMO_NAME, FeatureSet, load_features
from jaxmia.data.labels import record_ids
from jaxmia.data.membership import draw_membership
from jaxmia.data.person_table import persons_of
from jaxmia.data.persons import UNITS, grouped
from jaxmia.data.pool import some_records
from jaxmia.ridge.expected import AnalyticVulnerability, analytic_vulnerability
from jaxmia.scores import Scores
from jaxmia.stats.resolution import required_nonmembers
from jaxmia.training.ensemble import ShadowEnsemble, train_ensemble
from jaxmia.training.scoring import score
from jaxmia.training.settings import Hyperparams, TrainConfig
from jaxmia.vulnerability.residuals import pooled

FPRS = (0.1, 0.01, 0.001)
_HEADS = (16, 256)  # smallest and largest number of heads trained for the tails
SUFFIXES = (".csv", ".parquet")


@dataclasses.dataclass(frozen=True, eq=False)
class Triage:
    """Records or persons ranked by vulnerability.

    Attributes:
        records: one row per record, the most vulnerable first: id, class_name, separation, leverage, and tpr_FPR for
            each FPR. By person one row per person: person, num_records, class_name (of most of them), num_classes,
            separation, leverage, tpr_FPR, and record_tpr_FPR, the largest of their records each by itself.
        found: the result that the rows come from, in the order of the features, or persons ascending by name.
    """

    records: pd.DataFrame
    found: AnalyticVulnerability


def triage_features(
    source: str | os.PathLike[str],
    *,
    ridge: float = 1.0,
    inclusion_rate: float = 0.5,
    fpr: Sequence[float] = FPRS,
    classes: int | None = None,
    shots: int | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    memory: int | None = None,
    unit: str = "record",
) -> Triage:
    """Return every record's or person's vulnerability over re-trainings of a ridge head, from jaxmia.ridge.expected.

    Args:
        source: "demo" or an .npz of features and labels, and optionally ids of the records.
        ridge: lambda of the summed loss: scikit-learn's LogisticRegression with C = 1 / ridge, also for two classes.
        inclusion_rate: share of the records, or of the persons, that a head trains on.
        fpr: FPRs, as fractions.
        classes: C; with shots, use 2 S random records of each of the C largest classes; by default all records.
        shots: S; given together with classes.
        seed: seed of that random choice.
        out: also write the records to this file, .csv or .parquet.
        memory: largest number of bytes for the Hessian, its factor and inverse, and arrays over records; 8 GiB by
            default.
        unit: "record", or "person" to rank persons, all of whose records are members together; the file needs
            `person`.

    Raises:
        InputError: for a bad file or bad settings, before anything is computed.
    """
    check(len(fpr) > 0, "fpr", list(fpr), "hold at least one FPR")
    for value in fpr:
        check_fpr("fpr", value)
    check_different("fpr", fpr)
    check_choice("unit", unit, UNITS)
    if out is not None:
        place = pathlib.Path(out)
        suffix = place.suffix.lower()
        check(suffix in SUFFIXES, "out", place.name, f"end in one of {', '.join(SUFFIXES)}")
        check_writable(place)
    check_no_folder(source, "triage")
    data = load_features(source)
    ids = ids_of(source, data)
    person = persons_for(unit, data)
    data, rows = some_records(data, classes=classes, shots=shots, key=seed, unit=unit)
    ids, person = ids[rows], None if person is None else person[rows]
    rates: dict[str, Any] = {"ridge": ridge, "inclusion_rate": inclusion_rate, "memory": memory}
    found = analytic_vulnerability(data, **rates, person=person)
    scores = score(ridge_heads(data, found, min(fpr), jax.random.key(seed)), data)
    if person is None:
        table = pd.DataFrame({"id": ids, "class_name": np.array(data.class_names)[data.labels]})
    else:
        table = persons_of(person, data.labels, data.class_names)
    tails = tails_of(found.of_units(scores), found)
    table = table.assign(
        separation=found.separation,
        leverage=found.leverage,
        **{f"tpr_{value:g}": found.tpr(value, tails) for value in fpr},
    )
    if person is not None:
        alone = found.records()
        tails = tails_of(scores, alone)
        for value in fpr:
            largest = np.zeros(len(table))
            np.maximum.at(largest, grouped(person)[1], alone.tpr(value, tails))
            table[f"record_tpr_{value:g}"] = largest
    table = table.iloc[found.ranking()].reset_index(drop=True)
    if out is not None:
        if suffix == ".csv":
            write_text(place, table.to_csv(index=False, lineterminator="\n"))
        else:
            write_parquet(place, table)
    return Triage(table, found)


def ridge_tails(
    pool: FeatureSet, found: AnalyticVulnerability, fpr: float, key: jax.Array
) -> tuple[np.ndarray, np.ndarray]:
    """Return residuals of members and of non-members from a few heads, to estimate the tails of both distributions.

    Scores are standardised by the analytic moments and pooled over all records into two distributions
    (jaxmia.vulnerability.residuals), so few heads, 16 or more, yield 10 / fpr residuals on either side.

    Args:
        pool: the candidates.
        found: means and deviations of the candidates, or of persons.
        fpr: lowest FPR that the tails are used at.
        key: random key of the heads' training sets.
    """
    return tails_of(found.of_units(score(ridge_heads(pool, found, fpr, key), pool)), found)


def ridge_heads(
    pool: FeatureSet, found: AnalyticVulnerability, fpr: float, key: jax.Array, *, fewest: int = _HEADS[0]
) -> ShadowEnsemble:
    """Return the few shadow heads that ridge_tails needs: enough for 10 / fpr residuals on either side.

    Args:
        pool: the candidates.
        found: the result that gives their ridge and inclusion rate, and the persons, if they are members.
        fpr: lowest FPR that the tails are used at.
        key: random key of the heads' training sets.
        fewest: smallest number of heads.
    """
    rate = found.inclusion_rate
    needed = required_nonmembers(fpr) / (len(found.separation) * min(rate, 1 - rate))
    masks = draw_membership(
        jax.random.fold_in(key, 0),
        pool.labels,
        num_models=int(np.clip(np.ceil(1.25 * needed), fewest, _HEADS[1])),
        inclusion_rate=rate,
        person=None if found.by_record is None else found.by_record.person,
    )
    hyper = Hyperparams(0.0, weight_decay=None, ridge=found.ridge)
    config = TrainConfig("newton", steps=200, tolerance=1e-4)
    return train_ensemble(jax.random.fold_in(key, 1), pool, masks, hyper, config)


def tails_of(scores: Scores, found: AnalyticVulnerability) -> tuple[np.ndarray, np.ndarray]:
    """Return the residuals of members and of non-members over all units, ascending.

    Scores of units (found.of_units) are standardised by the analytic moments and pooled over all of them into two
    distributions (jaxmia.vulnerability.residuals), so few heads, 16 or more, are enough.
    """
    both = sides(scores)
    inside, *_ = pooled(both.inside, found.mean_in, found.std_in, None)
    outside, *_ = pooled(both.outside, found.mean_out, found.std_out, None)
    return inside, outside


def persons_for(unit: str, data: FeatureSet) -> np.ndarray | None:
    """Return the person of each record if persons are the units, and None if records are.

    Raises:
        InputError: if persons are the units, and nobody said whose the records are.
    """
    if unit == "record":
        return None
    if data.person is None:
        raise InputError(
            "unit='person' needs to know whose each record is: the file of features must hold the key 'person',"
            " [records], integers or strings."
        )
    return data.person


def ids_of(source: str | os.PathLike[str], data: FeatureSet) -> np.ndarray:
    """Return the ids of the records of a file, or their row numbers."""
    if str(source) == DEMO_NAME:
        return record_ids(None, len(data.labels))
    held = read_npz(pathlib.Path(source), name="features", required=(), optional=("ids",))
    return record_ids(held.get("ids"), len(data.labels))
