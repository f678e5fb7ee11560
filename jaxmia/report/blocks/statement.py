"""The test of a stated differential privacy guarantee, or why there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from jaxmia.audit.settings import ContextSettings
from jaxmia.privacy.verdicts import SIGNIFICANCE, Statement, statement_tests, why_no_test
from jaxmia.report.content import Block
from jaxmia.tables import Measured, Table, Value


def statement_blocks(mine: pd.DataFrame, context: ContextSettings) -> Iterator[Block]:
    """Yield the stated guarantee, the results of each attack on the model, and whether they contradict it.

    Args:
        mine: rows of results of the model with evaluation "per_target".
        context: context with an epsilon.
    """
    refused = why_no_test(randomised=context.randomised, adjacency=context.adjacency)
    if refused is not None:
        yield f"The stated guarantee was not tested; {refused}."
        return
    statement = Statement(context.epsilon, context.delta, context.adjacency)
    tested = statement_tests(mine, statement)
    if tested.empty:
        yield "The stated guarantee was not tested; no verdict: this model's non-members resolve none of the FPRs."
        return
    rows: list[tuple[Value, ...]] = []
    for row in tested.to_dict("records"):
        found = Measured(row["tpr"], row["tpr_low"], 1.0)
        ceiling = Measured(row["ceiling"], form=".4f", status="bound")
        verdict = "contradicted" if row["contradicted"] else "not contradicted"
        high = Measured(row["fpr_high"], form=".4f", status="bound")
        rows.append((row["attack"], f"{row['fpr']:g}", high, found, ceiling, verdict))
    verdict = "contradicted" if tested["contradicted"].any() else "not contradicted"
    columns = ("attack", "FPR", "FPR at most", "TPR, at least", "ceiling of (ε, δ) there", "the statement is")
    yield Table(
        f"The stated guarantee: {verdict} by these tests together",
        columns,
        tuple(rows),
        f"One-sided exact intervals of both rates, corrected for {len(tested)} tests (attacks and FPRs): a true"
        f" guarantee is called contradicted in at most {SIGNIFICANCE:.0%} of such audits. They take the members as"
        " chosen by chance alone, as was stated, and the scores of different records in one model as independent. Not"
        " contradicted says no more than that these attacks did not.",
        about="Whether what the attacks found can be reconciled with the guarantee that was stated.",
    )
