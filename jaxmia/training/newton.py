"""Heads trained to the minimum of their ridge objective, by Newton's method with conjugate gradients.

The objective of one head is the cross-entropy summed over its members + ridge / 2 ||kernel||^2; the bias is free. With
two classes, for which scikit-learn has one row of weights, the penalty is that of this row, ridge / 2 ||w_1 - w_0||^2.
So it is the objective of scikit-learn's LogisticRegression with C = 1 / ridge, whatever the number of classes. Every
product is one with features that all models share, so that under vmap a step of all heads is two large matrix products,
as in ordinary training.

The bias of a class without a member has no minimum: it falls until the gradient is below the tolerance, which is then
what log-odds of that class's records tell. So such heads are counted and said (unbounded_note); they train on, since
the records of other classes are scored as ever.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxmia.training.contrasts import basis, from_params, objective_ridge, penalties, to_params, with_bias
from jaxmia.training.heads import Params

_FORCING = (
    0.1  # share of its right-hand side to which a Newton system is solved; more exactly near the minimum
)
_SYSTEM_STEPS = 500  # of conjugate gradients at most
_HALVINGS = 12  # of a step that overshoots
ABSENT = 1e-3  # share of heads without some class, whose biases have no bound, beyond which it is said


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
    """Train one head from zero until its gradient is small; under vmap, until all heads' are.

    The preconditioner is the Kronecker product of the members' mean curvature and the features' second moments, both
    diagonalised: 3 to 10 products with the Hessian a step at ridge 1, 20 at 0.01. A step along which the objective has
    passed its minimum is shortened to it by bisection, which needs no further product.

    Args:
        member: which candidates this model trains on, or how much each counts.
        features: of all candidates.
        labels: of all candidates, 0 .. num_classes - 1.
        num_classes: C.
        ridge: lambda, above 0: 1 / C of scikit-learn.
        steps: of Newton's method at most.
        tolerance: largest stationarity (as below) at which a head is done.
        intercept: whether there is a bias; without one it stays 0.

    Returns:
        Its parameters; the biases sum to 0.
    """
    inputs, counted = with_bias(features, intercept=intercept), member.astype(features.dtype)
    directions, one_hot = jnp.asarray(basis(num_classes)), jax.nn.one_hot(labels, num_classes, axis=0)
    penalty = penalties(ridge, num_classes, inputs)
    members = jnp.maximum(counted.sum(), 1.0)
    largest = tolerance * _scale(counted, inputs)
    stiffness = objective_ridge(ridge, num_classes)

    def logits(head: Array) -> Array:
        return directions @ (head @ inputs.T)

    def pulled(weights: Array) -> Array:
        """Gradient with respect to the head from one with respect to the logits."""
        return (directions.T @ (weights * counted)) @ inputs

    def gradient(head: Array, logits: Array) -> Array:
        return pulled(jax.nn.softmax(logits, axis=0) - one_hot) + penalty * head

    with jax.default_matmul_precision("highest"):
        moments, axes = jnp.linalg.eigh(inputs.T @ inputs / inputs.shape[0])

        def newton_direction(state: _State) -> Array:
            shares = jax.nn.softmax(state.logits, axis=0)
            mean = directions.T @ (shares * counted)
            total = (directions.T * (shares @ counted)) @ directions - mean @ mean.T
            curvatures, rotation = jnp.linalg.eigh(total / members)
            diagonal = (
                jnp.maximum(curvatures, 1e-6)[:, None] * (members * jnp.maximum(moments, 0.0)) + stiffness
            )

            def preconditioned(residual: Array) -> Array:
                return rotation @ (((rotation.T @ residual) @ axes) / diagonal) @ axes.T

            def hessian(direction: Array) -> Array:
                moved = shares * logits(direction)
                return pulled(moved - shares * moved.sum(axis=0)) + penalty * direction

            def solved(system: _System) -> Array:
                return (jnp.linalg.norm(system.residual) <= enough) | (system.steps == _SYSTEM_STEPS)

            def improved(system: _System) -> _System:
                image = hessian(system.direction)
                length = system.product / jnp.sum(system.direction * image)
                residual = system.residual - length * image
                next_step = preconditioned(residual)
                product = jnp.sum(residual * next_step)
                direction = next_step + product / system.product * system.direction
                solution = system.solution + length * system.direction
                return _System(solution, residual, direction, product, system.steps + 1)

            norm = jnp.linalg.norm(state.gradient)
            enough = jnp.minimum(_FORCING, jnp.sqrt(norm / members)) * norm
            first = preconditioned(-state.gradient)
            start = _System(
                jnp.zeros_like(first), -state.gradient, first, -jnp.sum(state.gradient * first), jnp.int32(0)
            )
            return jax.lax.while_loop(lambda system: ~solved(system), improved, start).solution

        def step(state: _State) -> _State:
            direction = newton_direction(state)
            moved = logits(direction)

            def slope(length: Array) -> Array:
                """Derivative of the objective along the direction."""
                weights = (jax.nn.softmax(state.logits + length * moved, axis=0) - one_hot) * counted
                return jnp.sum(weights * moved) + jnp.sum(
                    penalty * (state.head + length * direction) * direction
                )

            def halved(ends: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
                middle = (ends[0] + ends[1]) / 2
                below = slope(middle) < 0
                return jnp.where(below, middle, ends[0]), jnp.where(below, ends[1], middle), ends[2] + 1

            zero, one = jnp.zeros((), inputs.dtype), jnp.ones((), inputs.dtype)
            overshoots = slope(one) > jnp.abs(slope(zero)) / 2
            shortest, _, _ = jax.lax.while_loop(
                lambda ends: overshoots & (ends[2] < _HALVINGS), halved, (zero, one, jnp.int32(0))
            )
            length = jnp.where(overshoots, shortest, one)
            head = state.head + length * direction
            # Logits anew, not moved ones: rounding does not add up.
            fresh = logits(head)
            return _State(head, fresh, gradient(head, fresh), state.steps + 1)

        def going(state: _State) -> Array:
            return (jnp.linalg.norm(state.gradient) > largest) & (state.steps < steps)

        head = jnp.zeros((num_classes - 1, inputs.shape[1]), inputs.dtype)
        start = _State(head, logits(head), gradient(head, logits(head)), jnp.int32(0))
        return to_params(jax.lax.while_loop(going, step, start).head)


def one_vs_rest_head(
    member: Bool[Array, "examples"],
    weights: Float[Array, "classes examples"] | None,
    features: Float[Array, "examples dim"],
    labels: Int[Array, "examples"],
    *,
    num_classes: int,
    **options: Any,
) -> Params:
    """Train one head of as many two-class heads as there are classes, each of one class against the rest.

    Args:
        member: which candidates this model trains on.
        weights: how often each counts for the head of each class, or None.
        features: of all candidates.
        labels: of all candidates, 0 .. num_classes - 1.
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
    """How far one head is from the minimum: the norm of its objective's gradient against one example's.

    The gradient of the summed objective, over the number of members times the root mean square norm of their features
    with the bias's 1. Training in float32 reaches about 1e-8.
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
    """A line if more than a share ABSENT of heads with an intercept have no member of some class."""
    present = member.astype(np.float32) @ (labels[:, None] == np.unique(labels)).astype(np.float32)
    lacking = int(np.count_nonzero((present == 0).any(axis=1)))
    if lacking <= ABSENT * len(member):
        return []
    return [
        f"{lacking} of {len(member)} heads have no member of some class: its bias has no bound, and log-odds of its"
        " records are what the tolerance makes them. More records of each class avoid it, intercept = false, or in"
        " runs shadows.design = 'fixed_size'."
    ]


def _scale(counted: Float[Array, "examples"], inputs: Float[Array, "examples inputs"]) -> Float[Array, ""]:
    members = jnp.maximum(counted.sum(), 1.0)
    return members * jnp.sqrt(jnp.sum(counted * jnp.sum(inputs**2, axis=1)) / members)
