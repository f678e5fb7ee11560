"""The recipes of a study: the settings, the searched values, and the values that each cell used."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pandas as pd

from jaxmia.data.normalization import PROJECTIONS
from jaxmia.report.content import Block
from jaxmia.tables import Measured, Table, Value, facts

_SEARCHED = ("learning_rate", "batch_size", "steps", "clipping_norm")
_USED = ["dataset", "recipe", "classes", "shots", "epsilon", "seed"]
_OF_STEPS = (
    *("learning_rate", "momentum", "schedule", "batch_size", "sampling", "weight_decay"),
    *("matmul_dtype", "products"),
)
_OF_NEWTON = ("ridge", "tolerance", "link")
POOLED = "features are standardised by the statistics of the pool, of members and others together"
PUBLIC = (
    "features are centred by the mean and projected on the principal components of features declared public, with no"
    " record of the data among them: they cost no privacy, if they are public"
)


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
        title = f"Training recipe {recipe.get('name', '')}".strip()
        yield facts(title, answers, about="How models were trained, as it was set.")
    recipes = settings.get("recipes") or [{"name": "default", **settings["train"]}]
    newton = {recipe.get("name", "") for recipe in recipes if recipe.get("optimizer") == "newton"}
    yield _used(results, newton)


def _used(results: pd.DataFrame, newton: Collection[str]) -> Table:
    """The recipe of each cell and seed; results of older folders do not say how they were normalised or tuned.

    Args:
        results: of the study.
        newton: recipes by Newton's method, which has no learning rate.
    """
    rows: list[tuple[Value, ...]] = []
    known = results.assign(
        **{name: "not recorded" for name in ("tuned", "standardised_by") if name not in results}
    )
    for row in known.drop_duplicates(_USED).to_dict("records"):
        level = "" if row["epsilon"] == float("inf") else f", ε = {row['epsilon']:g}"
        name = f"{row['dataset']}, {row['recipe']}, C = {row['classes']}, S = {row['shots']}{level}, seed {row['seed']}"
        clip: Value = "none" if pd.isna(row["clipping_norm"]) else f"{row['clipping_norm']:.3g}"
        batch, steps = (int(row[column]) for column in ("batch_size", "steps"))
        rate = "none (newton)" if row["recipe"] in newton else f"{row['learning_rate']:.3g}"
        rows.append(
            (name, rate, batch, steps, clip, str(row["tuned"]), row["normalize"], str(row["standardised_by"]))
        )
    return Table(
        "Recipes really used",
        ("cell", "learning rate", "batch", "steps", "clip", "tuned", "normalised", "standardised by"),
        tuple(rows),
        "One row per cell and seed. Tuned: recipes were searched on the members of the cell's first"
        f" model, which no guarantee covers. Standardised by the pool: {POOLED}, which no guarantee"
        " covers either. Public features: those of a file declared public; they cost no privacy.",
        sortable=True,
        about="How the models of each cell were trained in the end.",
    )


def recipe_summary(results: pd.DataFrame) -> dict[str, Value]:
    """Return how recipes were chosen, for the summary."""
    if "tuned" not in results:
        return {"recipes": Measured(None, status="not recorded")}
    tuned = ", ".join(dict.fromkeys(results["tuned"]))
    by = set(results["standardised_by"])
    said = [POOLED] if "pool" in by else []
    said += [PUBLIC] if "public features" in by else []
    return {"recipes tuned": tuned, "features": "; ".join(said) or "not standardised by the pool"}


def settings_shown(settings: Mapping[str, Any]) -> dict[str, Value]:
    """Settings of a recipe that it uses, for a table: Newton's takes no rate and no batch, a linear head no widths."""
    unused = {"name", "match"}
    newton, linear = settings.get("optimizer") == "newton", settings.get("network", "linear") == "linear"
    unused |= set(_OF_STEPS) if newton else set(_OF_NEWTON)
    unused |= {"widths"} if linear else {"class_weight", "intercept", "matmul_dtype", "products"}
    if settings.get("optimizer") != "sgd":
        unused.add("momentum")
    if settings.get("batch_size") == "full":
        unused.add("sampling")
    if settings.get("normalize") != "standardize":
        unused.add("statistics")
    if settings.get("normalize") != "public":
        unused.add("public")
    if settings.get("normalize") not in PROJECTIONS:
        unused.add("components")
    return {
        name: f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in settings.items()
        if name not in unused
    }
