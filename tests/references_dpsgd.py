"""DP-SGD as slow NumPy loops over examples, in float64; a step's sample and noise are given."""

import numpy as np
from references import softmax


def clipped_gradient_sum(
    kernel, bias, features, labels, sampled, *, clipping_norm, person=None, intercept=True
):
    """Kernel and bias parts of the sum; each example's or person's gradient is computed and clipped by itself."""
    total_kernel, total_bias = np.zeros_like(kernel), np.zeros_like(bias)
    whose = np.arange(len(labels)) if person is None else person
    for someone in np.unique(whose[sampled]):
        grad_kernel, grad_bias = np.zeros_like(kernel), np.zeros_like(bias)
        for row in np.flatnonzero(sampled & (whose == someone)):
            error = softmax((kernel @ features[row] + bias)[None])[0]
            error[labels[row]] -= 1
            grad_kernel += np.outer(error, features[row])
            grad_bias += error * intercept
        norm = np.sqrt((grad_kernel**2).sum() + (grad_bias**2).sum())
        scale = clipping_norm / norm if norm > clipping_norm else 1.0
        total_kernel += scale * grad_kernel
        total_bias += scale * grad_bias
    return total_kernel, total_bias


def train_head(
    samples, noises, features, labels, *, num_classes, expected_members, hyper, config, person=None
):
    """One private head; samples[t] is step t's sample, noises[t] its standard normals for kernel and bias."""
    features = features.astype(np.float64)
    params = [np.zeros((num_classes, features.shape[1])), np.zeros(num_classes)]
    first, second = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]
    for step in range(config.steps):
        sums = clipped_gradient_sum(
            *params, features, labels, samples[step], clipping_norm=hyper.clipping_norm, person=person
        )
        decay = (hyper.weight_decay * params[0], 0.0)
        rate = hyper.learning_rate
        if config.schedule == "cosine":
            rate *= 0.5 * (1 + np.cos(np.pi * step / config.steps))
        for leaf in (0, 1):
            noise = hyper.noise_multiplier * hyper.clipping_norm * noises[step][leaf]
            gradient = (sums[leaf] + noise) / (hyper.sampling_rate * expected_members) + decay[leaf]
            if config.optimizer == "adam":
                first[leaf] = 0.9 * first[leaf] + 0.1 * gradient
                second[leaf] = 0.999 * second[leaf] + 0.001 * gradient**2
                mean, square = first[leaf] / (1 - 0.9 ** (step + 1)), second[leaf] / (1 - 0.999 ** (step + 1))
                params[leaf] = params[leaf] - rate * mean / (np.sqrt(square) + 1e-8)
            else:
                first[leaf] = hyper.momentum * first[leaf] + gradient
                params[leaf] = params[leaf] - rate * first[leaf]
    return params
