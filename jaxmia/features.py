"""Former module of feature sets, now jaxmia.data. Deprecated, removed in version 0.2."""

from jaxmia._deprecated import warn_renamed
from jaxmia.data.feature_set import FeatureSet, demo_features, feature_set, load_features, save_features
from jaxmia.data.pool import CandidatePool, candidate_pool

__all__ = [
    "CandidatePool",
    "FeatureSet",
    "candidate_pool",
    "demo_features",
    "feature_set",
    "load_features",
    "save_features",
]

warn_renamed("jaxmia.features", "jaxmia.data", gone="0.2")
