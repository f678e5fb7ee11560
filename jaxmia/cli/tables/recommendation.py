"""Tables of recommended private recipes."""

from __future__ import annotations

import json
from collections.abc import Iterator

from jaxmia.cli.tables.cells import rounded_up
from jaxmia.private.recommend import Recommendation, Target
from jaxmia.tables import Table, facts

_SHOWN = 8


def recommendation_tables(target: Target, found: Recommendation) -> Iterator[Table]:
    """Yield the recipe, and what was rehearsed."""
    recipe = found.recipe
    yield facts(
        "Recommended private recipe",
        {
            "recipe": recipe.name,
            "components": "all dimensions, to norm 1" if found.components is None else found.components,
            "steps": recipe.steps,
            "learning rate": f"{recipe.learning_rate:.4g}",
            "clipping norm": f"{recipe.clipping_norm:.4g}",
            "bias": "none",
            "noise multiplier": rounded_up(found.noise_multiplier),
            "guarantee": f"epsilon {target.epsilon:g}, delta {target.delta:g}, {target.adjacency}",
            "chosen": found.how,
        },
        "From public quantities alone: no privacy was spent.",
    )
    if not found.rehearsed:
        return
    rows = tuple(
        (
            each.components,
            each.steps,
            "-" if each.steps == 1 else f"{each.learning_rate:g}",
            f"{each.accuracy:.3f}",
        )
        for each in found.rehearsed[:_SHOWN]
    )
    yield Table(
        "Rehearsals, the best first",
        ("components", "steps", "rate", "accuracy"),
        rows,
        "On classes that are not the private ones: accuracies rank recipes, and predict no private accuracy.",
    )


def recommended_settings(found: Recommendation, public: str | None) -> str:
    """Return the recipe as TOML of an experiment."""
    recipe = found.recipe
    features = ['normalize = "unit"']
    if public is not None:
        features = [
            'normalize = "public"',
            f"public = {json.dumps(public)}",
            f"components = {found.components}",
        ]
    lines = [
        "[train]",
        'optimizer = "sgd"',
        "intercept = false",
        f"steps = {recipe.steps}",
        f"learning_rate = {recipe.learning_rate:.6g}",
        *features,
        "[privacy]",
        f"clipping_norm = {recipe.clipping_norm!r}",
    ]
    return "\n".join(lines)
