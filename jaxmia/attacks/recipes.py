"""Attacks without the recipe: shadows of other recipes, chosen by the target's scores, or each by its own accuracy.

Pradhan et al. 2025, arXiv 2502.06374: KL-LiRA infers the recipe, ACC-LiRA tunes every shadow on its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxmia._validate import check
from jaxmia.attacks.shadows import RESOLUTION
from jaxmia.scores import Scores
from jaxmia.stats.result import AttackResult, of_targets


def nearest_recipes(targets: Scores, shadows: Sequence[Scores]) -> np.ndarray:
    """Return for each target the set of shadows whose scores are nearest to its own (KL-LiRA).

    For shadow k of set j, D_k are its members. The target's scores on D_k have mean m_tk and deviation s_tk, the
    shadow's m_kj and s_kj. The set is argmin_j mean_k KL(N(m_tk, s_tk^2) || N(m_kj, s_kj^2)), over all k but the
    target's own row. No membership of the target is used.

    Args:
        targets: log_odds and member [models, examples], every model with the recipe to be inferred.
        shadows: sets with the same membership, each of one other recipe.

    Returns:
        int64[models], places in shadows.

    Raises:
        InputError: for no set, or one of another shape.
    """
    check(len(shadows) > 0, "number of sets of shadows", len(shadows), "be at least 1")
    own = np.asarray(targets.log_odds, np.float64)
    models = len(own)
    distances = np.empty((len(shadows), models))
    for place, each in enumerate(shadows):
        theirs, member = np.asarray(each.log_odds, np.float64), np.asarray(each.member)
        check(theirs.shape == own.shape, f"shadows[{place}].log_odds.shape", theirs.shape, f"be {own.shape}")
        weight = member / np.maximum(member.sum(axis=1, keepdims=True), 1)  # [shadows, examples]
        mean_t, mean_k = own @ weight.T, (theirs * weight).sum(axis=1)
        # About each mean: differences of large squares would lose the small deviations of saturated scores.
        shift = own.mean()
        var_t = ((own - shift) ** 2) @ weight.T - (mean_t - shift) ** 2
        var_k = (((theirs - mean_k[:, None]) ** 2) * weight).sum(axis=1)
        var_t, var_k = (np.maximum(variance, RESOLUTION) for variance in (var_t, var_k))
        divergence = (np.log(var_k / var_t) + (var_t + (mean_t - mean_k) ** 2) / var_k - 1) / 2
        others = ~np.eye(models, dtype=bool)
        distances[place] = np.sum(divergence, axis=1, where=others) / max(models - 1, 1)
    return distances.argmin(axis=0)


def tuned_alone(shadows: Sequence[Scores], accuracy: np.ndarray) -> Scores:
    """Return shadows that are each of the recipe with which it was most accurate (ACC-LiRA).

    Args:
        shadows: sets with the same membership, each of one recipe.
        accuracy: float[sets, models], on records that no model trained on.
    """
    best = np.argmax(np.nan_to_num(accuracy, nan=-1.0), axis=0)
    rows = np.arange(len(best))

    def taken(name: str) -> Any:
        values = [getattr(each, name) for each in shadows]
        return None if any(value is None for value in values) else np.stack(values)[best, rows]

    return dataclasses.replace(shadows[0], log_odds=taken("log_odds"), margin=taken("margin"))


def against(
    attack: Callable[[Scores], AttackResult], targets: Scores, shadows_of: Callable[[int], Scores]
) -> AttackResult:
    """Return an attack on each target with shadows from elsewhere: all rows of shadows_of(target) but its own.

    Args:
        attack: function of scores in which every model is the target once.
        targets: log_odds, member and perhaps margin [models, examples].
        shadows_of: the shadows of a target, scores of the same shape and membership.
    """
    rows: list[AttackResult] = []
    for target in range(len(np.asarray(targets.member))):
        shadows = shadows_of(target)
        mixed: dict[str, Any] = {}
        for name in ("log_odds", "margin"):
            theirs, own = getattr(shadows, name), getattr(targets, name)
            if theirs is None or own is None:
                mixed[name] = None
                continue
            mixed[name] = np.array(theirs, np.float64)
            mixed[name][target] = np.asarray(own)[target]
        whole = attack(dataclasses.replace(targets, **mixed))
        rows.append(of_targets(whole, [target]))
    return joined(rows)


def joined(parts: Sequence[AttackResult]) -> AttackResult:
    """Return results on several groups of targets as one."""
    statistic, member, defined = (
        np.concatenate([np.asarray(getattr(part, name)) for part in parts])
        for name in ("statistic", "member", "defined")
    )
    populations = [part.population for part in parts if part.population is not None]
    population = np.concatenate(populations) if len(populations) == len(parts) else None
    return AttackResult(statistic, member, defined, population=population)
