"""Values from laws: slopes, predictions and required examples per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxmia.laws.law import PowerLaw, PowerLawFit
from jaxmia.laws.published import published_lines
from jaxmia.laws.required import required_shots
from jaxmia.privacy.tradeoff import kairouz_ceiling
from jaxmia.tables.table import Measured, Table, Value

MOST_SHOTS = 1e12  # examples per class: larger numbers mean that no data set is large enough
_OUTSIDE = "outside the fitted cells"


def slope(law: PowerLaw) -> Measured:
    """Return the slope over log S with its 95% interval."""
    if law.status != "ok" or law.slope_shots is None:
        return _undetermined(law)
    return Measured(law.slope_shots, *(law.slope_shots_interval or (None, None)))


def predicted(law: PowerLaw, *, shots: float, classes: int) -> Measured:
    """Return the TPR at S = shots and C = classes, with a 95% prediction interval for one new cell."""
    if _says_nothing(law, classes):
        return _undetermined(law, classes)
    found = law.predict(shots=shots, classes=classes)
    low, high = (None if end is None else min(end + law.fpr, 1.0) for end in (found.low, found.high))
    reasons = {_OUTSIDE: found.extrapolated, "TPR cut at 1": found.capped}
    status = "extrapolated" if found.extrapolated else "capped" if found.capped else "ok"
    return Measured(found.tpr, low, high, status, ", ".join(why for why, holds in reasons.items() if holds))


def required(law: PowerLaw, *, epsilon: float, delta: float, classes: int) -> Measured:
    """Return the examples per class at which attacks find no more than (epsilon, delta)-DP allows."""
    if _says_nothing(law, classes):
        return _undetermined(law, classes)
    fit = PowerLawFit((law,))
    found = required_shots(fit, epsilon=epsilon, delta=delta, fpr=law.fpr, classes=classes)
    if found.shots is None:
        return Measured(None, status="unresolved", reason=found.reason or found.status)
    if found.shots > MOST_SHOTS:
        return Measured(None, status="unresolved", reason=f"more than {MOST_SHOTS:.0e} by the law")
    status, reason = ("extrapolated", _OUTSIDE) if found.extrapolated else ("ok", "")
    form = ",.0f" if max(found.shots, found.high or 0) < 1e6 else ".1e"
    return Measured(found.shots, found.low, found.high, status, reason, form)


def required_table(
    title: str, fits: Mapping[str, PowerLawFit], *, epsilons: Sequence[float], delta: float, classes: int
) -> Table:
    """Return a table of examples per class until attacks find no more than (epsilon, delta)-DP allows.

    Args:
        title: title of the table.
        fits: laws by description: "average record", "worst record" or other words.
        epsilons: epsilons, one row each.
        delta: delta of the guarantee.
        classes: C.
    """
    rows: list[tuple[Value, ...]] = []
    for name, fit in fits.items():
        for law in fit.lines:
            for epsilon in epsilons:
                found = required(law, epsilon=epsilon, delta=delta, classes=classes)
                beside = _published_shots(name, fpr=law.fpr, epsilon=epsilon, delta=delta)
                allowed = float(kairouz_ceiling(law.fpr, epsilon=epsilon, delta=delta))
                ceiling = Measured(allowed, status="bound", form=".4f")
                rows.append((name, f"{law.fpr:g}", f"{epsilon:g}", ceiling, found, beside))
    return Table(
        title,
        ("", "FPR", "ε", "ceiling", f"S, C = {classes}", "published"),
        tuple(rows),
        "ceiling: the TPR that ε allows. Intervals: 95%, from the law's prediction interval. published: at C = 2.",
        stub=2,
        about="How many examples per class would bring attacks of this kind down to what ε allows.",
    )


def _published_shots(record: str, *, fpr: float, epsilon: float, delta: float) -> Value:
    name = record.removesuffix(" record")
    found = published_lines().shots(name, fpr=fpr, epsilon=epsilon, delta=delta)
    return "-" if found is None else Measured(found, status="published", form=",.0f")


def _undetermined(law: PowerLaw, classes: int | None = None) -> Measured:
    """Return why a law has no value at a number of classes."""
    reason = law.reason or "too few cells"
    if law.status == "ok":
        reason = f"the law holds at C = {', '.join(map(str, law.classes))}, not at {classes}"
    return Measured(None, status="saturated" if law.status == "saturated" else "unresolved", reason=reason)


def _says_nothing(law: PowerLaw, classes: int) -> bool:
    return law.status != "ok" or (law.slope_classes is None and classes not in law.classes)
