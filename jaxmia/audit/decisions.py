"""Decisions of the head under audit and of its shadows, for actors who see no more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmia.audit.records import AuditRecords
from jaxmia.audit.released import ReleasedHead
from jaxmia.audit.settings import AuditConfig
from jaxmia.data.membership import MembershipMasks
from jaxmia.studies.decisions import decision_fields, decision_names, decisions
from jaxmia.training.ensemble import ShadowEnsemble


def audit_decisions(
    config: AuditConfig,
    records: AuditRecords,
    head: ReleasedHead,
    margin: np.ndarray | None,
    shadows: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """Return decisions of the head (row 0) and its shadows, as fields of Scores, as far as an actor asks for them.

    Args:
        config: settings.
        records: the records.
        head: the head; it can be asked about noisy copies only where its weights are known.
        margin: float[records], positive where the head's decision is right, or None.
        shadows: arrays of the shadows, with those of decision_names.
    """
    names = decision_names(config.releases)
    mine: dict[str, np.ndarray] = {}
    if names and head.weight is not None and head.bias is not None:
        weights = {"kernel": np.float32(head.weight[None]), "bias": np.float32(head.bias[None])}
        member = jnp.asarray(records.member[None])
        masks = MembershipMasks(member, jnp.arange(1), "bernoulli", records.inclusion_rate)
        mine = decisions(config.releases, ShadowEnsemble({"params": weights}, masks), records.data)
    if margin is not None:
        mine["margin"] = margin[None]
    both = [name for name in names if name in mine]
    return decision_fields({name: np.concatenate([mine[name], shadows[name]]) for name in both})
