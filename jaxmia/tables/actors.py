"""What each actor finds: one table for the terminal and for reports."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from jaxmia.tables.rates import best_row, over_seeds
from jaxmia.tables.reasons import grouped
from jaxmia.tables.table import NONE, Measured, Table, Value, measured

_NOTE = (
    "Average: the share of the members that the best of the tested attacks recognises, at one threshold for all;"
    " choosing the attack favours the actor. Worst: the TPR on the one most at risk at that threshold, chosen on half"
    " of the models and measured on the other half; its FPR: the false alarms on it."
)


def actor_tables(rows: pd.DataFrame) -> Iterator[str | Table]:
    """What each actor finds, one table for each group of targets, unit and knowledge.

    Args:
        rows: of jaxmia.studies.actors.actor_rows, of one cell or of cells that differ in their seed.
    """
    for (targets, unit, knows), mine in rows.groupby(["targets", "unit", "knows"], sort=False):
        title = f"{_of(str(targets), str(unit))}: actors who know {knows}"
        if (mine["status"] == "not run").all():
            yield f"{title}: not run. {_sentences(mine['reason'])}\n"
        else:
            yield actor_table(mine, title)


def short_table(rows: pd.DataFrame) -> Table | None:
    """Return one line for each actor that ran, at the lowest FPR at which one has a number; None where none has.

    The average is of the model under audit where there is one, and of all models otherwise; the worst record is of the
    others, its shadows, or of all models.

    Args:
        rows: as of actor_tables; of cells with several sizes, those of one.
    """
    group = rows["targets"].iloc[0]
    others = "others" if "others" in set(rows["targets"]) else group
    unit = rows["unit"].iloc[-1]  # persons where they are members
    rows = rows[rows["unit"] == unit]
    resolved = rows[(rows["targets"] == group) & (rows["status"] == "ok")]
    if resolved.empty:
        return None
    fpr = float(resolved["fpr"].min())
    at = rows[rows["fpr"] == fpr]
    lines: list[tuple[Value, ...]] = []
    for (knows, actor), mine in at.groupby(["knows", "actor"], sort=False):
        if (mine["status"] != "not run").any():
            average, worst = (_found(mine[mine["targets"] == of]) for of in (group, others))
            lines.append((str(knows), str(actor), str(average[0]), average[1], worst[2]))
    return Table(
        f"Who attacks: what each actor finds of {unit}s at FPR {fpr:g}",
        ("knows", "who attacks", "best attack", "average", "worst"),
        tuple(lines),
        _NOTE.partition(" Worst:")[0] + " Actors that could not be run are in “Who attacks”.",
        stub=1,
        about="How much an attacker finds, by what is released to it and what it knows.",
    )


def cell_tables(rows: pd.DataFrame) -> Iterator[str | Table]:
    """The tables of the cells of a run: medians over seeds, with the outermost ends of their intervals."""
    for (classes, shots, epsilon), mine in rows.groupby(["classes", "shots", "epsilon"]):
        level = float(str(epsilon))
        private = "" if math.isinf(level) else f", ε = {level:g}"
        for block in actor_tables(mine):
            if isinstance(block, str):
                yield block
            else:
                yield dataclasses.replace(block, title=f"C = {classes}, S = {shots}{private}. {block.title}")


def _of(targets: str, unit: str) -> str:
    of = {"all": "all models", "others": "models like the one under audit, its shadows"}
    return f"{unit.capitalize()}s of {of.get(targets, f'the model under audit ({targets})')}"


def actor_table(rows: pd.DataFrame, title: str) -> Table:
    """The table of actors of one group of targets, unit and knowledge.

    Args:
        rows: as of actor_tables, of one group.
        title: of the table.
    """
    lines: list[tuple[Value, ...]] = []
    bounded = "tpr_ceiling" in rows and bool((rows["tpr_ceiling"] < 1).any())
    for actor, of_actor in rows.groupby("actor", sort=False):
        idle = bool((of_actor["status"] == "not run").all())
        for fpr, mine in of_actor.groupby("fpr", sort=False):
            bound = (Measured(float(mine["tpr_ceiling"].iloc[0])),) if bounded else ()
            lines.append((str(actor), "all" if idle else f"{fpr:g}", *_found(mine), *(() if idle else bound)))
            if idle:
                lines[-1] += (NONE,) * bounded
                break
    fallen = _fallen(rows)
    return Table(
        title,
        (
            "who attacks",
            "FPR",
            "best attack",
            "average",
            "worst",
            "its FPR",
            *(("bound by ε",) if bounded else ()),
        ),
        tuple(lines),
        _NOTE + (f" Attacks that fall out: {fallen}." if fallen else ""),
        stub=1,
        ruled=1,
        about="How much an attacker finds, by what is released to it and what it knows.",
    )


def _found(rows: pd.DataFrame) -> tuple[Value, ...]:
    """The best attack of an actor at an FPR, and what it finds of the average and of the worst."""
    best = best_row(rows)
    if best is None:
        ran = rows[rows["status"] != "not run"]
        told = rows if ran.empty else ran
        status = "not run" if ran.empty else str(told["status"].iloc[0])
        reason = _sentences(told["reason"])
        return "none", Measured(None, status=status, reason=reason), NONE, NONE
    same = rows[(rows["attack"] == best["attack"]) & (rows["status"] == "ok")]
    worst = [same[name].median() for name in ("worst_tpr", "worst_tpr_low", "worst_tpr_high", "worst_fpr")]
    if np.isnan(worst[0]):
        return str(best["attack"]), over_seeds(same), NONE, NONE
    return str(best["attack"]), over_seeds(same), measured(*worst[:3]), Measured(float(worst[3]), form=".2g")


def _sentences(reasons: Iterable[str]) -> str:
    """The different reasons as sentences."""
    return " ".join(f"{reason[:1].upper()}{reason[1:].rstrip('.')}." for reason in grouped(reasons))


def _fallen(rows: pd.DataFrame) -> str:
    """Attacks that some actors cannot run, and why."""
    left_out = rows[(rows["status"] == "not run") & (rows["attack"] != "")]
    said: dict[str, dict[str, None]] = {}
    for row in left_out.drop_duplicates(["attack", "reason"]).to_dict("records"):
        said.setdefault(str(row["reason"]), {})[str(row["attack"])] = None
    return "; ".join(f"{', '.join(attacks)} where {reason}" for reason, attacks in said.items())
