"""The records of an audit: what is known of them, and which of them the head was trained on."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib

import numpy as np
from jaxtyping import Bool

from jaxmia._npz import read_npz
from jaxmia._validate import InputError, check
from jaxmia.audit.settings import AuditConfig
from jaxmia.data.feature_set import FeatureSet, load_features
from jaxmia.data.labels import record_ids, truth
from jaxmia.stats.resolution import required_nonmembers, resolvable

MIN_OTHERS = 10  # non-members, with no more of which the head itself has no FPR that can be resolved
MOST_INCLUDED = 0.75  # of the records, by a shadow


@dataclasses.dataclass(frozen=True, eq=False)
class AuditRecords:
    """The records, and which of them the head was trained on.

    Attributes:
        data: features and labels.
        member: which the head was trained on.
        ids: str[records], for reports.
    """

    data: FeatureSet
    member: Bool[np.ndarray, "records"]
    ids: np.ndarray

    @property
    def inclusion_rate(self) -> float:
        """r, the share of the records that a shadow trains on: the head's own share, but at most 3/4, or 1/2.

        At the head's own share shadows train on as many records as the head, as heads like it should. But they all
        draw from the same n records. What two of them share grows with r, so that their scores scatter less, by
        sqrt(1 - r), than over training sets drawn afresh, and every separation D over re-trainings comes out
        1 / sqrt(1 - r) too large: 1.4 at r = 1/2, 6 at r = 0.975, where hardly a shadow is left without a record to
        tell its deviation by. Fewer records make a head more vulnerable too: D goes with the root of the training
        set's size. With a share s of members it is overstated by sqrt(s / (r (1 - r))) in all: at r = 3/4 by 2.3 at
        most, and shadows then train on no less than 3/4 of the head's records, which the attacks on the head itself
        need, as they take its scores on non-members for draws of the shadows'. With ten non-members or fewer, which
        resolve no FPR of the head itself, vulnerability over re-trainings is all there is, and r = 1/2 overstates it
        least, by 2 at most.
        """
        most = MOST_INCLUDED if self.num_others > MIN_OTHERS else 0.5
        return min(float(self.member.mean()), most)

    @property
    def num_members(self) -> int:
        """Records that the head was trained on."""
        return int(self.member.sum())

    @property
    def num_others(self) -> int:
        """Records that it was not."""
        return len(self.member) - self.num_members

    @property
    def overstated(self) -> float:
        """What D over re-trainings is too large by, to first order, beside training sets drawn afresh."""
        rate = self.inclusion_rate
        return float(np.sqrt(self.member.mean() / (rate * (1 - rate))))

    def twins(self) -> int:
        """Non-members whose features are a member's."""
        rows = np.ascontiguousarray(self.data.features)
        keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
        return int(np.isin(keys[~self.member], keys[self.member]).sum())


def load_records(config: AuditConfig) -> AuditRecords:
    """Read the records of an audit.

    Raises:
        InputError: for whatever is wrong with the files.
    """
    data = load_features(config.data.features)
    extra = read_npz(
        pathlib.Path(config.data.features), name="features", required=(), optional=("member", "ids")
    )
    if config.data.members:
        source = config.data.members
        member = read_npz(pathlib.Path(source), name="members", required=("member",))["member"]
    else:
        source = config.data.features
        if "member" not in extra:
            raise InputError(
                f"{source} must hold the key 'member', or data.members must name an .npz that does."
            )
        member = extra["member"]
    return audit_records(data, member, extra.get("ids"), source=source)


def audit_records(
    data: FeatureSet, member: np.ndarray, ids: np.ndarray | None, *, source: str
) -> AuditRecords:
    """Check who was a member and the records' names.

    Args:
        data: the records.
        member: [records], whatever says true or false.
        ids: [records], all different; by default the places.
        source: of member, for messages.

    Raises:
        InputError: for a wrong length, values that are no truth, a class without a member, or ids that repeat.
    """
    member = _checked_member(member, data, source)
    names = record_ids(ids, len(data.labels))
    check(
        len(np.unique(names)) == len(names),
        "different ids",
        len(np.unique(names)),
        f"be {len(names)}: one a record",
    )
    return AuditRecords(data, member, names.astype(str))


def proposed_fprs(source: str | os.PathLike[str]) -> tuple[tuple[float, ...], str]:
    """FPRs that a file of records can resolve on a head of its members, and what there is to say of them.

    Of 0.1, 0.01 and 0.001, those that the non-members resolve; of few non-members the lowest that they do. With ten or
    fewer nothing is resolved on the head itself, and 0.1 is proposed for the records over re-trainings.

    Args:
        source: an .npz of features and labels, and of member if it is known there.

    Raises:
        InputError: if it is not what it should be.
    """
    data = load_features(source)
    held = read_npz(pathlib.Path(source), name="features", required=(), optional=("member",))
    number, what = len(data.labels), "records resolve if they are non-members: no key 'member' tells"
    if "member" in held:
        member = _checked_member(held["member"], data, str(source))
        number, what = int(np.count_nonzero(~member)), "non-members resolve"
    fprs = tuple(fpr for fpr in (0.1, 0.01, 0.001) if resolvable(fpr, number))
    needs = ", ".join(f"{fpr:g} takes {required_nonmembers(fpr)}" for fpr in (0.1, 0.01, 0.001))
    if not fprs and number > MIN_OTHERS:
        fprs = (math.ceil(1000 / number) / 100,)
    if not fprs:
        return (0.1,), f"{number} non-members are too few for any FPR of the head itself ({needs})"
    return fprs, f"as {number} {what} ({needs})"


def _checked_member(member: np.ndarray, data: FeatureSet, source: str) -> Bool[np.ndarray, "records"]:
    member = truth(member, f"{source}: member", len(data.labels))
    check(
        bool(member.any()), f"{source}: members", 0, "be at least 1: no record is marked as a training member"
    )
    missing = [data.class_names[c] for c in range(data.num_classes) if not member[data.labels == c].any()]
    check(
        not missing, f"{source}: classes without a member", missing, "be none: the head has never seen them"
    )
    return member
