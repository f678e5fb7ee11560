"""Heads trained to the minimum of their ridge objective, by Newton's method with conjugate gradients.

The objective of one head is the cross-entropy summed over its members + ridge / 2 ||kernel||^2; the bias is free. With
two classes, for which scikit-learn has one row of weights, the penalty is that of this row, ridge / 2 ||w_1 - w_0||^2.
This is the objective of scikit-learn's LogisticRegression with C = 1 / ridge, for any number of classes. Every product
is with the features that all models share, so under vmap a step of all heads is two large matrix products, as in
training by gradient steps.

The bias of a class without a member has no minimum: it decreases until the gradient is below the tolerance, and the
log-odds of that class's records depend on the tolerance alone. Such heads are trained anyway, since they score records
of other classes well; unbounded_note warns if there are many.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxmia.training.contrasts import basis, from_params, objective_ridge, penalties, to_params, with_bias
from jaxmia.training.heads import Params

# Relative residual at which a Newton system counts as solved; smaller near the minimum.
_FORCING = 0.1
_SYSTEM_STEPS = 500  # largest number of conjugate gradient steps
_HALVINGS = 12  # bisection steps for a Newton step that overshoots
ABSENT = 1e-3  # warn if more than this share of heads lacks a class, so that a bias is unbounded


class _State(NamedTuple):
    head: Array
    logits: Array
    gradient: Array
    steps: Array


class _System(NamedTuple):
    solution: Array
    residual: Array
    direction: Array
    product: Array
    steps: Array


def converged_head(
    member: Bool[Array, "examples"] | Float[Array, "examples"],
    features: Float[Array, "examples dim"],
    labels: Int[Array, "examples"],
    *,
    num_classes: int,
    ridge: float | Array,
    steps: int,
    tolerance: float,
    intercept: bool = True,
) -> Params:
    """Train one head from zero until its gradient is small; under vmap, until the gradients of all heads are small.

    The preconditioner is the Kronecker product of the members' mean curvature and the features' second moments, both
    diagonalised. A step needs 3 to 10 products with the Hessian at ridge 1, and 20 at 0.01. A step that overshoots the
    minimum along its direction is shortened by bisection, which needs no further product.

    Args:
        member: True for the candidates that this model trains on, or the weight of each.
        features: features of all candidates.
        labels: labels of all candidates, 0 .. num_classes - 1.
        num_classes: C.
        ridge: lambda, above 0; scikit-learn's 1 / C.
        steps: largest number of Newton steps.
        tolerance: stationarity (see below) at or below which a head has converged.
        intercept: whether there is a bias; without one it stays 0.

    Returns:
        The head's parameters; the biases sum to 0.
    """
    objective = _Objective(
        inputs=with_bias(features, intercept=intercept),
        counted=member.astype(features.dtype),
        one_hot=jax.nn.one_hot(labels, num_classes, axis=0),
        directions=jnp.asarray(basis(num_classes)),
        ridge=ridge,
    )
    largest = tolerance * _scale(objective.counted, objective.inputs)
    with jax.default_matmul_precision("highest"):
        spectrum = objective.spectrum()

        def step(state: _State) -> _State:
            direction = _newton_direction(objective, state, spectrum)
            head = state.head + _step_length(objective, state, direction) * direction
            # Recompute the logits instead of updating them, so that rounding errors do not add up.
            return objective.state(head, state.steps + 1)

        def going(state: _State) -> Array:
            return (jnp.linalg.norm(state.gradient) > largest) & (state.steps < steps)

        zero = jnp.zeros((num_classes - 1, objective.inputs.shape[1]), objective.inputs.dtype)
        start = objective.state(zero, jnp.int32(0))
        return to_params(jax.lax.while_loop(going, step, start).head)


@dataclasses.dataclass(frozen=True)
class _Objective:
    """The penalised loss of one head V (jaxmia.training.contrasts), whose logits are directions V inputs^T.

    Attributes:
        inputs: features and a constant for the bias.
        counted: how often each example counts.
        one_hot: one-hot labels.
        directions: Q.
        ridge: lambda, 1 / C of scikit-learn.
    """

    inputs: Float[Array, "examples inputs"]
    counted: Float[Array, "examples"]
    one_hot: Float[Array, "classes examples"]
    directions: Float[Array, "classes rest"]
    ridge: float | Array

    @property
    def penalty(self) -> Float[Array, "inputs"]:
        """Return the ridge penalty of every input."""
        return penalties(self.ridge, self.one_hot.shape[0], self.inputs)

    @property
    def members(self) -> Float[Array, ""]:
        """Return the total weight of the examples."""
        return jnp.maximum(self.counted.sum(), 1.0)

    def state(self, head: Float[Array, "rest inputs"], steps: Array) -> _State:
        """Return the state of a head, with its logits and gradient."""
        logits = self.logits(head)
        errors = jax.nn.softmax(logits, axis=0) - self.one_hot
        return _State(head, logits, self.pulled(errors) + self.penalty * head, steps)

    def logits(self, head: Float[Array, "rest inputs"]) -> Float[Array, "classes examples"]:
        """Return the logits of all examples; for a direction, their change along it."""
        return self.directions @ (head @ self.inputs.T)

    def pulled(self, weights: Float[Array, "classes examples"]) -> Float[Array, "rest inputs"]:
        """Return the gradient with respect to the head, from the gradient with respect to the logits."""
        return (self.directions.T @ (weights * self.counted)) @ self.inputs

    def hessian(
        self, shares: Float[Array, "classes examples"], direction: Float[Array, "rest inputs"]
    ) -> Float[Array, "rest inputs"]:
        """Return the Hessian, at these class probabilities, times a direction."""
        moved = shares * self.logits(direction)
        return self.pulled(moved - shares * moved.sum(axis=0)) + self.penalty * direction

    def spectrum(self) -> tuple[Float[Array, "inputs"], Float[Array, "inputs inputs"]]:
        """Return eigenvalues and eigenvectors of the second moments of all candidates' inputs."""
        moments, axes = jnp.linalg.eigh(self.inputs.T @ self.inputs / self.inputs.shape[0])
        return moments, axes

    def preconditioner(
        self,
        shares: Float[Array, "classes examples"],
        spectrum: tuple[Float[Array, "inputs"], Float[Array, "inputs inputs"]],
    ) -> Callable[[Array], Array]:
        """Return the inverse of mean curvature ⊗ second moments + ridge, which approximates the Hessian."""
        moments, axes = spectrum
        mean = self.directions.T @ (shares * self.counted)
        total = (self.directions.T * (shares @ self.counted)) @ self.directions - mean @ mean.T
        curvatures, rotation = jnp.linalg.eigh(total / self.members)
        stiffness = objective_ridge(self.ridge, self.one_hot.shape[0])
        inner = jnp.maximum(curvatures, 1e-6)[:, None] * (self.members * jnp.maximum(moments, 0.0))
        diagonal = inner + stiffness
        return lambda residual: rotation @ (((rotation.T @ residual) @ axes) / diagonal) @ axes.T


