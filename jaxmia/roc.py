"""ROC curves and operating points of membership inference attacks. NumPy and SciPy only: serves anyone's scores."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """What an attack says of every candidate under every target model.

    Attributes:
        statistic: float64[models, examples], higher means more likely a member; never NaN.
        member: bool[models, examples], True where the example was in the model's training set.
        defined: bool[models, examples], False where the shadows could not support a statistic (say no IN
            shadow is left); the statistic then holds the attack's "no evidence" value and counts as such.
    """

    statistic: np.ndarray
    member: np.ndarray
    defined: np.ndarray
