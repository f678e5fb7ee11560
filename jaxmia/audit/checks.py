"""Checks for void audits, from head and records alone before anything is trained; and warnings for readers.

An audit compares a head's scores on its training records with its scores on other records. If the features, the classes
or the members are not those of the head, all results are meaningless, although none looks wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import scipy.optimize
import scipy.stats
from jaxtyping import Float, Int

from jaxmia._validate import InputError
from jaxmia.audit.records import AuditRecords
from jaxmia.audit.settings import AuditConfig
from jaxmia.stats.resolution import required_nonmembers

SURE = 1e-3  # probability of a finding for a head that fits its records
LIKELY = 0.05
ERRORS = 3  # standard errors
FEW_OTHERS = 100
_MANY = 5  # members that a class needs to be tested separately
_CAUSES = {
    "scaler": "the features were not scaled, or projected, as for the head (with a scikit-learn Pipeline, save"
    " pipe[:-1].transform(X))",
    "order": "labels and the head's rows have different orders of classes",
    "network": "the features come from a network or from records that the head was not trained on",
    "swapped": "member is inverted: true where the head was not trained on the record",
}


class VoidAuditError(InputError):
    """The head does not fit the records, so an audit would be meaningless."""


def void_findings(
    records: AuditRecords,
    predictions: Int[np.ndarray, "records"],
    own: Float[np.ndarray, "records"],
    *,
    private: bool,
) -> tuple[str, ...]:
    """Return the reasons why the audit would be void; empty if the head seems to fit the records.

    On its own training records a fitting head is better than a guess: its mean loss is below log C and its accuracy
    above chance, in every class. Its classes are in the order with the highest accuracy, which the Hungarian algorithm
    finds from the members' confusion matrix. Its log-odds on members are not lower than on other records of their
    class. For a fitting head each finding has a probability of about 0.001 or less.

    Args:
        records: records of the audit.
        predictions: classes that the head predicts.
        own: log-odds of the true class under the head, in nats.
        private: whether the head was trained privately; then a head at chance is no finding, since noise can cause it.

    Returns:
        Findings, one sentence each without full stop, followed by the likely causes, the most likely first.
    """
    order = list(_order_of_labels(records, predictions))
    level = [] if private else [*_worse_than_a_guess(records, predictions, own)]
    swapped = _swapped(records, own, SURE)
    findings = [*order, *level, *swapped]
    if not findings:
        return ()
    causes = ["order"] if order else []
    causes += ["scaler", "order", "network"] if level else []
    causes += ["swapped"] if swapped or level else []
    likely = "; ".join(
        f"({number}) {_CAUSES[cause]}" for number, cause in enumerate(dict.fromkeys(causes), start=1)
    )
    return (*findings, f"likely causes, in this order: {likely}")


def check_goes_together(findings: tuple[str, ...], *, force: bool) -> None:
    """Raise VoidAuditError if there are findings and force is False.

    Raises:
        VoidAuditError: with all findings in one line.
    """
    if findings and not force:
        raise VoidAuditError(
            f"the head does not fit these records, and an audit would be void: {'; '.join(findings)}."
            " Correct the input, or continue with --force (force=True)."
        )


def _order_of_labels(records: AuditRecords, predictions: Int[np.ndarray, "records"]) -> Iterator[str]:
    """Test whether the head is far more accurate with its classes in another order, and better than chance in it.

    A head that always predicts one class is also more accurate under another name of that class, which does not show
    another order. So its accuracy must also exceed that of random predictions with the same frequencies.
    """
    names, labels = records.data.class_names, records.data.labels[records.member]
    decided, classes = predictions[records.member], records.data.num_classes
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, decided), 1)
    _, best = scipy.optimize.linear_sum_assignment(-confusion)
    moved = best != np.arange(classes)
    better = int(confusion[np.arange(classes), best][moved].sum())
    worse = int(np.diag(confusion)[moved].sum())
    by_chance = float((confusion.sum(axis=1) * confusion.sum(axis=0)[best])[moved].sum()) / len(labels)
    knows = better > by_chance + ERRORS * math.sqrt(by_chance)
    if not moved.any() or not knows or scipy.stats.binom.sf(better - 1, better + worse, 0.5) > SURE:
        return
    changed = ", ".join(f"{names[c]} as {names[best[c]]}" for c in np.flatnonzero(moved)[:6])
    more = "" if moved.sum() <= 6 else f" and {moved.sum() - 6} more"
    accuracy, then = (float(np.mean(decided == right)) for right in (labels, best[labels]))
    yield (
        f"the head classifies {accuracy:.1%} of its members correctly, and {then:.1%} if it takes {changed}{more}"
    )


def _worse_than_a_guess(
    records: AuditRecords, predictions: Int[np.ndarray, "records"], own: Float[np.ndarray, "records"]
) -> Iterator[str]:
    """Test whether the head's loss or accuracy on its members, or on those of one class, is no better than a guess."""
    classes, labels = records.data.num_classes, records.data.labels[records.member]
    loss, correct = np.logaddexp(0, -own[records.member]), predictions[records.member] == labels
    counts = np.bincount(labels, minlength=classes)
    share = counts / counts.sum()
    guess = math.log(classes)
    if loss.mean() - ERRORS * _error(loss) > guess:
        yield (
            f"its mean loss on its members is {loss.mean():.3g}, that of a guess among {classes} classes {guess:.3g}"
            f" (accuracy {correct.mean():.1%})"
        )
        return
    recall = np.array([correct[labels == c].mean() for c in range(classes)])
    error = float(np.sqrt(np.sum(recall * (1 - recall) / counts))) / classes
    constant = float(-np.sum(share * np.log(share)))  # loss of a head that knows only the classes' shares
    if recall.mean() < 1 / classes + 2 * error and loss.mean() >= constant:
        yield (
            f"it classifies its members no better than chance ({recall.mean():.1%} of each class on average, chance is"
            f" {1 / classes:.1%})"
        )
        return
    bad = []
    for c in np.flatnonzero(counts >= _MANY):
        mine = loss[labels == c]
        if mine.mean() - ERRORS * _error(mine) > 1.5 * max(guess, -math.log(share[c])):
            bad.append(f"{records.data.class_names[c]} {recall[c]:.1%}")
    if bad:
        more = "" if len(bad) <= 6 else f" and {len(bad) - 6} more classes"
        yield (
            f"it is surely wrong on members of some classes, at an accuracy of {', '.join(bad[:6])}{more}, of"
            f" {correct.mean():.1%} over all"
        )


