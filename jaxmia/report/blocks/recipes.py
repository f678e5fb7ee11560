"""The recipes of a study: the settings, the searched values, and the values that each cell used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from jaxmia.report.content import Block
from jaxmia.tables import Measured, Table, Value, facts

_SEARCHED = ("learning_rate", "batch_size", "steps", "clipping_norm")
_USED = ["dataset", "recipe", "classes", "shots", "epsilon", "seed"]
POOLED = "features are standardised by the statistics of the pool, members and others together"


def recipe_blocks(settings: Mapping[str, Any], results: pd.DataFrame) -> Iterator[Block]:
    """Yield recipes as set, without values that a search replaced, and as used by the cells.

    Args:
        settings: settings of the study, from its manifest.
        results: rows of results.
    """
    tuning = settings.get("tuning")
    for recipe in settings.get("recipes") or [settings["train"]]:
        answers: dict[str, Value] = settings_shown(recipe)
        if tuning is not None and recipe.get("tuned", True):
            replaced = {name: "tuned: see the recipes really used" for name in _SEARCHED if name in answers}
            answers |= {
                **replaced,
                "tuned": f"{tuning['trials']} trials by {tuning['objective']}, per {tuning['per']}",
            }
        yield facts(f"Training recipe {recipe.get('name', '')}".strip(), answers)
    yield _used(results)


def _used(results: pd.DataFrame) -> Table:
    """Return the recipe of each cell and seed; results of older folders lack normalisation and tuning."""
    rows: list[tuple[Value, ...]] = []
    known = results.assign(
        **{name: "not recorded" for name in ("tuned", "standardised_by") if name not in results}
    )
    for row in known.drop_duplicates(_USED).to_dict("records"):
        level = "" if row["epsilon"] == float("inf") else f", ε = {row['epsilon']:g}"
        name = f"{row['dataset']}, {row['recipe']}, C = {row['classes']}, S = {row['shots']}{level}, seed {row['seed']}"
        clip: Value = "none" if pd.isna(row["clipping_norm"]) else f"{row['clipping_norm']:.3g}"
        batch, steps = (int(row[column]) for column in ("batch_size", "steps"))
        rate = f"{row['learning_rate']:.3g}"
        rows.append(
            (name, rate, batch, steps, clip, str(row["tuned"]), row["normalize"], str(row["standardised_by"]))
        )
    return Table(
        "Recipes really used",
        ("cell", "learning rate", "batch", "steps", "clip", "tuned", "normalised", "standardised by"),
        tuple(rows),
        "One row per cell and seed. Tuned: recipes were searched on the members of the cell's first"
        f" model, which no guarantee covers. Standardised by the pool: {POOLED}, which no guarantee"
        " covers either.",
        sortable=True,
    )


def recipe_summary(results: pd.DataFrame) -> dict[str, Value]:
    """Return how recipes were chosen, for the summary."""
    if "tuned" not in results:
        return {"recipes": Measured(None, status="not recorded")}
    tuned = ", ".join(dict.fromkeys(results["tuned"]))
    pooled = "pool" in set(results["standardised_by"])
    return {"recipes tuned": tuned, "features": POOLED if pooled else "not standardised by the pool"}


def settings_shown(settings: Mapping[str, Any]) -> dict[str, Value]:
    """Return settings of a recipe for a table."""
    shown = {
        name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in settings.items()
    }
    return {name: value for name, value in shown.items() if name != "name"}
