"""AttackResult, which every attack returns: a statistic for each model and example, and the membership."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxmia._shown import Shown
from jaxmia._validate import check


@dataclasses.dataclass(frozen=True)
class AttackResult(Shown):
    """The statistic of an attack for every candidate under every target model.

    Attributes:
        statistic: float64[models, examples], higher means more likely a member; never NaN.
        member: bool[models, examples], True where the example was in the model's training set.
        defined: bool[models, examples], False where the shadows do not determine a statistic, for example because no IN
            shadow is left; the statistic then is the attack's "no evidence" value.
        null: law of a non-member's statistic over models, as far as the attack knows it: "z", "gaussian",
            "location_scale" (jaxmia.stats.nulls.residual_p_values) or "unknown", which can be calibrated by ranks only.
        population: int64[models], the number of scores that each target's statistics are ranks among; None unless the
            statistic is a rank.
    """

    statistic: np.ndarray
    member: np.ndarray
    defined: np.ndarray
    null: str = "unknown"
    population: np.ndarray | None = None

    __repr__ = Shown.__repr__

    def headline(self) -> str:
        """Sizes, members, and the law of the null."""
        models, examples = np.shape(self.statistic)
        return (
            f"{models} models x {examples} examples, {np.mean(self.member):.0%} members, null {self.null!r}"
        )


def checked_arrays(result: AttackResult) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (statistic float64, member bool, defined bool), all [models, examples].

    Raises:
        InputError: unless shapes agree, the statistic has no NaN, and there are both members and non-members.
    """
    statistic = np.asarray(result.statistic, np.float64)
    member, defined = np.asarray(result.member), np.asarray(result.defined)
    check(statistic.ndim == 2, "statistic.shape", statistic.shape, "be (models, examples)")
    for name, mask in (("member", member), ("defined", defined)):
        check(
            mask.shape == statistic.shape, f"{name}.shape", mask.shape, f"equal statistic's {statistic.shape}"
        )
        check(mask.dtype == bool, f"{name}.dtype", str(mask.dtype), "be bool")
    num_nan = int(np.count_nonzero(np.isnan(statistic)))
    check(num_nan == 0, "number of NaN in statistic", num_nan, "be 0")
    num_members = int(np.count_nonzero(member))
    check(num_members > 0, "number of members", num_members, "be at least 1")
    check(num_members < member.size, "number of non-members", member.size - num_members, "be at least 1")
    return statistic, member, defined


def of_targets(result: AttackResult, targets: Sequence[int] | None) -> AttackResult:
    """Return the result restricted to some models; all models for None.

    Raises:
        InputError: if targets is empty or names a row that does not exist.
    """
    if targets is None:
        return result
    num_models = len(result.statistic)
    check(len(targets) > 0, "targets", targets, "name at least 1 model")
    for row in targets:
        check(0 <= row < num_models, "target", row, f"be the row of a model, 0 to {num_models - 1}")
    rows = list(targets)
    return dataclasses.replace(
        result,
        statistic=np.asarray(result.statistic)[rows],
        member=np.asarray(result.member)[rows],
        defined=np.asarray(result.defined)[rows],
        population=None if result.population is None else np.asarray(result.population)[rows],
    )
