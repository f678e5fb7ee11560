"""Settings of the advisor: the limit, the released outputs, and the options to evaluate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from jaxmia._validate import check, check_at_least, check_choice, check_different, check_fpr
from jaxmia.data.persons import UNITS
from jaxmia.privacy.accounting import check_delta

RELEASES = ("labels", "probabilities", "weights")
RIDGES = (0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 100.0)
LEAVE_OUT = (0.01, 0.05, 0.1, 0.2)
COMPONENTS = (32, 128)
EPSILONS = (1.0, 2.0, 4.0, 8.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdviceSettings:
    """The settings of the advisor.

    Attributes:
        fpr: FPR of every record or person, a fraction.
        max_tpr: the limit on every record's or person's TPR at this FPR.
        release: what an attacker sees: "labels", "probabilities" (or logits) or "weights".
        ridge: lambda of the given head, used for the other levers.
        ridges: values of lambda to evaluate.
        leave_out: shares of the most vulnerable records to leave out.
        components: numbers of principal components to project features on.
        epsilons: epsilons of private heads; () for none.
        delta: delta of private heads.
        seed: seed of the few heads.
        unit: "record", or "person": all of a person's records are members together, and limits are of persons.
        confirm: number of shadow heads that measure the recommended option; 0 for none.
        memory: largest number of bytes for the Hessian; None means 8 GiB.
    """

    fpr: float = 0.01
    max_tpr: float = 0.1
    release: str = "probabilities"
    ridge: float = 1.0
    ridges: Sequence[float] = RIDGES
    leave_out: Sequence[float] = LEAVE_OUT
    components: Sequence[int] = COMPONENTS
    epsilons: Sequence[float] = EPSILONS
    delta: float = 1e-5
    seed: int = 0
    unit: str = "record"
    confirm: int = 0
    memory: int | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: for a value outside of its range, or one that occurs twice.
        """
        check_fpr("fpr", self.fpr)
        rule = f"lie between fpr={self.fpr:g}, which any attack can reach, and 1"
        check(self.fpr < self.max_tpr < 1, "max_tpr", self.max_tpr, rule)
        check_choice("release", self.release, RELEASES)
        check_choice("unit", self.unit, UNITS)
        for name, values in (("ridge", [self.ridge]), ("ridges", self.ridges), ("epsilons", self.epsilons)):
            for value in values:
                check(0 < value < math.inf, name, value, "be finite and above 0")
        for value in self.leave_out:
            check(0 < value < 1, "leave_out", value, "lie strictly between 0 and 1")
        for value in self.components:
            check_at_least("components", value, 1)
        for name in ("ridges", "leave_out", "components", "epsilons"):
            check_different(name, getattr(self, name))
        check_delta(self.delta)
        check(self.confirm == 0 or self.confirm >= 32, "confirm", self.confirm, "be 0, or 32 or more")
