"""Quantile regression attack (Bertran et al. 2023, arXiv 2307.03694): one model and known non-members."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxmia._validate import check, check_at_least, check_choice, check_fpr
from jaxmia.attacks.shadows import RESOLUTION, blocks_of, score_arrays
from jaxmia.data.persons import checked_persons, grouped
from jaxmia.scores import Scores
from jaxmia.stats.result import AttackResult

_FLOOR = (
    # Share of the mean squared residual, added before the logarithm so that one exact fit has little weight.
    1e-3
)
# A variance differs from the mean squared residual by at most this factor, up or down.
_MAX_LOG_FACTOR = np.log(100.0)


class _Design(NamedTuple):
    """The design that the regressions of all targets share.

    Attributes:
        features: float64[examples, dim + 1], standardised, sorted by fold; the last column is the constant 1.
        order: int64[examples], the example at each sorted position.
        folds: slices of the sorted positions.
        penalty: float64[dim + 1], ridge penalty of each coefficient.
    """

    features: np.ndarray
    order: np.ndarray
    folds: list[slice]
    penalty: np.ndarray


def quantile(
    scores: Scores,
    *,
    features: np.ndarray,
    method: str = "gaussian",
    fpr: float = 0.01,
    folds: int = 5,
    ridge: float | None = None,
    steps: int = 500,
    person: np.ndarray | None = None,
) -> AttackResult:
    """Compare each score with a regression's prediction for a non-member with the same features.

    The quantile regression attack: Bertran et al. 2023 (arXiv 2307.03694).

    Gaussian: (s - mu(x)) / sigma(x), where ridge regressions fit mu to s and log sigma^2 to the log squared residuals
    (Harvey 1976), scaled so that the squared residuals over sigma^2 average 1. It serves every FPR at once. Pinball: s
    - q(x), where q is the 1 - fpr quantile, linear in x; a positive value calls a member at that FPR. It assumes no law
    of the scores.

    The paper trains on public data that are known not to be members. Here the regressions use the target's own
    non-members, cross-fitted: examples are split into folds, and the prediction at x comes from the target's
    non-members in the other folds. So x's statistic does not depend on whether the target trained on x; without folds
    it would, since only non-members are fitted. Folds depend on the features alone (every folds-th example in their
    lexicographic order), not on the order of the examples. If membership is by person, all records of a person are in
    one fold: otherwise x's statistic would depend on the person's membership through the person's other records.

    The regressions are linear; the paper uses networks. Cost: models x examples x dim^2.

    Args:
        scores: log_odds and member [models, examples].
        features: float[examples, dim], the features that the attacker knows for each example.
        method: "gaussian" or "pinball" (float32, Adam).
        fpr: FPR of the pinball quantile.
        folds: number of folds, at least 2.
        ridge: penalty on coefficients of standardised features, in units of examples: the fit minimises the sum of
            losses + ridge |w|^2 (pinball, on scores standardised by target: ridge / 2 |w|^2). By default dim, which
            gives the posterior mean if features explain half of the variance.
        steps: number of Adam steps of the pinball fit.
        person: [examples], integers or strings, the person of each example, if membership is by person.

    Returns:
        float64 statistic [models, examples]; 0 and undefined where the other folds hold fewer than 2
        non-members.

    Raises:
        InputError: for bad scores, features or options, or for fewer persons than folds.
    """
    check_choice("method", method, ("gaussian", "pinball"))
    check_fpr("fpr", fpr)
    check_at_least("folds", folds, 2)
    check_at_least("steps", steps, 1)
    log_odds, member = score_arrays(scores, min_models=1)
    design = _design(np.asarray(features), log_odds.shape[1], folds, ridge, person)
    statistic, defined = np.empty(log_odds.shape), np.empty(log_odds.shape, bool)
    examples, dim = design.features.shape
    # The Gaussian fit holds a Gram matrix and residuals per target and fold, so its blocks are small. The pinball fit
    # needs many targets at once for fast matrix products.
    size = folds * max(examples, dim**2) if method == "gaussian" else max(1, examples // 16)
    for rows in blocks_of(size, len(log_odds)):
        block = log_odds[rows][:, design.order].astype(np.float64)
        known = ~member[rows][:, design.order]
        if method == "gaussian":
            values = _gaussian(block, known, design)
        else:
            values = _pinball(block, known, design, level=1 - fpr, steps=steps)
        enough = np.empty(block.shape, bool)
        for fold in design.folds:
            others = known.sum(axis=1) - known[:, fold].sum(axis=1)
            enough[:, fold] = others[:, None] >= 2
        statistic[rows, design.order] = np.where(enough, values, 0.0)
        defined[rows, design.order] = enough
    return AttackResult(statistic, member, defined)


def _design(
    features: np.ndarray, examples: int, folds: int, ridge: float | None, person: np.ndarray | None
) -> _Design:
    """Return the checked and standardised features, with examples sorted by fold.

    Raises:
        InputError: unless features is finite [examples, at least 1] and ridge not negative.
    """
    shape = features.shape
    check(
        features.ndim == 2 and shape[0] == examples and shape[1] > 0,
        "features.shape",
        shape,
        f"be [{examples}, dim]",
    )
    check(bool(np.isfinite(features).all()), "features", "not finite", "be finite")
    ridge = float(shape[1]) if ridge is None else ridge
    check(0 <= ridge < np.inf, "ridge", ridge, "be finite and not negative")
    order = np.lexsort(features.T)
    fold_of = np.arange(examples) % folds if person is None else _folds_of_persons(person, order, folds)
    order = order[np.argsort(fold_of, kind="stable")]
    ends = np.cumsum(np.bincount(fold_of, minlength=folds))
    ordered = features[order].astype(np.float64)
    ordered -= ordered.mean(axis=0)
    scale = ordered.std(axis=0)
    ordered /= np.where(scale > 0, scale, 1)
    return _Design(
        np.concatenate([ordered, np.ones((examples, 1))], axis=1),
        order,
        [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)],
        # A tiny penalty keeps regressions on collinear features solvable.
        np.append(np.full(shape[1], max(ridge, 1e-9 * examples)), 0.0),
    )


def _folds_of_persons(person: np.ndarray, order: np.ndarray, folds: int) -> np.ndarray:
    """Return the fold of each example of an order, int64[examples]: that of its person.

    Persons are dealt to the folds in the order of their first examples.
    """
    whose = grouped(checked_persons(person, len(order)))[1][order]
    _, first, place = np.unique(whose, return_index=True, return_inverse=True)
    check(len(first) >= folds, "persons", len(first), f"be at least {folds}, the folds of attack 'quantile'")
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return np.asarray(rank[place] % folds)


def _gaussian(log_odds: np.ndarray, known: np.ndarray, design: _Design) -> np.ndarray:
    """Return (s - mu(x)) / sigma(x) of a block of targets [targets, examples], cross-fitted."""
    features, folds = design.features, design.folds
    training = np.repeat(known[:, None], len(folds), axis=1)
    for number, fold in enumerate(folds):
        training[:, number, fold] = False
    gram = _training_grams(known, design)
    fitted = _ridge(gram, training, log_odds[:, None], features)
    squares = (log_odds[:, None] - fitted) ** 2
    mean_square = _training_mean(squares, training)
    logs = np.log(squares + np.maximum(_FLOOR * mean_square, RESOLUTION**2))
    level = _training_mean(logs, training)
    # Fit deviations from the mean log, so that the penalty shrinks towards a common sigma.
    factor = np.clip(_ridge(gram, training, logs - level, features), -_MAX_LOG_FACTOR, _MAX_LOG_FACTOR)
    variance = np.exp(factor)
    variance *= np.maximum(_training_mean(squares / variance, training), RESOLUTION**2)
    values = np.empty(log_odds.shape)
    for number, fold in enumerate(folds):
        residual = log_odds[:, fold] - fitted[:, number, fold]
        values[:, fold] = residual / np.sqrt(variance[:, number, fold])
    return values


def _training_grams(known: np.ndarray, design: _Design) -> np.ndarray:
    """Return the penalised Gram matrix [targets, folds, dim, dim] of the non-members outside each fold."""
    parts = [
        np.matmul(design.features[fold].T * known[:, None, fold], design.features[fold])
        for fold in design.folds
    ]
    inside = np.stack(parts, axis=1)
    gram = inside.sum(axis=1, keepdims=True) - inside
    gram[..., -1, -1] += gram[..., -1, -1] == 0  # without non-members: any solvable matrix
    return gram + np.diag(design.penalty)


def _ridge(gram: np.ndarray, training: np.ndarray, response: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return the ridge regression of every target and fold, at every example [targets, folds, examples]."""
    moment = np.where(training, response, 0.0) @ features
    coefficients = np.linalg.solve(gram, moment[..., None])[..., 0]
    return coefficients @ features.T


