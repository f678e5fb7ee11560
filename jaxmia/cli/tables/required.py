"""Tables of the examples per class that laws require."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import RenderableType

from jaxmia.cli.tables.layout import add_row, new_table
from jaxmia.laws.fit import LawOf, PowerLaw, PowerLawFit
from jaxmia.laws.published import published_lines
from jaxmia.laws.required import RequiredShots, required_shots


def required_tables(
    laws: Mapping[LawOf, PowerLawFit], *, epsilons: Sequence[float], delta: float, classes: int
) -> Iterator[RenderableType]:
    """Examples per class at which attacks find no more than (epsilon, delta)-DP would let them: this run, published.

    One table for each law, with its 95% calibration interval beside what was published, which is known at two classes.
    """
    yield (
        f"Examples per class, S, at which TPR meets the ceiling of (ε, {delta:g})-DP, C = {classes}: an attack of this"
        " kind finds no more; it is no guarantee\n[95% interval]. x: outside the fitted cells. published: C = 2\n"
    )
    for name, fit in laws.items():
        record = {"pooled": "average", "maximum": "worst"}.get(name.evaluation)
        table = new_table(str(name), ("FPR", "ε", "ceiling", "S", "95% interval", "published", "note"))
        for law in fit.lines:
            for epsilon in epsilons:
                cells = _required_cells(law, epsilon=epsilon, delta=delta, classes=classes)
                number = published_lines().shots(record, fpr=law.fpr, epsilon=epsilon, delta=delta)
                beside = "-" if number is None else _two_digits(number)
                add_row(table, f"{law.fpr:g}", f"{epsilon:g}", *cells[:3], beside, cells[3])
        yield table


def _required_cells(
    law: PowerLaw, *, epsilon: float, delta: float, classes: int
) -> tuple[str, str, str, str]:
    if law.status != "ok":
        return "-", "-", "-", f"{law.status}: {law.reason}"
    fit = PowerLawFit((law,))
    found = required_shots(fit, epsilon=epsilon, delta=delta, fpr=law.fpr, classes=classes)
    mark = "x" if found.extrapolated else ""
    shots = "-" if found.shots is None else f"{_two_digits(found.shots)}"
    return f"{found.ceiling:.4f}", shots, _shots_interval(found), " ".join(filter(None, (mark, found.reason)))


def _shots_interval(found: RequiredShots) -> str:
    if found.low is None or found.high is None:
        return "-"
    return f"{_two_digits(found.low)} ... {_two_digits(found.high)}"


def _two_digits(number: float) -> str:
    """Two significant digits, as the paper's table has them."""
    rounded = float(f"{number:.1e}")
    if rounded >= 1e6:
        return f"{rounded:.1e}"
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"
