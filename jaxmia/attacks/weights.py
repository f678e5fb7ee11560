"""White-box attacks on linear heads: infer membership from the weights.

Let x̃ = [x, 1] (x for heads without a bias), e_i = p_i - onehot(y_i) a candidate's errors, G_i = e_i x̃_iᵀ its loss
gradient, m the membership, r the inclusion rate and v = r (1 - r). Each method computes a vector from the weights that
is nearly linear in the membership, Σ (m_j - r) c_j + noise, with known contributions c_j. The other memberships and the
noise are approximated as Gaussian with covariance J_i = v Σ_{j≠i} c_j c_jᵀ + σ² I. The likelihood ratio of m_i = 1
against 0 is then

    c_iᵀ J_i⁻¹ vector - (1/2 - r) D_i²,    D_i² = c_iᵀ J_i⁻¹ c_i.

The adversary knows the candidates (a pool that contains the training set), the recipe, and has shadows.
Computed in float64 on the host, because J is nearly singular where memberships can be recovered exactly.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.special
from jaxtyping import Bool, Float, Int

from jaxmia._validate import check, check_choice

METHODS = ("mahalanobis", "stationarity", "inverse_hessian")
FOLDS = 8  # folds of models: the shadows of a fold are the models of all other folds
MAX_HESSIAN = 6000  # largest number of parameters of a Hessian: 300 MB, and a minute to invert on two cores
_MEMORY = 8 * 2**30
_LIVE_MATRICES = 5  # while a matrix plus noise is inverted: both, the solver's copies, the inverse
_LIVE_ROWS = 3  # arrays [examples, parameters] held at once: contributions, solutions, their product
_LIVE_INPUTS = 4  # copies of the inputs: with the constant 1, rotated, scaled, and a temporary
_LIVE_HEADS = 4  # arrays of all heads: weights, gradient residuals, their deviation and square
# Share of the mean eigenvalue of a covariance or Hessian: far above rounding, far below one record's effect.
_JITTER = 1e-9
# Shrinkage of a direction's response to the mean response, in units of the mean direction's information.
_SHRINKAGE = 1e-3


class _Problem(NamedTuple):
    """The heads under attack and the candidates.

    Attributes:
        weights: float64[models, classes, dim + 1], the bias last, or [..., dim] without one; the mean over classes,
            which does not change probabilities, is subtracted.
        member: bool[models, examples].
        inputs: float64[examples, dim + 1], x̃.
        labels: int[examples].
        rate: inclusion rate r.
        weight_decay: weight decay of the mean loss over members.
        penalised: float64[dim + 1], 1 for every input with a penalty, all but the bias.
    """

    weights: Float[np.ndarray, "models classes inputs"]
    member: Bool[np.ndarray, "models examples"]
    inputs: Float[np.ndarray, "examples inputs"]
    labels: Int[np.ndarray, "examples"]
    rate: float
    weight_decay: float
    penalised: Float[np.ndarray, "inputs"]

    def errors(self, weights: Float[np.ndarray, "classes inputs"]) -> Float[np.ndarray, "examples classes"]:
        """Return p_i - onehot(y_i) of every candidate at these weights; each row sums to 0."""
        errors = scipy.special.softmax(self.inputs @ weights.T, axis=1)
        errors[np.arange(len(self.labels)), self.labels] -= 1
        return errors

    def decay(self, weights: Float[np.ndarray, "classes inputs"]) -> Float[np.ndarray, "classes inputs"]:
        """Return the penalty's gradient per member, weight_decay [kernel, 0]."""
        return self.weight_decay * weights * self.penalised


