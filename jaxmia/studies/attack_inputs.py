"""Inputs of attacks besides log-odds, for experiments and audits: analytic priors and statistics of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxmia.data.feature_set import FeatureSet
from jaxmia.ridge.expected import analytic_vulnerability
from jaxmia.scores import WeightsUnder
from jaxmia.studies.assess import needs_prior, white_box_methods
from jaxmia.studies.settings.attacks import AttackSettings
from jaxmia.studies.settings.train import TrainSettings
from jaxmia.training.contrasts import objective_ridge
from jaxmia.training.ensemble import ShadowEnsemble
from jaxmia.vulnerability.white_box import white_box_under


def analytic_prior(
    attack_settings: Sequence[AttackSettings],
    pool: FeatureSet,
    train: TrainSettings,
    *,
    inclusion_rate: float,
    memory: int | None,
    person: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Return analytic means and variances of scores, as fields of Scores; empty if no attack uses them.

    Args:
        attack_settings: the attacks.
        pool: the candidates.
        train: the recipe of the heads; they are at the minimum of its ridge objective.
        inclusion_rate: share of the candidates that a model trains on.
        memory: largest number of bytes for the Hessian.
        person: [examples], the person of each candidate, if persons are members.
    """
    if not needs_prior(attack_settings):
        return {}
    rates = {"ridge": train.ridge, "inclusion_rate": inclusion_rate}
    return analytic_vulnerability(pool, **rates, memory=memory, person=person).prior()


def weights_under(
    attack_settings: Sequence[AttackSettings],
    pool: FeatureSet,
    train: TrainSettings,
    heads: ShadowEnsemble,
    *,
    members: float,
    memory: int | None,
) -> WeightsUnder | None:
    """Return a function from membership to the white-box statistics; None without white-box attacks.

    Args:
        attack_settings: the attacks.
        pool: the candidates.
        train: the recipe of the heads; the adversary knows its penalty.
        heads: the heads of all models.
        members: expected number of members of a model.
        memory: largest number of bytes for matrices.
    """
    methods = white_box_methods(attack_settings)
    if not methods:
        return None
    decay = train.weight_decay + objective_ridge(train.ridge, pool.num_classes) / members
    known: dict[str, Any] = {"weight_decay": decay, "intercept": train.intercept}
    return white_box_under(heads, pool, **known, methods=methods, memory=memory)
