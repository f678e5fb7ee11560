"""Guarantees of differential privacy, results of attacks below its ceiling, and its cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxmia.plots import privacy_figure
from jaxmia.privacy.accounting import ADD_OR_REMOVE_ONE
from jaxmia.privacy.last_iterate import last_iterate_epsilon
from jaxmia.privacy.lower_bounds import best_epsilon
from jaxmia.privacy.tradeoff import kairouz_ceiling
from jaxmia.report.content import Block, Picture
from jaxmia.report.drawing import drawn_for_pages, to_svg
from jaxmia.tables import Measured, Table, Value, facts
from jaxmia.tables.rates import over_runs, over_seeds, realised

_LEVEL = ["dataset", "recipe", "classes", "shots", "epsilon"]
BASELINES = (0.5, 0.1, 0.01, 0.001)
"""Success rates of an attacker without the record: of a coin, and of rarer guesses."""
EPSILONS = (8.0, 4.0, 2.0, 1.0, 0.5)
TWO_CEILINGS = (
    "Two ceilings belong to one ε. That of the mechanism follows from its trade-off curve, noise and steps known; that"
    " of (ε, δ) alone holds for every mechanism with this guarantee, and is never lower."
)
SIMULATED = (
    "Guarantees are those of the mathematical mechanism. Heads trained for this measurement use a"
    " generator that is not cryptographic: they show what privacy would cost, and must not be released"
    " as private."
)


def bounds_table(fprs: Sequence[float], delta: float) -> Table:
    """Return the ceilings of (epsilon, delta)-DP for any attack on one record, from its definition alone."""
    return Table(
        f"The largest TPR that (ε, {delta:g})-differential privacy alone leaves to any attack",
        ("", *(f"at FPR {fpr:g}" for fpr in fprs)),
        _ceilings(fprs, delta),
        f"Bounds from the definition, not measurements. {TWO_CEILINGS}",
        about="What a guarantee of this strength would rule out, whatever the attack.",
    )


def _ceilings(points: Sequence[float], delta: float) -> tuple[tuple[Value, ...], ...]:
    """Return a row for each of EPSILONS: what (epsilon, delta) alone leaves to any attack at some FPRs or baselines."""
    rows: list[tuple[Value, ...]] = []
    for epsilon in EPSILONS:
        found = (float(kairouz_ceiling(each, epsilon=epsilon, delta=delta)) for each in points)
        rows.append((f"ε = {epsilon:g}", *(Measured(value, status="bound") for value in found)))
    return tuple(rows)


def other_attacks_table(delta: float) -> Table:
    """What (epsilon, delta)-DP leaves to attribute inference and reconstruction of one record.

    A success rate b that is reached without the record becomes at most 1 - f(b), f the trade-off curve (Kulynych et al.
    2025, arXiv 2507.06969); of (epsilon, delta) alone that is the ceiling of the TPR at FPR b.
    """
    return Table(
        f"The largest success of attribute inference or reconstruction under (ε, {delta:g})-differential privacy",
        ("", *(f"from {each:g} without the record" for each in BASELINES)),
        _ceilings(BASELINES, delta),
        "Bounds, not measurements: 1 − f(b) from a baseline b, the success of one who guesses without the model having"
        " seen the record; f is the trade-off curve of (ε, δ) alone (Kulynych et al. 2025, arXiv 2507.06969).",
        about="How far a guarantee also bounds attacks that were not run, which guess attributes or whole records.",
    )


def certificate_blocks(told: Mapping[str, Any]) -> list[Block]:
    """Return what the certificate of a released head says, and what it rests on.

    Args:
        told: the certificate, as audit.json holds it.
    """
    said = (
        "The head was released with a certificate: its training saw its members through sums of clipped gradients"
        " alone, each with discrete Gaussian noise from the operating system's generator (OpenDP). “jaxmia verify”"
        " computes the guarantee again from the stated mechanism; no check of a head can prove that it was trained so."
    )
    public = told["public_sha256"]
    answers: dict[str, Value] = {
        "ε": Measured(float(told["epsilon"]), status="bound"),
        "δ": f"{told['delta']:g}",
        "adjacency": f"{told['adjacency']}, of a {told['unit']}",
        "recipe": f"{told['recipe']}, steps: {told['steps']}",
        "noise over clipping norm": f"{told['noise_multiplier']:.6g}",
        "clipping norm": f"{told['clipping_norm']:.6g}",
        "features": told["normalize"]
        if public is None
        else f"{told['normalize']}, of the file {public[:12]}…",
        "assumed to be public": ", ".join(told["assumed_public"]),
        "by": ", ".join(f"{name} {version}" for name, version in told["versions"].items()),
    }
    return [
        said,
        facts("Certificate of the released head", answers, about="What was proved of this head's training."),
    ]


def is_private(results: pd.DataFrame) -> bool:
    """Return whether any cell of a study is private."""
    return bool(np.isfinite(results["epsilon"]).any())


def privacy_blocks(results: pd.DataFrame) -> list[Block]:
    """Return the privacy levels of a study: accuracy of each, results of attacks, and the ceiling on any attack.

    Args:
        results: rows of results, some of them private.
    """
    first = results.iloc[0]
    of_all = results.groupby(_LEVEL, sort=False)
    pooled = results[results["evaluation"] == first["evaluation"]]
    rows: list[tuple[Value, ...]] = []
    for (dataset, recipe, classes, shots, epsilon), level in pooled.groupby(_LEVEL, sort=False):
        name = f"{dataset}, {recipe}, C = {classes}, S = {shots}"
        of_attack = level[level["attack"] == first["attack"]]
        key = (dataset, recipe, classes, shots, epsilon)
        proved = _proved(best_epsilon(of_all.get_group(key)))
        level_of = Measured(float(epsilon), form="g")
        accuracy = over_runs(level, "accuracy")
        for _fpr, cells in of_attack.groupby("fpr", sort=False):
            ceiling = Measured(float(cells["tpr_ceiling"].iloc[0]), form=".4f", status="bound")
            tpr = (over_seeds(cells), realised(cells))
            rows.append((name, level_of, accuracy, f"{cells['fpr'].iloc[0]:g}", *tpr, ceiling, proved))
    adjacency = ", ".join(sorted(set(results["adjacency"])))
    persons = "" if "unit" not in results else ", persons"
    table = Table(
        f"Privacy levels under {first['attack']}, {first['evaluation']}{persons}",
        (
            "cell",
            "ε",
            "accuracy",
            "FPR",
            "TPR",
            "FPR realised",
            "ceiling of the mechanism",
            "ε proved by the best attack",
        ),
        tuple(rows),
        f"δ = {first['delta']:g}; adjacency: {adjacency}{_whom(results)}; accountant: privacy loss distributions"
        " (dp-accounting). Medians over seeds with the outermost ends of their intervals; accuracy with the"
        f" range over seeds. {TWO_CEILINGS}",
        about="What each level of privacy costs in accuracy, what attacks find, and what none can exceed.",
    )
    alternative = (
        "TPR of each attack and the ceiling on any attack against ε on log axes, a panel for each FPR: points"
        " lie below the ceiling."
    )
    with drawn_for_pages():
        figure = privacy_figure(pooled, "ceiling", stacked=True)
    height = 2.3 * results["fpr"].nunique()
    svg = to_svg(figure, "ceiling", alternative, height=height)
    drawn = Picture("TPR under its ceiling", alternative, svg, table)
    return [SIMULATED, drawn, *last_iterate_table(results), *_proved_by_each(results), _below_table(results)]


def _whom(results: pd.DataFrame) -> str:
    """What "one" is in the adjacency, and what persons have where levels are of records."""
    if "privacy_unit" not in results:
        return ""
    private = results[np.isfinite(results["epsilon"])]
    if private["privacy_unit"].iloc[0] == "person":
        return " (a person with all of their records)"
    most = private["person_epsilon"].max()
    return f" (a record; ceilings are what group privacy leaves to persons, whose ε is up to {most:.3g})"


def _proved(epsilon: float) -> Measured:
    """Return a lower bound on epsilon, with an open upper end."""
    if math.isnan(epsilon):
        return Measured(None, status="not run")
    return Measured(epsilon, epsilon, math.inf)


def last_iterate_table(results: pd.DataFrame) -> list[Table]:
    """Return the last-iterate heuristic of levels with Poisson batches, between audit and accountant; none without.

    Args:
        results: rows of results.
    """
    private = results[np.isfinite(results["epsilon"]) & (results["noise_multiplier"] > 0)]
    poisson = private[(private["sampling_rate"] < 1) & (private["adjacency"] == ADD_OR_REMOVE_ONE)]
    rows: list[tuple[Value, ...]] = []
    for (dataset, recipe, classes, shots, epsilon), level in poisson.groupby(_LEVEL, sort=False):
        row = level.iloc[0]
        estimate = last_iterate_epsilon(
            noise_multiplier=float(row["noise_multiplier"]),
            sampling_rate=float(row["sampling_rate"]),
            steps=int(row["steps"]),
            delta=float(row["delta"]),
        )
        name = f"{dataset}, {recipe}, C = {classes}, S = {shots}"
        proved = _proved(best_epsilon(level))
        rows.append((name, proved, Measured(estimate, form=".3f"), Measured(float(epsilon), status="bound")))
    if not rows:
        return []
    return [
        Table(
            "Between audit and accountant: the last iterate",
            (
                "cell",
                "ε proved by the best attack",
                "ε by the last-iterate heuristic (no guarantee)",
                "ε guaranteed",
            ),
            tuple(rows),
            "The heuristic supposes gradients that do not depend on the weights, so that the final head leaks what one"
            " noisy sum would; heads can leak more (Steinke, Nasr et al. 2025, arXiv 2410.06186).",
            about="What hiding all but the last step may be worth: an estimate, which no one should rely on.",
        )
    ]


def _proved_by_each(results: pd.DataFrame) -> list[Block]:
    """Return the lower bound on epsilon by each attack, if any was audited."""
    audited = results.dropna(subset="epsilon_lower_bound")
    rows: list[tuple[Value, ...]] = []
    for (dataset, recipe, classes, shots, epsilon, attack), level in audited.groupby(
        [*_LEVEL, "attack"], sort=False
    ):
        name = f"{dataset}, {recipe}, C = {classes}, S = {shots}"
        rows.append(
            (name, Measured(float(str(epsilon)), form="g"), str(attack), _proved(best_epsilon(level)))
        )
    if not rows:
        return []
    return [
        Table(
            "What each attack proves of ε",
            ("cell", "ε", "attack", "ε proved"),
            tuple(rows),
            "Lower ends of 95% confidence, by one-run audits; those of all attacks of a cell hold"
            " jointly (Bonferroni), so the largest may be used. Median over seeds. 0 proves nothing.",
            sortable=True,
            about="The least ε that is compatible with what an attack found: above the guarantee, it would refute it.",
        )
    ]


def _below_table(results: pd.DataFrame) -> Table:
    """Return a table of rows of private heads whose TPR interval lies above the ceiling; there must be none."""
    private = results[np.isfinite(results["epsilon"]) & (results["status"] == "ok")]
    above = private[private["tpr_low"] > private["tpr_ceiling"]]
    nearest = (private["tpr"] / private["tpr_ceiling"]).max()
    rows = (
        ("resolved rows of private heads", len(private)),
        ("rows above their ceiling beyond their interval", len(above)),
        ("largest TPR as a share of its ceiling", Measured(float(nearest)) if len(private) else "none"),
    )
    return Table(
        "Heads of known privacy under their ceiling",
        ("", "answer"),
        rows,
        about="A check of the tests: where the truth is known, no attack may exceed it.",
    )
