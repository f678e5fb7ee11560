"""Feature sets: what every model trains on. Load, save, check; choose classes and a candidate pool; normalise it."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import os
import pathlib
from collections.abc import Sequence

import flax.struct
import jax
import numpy as np
from jaxtyping import Float, Int

from jaxmia._files import replacing
from jaxmia._npz import read_npz
from jaxmia._text import printable
from jaxmia._validate import InputError, check, check_at_least, check_choice
from jaxmia.compilation import in_float32
from jaxmia.labels import class_places

DEMO_NAME = "demo"
NORMALIZATIONS = ("none", "unit", "standardize")
INPUTS = ("features", "raw")
_VOCABULARY_STEP = 512  # pools of another seed have about as many tokens: their bags share compiled programs
_DEMO_FILE = "demo_wordnet10.npz"


@flax.struct.dataclass
class FeatureSet:
    """Outputs of a frozen pretrained extractor, or what it was given, with class labels.

    Attributes:
        features: float32[examples, dim].
        labels: int32[examples], places among class_names.
        class_names: one name per class, in label order.
        input_shape: of an example that is not an extractor's output: (height, width, channels) of pixels in -1 .. 1, or
            (length,) of token ids in whole numbers, 0 for none; else ().
    """

    features: Float[np.ndarray, "examples dim"]
    labels: Int[np.ndarray, "examples"]
    class_names: tuple[str, ...] = flax.struct.field(pytree_node=False)
    input_shape: tuple[int, ...] = flax.struct.field(pytree_node=False, default=())

    @property
    def num_classes(self) -> int:
        """Number of classes, C."""
        return len(self.class_names)

    def content_hash(self) -> str:
        """SHA-256 of features (as little-endian float32), labels, class names, and the shape of raw inputs.

        Equal content, equal hash.
        """
        shapes = (self.features.shape, self.class_names, *([self.input_shape] if self.input_shape else []))
        digest = hashlib.sha256(repr(shapes).encode())
        digest.update(self.features.astype("<f4").tobytes())
        digest.update(self.labels.astype("<i4").tobytes())
        return digest.hexdigest()


@flax.struct.dataclass
class CandidatePool:
    """The candidates of one experiment cell and a disjoint test split.

    Attributes:
        data: pool_multiplier x shots examples of each class, ordered by class, relabelled 0 .. C - 1.
        test: examples of the same classes that no model trains on (possibly none).
        rows: int64[examples], where each candidate stands in the feature set it was drawn from.
    """

    data: FeatureSet
    test: FeatureSet
    rows: Int[np.ndarray, "examples"]


def feature_set(
    features: np.ndarray, labels: np.ndarray, class_names: Sequence[str] | None = None
) -> FeatureSet:
    """Check arrays and build a FeatureSet from them.

    Args:
        features: float16/float32/float64 [examples, dim]; computed with in float32.
        labels: [examples], values: what occurs are the classes, in sorted order, named by value. Whole numbers (also as
            1.0), strings or bools. With class_names, integers that are places among the names, or names.
        class_names: one name per class, all different.

    Raises:
        InputError: for wrong shapes or dtypes, features that are not finite, labels out of range.
    """
    features, labels = np.asarray(features), np.asarray(labels)
    check(
        features.ndim == 2 and features.size > 0,
        "features.shape",
        features.shape,
        "be [examples, dim], not empty",
    )
    check(
        np.issubdtype(features.dtype, np.floating), "features.dtype", str(features.dtype), "be floating point"
    )
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite here and is refused below
        features = features.astype(np.float32)
    bad_rows = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if bad_rows.size:
        raise InputError(
            f"features must be finite in float32, got {bad_rows.size} rows with NaN or infinite values"
            f" (first: {bad_rows[0]})."
        )
    places, names = class_places(labels, class_names, len(features))
    return FeatureSet(features, places, names)


def load_features(source: str | os.PathLike[str], *, inputs: str = "features") -> FeatureSet:
    """Load a feature set from an .npz file, or the bundled one by the name "demo".

    The file holds `features` (floating [examples, dim]), `labels` ([examples], as of feature_set), and optionally
    `class_names` (unicode [classes]) and `raw`, what the extractor was given. Pickled objects are never loaded.

    Args:
        source: the file.
        inputs: "features", or "raw" for what the extractor was given, as of raw_set.

    Raises:
        InputError: for a missing or unreadable file, a missing key, object arrays, or what feature_set or raw_set
            refuses.
    """
    check_choice("inputs", inputs, INPUTS)
    if str(source) == DEMO_NAME:
        check(
            inputs == "features",
            "inputs",
            inputs,
            "be 'features' for the bundled set, which has no raw inputs",
        )
        return demo_features()
    arrays = read_npz(
        pathlib.Path(source), name="features", required=(inputs, "labels"), optional=("class_names",)
    )
    names = arrays.get("class_names")
    build = feature_set if inputs == "features" else raw_set
    try:
        return build(arrays[inputs], arrays["labels"], None if names is None else _names(names))
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _names(names: np.ndarray) -> list[str]:
    check(names.ndim == 1, "class_names.shape", names.shape, "be [classes]")
    return [printable(name) for name in names.tolist()]


def raw_set(raw: np.ndarray, labels: np.ndarray, class_names: Sequence[str] | None = None) -> FeatureSet:
    """Check raw inputs and build a FeatureSet from them, whose input_shape says what they are.

    Args:
        raw: uint8 pixels [examples, height, width] or [examples, height, width, channels], mapped to x / 127.5 - 1: no
            statistic of the data moves them; or integer token ids [examples, length], padded by 0.
        labels: as of feature_set.
        class_names: as of feature_set.

    Raises:
        InputError: for another shape or dtype, token ids below 0 or above 2^24, or what feature_set refuses.
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
    return dataclasses.replace(feature_set(values, labels, class_names), input_shape=tuple(shape))


