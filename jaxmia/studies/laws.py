"""Laws of a table of results: for every attack, evaluation, privacy level and recipe, and for records' quantiles."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxmia._deprecated import warn_renamed
from jaxmia._hashes import json_number
from jaxmia._validate import InputError, check_choice
from jaxmia.laws.cells import SATURATED_TPR
from jaxmia.laws.fit import fit_power_law
from jaxmia.laws.law import DEFAULT_RECIPE, PER_PERSON, PER_RECORD, UNITS_OF, LawKey, PowerLawFit
from jaxmia.studies.folder.tables import has_table, load_results, read_tables, with_units
from jaxmia.vulnerability.curves import QUANTILES, VulnerabilityQuantile, tpr_quantile

_CELL = ("dataset", "recipe", "classes", "shots", "seed", "epsilon")
_LAW = ("attack", "evaluation", "epsilon", "recipe")


def fit_laws(results: pd.DataFrame) -> dict[LawKey, PowerLawFit]:
    """Fit the power law to each attack, evaluation, privacy level and recipe, over all cells of all data sets.

    Args:
        results: results of runs and sweeps (load_results), quantiles over their records (load_quantiles), or both
            concatenated.

    Returns:
        The fit of each law, by its LawKey.

    Raises:
        InputError: if a column of fit_power_law is missing, or a value is outside its range.
    """
    return {law: fit_power_law(rows) for law, rows in _by_law(results)}


def load_laws(
    folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> dict[LawKey, PowerLawFit]:
    """Return the laws of runs and sweeps, joined: first of attacks' average advantages, then of records' quantiles.

    Args:
        folders: one folder, or several.

    Returns:
        The fit of each law, by its LawKey.

    Raises:
        InputError: if a folder has no results, or they cannot be read.
    """
    return fit_laws(load_rows(folders))


def load_rows(folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> pd.DataFrame:
    """Return all rows that laws are fitted to: the rows of load_results followed by those of load_quantiles."""
    return with_units(pd.concat([load_results(folders), load_quantiles(folders)], ignore_index=True))


def load_quantiles(folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> pd.DataFrame:
    """Return quantiles of the records' own TPR, and of the persons', over each cell of runs and sweeps.

    Args:
        folders: one folder, or several.

    Returns:
        One row per cell, FPR and quantile, with the columns of a cell and attack ("per record" or "per person"),
        evaluation ("quantile 0.99", ..., "maximum"), fpr, tpr, advantage, status and reason: a quantile q needs
        1/(1 - q) records, and is "saturated" from TPR 0.99 on.

    Raises:
        InputError: if the folders have no such results, or they cannot be read.
    """
    paths = [folders] if isinstance(folders, (str, os.PathLike)) else folders
    columns = [*_CELL, "fpr", "tpr_drawn", "status", *UNITS_OF]
    rows: list[dict[str, Any]] = []
    for path in paths:
        for table in read_tables(path, "per_example", columns):
            rows += quantile_rows(table)
        if has_table(path, "per_person"):
            for table in read_tables(path, "per_person", columns):
                rows += quantile_rows(table, unit="person")
    return with_units(pd.DataFrame(rows)).drop_duplicates(ignore_index=True)


def quantile_rows(table: pd.DataFrame, *, unit: str = "record") -> list[dict[str, Any]]:
    """The rows of load_quantiles of some cells, from their records' rows or from their persons'."""
    rows: list[dict[str, Any]] = []
    for key, records in table.groupby([*_CELL, "fpr"]):
        first = records.iloc[0]
        of = {name: first[name] for name in UNITS_OF if name in records}
        of |= {"unit": unit} if of else {}
        fpr = float(records["fpr"].iloc[0])
        ordered = np.sort(records["tpr_drawn"][records["status"] == "ok"].to_numpy())
        for level in QUANTILES:
            quantile = _named_saturated(tpr_quantile(ordered, level))
            rows.append(
                dict(zip((*_CELL, "fpr"), key, strict=True))
                | {"attack": PER_RECORD if unit == "record" else PER_PERSON}
                | {"evaluation": "maximum" if level == 1 else f"quantile {level:g}"}
                | {"tpr": quantile.tpr, "advantage": quantile.tpr - fpr}
                | {"status": quantile.status, "reason": quantile.reason}
                | of
            )
    return rows


def _named_saturated(quantile: VulnerabilityQuantile) -> VulnerabilityQuantile:
    """Mark a quantile that the ceiling of 1 determines."""
    if quantile.status != "ok" or quantile.tpr < SATURATED_TPR:
        return quantile
    return quantile._replace(status="saturated", reason=f"TPR is {SATURATED_TPR:g} or more")


def leave_one_dataset_out(results: pd.DataFrame, held_out: Sequence[str] | None = None) -> pd.DataFrame:
    """Fit every law without some data sets, and compare it with their cells.

    Args:
        results: rows as from load_results, over at least two data sets.
        held_out: data sets to leave out together; by default each in turn.

    Returns:
        One row per law, FPR and group left out: attack, evaluation, epsilon, recipe, fpr, dataset (the left-out names),
        slope_shots and r_squared on the other data sets, num_cells of the left-out data sets with an advantage above 0,
        r_squared_elsewhere, and factor (geometric mean of advantage over prediction). Values are missing where the
        other data sets determine no law, or the law does not cover the left-out cells.

    Raises:
        InputError: for an unknown data set, or if no data set is left to fit.
    """
    known = list(results["dataset"].unique())
    for name in held_out or ():
        check_choice("held_out", name, known)
    groups = [(name,) for name in known] if held_out is None else [tuple(dict.fromkeys(held_out))]
    if len(known) < 2 or any(len(group) == len(known) for group in groups):
        raise InputError(f"held_out={groups[0]} must leave a data set to fit, of {', '.join(known)}.")
    rows: list[dict[str, Any]] = []
    for group in groups:
        left_out = results["dataset"].isin(group)
        fitted = fit_laws(results[~left_out])
        for law_of, cells in _by_law(results[left_out]):
            for law in fitted[law_of].lines if law_of in fitted else ():
                compared = law.held_out_fit(cells)
                rows.append(
                    law_of.named()
                    | {"fpr": law.fpr, "dataset": ", ".join(group), "slope_shots": law.slope_shots}
                    | {"r_squared": law.r_squared, "num_cells": compared.num_cells}
                    | {"r_squared_elsewhere": compared.r_squared, "factor": compared.factor}
                )
    return pd.DataFrame(rows)


def laws_elsewhere(results: pd.DataFrame, held_out: Sequence[str] | None = None) -> pd.DataFrame:
    """Return leave_one_dataset_out(...). Deprecated name, removed in version 0.2."""
    warn_renamed("laws_elsewhere", "leave_one_dataset_out", gone="0.2")
    return leave_one_dataset_out(results, held_out)


def _by_law(results: pd.DataFrame) -> Iterator[tuple[LawKey, pd.DataFrame]]:
    known = [name for name in UNITS_OF if name in results]
    for (attack, evaluation, epsilon, recipe, *units), rows in results.groupby([*_LAW, *known], sort=False):
        of = dict(zip(known, map(str, units), strict=True))
        yield LawKey(str(attack), str(evaluation), float(str(epsilon)), str(recipe), **of), rows


def laws_to_json(laws: Mapping[LawKey, PowerLawFit]) -> list[dict[str, Any]]:
    """Return the content of power_law.json."""
    return [
        {**law.named(), "epsilon": json_number(law.epsilon), **fit.to_dict()} for law, fit in laws.items()
    ]


def laws_from_json(content: list[dict[str, Any]]) -> dict[LawKey, PowerLawFit]:
    """Return the laws from the content of power_law.json."""
    return {
        LawKey(
            entry["attack"],
            entry["evaluation"],
            float(entry["epsilon"]),
            entry.get("recipe", DEFAULT_RECIPE),  # runs older than sweeps have no recipe
            *(entry.get(name, default) for name, default in UNITS_OF.items()),
        ): PowerLawFit.from_dict(entry)
        for entry in content
    }
