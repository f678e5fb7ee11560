"""Slow NumPy loops, each a second derivation of a vectorised computation in jaxmia."""

import numpy as np


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def train_head(member, features, labels, order, *, num_classes, hyper, config):
    """Train one linear head in float64: one example at a time, gradient (p - y) x, textbook optimisers."""
    features = features.astype(np.float64)
    num_examples = len(features)
    kernel, bias = np.zeros((num_classes, features.shape[1])), np.zeros(num_classes)
    state = {
        name: (np.zeros_like(value), np.zeros_like(value)) for name, value in (("k", kernel), ("b", bias))
    }
    for step in range(config.steps):
        rows = np.arange(num_examples) if order is None else order[step]
        grad_kernel, grad_bias = np.zeros_like(kernel), np.zeros_like(bias)
        for row in rows:
            if member[row]:
                error = softmax((kernel @ features[row] + bias)[None])[0]
                error[labels[row]] -= 1
                grad_kernel += np.outer(error, features[row])
                grad_bias += error
        scale = num_examples / len(rows) / max(member.sum(), 1)
        gradients = {"k": scale * grad_kernel + hyper.weight_decay * kernel, "b": scale * grad_bias}
        rate = hyper.learning_rate
        if config.schedule == "cosine":
            rate *= 0.5 * (1 + np.cos(np.pi * step / config.steps))
        updates = {}
        for name, gradient in gradients.items():
            first, second = state[name]
            if config.optimizer == "adam":
                first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
                corrected = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
                updates[name] = rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
            else:
                first = hyper.momentum * first + gradient
                updates[name] = rate * first
            state[name] = first, second
        kernel, bias = kernel - updates["k"], bias - updates["b"]
    return kernel, bias