def save_features(path: str | os.PathLike[str], data: FeatureSet, *, dtype: str = "float32") -> None:
    """Write a feature set as a compressed .npz that load_features reads; replaces the file in one step.

    Args:
        path: the file; its folder must exist.
        data: the feature set.
        dtype: "float32", or "float16" for half the size at a relative error of up to 2^-11.
    """
    check_choice("dtype", dtype, ("float16", "float32"))
    with replacing(pathlib.Path(path)) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            features=data.features.astype(dtype),
            labels=data.labels,
            class_names=np.array(data.class_names),
        )


def demo_features() -> FeatureSet:
    """The bundled real feature set: 10 000 WordNet 3.0 noun glosses embedded with all-MiniLM-L6-v2, 10 classes x 1 000.

    The class is the noun's lexicographer file (artifact, person, plant, ...). Features are stored as int8 with a scale
    per dimension (relative error 0.9%). WordNet's licence stands beside the file in jaxmia/data.
    """
    with importlib.resources.as_file(importlib.resources.files("jaxmia") / "data" / _DEMO_FILE) as path:
        arrays = read_npz(path, name="features", required=("q", "scale", "labels", "class_names"))
    features = arrays["q"].astype(np.float32) * arrays["scale"]
    return feature_set(features, arrays["labels"], arrays["class_names"].tolist())


def choose_classes(data: FeatureSet, classes: int | Sequence[str]) -> tuple[int, ...]:
    """Labels of the chosen classes: the largest C (ties by label order), or the named ones, in label order.

    Raises:
        InputError: for fewer than 2 classes, more than the data have, or an unknown name.
    """
    if isinstance(classes, int):
        check_at_least("classes", classes, 2)
        counts = np.bincount(data.labels, minlength=data.num_classes)
        present = int((counts > 0).sum())
        check(classes <= present, "classes", classes, f"be at most {present}, the classes that have examples")
        return tuple(sorted(int(label) for label in np.argsort(-counts, kind="stable")[:classes]))
    check(len(set(classes)) >= 2, "classes", list(classes), "name at least 2 different classes")
    for name in classes:
        check_choice("classes", name, data.class_names)
    return tuple(sorted({data.class_names.index(name) for name in classes}))