def _newton_direction(
    objective: _Objective,
    state: _State,
    spectrum: tuple[Float[Array, "inputs"], Float[Array, "inputs inputs"]],
) -> Float[Array, "rest inputs"]:
    """Return minus the inverse Hessian times the gradient, by conjugate gradients; more exact for small gradients."""
    shares = jax.nn.softmax(state.logits, axis=0)
    preconditioned = objective.preconditioner(shares, spectrum)
    norm = jnp.linalg.norm(state.gradient)
    enough = jnp.minimum(_FORCING, jnp.sqrt(norm / objective.members)) * norm

    def going(system: _System) -> Array:
        return ~((jnp.linalg.norm(system.residual) <= enough) | (system.steps == _SYSTEM_STEPS))

    def improved(system: _System) -> _System:
        image = objective.hessian(shares, system.direction)
        length = system.product / jnp.sum(system.direction * image)
        residual = system.residual - length * image
        next_step = preconditioned(residual)
        product = jnp.sum(residual * next_step)
        direction = next_step + product / system.product * system.direction
        solution = system.solution + length * system.direction
        return _System(solution, residual, direction, product, system.steps + 1)

    first = preconditioned(-state.gradient)
    start = _System(
        jnp.zeros_like(first), -state.gradient, first, -jnp.sum(state.gradient * first), jnp.int32(0)
    )
    return jax.lax.while_loop(going, improved, start).solution


