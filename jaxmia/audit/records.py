"""The records of an audit: features, labels, ids, and the head's training membership."""

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
from jaxmia.data.activations import features_file
from jaxmia.data.feature_set import FeatureSet, load_features
from jaxmia.data.labels import record_ids, truth
from jaxmia.stats.resolution import required_nonmembers, resolvable

MIN_OTHERS = 10  # with this many non-members or fewer, no FPR of the head itself is resolved
MOST_INCLUDED = 0.75  # largest share of the records in a shadow's training set


@dataclasses.dataclass(frozen=True, eq=False)
class AuditRecords:
    """The records, and the head's training membership.

    Attributes:
        data: features and labels.
        member: bool[records], True where the head was trained on the record.
        ids: str[records], names for reports.
    """

    data: FeatureSet
    member: Bool[np.ndarray, "records"]
    ids: np.ndarray

    @property
    def inclusion_rate(self) -> float:
        """Return r, the share of the records that a shadow trains on: the head's share, but at most 3/4; or 1/2.

        With the head's share, shadows train on as many records as the head. But all shadows draw from the same n
        records, and the overlap of two shadows grows with r. Their scores therefore vary less than over independent
        training sets, by a factor sqrt(1 - r), and every separation D over re-trainings is too large by 1 / sqrt(1 -
        r): 1.4 at r = 1/2, and 6 at r = 0.975, where hardly any shadow lacks a given record, so that deviations cannot
        be estimated. Smaller training sets also make heads more vulnerable: D is proportional to 1 / sqrt(training set
        size). With a share s of members, D is overstated by sqrt(s / (r (1 - r))) in total. At r = 3/4 this is at most
        2.3, and shadows train on at least 3/4 as many records as the head. Attacks on the head need this, since they
        treat its scores on non-members as draws from the shadows' distribution. With ten non-members or fewer, no FPR
        of the head itself is resolved and only results over re-trainings remain. Then r = 1/2 overstates D least, by at
        most 2.
        """
        most = MOST_INCLUDED if self.num_others > MIN_OTHERS else 0.5
        return min(float(self.member.mean()), most)

    @property
    def num_members(self) -> int:
        """Return the number of records that the head was trained on."""
        return int(self.member.sum())

    @property
    def num_others(self) -> int:
        """Return the number of records that the head was not trained on."""
        return len(self.member) - self.num_members

    @property
    def overstated(self) -> float:
        """Return the factor by which D over re-trainings is overstated, relative to independent training sets."""
        rate = self.inclusion_rate
        return float(np.sqrt(self.member.mean() / (rate * (1 - rate))))

    def twins(self) -> int:
        """Return the number of non-members with exactly the features of a member."""
        rows = np.ascontiguousarray(self.data.features)
        keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
        return int(np.isin(keys[~self.member], keys[self.member]).sum())


def load_records(config: AuditConfig) -> AuditRecords:
    """Read the records of an audit.

    Raises:
        InputError: for bad files.
    """
    data = load_features(config.data.features, inputs=config.train.reads)
    extra = read_npz(
        features_file(config.data.features), name="features", required=(), optional=("member", "ids")
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
    """Return the records with checked membership and ids.

    Args:
        data: the records.
        member: [records], bools, 0 and 1, or "true" and "false".
        ids: [records], all different; by default the row numbers.
        source: name of member's source, for messages.

    Raises:
        InputError: for a wrong length, values that are not true or false, a class without a member, or repeated ids.
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
    """Return the FPRs that a file of records resolves for a head trained on its members, with a comment.

    Returns those of 0.1, 0.01 and 0.001 that the non-members resolve; with few non-members, the lowest FPR that they
    resolve. With ten or fewer, no FPR of the head itself is resolved, and 0.1 is proposed for results over
    re-trainings.

    Args:
        source: an .npz with features and labels, and member if known.

    Raises:
        InputError: for a bad file.
    """
    data = load_features(source)
    held = read_npz(features_file(source), name="features", required=(), optional=("member",))
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