def check_candidates(
    data: FeatureSet, *, classes: int | Sequence[str], shots: int, multiplier: int = 2
) -> tuple[int, ...]:
    """Return the labels that candidate_pool would choose, if the data have enough examples; nothing is drawn.

    Raises:
        InputError: naming the class and its count, if one has fewer than multiplier x shots examples.
    """
    check_at_least("shots", shots, 1)
    check_at_least("multiplier", multiplier, 2)
    chosen = choose_classes(data, classes)
    counts = np.bincount(data.labels, minlength=data.num_classes)
    for label in chosen:
        if counts[label] < multiplier * shots:
            raise InputError(
                f"shots={shots} needs {multiplier} x {shots} = {multiplier * shots} examples of each class,"
                f" but class {data.class_names[label]!r} has {counts[label]}."
            )
    return chosen


@in_float32
def candidate_pool(
    data: FeatureSet,
    *,
    classes: int | Sequence[str],
    shots: int,
    multiplier: int = 2,
    key: jax.Array,
    test_per_class: int = 200,
) -> CandidatePool:
    """Choose classes, a pool of multiplier x shots candidates of each, and a disjoint test split.

    With one key, the pool of a smaller number of shots is a subset of a larger one's, so that a curve over shots
    compares like with like.

    Args:
        data: where candidates are drawn from.
        classes: how many classes (the largest are taken), or their names.
        shots: S, training examples per class of each model.
        multiplier: m; a model trains on 1/m of the pool.
        key: random key of the draw.
        test_per_class: at most this many test examples of each class, from what the pool leaves.

    Raises:
        InputError: naming the class and its count, if one has fewer than multiplier x shots examples.
    """
    check_at_least("test_per_class", test_per_class, 0)
    chosen = check_candidates(data, classes=classes, shots=shots, multiplier=multiplier)
    needed = multiplier * shots
    pool_rows, test_rows = [], []
    for label in chosen:
        members = np.flatnonzero(data.labels == label)
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, label), members.size))
        pool_rows.append(members[order[:needed]])
        test_rows.append(members[order[max(needed, members.size - test_per_class) :]])
    rows = np.concatenate(pool_rows).astype(np.int64)
    return CandidatePool(_take(data, rows, chosen), _take(data, np.concatenate(test_rows), chosen), rows)


def _take(data: FeatureSet, rows: np.ndarray, chosen: Sequence[int]) -> FeatureSet:
    labels = np.searchsorted(np.array(chosen), data.labels[rows]).astype(np.int32)
    names = tuple(data.class_names[label] for label in chosen)
    return FeatureSet(data.features[rows], labels, names, data.input_shape)