def _error(values: np.ndarray) -> float:
    """Return the standard error of the mean; 0 for a single value."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _swapped(records: AuditRecords, statistic: Float[np.ndarray, "records"], level: float) -> list[str]:
    """Test whether members score below other records of their class, by the Mann-Whitney test about class medians."""
    member = records.member
    if member.all():
        return []
    centred = statistic.astype(np.float64)
    for c in range(records.data.num_classes):
        of_class = records.data.labels == c
        centred[of_class] -= np.median(centred[of_class])
    chance = scipy.stats.mannwhitneyu(centred[member], centred[~member], alternative="less").pvalue
    if not chance < level:
        return []
    return [
        f"the head has lower log-odds on its members (median {np.median(statistic[member]):.3g}) than on"
        f" others of their classes ({np.median(statistic[~member]):.3g}), which happens by chance with"
        f" probability {chance:.1g}"
    ]


def warnings_before(
    config: AuditConfig, records: AuditRecords, own: Float[np.ndarray, "records"]
) -> Iterator[str]:
    """Yield warnings for readers that follow from head and records."""
    yield from _of_numbers(config, records)
    for finding in _swapped(records, own, LIKELY):
        yield f"{finding[0].upper()}{finding[1:]}: is member true for those it was trained on?"
    twins = records.twins()
    if twins:
        yield (
            f"{twins} non-members have exactly the features of a member: the head scores both equally,"
            " which hides members."
        )
    if config.context.epsilon and config.privacy is None:
        yield (
            f"The head is stated to have {config.context.guarantee}, but its shadows are trained without"
            " clipping and noise: results over re-trainings are not those of such heads. Give [privacy]"
            " (noise_multiplier or epsilon, clipping_norm) to train the shadows in the same way."
        )


def _of_numbers(config: AuditConfig, records: AuditRecords) -> Iterator[str]:
    """Yield warnings about too few non-members."""
    others, rate = records.num_others, records.inclusion_rate
    if others == 0:
        yield "All records are members: the head's own false positive rate cannot be measured."
    elif others < FEW_OTHERS:
        needs = ", ".join(f"{fpr:g} takes {required_nonmembers(fpr)}" for fpr in config.fpr)
        yield (
            f"Only {others} of {len(records.member)} records are non-members: the head's own false"
            f" positive rate is measured on these few (FPR {needs}), and calls of members are calibrated"
            " on them."
        )
    if records.member.mean() > rate:
        yield (
            f"Shadows train on {rate:.0%} of the records, the head on {records.member.mean():.1%}: with"
            " the head's share, shadows would hardly differ from each other. Over re-trainings, D is"
            f" overstated by a factor of up to {records.overstated:.2g}, compared with heads on"
            " independent training sets."
        )


def warnings_after(
    records: AuditRecords, ratio: Float[np.ndarray, "records"], *, mismatch: float, limit: float
) -> Iterator[str]:
    """Yield warnings for readers that follow from the shadows.

    Args:
        records: records of the audit.
        ratio: LiRA's statistic of the head.
        mismatch: mismatch of shadows and head (jaxmia.audit.recipe_fit).
        limit: largest mismatch without a warning.
    """
    if _swapped(records, ratio, SURE):
        yield (
            "Compared with its shadows, the head's members look less like members than its non-members"
            " do: is member true for the records it was trained on?"
        )
    if mismatch > limit:
        yield (
            f"The shadows' log-odds lie {mismatch:.2f} of the head's interquartile range from its own:"
            " they do not resemble the head, so attacks that rely on them may find less, or seem to"
            " find more, than they should."
        )
