"""What was found, in sentences for someone who trains no models: generated from numbers, one wording for each case."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

from jaxmia.tables.table import Measured

Verdict = Literal["within", "beyond", "not decided"]
_ALARMS = {
    0.1: "one false alarm in ten",
    0.01: "one false alarm in a hundred",
    0.001: "one false alarm in a thousand",
}
NEARLY_ALWAYS = 0.95  # TPR of a record that an attacker recognises "nearly always"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What the sentences are made of.

    Attributes:
        sees: what the attacker has, as in "the model's probabilities".
        fpr: share of false alarms, a fraction.
        found: share of the members that the best attack finds at it; without a value where it is not resolved.
        worst: TPR of the most vulnerable record over re-trainings at worst_fpr.
        worst_fpr: share of false alarms of that number.
        worst_name: its id; empty where ids are left out.
        unit: "record" or "person".
        void: whether the model does not fit the records.
        bound: the largest TPR at fpr that differential privacy leaves to any attack; None without a guarantee.
        guarantee: that guarantee in words.
    """

    sees: str
    fpr: float
    found: Measured
    worst: Measured
    worst_fpr: float
    worst_name: str = ""
    unit: str = "record"
    void: bool = False
    bound: float | None = None
    guarantee: str = ""


class Limit(NamedTuple):
    """What the controller declared acceptable: no more than tpr at fpr."""

    fpr: float
    tpr: float


def alarms(fpr: float) -> str:
    """A false positive rate in words."""
    return _ALARMS.get(fpr, f"false alarms on {share(fpr)} of the others")


def share(value: float) -> str:
    """A rate in words: so many in 100, or in 1 000 where it is smaller than one in a hundred."""
    if value >= 0.095 and round(100 * value) == 100 and value < 1:
        return "more than 99 in 100"
    if value >= 0.095:
        return f"{100 * value:.0f} in 100"
    if value >= 0.01:
        return f"{100 * value:.2g} in 100"
    if value >= 1e-4:
        return f"{1000 * value:.2g} in 1 000"
    return "none" if value == 0 else "fewer than 1 in 10 000"


def between(measured: Measured) -> str:
    """The ends of a 95% interval in words; empty if it has none."""
    if measured.low is None or measured.high is None:
        return ""
    low, high = share(measured.low), share(measured.high)
    return f" (95% interval: {low if low == high else f'{low} to {high}'})"


def sentences(finding: Finding) -> list[str]:
    """The finding: one sentence for each of what was found, whom it concerns most, and what bounds it."""
    if finding.void:
        return [
            "Nothing was found out: the model does not fit these records, as the warnings above say, and no number of"
            " this report says anything of it."
        ]
    return [_of_all(finding), *_of_the_worst(finding), *_of_the_bound(finding)]


def _of_all(finding: Finding) -> str:
    found, unit = finding.found, f"{finding.unit}s"
    start = f"An attacker who sees {finding.sees} and accepts {alarms(finding.fpr)}"
    if found.value is None:
        why = f" ({found.reason.rstrip('.')})" if found.reason else ""
        return (
            f"How many of the training {unit} an attacker recognises who sees {finding.sees} was not resolved by these"
            f" tests{why}: this is no sign of safety."
        )
    recognised = f"recognises {_about(found.value)} of the {unit} in the training data{between(found)}"
    if found.low is not None and found.low <= finding.fpr:
        return (
            f"{start} {recognised}; guessing would recognise {share(finding.fpr)}. These tests found no more than"
            f" chance, and do not exclude up to {share(found.high or 1.0)}."
        )
    return f"{start} {recognised}; guessing would recognise {share(finding.fpr)}."


def _about(value: float) -> str:
    word = share(value)
    return word if word.startswith(("none", "fewer", "more")) or value in (0, 1) else f"about {word}"


def _of_the_worst(finding: Finding) -> list[str]:
    worst, unit = finding.worst, finding.unit
    if worst.value is None:
        return [f"Which {unit} is most at risk was not resolved."]
    named = (
        f"the {unit} most at risk, {finding.worst_name},"
        if finding.worst_name
        else f"the {unit} most at risk"
    )
    subject = named[0].upper() + named[1:]
    how = (
        "nearly always recognised"
        if (worst.low if worst.low is not None else worst.value) >= NEARLY_ALWAYS
        else f"recognised in {_about(worst.value)} re-trainings"
    )
    at = (
        "at that rate of false alarms"
        if finding.worst_fpr == finding.fpr
        else f"at {alarms(finding.worst_fpr)}"
    )
    extrapolated = ", an extrapolation" if worst.status == "extrapolated" else ""
    if worst.low is not None and worst.low <= finding.worst_fpr:
        return [
            f"{subject} is {how} {at}{between(worst)}{extrapolated}, which these tests cannot tell from chance."
        ]
    return [f"{subject} is {how} {at}{between(worst)}{extrapolated}."]


def _of_the_bound(finding: Finding) -> list[str]:
    if finding.bound is None:
        return []
    bound = finding.bound
    sentence = (
        f"With {finding.guarantee}, if it holds, no attack can recognise more than {share(bound)} of them at"
        f" {alarms(finding.fpr)}."
    )
    low = finding.found.low
    if low is not None and low > bound:
        sentence += " What was found is more than that: “Differential privacy” says what this means."
    return [sentence]


def verdict(limit: Limit, numbers: list[Measured]) -> Verdict:
    """How numbers that must all stay within a limit stand to it.

    Beyond if the interval of one lies above it; within if those of all lie at or below it, and none is missing or
    extrapolated; else not decided.

    Args:
        limit: what was declared.
        numbers: TPRs at the limit's FPR, with 95% intervals.
    """
    sure = [each for each in numbers if each.status in ("ok", "capped")]
    if any(each.low is not None and each.low > limit.tpr for each in sure):
        return "beyond"
    if len(sure) == len(numbers) > 0 and all(
        each.high is not None and each.high <= limit.tpr for each in sure
    ):
        return "within"
    return "not decided"


def limit_sentence(limit: Limit, numbers: dict[str, Measured]) -> str:
    """Whether what was found is within, beyond, or not decided against the declared limit, with the intervals.

    Args:
        limit: what was declared.
        numbers: TPRs at the limit's FPR by whose they are; empty where nothing was tested at that FPR.
    """
    declared = f"The controller's own limit: at most {share(limit.tpr)} recognised at {alarms(limit.fpr)}."
    if not numbers:
        return f"{declared} Not decided: nothing was tested at that rate of false alarms."
    found = "; ".join(f"{name} {_told(each)}" for name, each in numbers.items())
    word = verdict(limit, list(numbers.values()))
    judged = {
        "within": "What these tests found is within it",
        "beyond": "What these tests found is beyond it",
        "not decided": "Not decided",
    }[word]
    return f"{declared} {judged}: {found}."


def _told(number: Measured) -> str:
    if number.value is None:
        return "not resolved"
    extrapolated = ", extrapolated" if number.status == "extrapolated" else ""
    return f"{_about(number.value)}{between(number)}{extrapolated}"