def _training_mean(values: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Return the mean over the training examples [targets, folds, 1], 0 if there are none."""
    number = np.maximum(training.sum(axis=-1, keepdims=True), 1)
    return np.sum(values, axis=-1, keepdims=True, where=training) / number


def _pinball(
    log_odds: np.ndarray, known: np.ndarray, design: _Design, *, level: float, steps: int
) -> np.ndarray:
    """Return s - q(x) of a block of targets [targets, examples], cross-fitted."""
    features = design.features.astype(np.float32)
    values = np.empty(log_odds.shape)
    from jaxmia.attacks.pinball import quantile_predictions  # the only part of the attacks that loads JAX

    for fold in design.folds:
        training = known.copy()
        training[:, fold] = False
        centre = _training_mean(log_odds, training)
        scale = np.sqrt(_training_mean((log_odds - centre) ** 2, training))
        scale = np.where(scale > RESOLUTION, scale, 1.0)
        predictions = quantile_predictions(
            ((log_odds - centre) / scale).astype(np.float32),
            training.astype(np.float32),
            features,
            level=level,
            ridge=float(design.penalty[0]),
            steps=steps,
        )
        values[:, fold] = log_odds[:, fold] - (centre + scale * np.asarray(predictions, np.float64))[:, fold]
    return values
