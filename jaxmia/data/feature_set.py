"""Feature sets: features with labels, or raw inputs. Read, checked, hashed and saved."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import os
import pathlib
from collections.abc import Sequence

import flax.struct
import numpy as np
from jaxtyping import Float, Int

from jaxmia._atomic import replacing
from jaxmia._npz import read_npz
from jaxmia._shown import Shown
from jaxmia._text import printable
from jaxmia._validate import InputError, check, check_choice
from jaxmia.data.activations import features_file, read_activations
from jaxmia.data.backbone import Backbone
from jaxmia.data.labels import class_places
from jaxmia.data.persons import checked_persons

DEMO_NAME = "demo"
IN_MEMORY = "in memory"  # where settings name a file, and there is none
INPUTS = ("features", "raw", "activations")
_DEMO_FILE = "demo_wordnet10.npz"
_HASHED = 4096  # examples


@flax.struct.dataclass
class FeatureSet(Shown):
    """Outputs of a frozen pretrained extractor, or its raw inputs, with class labels.

    Attributes:
        features: float32[examples, dim]; for adapters float16, of the inputs' shape once reshaped.
        labels: int32[examples], indices into class_names.
        class_names: one name per class, in label order.
        input_shape: shape of one raw input: (height, width, channels) of pixels in -1 .. 1, or (length,) of token ids,
            whole numbers with 0 as padding; (tokens, 1 + dim) of a mask and activations, for adapters; () for an
            extractor's outputs.
        person: integers or strings [examples], the person of each example; None if the persons are not known.
        backbone: transformer that adapters are trained inside, if these are its inputs or activations; else None.
    """

    features: Float[np.ndarray, "examples dim"]
    labels: Int[np.ndarray, "examples"]
    class_names: tuple[str, ...] = flax.struct.field(pytree_node=False)
    input_shape: tuple[int, ...] = flax.struct.field(pytree_node=False, default=())
    person: np.ndarray | None = flax.struct.field(pytree_node=False, default=None)
    backbone: Backbone | None = flax.struct.field(pytree_node=False, default=None)

    __repr__ = Shown.__repr__

    def headline(self) -> str:
        """Return one line with sizes."""
        persons = "" if self.person is None else f", {len(np.unique(self.person))} persons"
        what = f"dimension {self.features.shape[1]}"
        if self.backbone is not None:
            what = f"inputs of block {self.backbone.frozen} of {self.backbone.name or 'a transformer'}"
        return f"{len(self.labels)} examples, {what}, {self.num_classes} classes{persons}"

    @property
    def num_classes(self) -> int:
        """Number of classes, C."""
        return len(self.class_names)

    def content_hash(self) -> str:
        """SHA-256 of features (as little-endian float32), labels, class names, shape of inputs, persons, and backbone.

        Equal contents have equal hashes.
        """
        shapes = (self.features.shape, self.class_names, *([self.input_shape] if self.input_shape else []))
        digest = hashlib.sha256(repr(shapes).encode())
        for start in range(0, len(self.features), _HASHED):  # activations may be larger than memory
            digest.update(self.features[start : start + _HASHED].astype("<f4").tobytes())
        digest.update(self.labels.astype("<i4").tobytes())
        if self.person is not None:
            digest.update(repr(("person", self.person.tolist())).encode())
        if self.backbone is not None:
            digest.update(repr(("backbone", self.backbone.content_hash)).encode())
        return digest.hexdigest()


def feature_set(
    features: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str] | None = None,
    *,
    person: np.ndarray | None = None,
) -> FeatureSet:
    """Check arrays and build a FeatureSet from them.

    Args:
        features: float16/float32/float64 [examples, dim], converted to float32.
        labels: [examples]: whole numbers (also as 1.0), strings or bools. The distinct values, sorted, are the classes
            and name them. With class_names: indices into the names, or names.
        class_names: one name per class, all different.
        person: [examples], integers or strings, the person of each example; a person may have several.

    Raises:
        InputError: for wrong shapes or dtypes, features that are not finite, labels out of range, persons that are
            missing or empty.
    """
    features, labels = np.asarray(features), np.asarray(labels)
    check(
        features.ndim == 2 and features.size > 0,
        "features.shape",
        features.shape,
        "be [examples, dim], not empty"
        + (": give features.reshape(len(features), -1)" if features.ndim > 2 and features.size else ""),
    )
    numbers = ": give features.astype('float32')" if features.dtype.kind in "iu" else ""
    check(
        np.issubdtype(features.dtype, np.floating),
        "features.dtype",
        str(features.dtype),
        f"be floating point{numbers}",
    )
    # float64 values beyond float32 become infinite here and are refused below.
    with np.errstate(over="ignore"):
        features = features.astype(np.float32)
    bad_rows = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if bad_rows.size:
        raise InputError(
            f"features must be finite in float32, got {bad_rows.size} rows with NaN or infinite values"
            f" (first: {bad_rows[0]})."
        )
    places, names = class_places(labels, class_names, len(features))
    whose = None if person is None else checked_persons(person, len(features))
    return FeatureSet(features, places, names, person=whose)


def load_features(source: str | os.PathLike[str], *, inputs: str = "features") -> FeatureSet:
    """Load a feature set from an .npz file, or the bundled one by the name "demo".

    The file holds `features` (floating [examples, dim]), `labels` ([examples], as of feature_set), and optionally
    `class_names` (unicode [classes]), `person` ([examples], the person of each) and `raw`, the extractor's inputs.
    Never loads pickled objects.

    Args:
        source: the file, or a folder of activations, whose features.npz has the features.
        inputs: "features", "raw" for the extractor's inputs (see raw_set), or "activations", of such a folder.

    Raises:
        InputError: for a missing or unreadable file, a missing key, object arrays, or arrays that feature_set or
            raw_set refuses.
    """
    check_choice("inputs", inputs, INPUTS)
    if str(source) == DEMO_NAME:
        check(
            inputs == "features",
            "inputs",
            inputs,
            "be 'features' for the bundled set, which has no raw inputs and no activations",
        )
        return demo_features()
    if inputs == "activations":
        return _activations(pathlib.Path(source))
    arrays = read_npz(
        features_file(source),
        name="features",
        required=(inputs, "labels"),
        optional=("class_names", "person"),
    )
    names = arrays.get("class_names")
    build = feature_set if inputs == "features" else raw_set
    try:
        return build(
            arrays[inputs],
            arrays["labels"],
            None if names is None else _names(names),
            person=arrays.get("person"),
        )
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _activations(path: pathlib.Path) -> FeatureSet:
    """Return the inputs of adapters for the examples of a folder's features."""
    if features_file(path) == path:
        raise InputError(
            f"features={str(path)!r} must be a folder that `jaxmia extract --activations K` wrote: adapters are trained"
            " on activations, not on features."
        )
    data = load_features(path)
    found = read_activations(path, len(data.labels))
    rows = np.asarray(found.rows).astype(np.float32) if found.rows.dtype.kind in "iu" else found.rows
    features = rows.reshape(len(rows), -1)
    return dataclasses.replace(
        data, features=features, input_shape=found.rows.shape[1:], backbone=found.backbone
    )


