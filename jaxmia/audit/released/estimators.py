"""Readers of scikit-learn's estimators whose probabilities are a softmax of linear scores or of log-probabilities.

Softmax heads cannot be shadows of other estimators, which are refused by name.
"""

from __future__ import annotations

import dataclasses
import numbers
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.special

from jaxmia._validate import InputError, check, listed
from jaxmia.audit.released.base import ReleasedHead, class_order, linear_head, ordered_rows, shown
from jaxmia.audit.released.sklearn_recipe import logistic_recipe, weighting_of
from jaxmia.data.feature_set import FeatureSet

_WRAPPERS = {  # estimators that wrap another one, and the attribute that holds it
    "GridSearchCV": "best_estimator_",
    "RandomizedSearchCV": "best_estimator_",
    "HalvingGridSearchCV": "best_estimator_",
    "HalvingRandomSearchCV": "best_estimator_",
    "TunedThresholdClassifierCV": "estimator_",
    "FixedThresholdClassifier": "estimator_",
}
_WAY_OUT = (
    "If it has predict_proba and its probabilities are released, save them: np.savez('head.npz',"
    " probabilities=model.predict_proba(X)), with columns in the order of class_names. Otherwise train"
    " the same model on random halves of the records and pass the scores of all models to `jaxmia"
    " attack`"
)


class Classifier(NamedTuple):
    """The classifier at the end of a model, and its inputs for the records.

    Attributes:
        model: a fitted classifier, without search, wrapper or Pipeline.
        features: float64[records, dim], inputs of the classifier.
        transformed: whether a Pipeline computed them from the model's inputs.
        notes: what was read, for readers of the results.
    """

    model: Any
    features: np.ndarray
    transformed: bool
    notes: tuple[str, ...]


def classifier_within(model: Any, features: Any) -> Classifier:
    """Return the classifier inside searches, wrappers and Pipelines, and apply the Pipelines' first steps.

    Args:
        model: a fitted model; anything but such a wrapper is the classifier itself.
        features: inputs of the whole model: numbers [records, dim], a DataFrame, or texts.

    Raises:
        InputError: for a search that is not fitted, records that the Pipeline refuses, or a result that is not a table
            of finite numbers.
    """
    notes: list[str] = []
    seen, transformed = features, False
    while (name := type(model).__name__) in _WRAPPERS or name == "Pipeline":
        if name == "Pipeline":
            steps = [step for _, step in model.steps[:-1] if step not in (None, "passthrough")]
            if steps:
                seen, transformed = _transformed(steps, seen), True
                names = ", ".join(type(step).__name__ for step in steps)
                notes.append(
                    f"The Pipeline's {names}, fitted to the head's members, transform the features of"
                    " the head and of its shadows."
                )
            model = model.steps[-1][1]
            continue
        inner = getattr(model, _WRAPPERS[name], None)
        check(inner is not None, "model", name, f"be fitted, with {_WRAPPERS[name]} (refit=True)")
        notes.append(
            f"Read from {name}: {_WRAPPERS[name]}, a {type(inner).__name__}; settings chosen by it are"
            " fixed for the shadows."
        )
        model = inner
    _check_columns(model, seen)
    return Classifier(model, _numbers(seen), transformed, tuple(notes))


def head_of_model(model: Any, data: FeatureSet, warned: Sequence[str] = ()) -> ReleasedHead:
    """Return a fitted estimator as a head, with its inputs for the records.

    Args:
        model: a classifier, a Pipeline that ends in one, or a search over either.
        data: the records, with features as inputs of the whole model.
        warned: warnings from loading the model.

    Raises:
        InputError: for a model that is not fitted, is not a softmax of linear scores, has other classes, or does not
            fit the features.
    """
    found = classifier_within(model, data.features.astype(np.float64))
    model, name = found.model, type(found.model).__name__
    if name not in READABLE:
        raise InputError(
            f"model={name} must be a classifier with probabilities from linear scores, one of {', '.join(READABLE)}:"
            f" the scores of {name} are no logits, so softmax heads cannot be its shadows."
            f" {_WAY_OUT}."
        )
    check(hasattr(model, "classes_"), "model", name, "be fitted: it has no classes_")
    dim = found.features.shape[1]
    own = getattr(model, "n_features_in_", dim)
    check(own == dim, "features.shape[1]", dim, f"be {own}, the inputs of the {name}")
    seen = found.features.astype(np.float32)  # the inputs of shadows and attacks
    head = READABLE[name](model, dataclasses.replace(data, features=seen))
    return dataclasses.replace(
        head,
        features=seen if found.transformed else None,
        notes=(*found.notes, *head.notes),
        warnings=(*warned, *head.warnings),
    )


