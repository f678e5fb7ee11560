"""One private head on all members, for release, with its certificate."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import rich.console
from jaxtyping import Float, Int

from jaxmia._atomic import check_writable, replacing, write_json
from jaxmia._buckets import in_float32
from jaxmia._hashes import file_hash
from jaxmia._npz import read_npz
from jaxmia._progress import item_progress
from jaxmia._terminal import progress_console
from jaxmia._validate import InputError, check
from jaxmia.data.feature_set import DEMO_NAME, FeatureSet, load_features
from jaxmia.data.labels import truth
from jaxmia.data.normalization import Normalizer, normalized
from jaxmia.privacy.accounting import adjacency_for, delta_notes
from jaxmia.privacy.certificate import (
    LATTICE_BITS,
    SUFFIX,
    Certificate,
    opendp_epsilon,
    rho_of,
    zcdp_noise_multiplier,
)
from jaxmia.release.checks import check_release, declared_cell
from jaxmia.release.sums import import_opendp, lattice_sum, noisy, units_of
from jaxmia.studies.folder.manifest import versions
from jaxmia.studies.normalizer import given_normalizer
from jaxmia.studies.private_cells import private_settings
from jaxmia.studies.settings.experiment import ExperimentConfig
from jaxmia.studies.settings.toml import load_config
from jaxmia.training.linear import make_optimizer
from jaxmia.training.settings import Hyperparams, TrainConfig


@dataclasses.dataclass(frozen=True)
class Release:
    """A released head.

    Attributes:
        head: the file of the head.
        path: the file of the certificate.
        certificate: what it says.
        notes: what its releaser must know.
    """

    head: pathlib.Path
    path: pathlib.Path
    certificate: Certificate
    notes: tuple[str, ...]


def release_head(
    config: ExperimentConfig | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    epsilon: float,
    console: rich.console.Console | None = None,
    progress: bool = True,
) -> Release:
    """Train one head on all members with OpenDP's noise, and write it with its certificate.

    Members are the records of data.features that its key `member` marks, or all of them. grid.classes and grid.shots
    declare their number: sums are divided by S x C, never by a count. Each call spends epsilon again.

    Args:
        config: an experiment's settings or file: data, one number of classes and of shots, [train], [privacy]; the
            adjacency follows from shadows.design.
        out: a new .safetensors file; the certificate is written beside it.
        epsilon: target epsilon of the guarantee.
        console: console for progress; by default the notebook, or standard error if it is a terminal.
        progress: False to show no progress.

    Raises:
        InputError: for settings whose guarantee has no proof (jaxmia.release.checks), for bad files, or if OpenDP is
            not installed, before any training.
    """
    if not isinstance(config, ExperimentConfig):
        config = load_config(config)
    path = pathlib.Path(out)
    import_opendp()
    check_release(config, path)
    check_writable(path)
    data = load_features(config.data.features)
    cell = declared_cell(config, data, epsilon)
    # Chosen from public quantities: the recipe does not see the members.
    config = private_settings(config, data, cell)
    normalizer = given_normalizer(config.train, data)
    adjacency = adjacency_for(config.shadows.design)
    budget: dict[str, Any] = {
        "delta": config.privacy.delta,
        "steps": config.train.steps,
        "adjacency": adjacency,
    }
    noise = zcdp_noise_multiplier(epsilon=epsilon, **budget)
    clip = config.privacy.clipping_norm
    mechanism: dict[str, Any] = {"clipping_norm": clip, "lattice_bits": LATTICE_BITS, **budget}
    while (proved := opendp_epsilon(noise_multiplier=noise, **mechanism)) > epsilon:  # by rounding of either
        noise *= 1 + 1e-9
    members = _members(config, data)
    inputs = _inputs(config, members, normalizer)
    expected = cell.classes * cell.shots
    head = _trained(config, inputs, members, noise, expected, progress_console(console, progress))
    _write_head(path, head, intercept=config.train.intercept)
    certificate = Certificate(
        head_file=path.name,
        head_sha256=file_hash(path),
        recipe="class_means" if config.privacy.recipe != "given" and config.train.steps == 1 else "dp_sgd",
        unit="person" if config.privacy_unit == "person" else "record",
        epsilon=proved,
        rho=rho_of(noise, config.train.steps, adjacency),
        noise_multiplier=noise,
        classes=cell.classes,
        dim=members.features.shape[1],
        expected_members=expected,
        public_sha256=_public_hash(config),
        components=config.train.components if config.train.normalize in ("public", "random") else None,
        assumed_public=("classes and their names", "dimension", "S", "the extractor", "[train]"),
        versions={name: version for name, version in versions("opendp").items() if name in _NAMED},
        **_recipe(config),
        **mechanism,
    )
    beside = certificate_of(path)
    write_json(beside, certificate.model_dump(mode="json"))
    return Release(path, beside, certificate, tuple(delta_notes(config.privacy.delta, expected)))


_NAMED = ("jaxmia", "opendp", "numpy", "jax", "optax")


def certificate_of(head: pathlib.Path) -> pathlib.Path:
    """Return where the certificate of a head lies."""
    return head.with_name(head.name.removesuffix(".safetensors") + SUFFIX)


def _recipe(config: ExperimentConfig) -> dict[str, Any]:
    train = config.train
    names = ("optimizer", "schedule", "learning_rate", "momentum", "weight_decay", "intercept", "normalize")
    return {name: getattr(train, name) for name in names}


def _public_hash(config: ExperimentConfig) -> str | None:
    named = {"public": config.train.public, "standardize": config.train.statistics}
    path = named.get(config.train.normalize)
    return None if path is None else file_hash(path)


def _members(config: ExperimentConfig, data: FeatureSet) -> FeatureSet:
    """Return the records that the head is trained on: those that the key `member` marks, or all."""
    if config.data.features == DEMO_NAME:
        return data
    path = pathlib.Path(config.data.features)
    told = read_npz(path, name="features", required=(), optional=("member",)).get("member")
    if told is None:
        return data
    rows = np.flatnonzero(truth(told, f"{path}: member", len(data.labels)))
    check(rows.size > 0, f"{path}: members", 0, "be at least 1")
    person = None if data.person is None else data.person[rows]
    return dataclasses.replace(data, features=data.features[rows], labels=data.labels[rows], person=person)


def _inputs(
    config: ExperimentConfig, members: FeatureSet, normalizer: Normalizer | None
) -> Float[np.ndarray, "members inputs"]:
    """Return the head's inputs in float64, each record normalised by itself, with a constant 1 if there is a bias.

    A product of many rows rounds a row differently with other rows around it.
    """
    rows = []
    for row in range(len(members.labels)):
        one = dataclasses.replace(
            members,
            features=members.features[row : row + 1],
            labels=members.labels[row : row + 1],
            person=None,
        )
        rows.append(normalized(one, config.train.normalize, normalizer).features[0])
    features = np.array(rows, np.float64)
    return np.pad(features, ((0, 0), (0, 1)), constant_values=1.0) if config.train.intercept else features


@in_float32
def _trained(
    config: ExperimentConfig,
    inputs: Float[np.ndarray, "members inputs"],
    members: FeatureSet,
    noise_multiplier: float,
    expected_members: int,
    console: rich.console.Console | None,
) -> Float[np.ndarray, "classes inputs"]:
    """Return the head after all steps; only noisy sums of the members ever reach it."""
    train, classes = config.train, members.num_classes
    labels: Int[np.ndarray, "members"] = members.labels
    units = units_of(len(labels), members.person if config.privacy_unit == "person" else None)
    static = TrainConfig(
        train.optimizer, train.schedule, train.steps, private=True, intercept=train.intercept
    )
    optimizer = make_optimizer(Hyperparams(train.learning_rate, train.momentum), static)
    head = jnp.zeros((classes, inputs.shape[1]), jnp.float32)
    state = optimizer.init(head)
    decayed = jnp.ones(inputs.shape[1]).at[-1].set(0.0 if train.intercept else 1.0)
    clip = config.privacy.clipping_norm
    with item_progress(console, "private head", train.steps * len(units)) as advance:
        for _ in range(train.steps):
            total = lattice_sum(
                inputs,
                labels,
                np.asarray(head, np.float64),
                clipping_norm=clip,
                units=units,
                on_unit=lambda: advance(1),
            )
            mean = noisy(total, noise_multiplier=noise_multiplier, clipping_norm=clip) / expected_members
            # From here on all is post-processing.
            gradient = jnp.asarray(mean, jnp.float32) + train.weight_decay * head * decayed
            updates, state = optimizer.update(gradient, state)
            head = head + updates
    return np.asarray(head, np.float64)


def _write_head(path: pathlib.Path, head: Float[np.ndarray, "classes inputs"], *, intercept: bool) -> None:
    try:
        import safetensors.numpy
    except ImportError:
        raise InputError("A release needs safetensors: pip install 'jaxmia[release]'.") from None
    weight = np.ascontiguousarray(head[:, :-1] if intercept else head, np.float32)
    tensors = {"weight": weight} | ({"bias": head[:, -1].astype(np.float32)} if intercept else {})
    with replacing(path) as temporary:
        safetensors.numpy.save_file(tensors, temporary)