def weight_statistics(
    kernel: Float[np.ndarray, "models classes dim"],
    bias: Float[np.ndarray, "models classes"],
    member: Bool[np.ndarray, "models examples"],
    features: Float[np.ndarray, "examples dim"],
    labels: Int[np.ndarray, "examples"],
    *,
    rate: float,
    weight_decay: float = 0.0,
    intercept: bool = True,
    methods: Collection[str] = METHODS,
    memory: int | None = None,
) -> dict[str, Float[np.ndarray, "models examples"]]:
    """Return the statistic of each method for every candidate under every head.

    Args:
        kernel: weights of the heads; at least 3 heads must be finite.
        bias: biases of the heads.
        member: True where a candidate is in a head's training set.
        features: features of the candidates, as the heads get them.
        labels: classes of the candidates, 0 to classes - 1.
        rate: inclusion rate r.
        weight_decay: weight decay of the mean loss over members.
        intercept: whether training moves the biases; if not, they are left out.
        methods: names from METHODS.
        memory: largest number of bytes for matrices; 8 GiB by default.

    Returns:
        float64[models, examples] by method, higher for likely members; NaN for heads whose weights are not finite, and
        for all heads if fewer than 3 have finite weights.

    Raises:
        InputError: for an unknown method, a Hessian of more than MAX_HESSIAN parameters, or matrices larger than
            memory.
    """
    models, classes, dim = kernel.shape
    check_methods(methods, classes=classes, dim=dim)
    check_memory(methods, classes=classes, dim=dim, examples=len(labels), models=models, memory=memory)
    weights = np.concatenate([kernel.astype(np.float64), bias.astype(np.float64)[:, :, None]], axis=2)
    finite = np.isfinite(weights).all(axis=(1, 2))
    statistics = {method: np.full(member.shape, np.nan) for method in methods}
    if np.count_nonzero(finite) < 3:
        return statistics
    inputs = np.concatenate([features.astype(np.float64), np.ones((len(labels), 1))], axis=1)
    penalised = np.append(np.ones(dim), 0.0)
    if not intercept:
        weights, inputs, penalised = weights[:, :, :dim], inputs[:, :dim], penalised[:dim]
    weights = weights[finite] - weights[finite].mean(axis=1, keepdims=True)
    problem = _Problem(weights, member[finite], inputs, labels, rate, weight_decay, penalised)
    for method in methods:
        statistics[method][finite] = _FUNCTIONS[method](problem)
    return statistics


def check_methods(methods: Collection[str], *, classes: int, dim: int) -> None:
    """Raise InputError for unknown methods, and for heads too large for 'inverse_hessian'."""
    for method in methods:
        check_choice("method", method, METHODS)
    if "inverse_hessian" in methods:
        parameters = (classes - 1) * (dim + 1)
        rule = f"be at most {MAX_HESSIAN} for method='inverse_hessian', which inverts their Hessian"
        check(parameters <= MAX_HESSIAN, "(classes - 1) (dim + 1)", parameters, rule)


def check_memory(
    methods: Collection[str], *, classes: int, dim: int, examples: int, models: int, memory: int | None = None
) -> None:
    """Raise InputError unless the methods' matrices for heads of this size fit into memory (8 GiB by default)."""
    budget = _MEMORY if memory is None else memory
    for method in methods:
        needed = _bytes_held(method, classes=classes, dim=dim, examples=examples, models=models)
        rule = (
            f"be at least {needed / 2**30:.3g} GiB for method={method!r} on {examples} candidates and"
            f" {(classes - 1) * (dim + 1)} parameters (--memory SIZE, memory=)"
        )
        check(needed <= budget, "memory", f"{budget / 2**30:.3g} GiB", rule)


def _bytes_held(method: str, *, classes: int, dim: int, examples: int, models: int) -> int:
    """Return the bytes of the largest float64 matrices that a method holds at once."""
    parameters = (classes - 1) * (dim + 1)
    inputs = _LIVE_INPUTS - (method == "inverse_hessian")  # which does not rotate them
    given = (_LIVE_HEADS * models * classes + inputs * examples) * (dim + 1)
    errors = 0 if method == "inverse_hessian" else FOLDS * examples * classes
    if method != "inverse_hessian" and examples <= parameters:
        return 8 * (given + errors + _LIVE_MATRICES * examples**2)
    return 8 * (given + errors + _LIVE_MATRICES * parameters**2 + _LIVE_ROWS * examples * parameters)


def _mahalanobis(problem: _Problem) -> Float[np.ndarray, "models examples"]:
    """Distance of the weights from the shadows' mean, along the direction in which each candidate moves them.

    The vector is W minus its mean over the shadows. The contributions are c_j = ē_j (A x̃_j)ᵀ, where ē_j are the mean
    errors of j under shadows that trained on it. A is diagonal in the principal directions of x̃. Its entries say how
    far the weights move along a direction per unit of gradient; they and σ² are fitted to the shadows. The method needs
    no stationarity: gradient descent from zero weights yields a sum of members' gradients along the path, and a ridge
    head's minimum is -H⁻¹ times such a sum.
    """
    # Directions outside the candidates' span carry no information about them.
    directions = np.linalg.svd(problem.inputs, full_matrices=False)[2].T
    inputs, weights = problem.inputs @ directions, problem.weights @ directions
    num_models, num_classes, num_inputs = weights.shape
    fold = np.arange(num_models) % FOLDS
    totals = np.zeros((FOLDS, len(inputs), num_classes))
    for model in range(num_models):
        errors = problem.errors(problem.weights[model])
        totals[fold[model]] += np.where(problem.member[model][:, None], errors, 0)
    statistic = np.empty(problem.member.shape)
    for number in np.unique(fold):
        target, shadow = fold == number, fold != number
        trained = problem.member[shadow]
        counts = trained.sum(axis=0)[:, None]
        errors = (totals.sum(axis=0) - totals[number]) / np.maximum(counts, 1)
        mean = weights[shadow].mean(axis=0)
        shifts, coins = weights[shadow] - mean, trained - trained.mean(axis=0)
        gradients = np.stack([(coins * errors[:, c]) @ inputs for c in range(num_classes)], axis=1)
        information = np.sum(gradients**2, axis=(0, 1))
        products = np.sum(gradients * shifts, axis=(0, 1))
        prior = _SHRINKAGE * information.mean()
        response = (products + prior * products.sum() / information.sum()) / (information + prior)
        noise = np.sum((shifts - gradients * response) ** 2) / (len(shifts) * (num_classes - 1) * num_inputs)
        statistic[target] = _likelihood_ratio(
            weights[target] - mean, errors, inputs * response, noise=float(noise), rate=problem.rate
        )
    return statistic