def _transformed(steps: Sequence[Any], features: Any) -> Any:
    for step in steps:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about column names, which arrays lack
                features = step.transform(features)
        except Exception as error:  # a step of a Pipeline may raise anything
            raise InputError(
                f"the features must be valid inputs of the Pipeline; its {type(step).__name__} raised:"
                f" {_one_line(error)}."
                " Or give pipe[:-1].transform(X) as features and pipe[-1] as the head."
            ) from None
    bad = int(np.count_nonzero(~np.isfinite(_numbers(features))))
    check(bad == 0, f"NaN or infinite values after the Pipeline's {type(steps[-1]).__name__}", bad, "be 0")
    return features


def _numbers(features: Any) -> np.ndarray:
    """Return records as float64[records, dim], from an array, a sparse matrix or a DataFrame of numbers."""
    rule = "be numbers, or inputs that the first steps of a fitted Pipeline convert to numbers"
    if hasattr(features, "columns"):
        others = [str(name) for name in features.columns if not _is_numeric(features[name])]
        check(not others, "features: the columns", others, rule)
    elif hasattr(features, "toarray"):
        features = features.toarray()
    values = np.asarray(features)
    check(_is_numeric(values.ravel()), "features.dtype", str(values.dtype), rule)
    return values.astype(np.float64)


def _is_numeric(column: Any) -> bool:
    kind: str = np.asarray(column).dtype.kind
    return kind in "biuf" or (kind == "O" and all(isinstance(value, numbers.Real) for value in column))


def _check_columns(model: Any, features: Any) -> None:
    """Refuse a DataFrame whose columns are not those that a classifier was fitted to, in their order."""
    known = getattr(model, "feature_names_in_", None)
    if known is None or not hasattr(features, "columns"):
        return
    given, known = list(map(str, features.columns)), list(map(str, known))
    rule = f"be those that the {type(model).__name__} was fitted to, in their order: {listed(known)}"
    check(given == known, "features.columns", given, rule)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def _softmax(model: Any, data: FeatureSet) -> ReleasedHead:
    """Return the softmax head of coef_ and intercept_."""
    kernel = np.asarray(model.coef_, np.float64)
    bias = np.broadcast_to(np.asarray(model.intercept_, np.float64), len(kernel))
    return _of_rows(model, kernel, bias, data)


def _of_rows(model: Any, kernel: np.ndarray, bias: np.ndarray, data: FeatureSet) -> ReleasedHead:
    order = class_order(np.asarray(model.classes_), data)
    name = type(model).__name__
    notes = [f"Read: coef_ {kernel.shape} and intercept_ of the {name}."]
    if order != sorted(order):
        notes.append(
            f"Its classes_ are {shown(list(map(str, model.classes_)))}: reordered to the records' order."
        )
    return linear_head(*ordered_rows(kernel, bias, order), data, notes)


def _logistic(model: Any, data: FeatureSet) -> ReleasedHead:
    several = len(model.classes_) > 2
    apart = getattr(model, "multi_class", "") == "ovr" or model.solver == "liblinear"
    if several and apart:
        unknown = "it is one class against the rest with the settings of an old version"
        return _one_vs_rest(model, model.coef_, model.intercept_, data, unknown_recipe=unknown)
    order = class_order(np.asarray(model.classes_), data)
    recipe, unknown, said = logistic_recipe(model, order)
    head = _softmax(model, data)
    return dataclasses.replace(head, recipe=recipe, unknown_recipe=unknown, warnings=tuple(said))