def _names(names: np.ndarray) -> list[str]:
    check(names.ndim == 1, "class_names.shape", names.shape, "be [classes]")
    return [printable(name) for name in names.tolist()]


def raw_set(
    raw: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str] | None = None,
    *,
    person: np.ndarray | None = None,
) -> FeatureSet:
    """Check raw inputs and build a FeatureSet from them, with the input_shape of pixels or token ids.

    Args:
        raw: uint8 pixels [examples, height, width] or [examples, height, width, channels], mapped to x / 127.5 - 1
            without statistics of the data; or integer token ids [examples, length], padded by 0.
        labels: as of feature_set.
        class_names: as of feature_set.
        person: as of feature_set.

    Raises:
        InputError: for another shape or dtype, token ids below 0 or above 2^24, or arrays that feature_set refuses.
    """
    raw, labels = np.asarray(raw), np.asarray(labels)
    shapes = "be token ids [examples, length] or pixels [examples, height, width(, channels)], not empty"
    check(raw.ndim in (2, 3, 4) and raw.size > 0, "raw.shape", raw.shape, shapes)
    if raw.ndim == 2:
        check(
            np.issubdtype(raw.dtype, np.integer), "raw.dtype", str(raw.dtype), "be an integer type: token ids"
        )
        for value in (int(raw.min()), int(raw.max())):
            check(0 <= value <= 2**24, "raw", value, "hold token ids in 0..2^24, which float32 represents")
        shape, values = raw.shape[1:], raw.astype(np.float32)
    else:
        check(raw.dtype == np.uint8, "raw.dtype", str(raw.dtype), "be uint8: pixels")
        shape = raw.shape[1:] if raw.ndim == 4 else (*raw.shape[1:], 1)
        values = raw.reshape(len(raw), -1).astype(np.float32) / np.float32(127.5) - np.float32(1)
    found = feature_set(values, labels, class_names, person=person)
    return dataclasses.replace(found, input_shape=tuple(shape))


