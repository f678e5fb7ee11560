"""Tables of guarantees by differential privacy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from jaxmia.cli.tables.cells import rounded_up
from jaxmia.privacy.accounting import ADD_OR_REMOVE_ONE, dp_epsilon
from jaxmia.privacy.guarantee import PrivacyGuarantee, PrivacySpec
from jaxmia.privacy.last_iterate import last_iterate_epsilon
from jaxmia.privacy.tradeoff import kairouz_ceiling
from jaxmia.tables import Table, Value


def privacy_tables(guarantee: PrivacyGuarantee, fprs: Sequence[float]) -> Iterator[Table]:
    """Yield the guarantee of a DP-SGD recipe, and its ceilings on any attack; bounds are rounded up."""
    yield Table(
        "DP-SGD",
        ("", ""),
        (
            ("noise multiplier", rounded_up(guarantee.noise_multiplier)),
            ("sampling rate", f"{guarantee.sampling_rate:g}"),
            ("steps", guarantee.steps),
            ("epsilon, achieved", rounded_up(guarantee.epsilon)),
            *_estimate(guarantee),
            ("delta", f"{guarantee.delta:g}"),
            ("adjacency", _adjacency(guarantee)),
            ("accountant", guarantee.accountant),
        ),
    )
    rows: list[tuple[Value, ...]] = []
    for fpr, ceiling in zip(fprs, guarantee.tpr_ceiling(np.asarray(fprs, float)), strict=True):
        single = 1.0
        if math.isfinite(guarantee.epsilon):
            single = float(kairouz_ceiling(fpr, epsilon=guarantee.epsilon, delta=guarantee.delta))
        bounds = (rounded_up(bound) for bound in (ceiling, max(ceiling - fpr, 0.0), single))
        rows.append((f"{fpr:g}", *bounds))
    yield Table(
        f"The largest TPR that any attack on one {guarantee.unit} can have",
        ("FPR", "trade-off curve", "advantage", f"Kairouz, at delta {guarantee.delta:g} alone"),
        tuple(rows),
        "Bounds hold for the mathematical mechanism. JAX's random generators are not cryptographic:"
        " heads trained with them are for measurement, not for release.",
    )


def person_table(guarantee: PrivacyGuarantee, records_per_person: int, fprs: Sequence[float]) -> Table:
    """What persons with several records have of training that clips by person, and of training that clips by record.

    Args:
        guarantee: of training by person.
        records_per_person: the most records of a person.
        fprs: for the ceilings.

    Raises:
        InputError: as jaxmia.dp_epsilon.
    """
    recipe = {name: getattr(guarantee, name) for name in ("sampling_rate", "steps", "adjacency")}
    same_noise = dataclasses.replace(guarantee, unit="record").of_persons(records_per_person)
    spec = PrivacySpec(epsilon=guarantee.epsilon, delta=guarantee.delta)
    same_epsilon = spec.guarantee(**recipe, unit="person", records_per_person=records_per_person)
    ways = (guarantee, same_noise, same_epsilon)
    rows: list[tuple[Value, ...]] = [
        ("noise multiplier", *(rounded_up(way.noise_multiplier) for way in ways)),
        ("epsilon of a record", *(rounded_up(_of_records(way)) for way in ways)),
        ("epsilon of a person", *(rounded_up(way.epsilon) for way in ways)),
    ]
    rows += [
        (f"TPR of a person at FPR {fpr:g}", *(rounded_up(float(way.tpr_ceiling(fpr))) for way in ways))
        for fpr in fprs
    ]
    return Table(
        f"Persons with up to {records_per_person} records",
        ("", "clipped by person", "clipped by record", "by record, with more noise"),
        tuple(rows),
        "By record a person has what group privacy leaves: exact on full batches, by the mixture of Gaussians for"
        " batches that sample records (Ganesh 2024, arXiv 2401.10294). Noise is over the clipping norm, of a person's"
        " summed gradient or of a record's.",
    )


def _estimate(guarantee: PrivacyGuarantee) -> Iterator[tuple[str, str]]:
    """Yield the last-iterate heuristic of Poisson batches."""
    whole = guarantee.sampling_rate == 1 or guarantee.noise_multiplier == 0
    if whole or guarantee.adjacency != ADD_OR_REMOVE_ONE:
        return
    names = ("noise_multiplier", "sampling_rate", "steps", "delta")
    found = last_iterate_epsilon(**{name: getattr(guarantee, name) for name in names})
    yield "last-iterate estimate", f"{found:.4g} (heuristic, no guarantee)"


def _of_records(way: PrivacyGuarantee) -> float:
    """Epsilon of one record: that of the training where it clips by record, at most the person's where by person."""
    if way.records_per_person == 1:
        return way.epsilon
    return dp_epsilon(
        noise_multiplier=way.noise_multiplier,
        sampling_rate=way.sampling_rate,
        steps=way.steps,
        delta=way.delta,
        adjacency=way.adjacency,
    )


def _adjacency(guarantee: PrivacyGuarantee) -> str:
    """The adjacency, and of what where it is not of records."""
    return guarantee.adjacency + (", a person with all records" if guarantee.unit == "person" else "")
