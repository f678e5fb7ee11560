"""Tables of required examples per class by laws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from jaxmia.cli.tables.laws import check_classes
from jaxmia.laws.law import LawKey, PowerLawFit
from jaxmia.tables import Table
from jaxmia.tables.laws import required_table


def required_tables(
    laws: Mapping[LawKey, PowerLawFit], *, epsilons: Sequence[float], delta: float, classes: int
) -> Iterator[str | Table]:
    """Yield the examples per class at which attacks find no more than (epsilon, delta)-DP allows: fitted, published.

    There is one table per law, with its 95% calibration interval and the published value, which exists for two classes.
    """
    check_classes(laws, classes)
    yield (
        f"Examples per class, S, at which TPR meets the ceiling of (ε, {delta:g})-DP, C = {classes}. With"
        " more, attacks of this kind find less than this privacy would allow, which is no guarantee of privacy\n"
    )
    for name, fit in laws.items():
        record = {"pooled": "average record", "maximum": "worst record"}.get(name.evaluation, name.evaluation)
        yield required_table(str(name), {record: fit}, epsilons=epsilons, delta=delta, classes=classes)
