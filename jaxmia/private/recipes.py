"""Recipes of private heads on features of norm 1: full-batch DP-SGD without a bias, and noisy class means.

*Noisy class means* are one release. At zero weights the cross-entropy's gradient of a record (x, y) is (1/C - e_y) xᵀ,
whatever the other records: the sum over members is, but for a mean over classes that no softmax sees, minus the sums of
the classes' features. One step of gradient descent from zero is therefore the classifier by class means, and

    ||(1/C - e_y) xᵀ||² = (1 - 1/C) ||x||² <= 1 - 1/C for ||x|| <= 1

is its exact sensitivity to adding or removing a record: clipping at sqrt(1 - 1/C) changes nothing, and noise is
calibrated to it. (One-hot sums have sensitivity 1: for two classes that takes sqrt(2) times the noise, spent on the sum
of both.) It is the Gaussian mechanism of one full-batch step, with all of DP-SGD's accounting, persons included.

A bias would be clipped and noised with the weights. Centred features need none: private recipes here leave it out.
"""

from __future__ import annotations

import dataclasses
import math

from jaxmia._validate import check

SIGNAL = 0.1
"""Assumed share of unit-norm features' energy that lies between classes: used only to scale logits."""
SHARPNESS = 10.0
"""Scale of the logits of class means without noise; it moves no decision."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivateRecipe:
    """Full-batch DP-SGD without momentum, decay or bias, from zero weights.

    Attributes:
        steps: number of steps T; 1 for class means.
        learning_rate: step size.
        clipping_norm: c.
    """

    steps: int
    learning_rate: float
    clipping_norm: float

    @property
    def name(self) -> str:
        """Return "class_means", or "dp_sgd" for several steps."""
        return "class_means" if self.steps == 1 else "dp_sgd"


def first_gradient_norm(classes: int) -> float:
    """Return sqrt(1 - 1/C), the largest norm of a record's gradient at zero weights, for features of norm 1."""
    check(classes >= 2, "classes", classes, "be at least 2")
    return math.sqrt(1 - 1 / classes)


def class_means(*, classes: int, shots: float, dim: int, noise_multiplier: float) -> PrivateRecipe:
    """Return the recipe of noisy class means; all arguments are public.

    The rate scales logits for noise of energy dim (noise_multiplier c / S)² beside the classes' SIGNAL, as a posterior
    mean would. It changes probabilities, and no decision.

    Args:
        classes: C.
        shots: S, expected members per class.
        dim: dimension of the features.
        noise_multiplier: of one step.
    """
    clip = first_gradient_norm(classes)
    noise = dim * (noise_multiplier * clip / shots) ** 2
    rate = SHARPNESS * classes * SIGNAL / (SIGNAL + noise)
    return PrivateRecipe(steps=1, learning_rate=rate, clipping_norm=clip)