def bag_of_tokens(pool: CandidatePool) -> CandidatePool:
    """Replace token ids by how often each token stands in an example, by the norm of these counts.

    A first layer over them is a table of embeddings, of which every example takes a weighted sum. The tokens are those
    of the candidates, members and non-members alike; others, which the test split alone has, are dropped. Columns of
    no token fill up a multiple of 512.

    Args:
        pool: of token ids.
    """
    vocabulary = np.unique(pool.data.features)
    vocabulary = vocabulary[vocabulary > 0]
    columns = -(-len(vocabulary) // _VOCABULARY_STEP) * _VOCABULARY_STEP

    def counted(data: FeatureSet) -> FeatureSet:
        places = np.minimum(np.searchsorted(vocabulary, data.features), len(vocabulary) - 1)
        examples, slots = np.nonzero(vocabulary[places] == data.features)
        counts = np.zeros((len(data.labels), columns), np.float32)
        np.add.at(counts, (examples, places[examples, slots]), 1)
        return unit_norm(dataclasses.replace(data, features=counts, input_shape=()))

    return CandidatePool(counted(pool.data), counted(pool.test), pool.rows)


@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
    """What features are standardised by.

    Attributes:
        mean: float64[dim].
        scale: float64[dim], what the centred features are divided by: a deviation; 0 for a dead dimension.
    """

    mean: Float[np.ndarray, "dim"]
    scale: Float[np.ndarray, "dim"]

    def content_hash(self) -> str:
        """SHA-256 of both arrays, as little-endian float64."""
        digest = hashlib.sha256()
        for array in (self.mean, self.scale):
            digest.update(array.astype("<f8").tobytes())
        return digest.hexdigest()


def feature_statistics(features: Float[np.ndarray, "examples dim"]) -> FeatureStatistics:
    """Mean and deviation of each dimension over all examples given, in float64.

    A dimension whose values lie within a few steps of float32 is constant but for rounding: dead, its scale 0.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    scale = features.std(axis=0, dtype=np.float64)
    steps = 4 * float(np.finfo(np.float32).eps) * np.abs(features).max(axis=0)
    return FeatureStatistics(mean, np.where(np.ptp(features, axis=0) > steps, scale, 0.0))


def load_statistics(path: str | os.PathLike[str], *, dim: int) -> FeatureStatistics:
    """Load statistics from an .npz with `mean` and `scale`, both floating [dim]; scale 0 leaves a dimension at zero.

    Args:
        path: the file.
        dim: of the features that they are for.

    Raises:
        InputError: for a missing or unreadable file, a missing key, another shape, values that are not finite, or a
            negative scale.
    """
    arrays = read_npz(pathlib.Path(path), name="statistics", required=("mean", "scale"))
    for name, array in arrays.items():
        rule = f"be [{dim}], as the features have"
        check(array.shape == (dim,), f"{path}: {name}.shape", array.shape, rule)
        floating = np.issubdtype(array.dtype, np.floating)
        check(floating, f"{path}: {name}.dtype", str(array.dtype), "be floating point")
        check(np.isfinite(array).all(), f"{path}: {name}", "not finite", "be finite")
    check((arrays["scale"] >= 0).all(), f"{path}: scale", float(arrays["scale"].min()), "be 0 or more")
    return FeatureStatistics(arrays["mean"].astype(np.float64), arrays["scale"].astype(np.float64))


def standardized(data: FeatureSet, statistics: FeatureStatistics) -> FeatureSet:
    """(x - mean) / scale / sqrt(dim), computed in float64; dead dimensions (scale 0) become zero.

    By the data's own statistics the mean square norm is the share of dimensions that live: about 1, what learning
    rates and clipping norms are chosen for.
    """
    live = statistics.scale > 0
    divisor = np.where(live, statistics.scale, 1.0) * np.sqrt(data.features.shape[1])
    features = ((data.features - statistics.mean) / divisor * live).astype(np.float32)
    return dataclasses.replace(data, features=features)


def unit_norm(data: FeatureSet) -> FeatureSet:
    """Every example by its own norm, computed in float64; a zero stays zero."""
    norms = np.linalg.norm(data.features.astype(np.float64), axis=1, keepdims=True)
    features = (data.features / np.where(norms > 0, norms, 1.0)).astype(np.float32)
    return dataclasses.replace(data, features=features)


def in_span(
    features: Float[np.ndarray, "examples dim"],
) -> tuple[Float[np.ndarray, "examples examples"], Float[np.ndarray, "examples dim"]]:
    """Coordinates of the examples in an orthonormal basis of their span, and that basis."""
    directions, coordinates = np.linalg.qr(features.T.astype(np.float64))
    return coordinates.T.astype(np.float32), directions.T.astype(np.float32)


def normalized_pool(
    pool: CandidatePool, how: str, statistics: FeatureStatistics | None = None
) -> CandidatePool:
    """Normalise candidates and test split alike.

    Whose data the statistics see: all candidates of the pool, members and non-members of any model alike, and no test
    example. So every model of a cell trains on the same features and membership is not given away by them, but a
    candidate moves them a little whether it is a member or not. An (epsilon, delta) of DP-SGD is that of training on
    the features as they are: statistics of private data would have to be paid for, given ones (of public data) not.

    Args:
        pool: as of candidate_pool.
        how: "none"; "unit" (each example by its own norm); or "standardize" (each dimension, as in standardized).
        statistics: to standardise by; by default those of the pool's candidates.

    Raises:
        InputError: for another word.
    """
    check_choice("normalize", how, NORMALIZATIONS)
    if how == "none":
        return pool
    if how == "unit":
        return CandidatePool(unit_norm(pool.data), unit_norm(pool.test), pool.rows)
    statistics = statistics or feature_statistics(pool.data.features)
    return CandidatePool(standardized(pool.data, statistics), standardized(pool.test, statistics), pool.rows)
