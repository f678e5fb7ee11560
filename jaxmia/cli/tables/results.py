"""Tables of runs and sweeps."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from rich.console import RenderableType
from rich.table import Table

from jaxmia.cli.tables.layout import (
    add_row,
    decimals,
    footnoted,
    new_table,
    realised_cell,
    rounded_up,
    tpr_cell,
)
from jaxmia.privacy.lower_bounds import best_epsilon
from jaxmia.studies.tuning import Tuning


def results_tables(results: pd.DataFrame) -> Iterator[RenderableType]:
    """TPR at each FPR against classes and shots, one table for each attack and evaluation; or the privacy tables."""
    if np.isfinite(results["epsilon"]).any():
        yield from _privacy_levels_tables(results)
        return
    yield "TPR: median over seeds, with the outermost ends of their 95% intervals\n"
    for (attack, evaluation), rows in results.groupby(["attack", "evaluation"], sort=False):
        fprs = sorted(rows["fpr"].unique(), reverse=True)
        table = new_table(
            f"{attack}, {evaluation} (seeds: {rows['seed'].nunique()})",
            ("C", "S", "acc.", "FPR", "realised", "TPR, 95% interval"),
        )
        for (classes, shots), cells in rows.groupby(["classes", "shots"]):
            head = (str(classes), str(shots), decimals(cells["accuracy"].median(), ".3f"))
            for fpr in fprs:
                at_fpr = cells[cells["fpr"] == fpr]
                add_row(table, *head, f"{fpr:g}", realised_cell(at_fpr), tpr_cell(at_fpr))
                head = ("", "", "")
        yield footnoted(table)


def _privacy_levels_tables(results: pd.DataFrame) -> Iterator[RenderableType]:
    """What each privacy level costs, what attacks reach, and what they could reach; one table for each evaluation."""
    first = results.iloc[0]
    yield (
        "TPR: median over seeds, with the outermost ends of their 95% intervals. ceiling: the largest TPR that any"
        f" attack can have. @: the FPR realised.\nε: at delta {first['delta']:g}, {first['adjacency']}; inf: ordinary"
        " training. shown: ε"
        " that the best of the attacks proves at 95%, corrected for their number (median over seeds)\n"
    )
    for evaluation, rows in results.groupby("evaluation", sort=False):
        attacks = list(rows["attack"].unique())
        title = f"{evaluation} (seeds: {rows['seed'].nunique()})"
        table = new_table(title, ("C", "S", "ε", "noise", "acc.", "shown", "FPR", *attacks, "ceiling"))
        for (classes, shots), of_size in rows.groupby(["classes", "shots"]):
            for epsilon, level in sorted(of_size.groupby("epsilon"), reverse=True):
                noise, accuracy = (level[name].median() for name in ("noise_multiplier", "accuracy"))
                shown = best_epsilon(level)
                head = [
                    f"{classes}",
                    f"{shots}",
                    f"{epsilon:g}",
                    f"{noise:.3g}",
                    decimals(accuracy, ".3f"),
                    decimals(shown, ".2f"),
                ]
                for fpr, points in sorted(level.groupby("fpr"), reverse=True):
                    tprs = (_with_realised(points[points["attack"] == attack]) for attack in attacks)
                    add_row(table, *head, f"{fpr:g}", *tprs, rounded_up(points["tpr_ceiling"].iloc[0], 3))
                    head = [""] * len(head)
                table.add_section()
        yield footnoted(table)


def _with_realised(rows: pd.DataFrame) -> str:
    """A TPR, and the FPR realised where thresholds were not set by the non-members that are counted."""
    calibrated = rows["evaluation"].str.startswith("calibrated").any() and (rows["status"] == "ok").any()
    return tpr_cell(rows) + (f" @{realised_cell(rows)}" if calibrated else "")


def sweep_tables(results: pd.DataFrame) -> Iterator[RenderableType]:
    """TPR of the first attack and evaluation, one line per feature set, recipe, privacy level, C and S."""
    attack, evaluation = results[["attack", "evaluation"]].iloc[0]
    rows = results[(results["attack"] == attack) & (results["evaluation"] == evaluation)]
    fprs = sorted(rows["fpr"].unique(), reverse=True)
    private = np.isfinite(rows["epsilon"]).any()
    columns = ["dataset", "recipe", "classes", "shots", *(["epsilon"] if private else [])]
    names = ("feature set", "recipe", "C", "S", *(["ε"] if private else []))
    table = new_table(
        f"{attack}, {evaluation}: median TPR (seeds: {rows['seed'].nunique()})",
        (*names, "acc.", *(word for fpr in fprs for word in (f"at FPR {fpr:g}", "realised"))),
    )
    for key, cells in rows.groupby(columns):
        of_each = [cells[cells["fpr"] == fpr] for fpr in fprs]
        tprs = [word for of in of_each for word in (tpr_cell(of).partition(" ")[0], realised_cell(of))]
        values = (f"{value:g}" if isinstance(value, float) else str(value) for value in key)
        add_row(table, *values, decimals(cells["accuracy"].median(), ".3f"), *tprs)
    yield footnoted(table)
    for fpr, of_fpr in rows.groupby("fpr"):
        reasons = of_fpr[of_fpr["status"] == "unresolved"]["reason"]
        if len(reasons):
            first = reasons.iloc[0].rstrip(".")
            yield f"FPR {fpr:g}: {len(reasons)} of {len(of_fpr)} cells unresolved; for the first, {first}.\n"


def tuning_table(name: str, search: Tuning) -> Table:
    """The trials of a search, with a mark on the chosen one."""
    private = search.chosen.clipping_norm is not None
    headings = ("trial", "learning rate", "batch", "epochs", "steps", *(["clip"] if private else []))
    table = new_table(
        f"{name}: {search.num_training} + {search.num_validation} examples", (*headings, "acc.", "loss")
    )
    for number, trial in enumerate(search.trials):
        clip = [f"{trial.clipping_norm:.3g}"] if private else []
        loss = "diverged" if trial.loss is None else f"{trial.loss:.3f}"
        sizes = (str(value) for value in (trial.batch_size, trial.epochs, trial.steps))
        mark = "→ " if trial is search.chosen else ""
        add_row(
            table,
            f"{mark}{number}",
            f"{trial.learning_rate:.3g}",
            *sizes,
            *clip,
            f"{trial.accuracy:.3f}",
            loss,
        )
    return table


def failures_table(failures: Iterable[tuple[str, str, str, str]]) -> Table:
    """Cells that could not be computed: feature set, recipe, cell, error."""
    failures = list(failures)
    table = new_table(
        f"Failed: {len(failures)} cells; the same call with --resume tries them again",
        ("feature set", "recipe", "cell", "error"),
    )
    for column in table.columns:
        column.justify, column.overflow = "left", "fold"
    for row in failures:
        add_row(table, *row)
    return table


def problems(results: pd.DataFrame) -> list[str]:
    """What a reader of the tables must know: diverged heads, and why rows have no number."""
    cells = results.drop_duplicates(["classes", "shots", "seed", "epsilon"])
    lines = [
        f"{_cell_name(row)}: {row['num_diverged']} of {row['num_models']} heads diverged and are"
        " left out; manifest.json names them."
        for row in cells[cells["num_diverged"] > 0].to_dict("records")
    ]
    missing = results[results["status"] != "ok"].groupby(["evaluation", "fpr", "status"])
    for (evaluation, fpr, status), rows in missing:
        where = ", ".join(
            f"C={c} S={s}" for c, s in sorted({*zip(rows["classes"], rows["shots"], strict=True)})
        )
        lines.append(
            f"{evaluation}: FPR {fpr:g} is {status} at {where}: for the first, {rows['reason'].iloc[0].rstrip('.')}."
        )
    return lines


def control_lines(controls: pd.DataFrame) -> list[str]:
    """How many attacks were at chance on permuted labels, and one line for each that was not."""
    resolved = controls[controls["status"] != "unresolved"]
    if resolved.empty:
        return ["Negative control (permuted labels): not possible, too few scores or models."]
    failed = resolved[resolved["status"] == "failed"]
    used = (resolved["advantage"].abs() / resolved["limit"]).max()
    return [
        f"Negative control (permuted labels): {len(resolved) - len(failed)} of {len(resolved)} attacks at chance;"
        f" |TPR - FPR| up to {used:.2f} of its limit.",
        *(
            f"NEGATIVE CONTROL FAILED: {row['attack']}{_where(row)} reaches TPR - FPR = {row['advantage']:.4f} at"
            f" FPR {row['fpr']:g} on permuted labels (limit {row['limit']:.4f}): its results are not to be trusted."
            for row in failed.to_dict("records")
        ),
    ]


def _where(row: Mapping[Hashable, Any]) -> str:
    return f" at {_cell_name(row)}" if "shots" in row else ""


def _cell_name(row: Mapping[Hashable, Any]) -> str:
    private = f" epsilon={row['epsilon']:g}" if np.isfinite(row["epsilon"]) else ""
    return f"C={row['classes']} S={row['shots']} seed={row['seed']}{private}"