def _step_length(
    objective: _Objective, state: _State, direction: Float[Array, "rest inputs"]
) -> Float[Array, ""]:
    """Return the step length: 1, or the approximate minimum along the direction if that is closer."""
    moved = objective.logits(direction)

    def slope(length: Array) -> Array:
        """Return the derivative of the objective along the direction."""
        errors = jax.nn.softmax(state.logits + length * moved, axis=0) - objective.one_hot
        penalised = objective.penalty * (state.head + length * direction) * direction
        return jnp.sum(errors * objective.counted * moved) + jnp.sum(penalised)

    def halved(ends: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        middle = (ends[0] + ends[1]) / 2
        below = slope(middle) < 0
        return jnp.where(below, middle, ends[0]), jnp.where(below, ends[1], middle), ends[2] + 1

    zero, one = jnp.zeros((), state.head.dtype), jnp.ones((), state.head.dtype)
    overshoots = slope(one) > jnp.abs(slope(zero)) / 2
    shortest, _, _ = jax.lax.while_loop(
        lambda ends: overshoots & (ends[2] < _HALVINGS), halved, (zero, one, jnp.int32(0))
    )
    return jnp.where(overshoots, shortest, one)


def one_vs_rest_head(
    member: Bool[Array, "examples"],
    weights: Float[Array, "classes examples"] | None,
    features: Float[Array, "examples dim"],
    labels: Int[Array, "examples"],
    *,
    num_classes: int,
    **options: Any,
) -> Params:
    """Train a one-vs-rest head: one two-class head per class.

    Args:
        member: True for the candidates that this model trains on.
        weights: how often each counts in the head of each class, or None.
        features: features of all candidates.
        labels: labels of all candidates, 0 .. num_classes - 1.
        num_classes: C, above 2.
        options: ridge, steps, tolerance and intercept of converged_head.

    Returns:
        kernel [classes, dim] and bias [classes]: the logit of each class against the rest.
    """
    counted = member.astype(features.dtype)
    each = jnp.broadcast_to(counted, (num_classes, len(labels))) if weights is None else weights * counted

    def against_the_rest(label: Array, own: Array) -> Params:
        is_class = (labels == label).astype(labels.dtype)
        return converged_head(own, features, is_class, num_classes=2, **options)

    pairs = jax.vmap(against_the_rest)(jnp.arange(num_classes, dtype=labels.dtype), each)
    return jax.tree.map(lambda leaf: leaf[:, 1] - leaf[:, 0], pairs)


def stationarity(
    params: Params,
    member: Bool[Array, "examples"],
    features: Float[Array, "examples dim"],
    labels: Int[Array, "examples"],
    *,
    ridge: float | Array,
) -> Float[Array, ""]:
    """Return the distance of one head from its minimum: the norm of the objective's gradient relative to one example's.

    It is the norm of the gradient of the summed objective, divided by the number of members times the root mean square
    norm of their features with an appended 1. Dimensionless; training in float32 reaches about 1e-8.
    """
    inputs, counted = with_bias(features), member.astype(features.dtype)
    head, directions = from_params(params), jnp.asarray(basis(params["params"]["bias"].shape[0]))
    with jax.default_matmul_precision("highest"):
        logits = directions @ (head @ inputs.T)
        weights = jax.nn.softmax(logits, axis=0) - jax.nn.one_hot(labels, len(logits), axis=0)
        penalty = penalties(ridge, len(logits), inputs)
        total = (directions.T @ (weights * counted)) @ inputs + penalty * head
    return jnp.linalg.norm(total) / _scale(counted, inputs)


def unbounded_note(
    member: Bool[np.ndarray, "models examples"], labels: Int[np.ndarray, "examples"]
) -> list[str]:
    """Return a warning if more than a share ABSENT of heads with an intercept have no member of some class."""
    present = member.astype(np.float32) @ (labels[:, None] == np.unique(labels)).astype(np.float32)
    lacking = int(np.count_nonzero((present == 0).any(axis=1)))
    if lacking <= ABSENT * len(member):
        return []
    return [
        f"{lacking} of {len(member)} heads have no member of some class: its bias is unbounded, and"
        " log-odds of its records depend on the tolerance alone. Use more records of each class,"
        " intercept = false, or in runs shadows.design = 'fixed_size'."
    ]


def _scale(counted: Float[Array, "examples"], inputs: Float[Array, "examples inputs"]) -> Float[Array, ""]:
    members = jnp.maximum(counted.sum(), 1.0)
    return members * jnp.sqrt(jnp.sum(counted * jnp.sum(inputs**2, axis=1)) / members)
