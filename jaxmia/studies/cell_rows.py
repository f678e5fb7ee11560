"""From the scores of a cell to its rows: results of attacks, each candidate's vulnerability, negative controls."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from jaxmia.data.normalization import PROJECTIONS
from jaxmia.data.person_table import persons_of
from jaxmia.data.persons import count_persons
from jaxmia.privacy.accounting import adjacency_for
from jaxmia.privacy.lower_bounds import median_epsilon_lower_bound
from jaxmia.scores import Scores
from jaxmia.stats.result import AttackResult
from jaxmia.studies.actors import Setting, actor_rows
from jaxmia.studies.assess import assess, control_rows
from jaxmia.studies.cell import PreparedCell
from jaxmia.studies.normalizer import normalised_by
from jaxmia.studies.recipe import Recipe
from jaxmia.studies.settings.experiment import ExperimentConfig
from jaxmia.studies.study import Study
from jaxmia.studies.unit_rows import per_example_rows, per_person_rows
from jaxmia.studies.variants import variants_of
from jaxmia.training.newton import unbounded_note

_RECIPE = ("learning_rate", "batch_size", "steps", "clipping_norm", "noise_multiplier")


@dataclasses.dataclass(frozen=True)
class CellRows:
    """The results of a cell.

    Attributes:
        tables: the rows, by name of jaxmia.studies.folder.states.TABLES, and of MORE_TABLES if there are persons.
        facts: of the cell, for its record, JSON-ready.
        notes: what may mislead in the rows.
    """

    tables: Mapping[str, pd.DataFrame]
    facts: Mapping[str, Any]
    notes: tuple[str, ...]


def cell_rows(
    study: Study,
    prepared: PreparedCell,
    scored: Mapping[str, Shaped[np.ndarray, "models ..."]],
    scores: Scores,
    diverged: Int[np.ndarray, "diverged"],
) -> CellRows:
    """Attack a cell, and return the results as rows.

    Args:
        study: the cell's study.
        prepared: the cell.
        scored: arrays from jaxmia.studies.cell_scores.score_heads, for all models.
        scores: scores from scores_of_cell.
        diverged: ids of the models that are not in scores.

    Raises:
        InputError: as the attacks.
    """
    config, cell, pool, person = study.config, prepared.cell, prepared.pool, prepared.person
    columns = _result_columns(
        config, prepared, scores, np.delete(scored["accuracy"], diverged), len(diverged)
    )
    assessed = assess(
        config.attack,
        scores,
        fprs=config.fpr,
        evaluations=config.evaluation,
        features=pool.data.features,
        audit=None if len(diverged) else _audit(config, prepared.recipe),
        person=person,
    )
    # The finite-pool correction applies to per-example vulnerability only, not to attacks.
    results = assessed.rows.assign(correction="none", **dataclasses.asdict(cell), **columns)
    results["tpr_ceiling"] = prepared.recipe.tpr_ceiling(results["fpr"].to_numpy())
    candidates = pd.DataFrame(
        {
            "record": pool.rows,
            "class_name": np.array(pool.data.class_names)[pool.data.labels],
            "gradient_norm": _mean_over(
                np.delete(scored["gradient_norm"], diverged, axis=0), np.asarray(scores.member)
            ),
        }
    )
    rates: dict[str, Any] = {"correction": config.correction, "inclusion_rate": prepared.inclusion_rate}
    per_example = per_example_rows(scores, config.fpr, candidates, **rates)
    flagged_by = np.concatenate([*assessed.flagged_by, np.zeros(0)])  # grouped by FPR, as the rows are
    controls = control_rows(
        config.attack,
        scores,
        fprs=config.fpr,
        seed=cell.seed,
        features=pool.data.features,
        person=person,
    )
    tables = {
        "results": results,
        "per_example": per_example.assign(flagged_by=flagged_by, **dataclasses.asdict(cell)),
        "controls": controls.assign(**dataclasses.asdict(cell)),
    }
    if person is not None:
        persons = persons_of(person, pool.data.labels, pool.data.class_names)
        rows = per_person_rows(scores, person, config.fpr, persons, of_records=per_example, **rates)
        flagged_by = np.concatenate([*assessed.persons_flagged_by, np.zeros(0)])
        tables["per_person"] = rows.assign(flagged_by=flagged_by, **dataclasses.asdict(cell))
    if config.has_actors:
        tables["actors"] = _actors(config, prepared, scores, diverged)
    for table in tables.values():
        _name_study(table, study, prepared)
    recipe = {name: None if pd.isna(columns[name]) else columns[name] for name in _RECIPE}
    facts = {
        "diverged_models": diverged.tolist(),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(prepared.empty_heads(1))),
        "training": str(prepared.plan),
        **({} if prepared.recipe.guarantee is None else {"privacy": prepared.recipe.guarantee.record()}),
        **({} if person is None else {"persons": count_persons(person, pool.data.labels)._asdict()}),
        "recipe": recipe | _origins(config) | _private(prepared),
    }
    return CellRows(tables, facts, tuple(_notes(prepared)))


def _actors(
    config: ExperimentConfig, prepared: PreparedCell, scores: Scores, diverged: Int[np.ndarray, "diverged"]
) -> pd.DataFrame:
    """Return the rows of the actors of a cell, with the largest TPR that its privacy leaves to any of them."""
    pool = prepared.pool.data
    more: dict[str, Any] = {"features": pool.features, "person": prepared.person}
    setting = Setting(scores, config.attack, config.fpr, variants=variants_of(prepared, diverged), **more)
    rows = actor_rows(setting, release=config.release, knowledge=config.knowledge)
    rows["tpr_ceiling"] = prepared.recipe.tpr_ceiling(rows["fpr"].to_numpy())
    return rows.assign(**dataclasses.asdict(prepared.cell))


def _name_study(table: pd.DataFrame, study: Study, prepared: PreparedCell) -> None:
    """Add the columns that say which data, recipe and unit of membership the rows are of."""
    if prepared.person is not None:
        config, guarantee = study.config, prepared.recipe.guarantee
        table["membership"], table["shots_of"] = config.membership.unit, config.membership.shots
        if guarantee is not None:  # epsilon is the level that was asked for, of that unit
            table["privacy_unit"], table["person_epsilon"] = config.privacy_unit, guarantee.epsilon
    for place, (column, value) in enumerate(study.columns.items()):
        table.insert(place, column, value)


def _notes(prepared: PreparedCell) -> list[str]:
    """Return caveats for readers of a cell's rows."""
    notes, data = [], prepared.pool.data
    if prepared.person is None and data.person is not None:
        counts = count_persons(data.person, data.labels)
        if counts.single < counts.persons:
            notes.append(
                f"{counts}; membership was drawn by record, so that records of one person stand on both sides:"
                " membership.unit='person' draws persons."
            )
    if prepared.recipe.config.optimizer != "newton" or not prepared.recipe.config.intercept:
        return notes
    member = prepared.masks((0, prepared.settings.shadows.models)).member
    return [*notes, *unbounded_note(np.asarray(member), data.labels)]


