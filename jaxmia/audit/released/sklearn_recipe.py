"""Convert the training settings of a fitted LogisticRegression to settings of [train]."""

from __future__ import annotations

from typing import Any

import numpy as np


def logistic_recipe(model: Any, order: list[int]) -> tuple[dict[str, Any], str, list[str]]:
    """Return the recipe of a fitted LogisticRegression or LogisticRegressionCV.

    Args:
        model: the fitted model.
        order: index of each class of the records among the model's classes.

    Returns:
        Settings of [train], reduced to class weights and intercept if shadows cannot use the recipe; the reason why
        they cannot, or an empty string; and warnings about remaining differences.
    """
    said: list[str] = []
    weighting = weighting_of(model, order)
    strength = np.unique(np.asarray(getattr(model, "C_", getattr(model, "C", 1.0)), float))
    # LogisticRegressionCV has one value per class, or None if nothing was chosen.
    ratios = np.ravel(np.asarray(getattr(model, "l1_ratio_", getattr(model, "l1_ratio", 0.0)), object))
    penalty = model.penalty
    some = penalty in ("elasticnet", "deprecated") and any(each not in (None, 0) for each in ratios.tolist())
    if penalty == "l1" or some:
        return weighting, "its penalty has an L1 part, and shadows have an L2 penalty only", said
    if penalty in (None, "none") or not np.isfinite(strength).all():
        return weighting, "it has no penalty, and shadows need one", said
    if len(strength) > 1:
        return weighting, "its classes have different C", said
    if model.solver == "liblinear" and model.fit_intercept:
        said.append("The head's solver, liblinear, penalises the intercept too; its shadows' bias is free.")
    steps = np.asarray(getattr(model, "n_iter_", 0))
    if type(model).__name__ == "LogisticRegressionCV":
        said.append("C was chosen on the head's members (LogisticRegressionCV); for its shadows C is fixed.")
    elif steps.size and steps.max() >= model.max_iter:
        said.append(
            f"The head stopped at max_iter = {model.max_iter}, perhaps before its minimum; its shadows"
            " are at their minimum."
        )
    return {"optimizer": "newton", "ridge": float(1 / strength[0])} | weighting, "", said


def weighting_of(model: Any, order: list[int]) -> dict[str, Any]:
    """Return class weights and intercept as settings of [train]; default values are left out."""
    found: dict[str, Any] = {} if model.fit_intercept else {"intercept": False}
    weights = _class_weight(model, order)
    return found if weights == "none" else found | {"class_weight": weights}


def _class_weight(model: Any, order: list[int]) -> str | list[float]:
    """Return class_weight of [train]: a word, or one weight for each class of the records."""
    given = model.class_weight
    if given is None:
        return "none"
    if isinstance(given, str):
        return given
    classes = model.classes_.tolist()
    return [float(given.get(classes[place], 1.0)) for place in order]
