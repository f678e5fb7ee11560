"""Wording that several sections share."""

from __future__ import annotations

from collections.abc import Iterable

from jaxmia.attacks import READS_WEIGHTS

INTERVALS = (
    "the wider of Clopper and Pearson's, which takes scores as independent, and a bootstrap of whole models"
)
WHITE_BOX_ASSUMES = (
    "White-box attacks assume an adversary who has the weights, knows the candidates (records among which all training"
    " records are) with their features and labels, and the recipe with its λ."
)


def white_box_of(attacks: Iterable[str]) -> list[str]:
    """The attacks that read weights."""
    return [attack for attack in attacks if attack.partition("(")[0] in READS_WEIGHTS]
