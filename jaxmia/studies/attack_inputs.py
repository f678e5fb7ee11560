"""What attacks read beside log-odds, in experiments and audits: what is known without shadows, and the weights."""

from __future__ import annotations

from collections.abc import Sequence

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
) -> dict[str, np.ndarray]:
    """Means and variances of scores that are known without shadows, as fields of Scores; none if no attack takes them.

    Args:
        attack_settings: the attacks.
        pool: candidates.
        train: the recipe of the heads, which are at the minimum of its ridge objective.
        inclusion_rate: share of the candidates that a model trains on.
        memory: bytes that the Hessian may hold.
    """
    if not needs_prior(attack_settings):
        return {}
    rates = {"ridge": train.ridge, "inclusion_rate": inclusion_rate}
    return analytic_vulnerability(pool, **rates, memory=memory).prior()


def weights_under(
    attack_settings: Sequence[AttackSettings],
    pool: FeatureSet,
    train: TrainSettings,
    heads: ShadowEnsemble,
    *,
    members: float,
    memory: int | None,
) -> WeightsUnder | None:
    """The statistics of weights that white-box attacks read, by membership; None without such attacks.

    Args:
        attack_settings: the attacks.
        pool: candidates.
        train: the recipe of the heads, whose penalty the adversary is granted.
        heads: of all models.
        members: that a model is expected to train on.
        memory: bytes that the statistics may hold.
    """
    methods = white_box_methods(attack_settings)
    if not methods:
        return None
    decay = train.weight_decay + objective_ridge(train.ridge, pool.num_classes) / members
    return white_box_under(heads, pool, weight_decay=decay, methods=methods, memory=memory)
