"""The training settings of a fitted LogisticRegression, as settings of [train]."""

from __future__ import annotations

from typing import Any

import numpy as np


def logistic_recipe(model: Any, order: list[int]) -> tuple[dict[str, Any], str, list[str]]:
    """The recipe of a fitted LogisticRegression or LogisticRegressionCV.

    Args:
        model: fitted.
        order: where each class of the records stands among its classes.

    Returns:
        Settings of [train], only class weights and intercept if shadows cannot be trained so; why they cannot, or an
        empty string; and warnings of what differs all the same.
    """
    said: list[str] = []
    weighting = weighting_of(model, order)
    strength = np.unique(np.asarray(getattr(model, "C_", getattr(model, "C", 1.0)), float))
    # Of LogisticRegressionCV one for each class, None where nothing was chosen.
    ratios = np.ravel(np.asarray(getattr(model, "l1_ratio_", getattr(model, "l1_ratio", 0.0)), object))
    penalty = model.penalty
    some = penalty in ("elasticnet", "deprecated") and any(each not in (None, 0) for each in ratios.tolist())
    if penalty == "l1" or some:
        return weighting, "its penalty has an L1 part, and shadows' is L2 alone", said
    if penalty in (None, "none") or not np.isfinite(strength).all():
        return weighting, "it has no penalty, and shadows need one", said
    if len(strength) > 1:
        return weighting, "its classes have different C", said
    if model.solver == "liblinear" and model.fit_intercept:
        said.append("The head's solver, liblinear, penalises the intercept too; its shadows' bias is free.")
    steps = np.asarray(getattr(model, "n_iter_", 0))
    if type(model).__name__ == "LogisticRegressionCV":
        said.append("C was chosen on the head's members (LogisticRegressionCV); its shadows have it fixed.")
    elif steps.size and steps.max() >= model.max_iter:
        said.append(
            f"The head stopped at max_iter = {model.max_iter}, perhaps short of its minimum, where its shadows are."
        )
    return {"optimizer": "newton", "ridge": float(1 / strength[0])} | weighting, "", said


def weighting_of(model: Any, order: list[int]) -> dict[str, Any]:
    """Class weights and intercept, which any recipe can have, as settings of [train]; what is usual is left out."""
    found: dict[str, Any] = {} if model.fit_intercept else {"intercept": False}
    weights = _class_weight(model, order)
    return found if weights == "none" else found | {"class_weight": weights}


def _class_weight(model: Any, order: list[int]) -> str | list[float]:
    """Of [train]: a word, or a weight for each class of the records."""
    given = model.class_weight
    if given is None:
        return "none"
    if isinstance(given, str):
        return given
    classes = model.classes_.tolist()
    return [float(given.get(classes[place], 1.0)) for place in order]
