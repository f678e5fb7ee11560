"""What makes an audit void, found on head and records alone before anything is trained; and what a reader must know.

An audit compares a head's scores on records that it was trained on with those on others. If the features are
not those that it saw, if its classes are others, or if members are not its members, every figure is about something
else, and none looks wrong.
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

SURE = 1e-3  # probability of a finding on a head and records that go together
LIKELY = 0.05
ERRORS = 3  # standard errors
FEW_OTHERS = 100
_MANY = 5  # members of a class, from which it is judged by itself
_CAUSES = {
    "scaler": "the features were not scaled, or projected, as the head saw them (of a scikit-learn Pipeline, save"
    " pipe[:-1].transform(X))",
    "order": "labels and the head's rows have another order of classes",
    "network": "the features are of another network or other records than the head was trained on",
    "swapped": "member is exchanged: true where the head was not trained on the record",
}


class VoidAuditError(InputError):
    """The head and the records do not go together, so that an audit would mean nothing."""


def void_findings(
    records: AuditRecords,
    predictions: Int[np.ndarray, "records"],
    own: Float[np.ndarray, "records"],
    *,
    private: bool,
) -> tuple[str, ...]:
    """Why the audit would mean nothing; empty where head and records seem to go together.

    A head beats a guess on its own training records: its mean loss lies below log C, its accuracy above chance, in
    every class; and its classes are in the order in which it is right most often, by the Hungarian algorithm on the
    members' confusion. Its members lie no lower than other records of their class. Each finding is one that a head
    and records that go together give with a probability of about 0.001 or less.

    Args:
        records: of the audit.
        predictions: classes that the head decides for.
        own: its log-odds of the true class.
        private: whether it was trained privately: noise may have left it at chance, which is then no finding.

    Returns:
        Findings, one sentence each without its full stop, and last the likely causes, the likeliest first.
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
    """Raise VoidAuditError if there are findings and nobody insists.

    Raises:
        VoidAuditError: naming them all, in one line.
    """
    if findings and not force:
        raise VoidAuditError(
            f"the head does not fit these records, and an audit would be void: {'; '.join(findings)}. Mend the input,"
            " or go on with --force (force=True)."
        )


def _order_of_labels(records: AuditRecords, predictions: Int[np.ndarray, "records"]) -> Iterator[str]:
    """Whether the head is right far more often with its classes in another order, and knows something in that order.

    A head that decides for one class throughout is right more often under another name of that class, which is
    no sign of another order: what it gets right must exceed what its decisions would by chance.
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
    """Whether the head's loss or accuracy on its members, or on those of a class, is that of a guess or worse."""
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
    constant = float(-np.sum(share * np.log(share)))  # loss of a head that knows the classes' shares alone
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
    """The standard error of the mean; 0 of a single value."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _swapped(records: AuditRecords, statistic: Float[np.ndarray, "records"], level: float) -> list[str]:
    """Whether members lie below other records of their class, by ranks (Mann and Whitney) about the class's median."""
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
        f"the head is less sure of its members (median log-odds {np.median(statistic[member]):.3g}) than of others of"
        f" their classes ({np.median(statistic[~member]):.3g}), which chance does with a probability of {chance:.1g}"
    ]


def warnings_before(
    config: AuditConfig, records: AuditRecords, own: Float[np.ndarray, "records"]
) -> Iterator[str]:
    """What a reader must know, as far as head and records tell."""
    yield from _of_numbers(config, records)
    for finding in _swapped(records, own, LIKELY):
        yield f"{finding[0].upper()}{finding[1:]}: is member true for those it was trained on?"
    twins = records.twins()
    if twins:
        yield (
            f"{twins} non-members have the very features of a member: what the head learnt of it, it knows of them,"
            " which hides members."
        )
    if config.context.epsilon and config.privacy is None:
        yield (
            f"The head is stated to have {config.context.guarantee}, but its shadows are trained without clipping and"
            " noise: figures over re-trainings are then not those of heads like it. Give [privacy]"
            " (noise_multiplier or epsilon, clipping_norm) to train them as it was."
        )


def _of_numbers(config: AuditConfig, records: AuditRecords) -> Iterator[str]:
    """What too few non-members do to the figures."""
    others, rate = records.num_others, records.inclusion_rate
    if others == 0:
        yield "All records are members: the head's own false positive rate cannot be measured."
    elif others < FEW_OTHERS:
        needs = ", ".join(f"{fpr:g} takes {required_nonmembers(fpr)}" for fpr in config.fpr)
        yield (
            f"Only {others} of {len(records.member)} records are non-members: the head's own false positive rate is"
            f" measured on so few (FPR {needs}), and calls of members are calibrated on them."
        )
    if records.member.mean() > rate:
        yield (
            f"Shadows train on {rate:.0%} of the records, the head on {records.member.mean():.1%}: at the head's share"
            " shadows would hardly differ from one another. Over re-trainings, D is overstated by a factor of up to"
            f" {records.overstated:.2g}, beside heads like this one on training sets of their own."
        )


def warnings_after(
    records: AuditRecords, ratio: Float[np.ndarray, "records"], *, mismatch: float, limit: float
) -> Iterator[str]:
    """What the shadows tell that a reader must know.

    Args:
        records: of the audit.
        ratio: LiRA's statistic of the head.
        mismatch: of shadows and head.
        limit: beyond which they are not alike.
    """
    if _swapped(records, ratio, SURE):
        yield (
            "Beside its shadows, the head's members look less like members than its non-members do: is member true for"
            " those it was trained on?"
        )
    if mismatch > limit:
        yield (
            f"The shadows' log-odds lie {mismatch:.2f} of the head's interquartile range from its own: they are"
            " not heads like it, and attacks that rely on them find less, or seem to find more, than they could."
        )
