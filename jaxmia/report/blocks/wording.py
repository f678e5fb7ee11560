"""Wording that several sections share."""

from __future__ import annotations

from collections.abc import Iterable

from jaxmia.attacks import READS_WEIGHTS

INTERVALS = (
    "the wider of Clopper-Pearson, which treats scores as independent, and a bootstrap over whole models"
)
WHITE_BOX_ASSUMES = (
    "White-box attacks assume an adversary who has the weights, knows the candidates (records among which all training"
    " records are) with their features and labels, and the recipe with its λ."
)


def white_box_of(attacks: Iterable[str]) -> list[str]:
    """Return the attacks that use weights."""
    return [attack for attack in attacks if attack.partition("(")[0] in READS_WEIGHTS]
