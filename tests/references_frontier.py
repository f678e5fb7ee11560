"""Slow, literal versions of what jaxmia.ridge.influence and jaxmia.ridge.expected compute, in float64."""

import numpy as np
import scipy.special


def hessian(inputs, weights, penalty):
    """Hessian sum_i weights_i ⊗ x_i x_iᵀ + I ⊗ diag(penalty), over [rest, inputs] in one axis."""
    total = np.kron(np.eye(weights.shape[1]), np.diag(penalty))
    for x, weight in zip(inputs, weights, strict=True):
        total += np.kron(weight, np.outer(x, x))
    return total


def block(inverse, x, rest):
    """(I ⊗ x)ᵀ H⁻¹ (I ⊗ x)."""
    wide = np.kron(np.eye(rest), x[:, None])
    return wide.T @ inverse @ wide


def errors(contrasts, label, directions):
    return directions.T @ (scipy.special.softmax(directions @ contrasts) - np.eye(len(directions))[label])


def curvature(contrasts, directions):
    shares = scipy.special.softmax(directions @ contrasts)
    return directions.T @ (np.diag(shares) - np.outer(shares, shares)) @ directions


def log_odds(contrasts, label, directions):
    logits = directions @ contrasts
    return logits[label] - scipy.special.logsumexp(np.delete(logits, label))