def _result_columns(
    config: ExperimentConfig,
    prepared: PreparedCell,
    scores: Scores,
    accuracies: Float[np.ndarray, "models"],
    num_diverged: int,
) -> dict[str, Any]:
    """Return the columns of results that are constant within a cell, except those that name the cell."""
    recipe, shadows = prepared.recipe, config.shadows
    return {
        "normalize": config.train.normalize,
        **_origins(config),
        "design": shadows.design,
        "inclusion_rate": prepared.inclusion_rate,
        "num_models": shadows.models,
        "num_diverged": num_diverged,
        "accuracy": float(accuracies.mean()) if len(accuracies) else math.nan,
        **_mean_losses(scores),
        # The audit uses the same delta and adjacency.
        "delta": config.privacy.delta,
        "adjacency": adjacency_for(shadows.design),
        "noise_multiplier": recipe.guarantee.noise_multiplier if recipe.guarantee else 0.0,
        "sampling_rate": float(recipe.hyper.sampling_rate),
        "audit": recipe.audit_method() if _audit(config, recipe) else "none",
        **recipe_columns(recipe, members=prepared.members),
    }


def recipe_columns(recipe: Recipe, *, members: int) -> dict[str, Any]:
    """Return the columns of a cell's recipe, except privacy; batch_size is the expected members per step."""
    sampled = recipe.config.batch_size or round(float(recipe.hyper.sampling_rate) * members)
    clip = recipe.hyper.clipping_norm
    return {
        "learning_rate": float(recipe.hyper.learning_rate),
        "batch_size": sampled,
        "steps": recipe.config.steps,
        "clipping_norm": math.nan if clip is None else float(clip),
    }


def _private(prepared: PreparedCell) -> dict[str, Any]:
    """Return how a private recipe was chosen, and the number of components that features were projected on."""
    train, privacy = prepared.settings.train, prepared.settings.privacy
    chosen = prepared.recipe.guarantee is not None and privacy.recipe != "given"
    return ({"private_recipe": privacy.recipe} if chosen else {}) | (
        {"components": train.components} if train.normalize in PROJECTIONS else {}
    )


def _origins(config: ExperimentConfig) -> dict[str, str]:
    """Return whether the recipe was tuned, and which statistics standardise the features."""
    train, tuning = config.train, config.tuning
    return {
        "tuned": "no" if tuning is None else f"per {tuning.per}",
        "standardised_by": normalised_by(train),
    }


def _audit(config: ExperimentConfig, recipe: Recipe) -> Callable[[AttackResult], float] | None:
    """Return the function for lower bounds on epsilon, if the membership design allows them."""
    design, inclusion_rate = config.shadows.design, 1 / config.shadows.pool_multiplier
    if (design, inclusion_rate) != ("bernoulli", 0.5):
        return None
    return functools.partial(
        median_epsilon_lower_bound,
        delta=config.privacy.delta,
        method=recipe.audit_method(),
        design=design,
        inclusion_rate=inclusion_rate,
    )


def _mean_losses(scores: Scores) -> dict[str, float]:
    """Return the mean cross-entropy over all models' members, and over their non-members, in nats."""
    losses, member = np.logaddexp(0, -np.asarray(scores.log_odds, np.float64)), np.asarray(scores.member)
    sides = {"member_loss": losses[member], "nonmember_loss": losses[~member]}
    return {name: float(side.mean()) if side.size else math.nan for name, side in sides.items()}


def _mean_over(
    values: Float[np.ndarray, "models examples"], chosen: Bool[np.ndarray, "models examples"]
) -> Float[np.ndarray, "examples"]:
    """Return the mean over the models chosen for each example; NaN where there are none."""
    counts = chosen.sum(axis=0)
    totals = np.sum(values, axis=0, where=chosen, dtype=np.float64)
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)
