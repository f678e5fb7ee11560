"""Reader of scikit-learn heads in .skops files; only types of scikit-learn and NumPy are loaded."""

from __future__ import annotations

import pathlib
import warnings
from typing import Any

from jaxmia._npz import check_archive
from jaxmia._validate import InputError, check
from jaxmia.audit.released.base import ReleasedHead, shown
from jaxmia.audit.released.estimators import head_of_model
from jaxmia.data.feature_set import FeatureSet

# Further trusted types of scikit-learn and NumPy, data or functions of arrays. skops trusts public estimators only.
_TRUSTED = (
    "numpy.dtype",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.feature_selection._mutual_info.mutual_info_classif",
    "sklearn.feature_selection._univariate_selection.chi2",
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.metrics._scorer._PassthroughScorer",
    "sklearn.model_selection._split.GroupKFold",
    "sklearn.model_selection._split.KFold",
    "sklearn.model_selection._split.RepeatedKFold",
    "sklearn.model_selection._split.RepeatedStratifiedKFold",
    "sklearn.model_selection._split.ShuffleSplit",
    "sklearn.model_selection._split.StratifiedKFold",
    "sklearn.model_selection._split.StratifiedShuffleSplit",
    "sklearn.multiclass._ConstantPredictor",
    "sklearn.utils._metadata_requests.MetadataRequest",
    "sklearn.utils._metadata_requests.MethodMetadataRequest",
)


def read_skops_head(path: pathlib.Path, data: FeatureSet, *, weight: str, bias: str) -> ReleasedHead:
    """Return the head in a .skops file; a file with types other than scikit-learn's and NumPy's is not loaded."""
    for name, value in (("weight", weight), ("bias", bias)):
        check(not value, f"head.{name}", value, "be left out: a .skops file holds a model, not named tensors")
    try:
        import skops.io
    except ImportError:
        raise InputError("a .skops head needs skops: pip install 'jaxmia[audit]'.") from None
    check_archive(path)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            untrusted = skops.io.get_untrusted_types(file=path)
            foreign = sorted(set(untrusted) - set(_TRUSTED))
            model: Any = None if foreign else skops.io.load(path, trusted=untrusted)
    except Exception as error:  # of any type: zip, JSON, missing keys
        raise InputError(f"{path} must be a readable .skops file: {error}.") from None
    if foreign:
        raise InputError(
            f"{path} must hold only types of scikit-learn and NumPy that are known to be safe, got"
            f" {shown(foreign)}: save the linear classifier alone (pipe[-1], search.best_estimator_),"
            " and its inputs as features."
        )
    of_version = [str(each.message) for each in said if "InconsistentVersion" in each.category.__name__]
    try:
        return head_of_model(model, data, tuple(of_version[:1]))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
