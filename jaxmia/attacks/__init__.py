"""Membership inference attacks: functions of Scores. Every model is the target once, with the others as shadows.

A new attack is one file and one line in REGISTRY; the shared contract tests then run on it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from jaxmia.attacks.analytic import analytic
from jaxmia.attacks.base import base
from jaxmia.attacks.bavaria import bavaria_n, bavaria_t
from jaxmia.attacks.difficulty import difficulty
from jaxmia.attacks.label_ratio import label_ratio
from jaxmia.attacks.lira import lira
from jaxmia.attacks.quantile import quantile
from jaxmia.attacks.rmia import rmia
from jaxmia.attacks.threshold import threshold
from jaxmia.attacks.whitebox import whitebox
from jaxmia.stats.result import AttackResult

__all__ = [
    "READS_PRIOR",
    "READS_TARGET_MEMBERSHIP",
    "READS_WEIGHTS",
    "REGISTRY",
    "analytic",
    "base",
    "bavaria_n",
    "bavaria_t",
    "difficulty",
    "label_ratio",
    "lira",
    "quantile",
    "rmia",
    "threshold",
    "whitebox",
]

REGISTRY: MappingProxyType[str, Callable[..., AttackResult]] = MappingProxyType(
    {
        "lira": lira,
        "rmia": rmia,
        "base": base,
        "bavaria_t": bavaria_t,
        "bavaria_n": bavaria_n,
        "threshold": threshold,
        "difficulty": difficulty,
        "label_ratio": label_ratio,
        "quantile": quantile,
        "whitebox": whitebox,
        "analytic": analytic,
    }
)

# Attacks that compare with the target's own non-members, so they use its membership of the *other* candidates.
# Differential privacy bounds them like any attack, but one-run audits need statistics that use none of it.
READS_TARGET_MEMBERSHIP = frozenset({"rmia", "quantile"})

# Attacks that need Scores.white_box, statistics of the models' weights, which cannot be computed from scores.
READS_WEIGHTS = frozenset({"whitebox"})

# Attacks that need Scores.prior_mean and Scores.prior_variance, which are known for ridge heads without shadows.
READS_PRIOR = frozenset({"analytic"})