def _stationarity(problem: _Problem) -> Float[np.ndarray, "models examples"]:
    """At a minimum, members' gradients and the penalty cancel: test which candidates' gradients are in the sum.

    At the minimum λ [W, 0] + Σ m_j G_j = 0. The vector is -λ [W, 0] - r Σ G_j and the contributions are the G_j, all at
    the target's own weights, with λ = weight_decay times the expected number of members. If training stopped before the
    minimum a residual gradient remains; its mean and σ² are estimated from the shadows. (λ is deliberately treated as
    independent of the membership. Written as Σ m_j (G_j + weight_decay [W, 0]) = 0 the equation has a zero right-hand
    side, and members' contributions are linearly dependent, which hides a member among them.)
    """
    num_models, num_classes, num_inputs = problem.weights.shape
    # Minus the gradient of each head's objective, which is 0 at its minimum.
    left = np.empty(problem.weights.shape)
    for model, (errors, decay) in enumerate(_at_each(problem)):
        own = problem.member[model]
        left[model] = -errors[own].T @ problem.inputs[own] - own.sum() * decay
    mean = left.mean(axis=0)
    squares = np.sum((left - mean) ** 2, axis=(1, 2))
    # Variance over the other heads, about their own mean.
    others = np.maximum(squares.sum() - squares * num_models / (num_models - 1), 0) / (num_models - 1)
    statistic = np.empty(problem.member.shape)
    for model, (errors, decay) in enumerate(_at_each(problem)):
        vector = -problem.rate * (errors.T @ problem.inputs + len(errors) * decay)
        statistic[model] = _likelihood_ratio(
            (vector - mean + (left[model] - mean) / (num_models - 1))[None],
            errors,
            problem.inputs,
            noise=float(others[model]) / ((num_classes - 1) * num_inputs),
            rate=problem.rate,
        )[0]
    return statistic


def _inverse_hessian(problem: _Problem) -> Float[np.ndarray, "models examples"]:
    """The published attack, kept for comparison: the better of the other two finds more (docs/whitebox.md).

    IHA of Suri, Zhang and Evans (2024, arXiv 2406.11544), -(I2 + I3) of its published implementation
    (github.com/iamgroot42/auditingmi, mib/attacks/theory_new.py, class IHA), I2 = ‖H⁻¹G_i‖² and I3 = 2 <H⁻¹g, H⁻¹G_i>.
    There g is the gradient over all other members. Here memberships are unknown, and g is r times the gradient over all
    other candidates, with the penalty, so that -(I2 + I3) = 2 <H⁻²G_i, vector> - (1 - 2r) ‖H⁻¹G_i‖² with the vector of
    _stationarity. H is r times the pool's Hessian at the mean weights of all heads, with the penalty and a jitter. The
    published term loss / (1 + momentum), scaled by the learning rate, is left out because it made the attack weaker.
    """
    contrasts = _contrasts(problem.weights.shape[1])
    inverse = _inverse(_pool_hessian(problem, contrasts))
    statistic = np.empty(problem.member.shape)
    for model, (errors, decay) in enumerate(_at_each(problem)):
        vector = -problem.rate * (errors.T @ problem.inputs + len(errors) * decay)
        moved = inverse @ (inverse @ (contrasts.T @ vector).ravel())
        moved = contrasts @ moved.reshape(contrasts.shape[1], -1)
        statistic[model] = 2 * np.sum((errors @ moved) * problem.inputs, axis=1)
        if problem.rate != 0.5:
            influence = _rows(errors @ contrasts, problem.inputs) @ inverse
            statistic[model] -= (1 - 2 * problem.rate) * np.sum(influence**2, axis=1)
    return statistic