def check_given(name: str, data: object, *, inputs: str) -> None:
    """Check a feature set that is given in memory, where settings would name a file.

    Args:
        name: of the argument.
        data: what is given.
        inputs: what is trained on, one of INPUTS.

    Raises:
        InputError: for anything but a FeatureSet, or one of the other inputs.
    """
    if not isinstance(data, FeatureSet):
        raise InputError(
            f"{name} must be a FeatureSet, got {type(data).__name__}: jm.feature_set(features, labels) makes one."
        )
    check_choice("inputs", inputs, INPUTS)
    held = "raw" if data.input_shape else "features"
    held = held if data.backbone is None else "activations"
    rule = f"be {held!r}, which is what the feature set in memory holds"
    check(inputs == held, f"inputs for {name}", inputs, rule)


def save_features(data: FeatureSet, path: str | os.PathLike[str], *, dtype: str = "float32") -> None:
    """Write a feature set as a compressed .npz that load_features reads; replaces the file in one step.

    Args:
        data: the feature set.
        path: the file; its folder must exist.
        dtype: "float32", or "float16" for half the size at a relative error of up to 2^-11.

    Raises:
        InputError: if the arguments are in the order of version 0.1 (path first), or for another dtype.
    """
    check(
        isinstance(data, FeatureSet),
        "data",
        type(data).__name__,
        "be a FeatureSet: save_features(data, path)",
    )
    check_choice("dtype", dtype, ("float16", "float32"))
    arrays = {"features": data.features.astype(dtype), "labels": data.labels}
    arrays["class_names"] = np.array(data.class_names)
    if data.person is not None:
        arrays["person"] = data.person
    with replacing(pathlib.Path(path)) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def demo_features() -> FeatureSet:
    """Return the bundled real feature set: 10 000 WordNet 3.0 noun glosses embedded with all-MiniLM-L6-v2.

    There are 10 classes with 1 000 examples each: the noun's lexicographer file (artifact, person, plant, ...).
    Features are float32[10000, 384], stored as int8 with a scale per dimension (relative error 0.9%). WordNet's licence
    is next to the file in jaxmia/data.
    """
    with importlib.resources.as_file(importlib.resources.files("jaxmia") / "data" / _DEMO_FILE) as path:
        arrays = read_npz(path, name="features", required=("q", "scale", "labels", "class_names"))
    features = arrays["q"].astype(np.float32) * arrays["scale"]
    return feature_set(features, arrays["labels"], arrays["class_names"].tolist())
