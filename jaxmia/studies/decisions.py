"""Decisions of heads, for actors who see no more: margins, and right decisions on noisy copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxmia.data.feature_set import FeatureSet
from jaxmia.scores.release import log_odds_of_share, parse_release
from jaxmia.training.ensemble import ShadowEnsemble
from jaxmia.training.scoring import margins, right_decisions

_MARGIN, _QUERIED = "margin", "queried-"
_NOISE_SEED = 0  # every model of every study is asked about copies with the same noise


def decision_names(releases: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the arrays that releases need besides log-odds."""
    parsed = [parse_release(name) for name in releases]
    numbers = dict.fromkeys(each.number for each in parsed if each.kind == "labels" and each.number)
    margin = (_MARGIN,) if any(each.needs_margin for each in parsed) else ()
    return (*margin, *(f"{_QUERIED}{number}" for number in numbers))


def decisions(releases: Sequence[str], heads: ShadowEnsemble, pool: FeatureSet) -> dict[str, np.ndarray]:
    """Return the arrays of decision_names for heads on the candidates, each float[models, examples]."""
    found = {}
    for name in decision_names(releases):
        if name == _MARGIN:
            found[name] = margins(heads, pool)
        else:
            copies = int(name.removeprefix(_QUERIED))
            right = right_decisions(jax.random.key(_NOISE_SEED), heads, pool, copies=copies)
            found[name] = log_odds_of_share(right, copies)
    return found


def decision_fields(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return arrays of decisions as fields of Scores."""
    queried = {
        int(name.removeprefix(_QUERIED)): values
        for name, values in arrays.items()
        if name.startswith(_QUERIED)
    }
    return {"margin": arrays.get(_MARGIN), "queried": queried or None}
