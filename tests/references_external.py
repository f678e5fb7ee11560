"""Slow references for reading others' scores: exact rational or high-precision arithmetic, pair by pair."""

import decimal
import fractions

import numpy as np


def log_odds_of_logits(logits, labels):
    """log p/(1-p) from a softmax in decimal arithmetic of 400 digits."""
    with decimal.localcontext() as context:
        context.prec = 400
        found = np.empty(logits.shape[:2])
        for model, example in np.ndindex(found.shape):
            weights = [decimal.Decimal(float(z)).exp() for z in logits[model, example]]
            true = weights.pop(labels[example])
            found[model, example] = float((true / sum(weights)).ln())
    return found


def log_odds_of_probability(p):
    """log p/(1-p) with 1 - p exact."""
    p = fractions.Fraction(float(p))
    with decimal.localcontext() as context:
        context.prec = 400
        odds = p / (1 - p)
        return float((decimal.Decimal(odds.numerator) / decimal.Decimal(odds.denominator)).ln())


def mask_of_indices(indices, num_examples):
    """Membership example by example."""
    return np.array([[example in set(row) for example in range(num_examples)] for row in indices.tolist()])
