"""Normalisation of features in a recipe: statistics of a file, components of public features, or random directions."""

from __future__ import annotations

from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.normalization import Normalizer, load_statistics
from jaxmia.data.public import load_projection, random_projection
from jaxmia.studies.settings.train import TrainSettings


def given_normalizer(
    train: TrainSettings, data: FeatureSet, *, all_components: bool = False
) -> Normalizer | None:
    """Return the recipe's normaliser, the same for all cells; None if it has none.

    Args:
        train: the recipe.
        data: the features; none of them may be among public ones.
        all_components: keep all components of public features, for recipes that choose their number later.

    Raises:
        InputError: if a file is bad, has another dimension than the features, or holds public features with one of
            these records among them.
    """
    if train.normalize == "public":
        components = None if all_components else train.components
        return load_projection(train.public, components=components, private=data)
    if train.normalize == "random":
        return random_projection(data.features.shape[1], train.components)
    if train.statistics == "pool":
        return None
    return load_statistics(train.statistics, dim=data.features.shape[1])


NORMALISED_BY = {
    "public": "public features",
    "random": "random directions",
    "unit": "none",
    "none": "none",
}
"""What results and reports call it; standardised features say whose statistics."""


def normalised_by(train: TrainSettings) -> str:
    """Return the text of the column standardised_by: the source of the normalisation."""
    if train.normalize == "standardize":
        return "pool" if train.statistics == "pool" else "given"
    return NORMALISED_BY[train.normalize]