def _stochastic(model: Any, data: FeatureSet) -> ReleasedHead:
    if model.loss not in ("log_loss", "log"):
        raise InputError(
            f"model=SGDClassifier(loss={model.loss!r}) must have loss='log_loss': other losses' scores are no logits."
            f" {_WAY_OUT}."
        )
    unknown = "SGDClassifier stops by its learning rate and early stopping, not at a minimum"
    if len(model.classes_) > 2:
        return _one_vs_rest(model, model.coef_, model.intercept_, data, unknown_recipe=unknown)
    known = weighting_of(model, class_order(np.asarray(model.classes_), data))
    return dataclasses.replace(_softmax(model, data), recipe=known, unknown_recipe=unknown)


def _discriminant(model: Any, data: FeatureSet) -> ReleasedHead:
    unknown = "linear discriminant analysis fits means and a covariance, not a loss"
    return dataclasses.replace(_softmax(model, data), unknown_recipe=unknown)


def _naive_bayes(model: Any, data: FeatureSet) -> ReleasedHead:
    kernel, bias = model.feature_log_prob_, np.asarray(model.class_log_prior_)
    head = _of_rows(model, np.asarray(kernel, np.float64), bias, data)
    return dataclasses.replace(head, unknown_recipe="naive Bayes counts and does not minimise a loss")


def _one_vs_rest(
    model: Any, kernel: np.ndarray, bias: np.ndarray, data: FeatureSet, **more: Any
) -> ReleasedHead:
    """Return a head with one sigmoid per class, normalised: a softmax of the log sigmoids."""
    order = class_order(np.asarray(model.classes_), data)
    logits = data.features.astype(np.float64) @ np.asarray(kernel, np.float64).T + bias
    note = (
        f"Read: {type(model).__name__} of several classes by its own probabilities: one sigmoid per"
        " class against the rest, normalised. Its weights are not those of a softmax."
    )
    outputs = scipy.special.log_expit(logits)[:, order]
    return ReleasedHead(outputs, "logits", None, None, (note,), **more)


def _wrapped_one_vs_rest(model: Any, data: FeatureSet) -> ReleasedHead:
    """Read a OneVsRestClassifier of LogisticRegression."""
    parts = sorted({type(part).__name__ for part in model.estimators_})
    if parts != ["LogisticRegression"] or getattr(model, "multilabel_", False):
        raise InputError(
            "model=OneVsRestClassifier must wrap LogisticRegression with one class per record, got"
            f" {shown(parts)}. {_WAY_OUT}."
        )
    first = model.estimators_[0]
    kernel = np.concatenate([np.asarray(part.coef_, np.float64) for part in model.estimators_])
    bias = np.concatenate([np.broadcast_to(part.intercept_, 1) for part in model.estimators_])
    several = len(kernel) > 1
    head = (_one_vs_rest if several else _of_rows)(model, kernel, bias, data)
    recipe, unknown, said = logistic_recipe(first, [0, 1])
    if isinstance(first.class_weight, dict):
        recipe, unknown = {}, "its class weights are for one class against the rest"
    if several and "optimizer" in recipe:
        recipe = recipe | {"link": "one_vs_rest"}
    return dataclasses.replace(head, recipe=recipe, unknown_recipe=unknown, warnings=tuple(said))


def _calibrated(model: Any, data: FeatureSet) -> ReleasedHead:
    order = class_order(np.asarray(model.classes_), data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outputs = np.asarray(model.predict_proba(data.features.astype(np.float64)))
    return ReleasedHead(
        outputs[:, order],
        "probabilities",
        None,
        None,
        ("Read: predict_proba of the CalibratedClassifierCV on the records; its weights are not used.",),
        warnings=(
            "The head is calibrated (CalibratedClassifierCV), but its shadows are plain softmax heads:"
            " results over re-trainings are those of the closest softmax heads.",
        ),
        unknown_recipe="a calibrated classifier is several fits and a calibration on held-out parts",
    )


READABLE: dict[str, Callable[[Any, FeatureSet], ReleasedHead]] = {
    "LogisticRegression": _logistic,
    "LogisticRegressionCV": _logistic,
    "SGDClassifier": _stochastic,
    "LinearDiscriminantAnalysis": _discriminant,
    "MultinomialNB": _naive_bayes,
    "OneVsRestClassifier": _wrapped_one_vs_rest,
    "CalibratedClassifierCV": _calibrated,
}