def _pool_hessian(
    problem: _Problem, contrasts: Float[np.ndarray, "classes free"]
) -> Float[np.ndarray, "parameters parameters"]:
    """Return the Hessian of r times the pool's loss plus the penalty, at the mean weights, in contrasts of classes."""
    weights = problem.weights.mean(axis=0)
    p = scipy.special.softmax(problem.inputs @ weights.T, axis=1)
    free, num_inputs = contrasts.shape[1], problem.inputs.shape[1]
    curvature = np.einsum("ic,ca,cb->iab", p, contrasts, contrasts)
    seen = p @ contrasts
    curvature -= seen[:, :, None] * seen[:, None, :]
    blocks = np.empty((free, num_inputs, free, num_inputs))
    for a in range(free):
        for b in range(a + 1):
            block = problem.rate * (problem.inputs.T * curvature[:, a, b]) @ problem.inputs
            blocks[a, :, b], blocks[b, :, a] = block, block
    hessian = blocks.reshape(free * num_inputs, -1)
    hessian[np.diag_indices_from(hessian)] += (
        problem.weight_decay * problem.rate * len(problem.labels) * np.tile(problem.penalised, free)
    )
    return hessian


def _at_each(
    problem: _Problem,
) -> Iterator[tuple[Float[np.ndarray, "examples classes"], Float[np.ndarray, "classes inputs"]]]:
    """Yield for each head the errors of all candidates and the penalty's gradient per member, at its weights."""
    for weights in problem.weights:
        yield problem.errors(weights), problem.decay(weights)


def _likelihood_ratio(
    vectors: Float[np.ndarray, "models classes inputs"],
    errors: Float[np.ndarray, "examples classes"],
    inputs: Float[np.ndarray, "examples inputs"],
    *,
    noise: float,
    rate: float,
) -> Float[np.ndarray, "models examples"]:
    """Return the log-likelihood ratio of every membership given each vector.

    Let K be the contributions' inner products (a Hadamard product) and A = v K + σ² I. By Sherman and Morrison, c_iᵀ
    J_i⁻¹ vector = (A⁻¹ C vector)_i / (σ² (A⁻¹)_ii) and D_i² = (1 / (σ² (A⁻¹)_ii) - 1) / v. With fewer parameters than
    candidates, the same is computed from J = v CᵀC + σ² I (push-through identity).

    Args:
        vectors: one per target; rows add up to 0 over classes, as do those of the contributions.
        errors: e; each row sums to 0.
        inputs: x̃, in any coordinates.
        noise: σ² per parameter; raised to the jitter if smaller.
        rate: inclusion rate r.
    """
    num_examples, num_classes = errors.shape
    variance = rate * (1 - rate)
    if num_examples <= (num_classes - 1) * inputs.shape[1]:
        gram = (errors @ errors.T) * (inputs @ inputs.T)
        noise = max(noise, _JITTER * variance * np.trace(gram) / num_examples)
        gram *= variance
        inverse = _inverse(gram, noise)
        kept = noise * np.diagonal(inverse)  # 1 - v c_iᵀ J⁻¹ c_i
        along = np.stack([np.sum((inputs @ vector.T) * errors, axis=1) for vector in vectors])
        return (along @ inverse - (0.5 - rate) * (1 - kept) / variance) / kept
    contrasts = _contrasts(num_classes)
    rows = _rows(errors @ contrasts, inputs)
    covariance = variance * rows.T @ rows
    noise = max(noise, _JITTER * np.trace(covariance) / len(covariance))
    solved = rows @ _inverse(covariance, noise)
    leverage = np.sum(solved * rows, axis=1)
    projected = (contrasts.T @ vectors).reshape(len(vectors), -1) @ solved.T
    return (projected - (0.5 - rate) * leverage) / (1 - variance * leverage)


def _contrasts(num_classes: int) -> Float[np.ndarray, "classes free"]:
    """Return an orthonormal basis of the differences between classes."""
    return scipy.linalg.helmert(num_classes).T


def _rows(
    errors: Float[np.ndarray, "examples free"], inputs: Float[np.ndarray, "examples inputs"]
) -> Float[np.ndarray, "examples parameters"]:
    """Return the matrices e_i x̃_iᵀ, each flattened to a row."""
    return (errors[:, :, None] * inputs[:, None, :]).reshape(len(inputs), -1)


def _inverse(
    matrix: Float[np.ndarray, "rows rows"], noise: float | None = None
) -> Float[np.ndarray, "rows rows"]:
    """Return the inverse of a positive matrix plus noise (or the jitter) on its diagonal."""
    added = _JITTER * np.trace(matrix) / len(matrix) if noise is None else noise
    # Not SciPy's Cholesky: its threads and NumPy's block each other, which took 100 times as long.
    return np.linalg.inv(matrix + added * np.eye(len(matrix)))


_FUNCTIONS = {"mahalanobis": _mahalanobis, "stationarity": _stationarity, "inverse_hessian": _inverse_hessian}
