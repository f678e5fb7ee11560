"""Membership inference attacks: functions of Scores, every model once the target and the others its shadows.

A new attack is one file and one line in REGISTRY; the shared contract tests then run on it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from jaxmia.attacks.lira import lira
from jaxmia.attacks.threshold import threshold
from jaxmia.evaluation import AttackResult

__all__ = ["REGISTRY", "lira", "threshold"]

REGISTRY: MappingProxyType[str, Callable[..., AttackResult]] = MappingProxyType(
    {
        "lira": lira,
        "threshold": threshold,
    }
)
