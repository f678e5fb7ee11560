"""Tables of runs and sweeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from jaxmia.cli.tables.cells import rounded_up, shots_word
from jaxmia.privacy.lower_bounds import best_epsilon
from jaxmia.studies.tuning import Tuning
from jaxmia.tables import Table, Value, number
from jaxmia.tables.attacks import by_unit, cell_label, failed_controls, realised_cell, tpr_cell, unit_heading
from jaxmia.tables.reasons import grouped


def results_tables(results: pd.DataFrame) -> Iterator[str | Table]:
    """Yield TPRs at each FPR by classes and shots, one table per attack and evaluation; or the privacy tables."""
    if np.isfinite(results["epsilon"]).any():
        yield from _privacy_levels_tables(results)
        return
    yield "TPR: median over seeds, with the outermost ends of their 95% intervals\n"
    for (attack, evaluation), of_attack in results.groupby(["attack", "evaluation"], sort=False):
        title = f"{attack}, {evaluation} (seeds: {of_attack['seed'].nunique()}{shots_word(results)})"
        if not (of_attack["status"] == "ok").any():
            yield f"{title}: no number. {' '.join(grouped(of_attack['reason']))}\n"
            continue
        rows: list[tuple[Value, ...]] = []
        for (classes, shots), cells in of_attack.groupby(["classes", "shots"]):
            head = (str(classes), str(shots), number(cells["accuracy"].median()))
            for fpr, at_fpr in sorted(cells.groupby("fpr"), reverse=True):
                for of, each in by_unit(at_fpr):
                    rows.append((*head, f"{fpr:g}", *of, realised_cell(each), tpr_cell(each)))
        yield Table(
            title,
            ("C", "S", "acc.", "FPR", *unit_heading(results), "realised", "TPR, 95% interval"),
            tuple(rows),
            stub=3,
        )


def _privacy_levels_tables(results: pd.DataFrame) -> Iterator[str | Table]:
    """Yield the cost of each privacy level, the TPRs of attacks, and their ceilings; one table per evaluation."""
    first = results.iloc[0]
    yield (
        "TPR: median over seeds, with the outermost ends of their 95% intervals. ceiling: the largest TPR that any"
        " attack can have. realised: the FPR reached.\n"
        f"ε: at delta {first['delta']:g}, {first['adjacency']}; inf: ordinary training. shown: ε that the"
        f" best of the attacks proves at 95%, corrected for their number (median over seeds){_whom(results)}\n"
    )
    for evaluation, of_evaluation in results.groupby("evaluation", sort=False):
        attacks = list(of_evaluation["attack"].unique())
        # In the others the counted non-members set the threshold.
        told = str(evaluation).startswith("calibrated")
        rows: list[tuple[Value, ...]] = []
        for (classes, shots), of_size in of_evaluation.groupby(["classes", "shots"]):
            for epsilon, level in sorted(of_size.groupby("epsilon"), reverse=True):
                head = (
                    str(classes),
                    str(shots),
                    number(float(str(epsilon)), "g"),
                    number(level["noise_multiplier"].median(), ".3g"),
                    number(level["accuracy"].median()),
                    number(best_epsilon(level), ".2f"),
                )
                for fpr, points in sorted(level.groupby("fpr"), reverse=True):
                    ceiling = rounded_up(points["tpr_ceiling"].iloc[0], 3)
                    for of, told_of in by_unit(points):
                        of_each = [told_of[told_of["attack"] == attack] for attack in attacks]
                        rates = [
                            cell
                            for each in of_each
                            for cell in (tpr_cell(each), realised_cell(each))[: 1 + told]
                        ]
                        rows.append((*head, f"{fpr:g}", *of, *rates, ceiling))
        yield Table(
            f"{evaluation} (seeds: {of_evaluation['seed'].nunique()})",
            (
                *("C", "S", "ε", "noise", "acc.", "shown", "FPR", *unit_heading(results)),
                *(word for attack in attacks for word in (attack, "realised")[: 1 + told]),
                "ceiling",
            ),
            tuple(rows),
            stub=6,
            ruled=2,
        )


def _whom(results: pd.DataFrame) -> str:
    """Whom epsilon protects, where membership is by person."""
    if "privacy_unit" not in results:
        return ""
    private = results[np.isfinite(results["epsilon"])]
    if private["privacy_unit"].iloc[0] == "person":
        return "\nε and ceilings are of persons, with all of their records."
    most = private["person_epsilon"].max()
    return (
        f"\nε is of records; ceilings are what group privacy leaves to persons, whose ε is up to {most:.3g}."
    )


def sweep_tables(results: pd.DataFrame) -> Iterator[str | Table]:
    """Yield TPRs of the first attack and evaluation at each FPR, by feature set, recipe, privacy level, C and S."""
    attack, evaluation = results[["attack", "evaluation"]].iloc[0]
    of_first = results[(results["attack"] == attack) & (results["evaluation"] == evaluation)]
    private = ["epsilon"] if np.isfinite(of_first["epsilon"]).any() else []
    rows: list[tuple[Value, ...]] = []
    for key, cells in of_first.groupby(["dataset", "recipe", "classes", "shots", *private]):
        names = [number(part, "g") if isinstance(part, float) else str(part) for part in key]
        for fpr, at_fpr in sorted(cells.groupby("fpr"), reverse=True):
            for of, each in by_unit(at_fpr):
                rates: tuple[Value, ...] = (f"{fpr:g}", *of, realised_cell(each), tpr_cell(each).alone())
                rows.append((*names, number(cells["accuracy"].median()), *rates))
    yield Table(
        f"{attack}, {evaluation}: median TPR (seeds: {of_first['seed'].nunique()}{shots_word(results)})",
        (
            *("feature set", "recipe", "C", "S", *(["ε"] if private else []), "acc."),
            *("FPR", *unit_heading(results), "realised", "TPR"),
        ),
        tuple(rows),
        stub=5 + len(private),
        ruled=2,
    )


def tuning_table(name: str, search: Tuning) -> Table:
    """Return the trials of a search, with the chosen one marked."""
    private = search.chosen.clipping_norm is not None
    rows: list[tuple[Value, ...]] = []
    for place, trial in enumerate(search.trials):
        mark = "→ " if trial is search.chosen else ""
        clip = (number(trial.clipping_norm, ".3g"),) if private else ()
        loss: Value = "diverged" if trial.loss is None else number(trial.loss)
        sizes = (str(size) for size in (trial.batch_size, trial.epochs, trial.steps))
        rate, accuracy = number(trial.learning_rate, ".3g"), number(trial.accuracy)
        rows.append((f"{mark}{place}", rate, *sizes, *clip, accuracy, loss))
    return Table(
        f"{name}: {search.num_training} + {search.num_validation} examples",
        (
            *("trial", "learning rate", "batch", "epochs", "steps"),
            *(("clip",) if private else ()),
            *("acc.", "loss"),
        ),
        tuple(rows),
    )


def failures_table(failures: Iterable[tuple[str, str, str, str]]) -> Table:
    """Return the cells that could not be computed: feature set, recipe, cell, error."""
    rows = tuple(failures)
    return Table(
        f"Failed: {len(rows)} cells; the same call with --resume tries them again",
        ("feature set", "recipe", "cell", "error"),
        rows,
        stub=0,
    )


def diverged(results: pd.DataFrame) -> list[str]:
    """The cells of which heads diverged."""
    cells = results.drop_duplicates(["classes", "shots", "seed", "epsilon"])
    return [
        f"{cell_label(row)}: {row['num_diverged']} of {row['num_models']} heads diverged and are"
        " left out; manifest.json names them."
        for row in cells[cells["num_diverged"] > 0].to_dict("records")
    ]


def control_lines(controls: pd.DataFrame) -> list[str]:
    """Return how many attacks were at chance on permuted labels, and one line for each that was not."""
    resolved = controls[controls["status"] != "unresolved"]
    if resolved.empty:
        return ["Negative control (permuted labels): not possible, too few scores or models."]
    failed = resolved[resolved["status"] == "failed"]
    used = (resolved["advantage"].abs() / resolved["limit"]).max()
    return [
        f"Negative control (permuted labels): {len(resolved) - len(failed)} of {len(resolved)} attacks at chance;"
        f" |TPR - FPR| up to {used:.2f} of its limit.",
        *failed_controls(controls),
    ]
