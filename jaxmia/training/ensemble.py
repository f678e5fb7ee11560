"""Ensembles: many heads or networks, trained at once on different memberships."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxmia._buckets import in_float32, random_key
from jaxmia._shown import Shown
from jaxmia._validate import InputError, check, check_at_least
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.membership import MembershipMasks
from jaxmia.training.adapters.adapter import Adapter
from jaxmia.training.adapters.inputs import check_inputs
from jaxmia.training.chunks import train_in_chunks
from jaxmia.training.heads import Params
from jaxmia.training.network import Network
from jaxmia.training.persons import sorted_persons
from jaxmia.training.settings import Hyperparams, TrainConfig, check_class_weights, check_hyperparams
from jaxmia.training.size import EnsembleSize
from jaxmia.training.trainables import LinearHeads, trainable


@flax.struct.dataclass
class ShadowEnsemble(Shown):
    """Trained heads or networks, and their membership.

    Attributes:
        params: parameter tree; every leaf has the models on its first axis.
        masks: membership; row k belongs to model k of params.
        clipped_squares: float32[models, examples], sums over the steps of squared clipped gradient norms, if
            TrainConfig.odometer is set; else None.
        network: architecture of the models, or their adapter; None for linear heads.
        link: function from logits to probabilities, as in TrainConfig.
    """

    params: Params
    masks: MembershipMasks
    clipped_squares: Array | None = None
    network: Network | Adapter | None = flax.struct.field(pytree_node=False, default=None)
    link: str = flax.struct.field(pytree_node=False, default="softmax")

    __repr__ = Shown.__repr__

    def headline(self) -> str:
        """Return one line with the number and kind of models and the number of examples."""
        models, examples = self.masks.member.shape
        what = "adapters" if isinstance(self.network, Adapter) else "networks"
        kind = "linear heads" if self.network is None else f"{self.network.kind} {what}"
        return f"{models} {kind}, {examples} candidates"


@in_float32
def train_ensemble(
    key: jax.Array | int,
    pool: FeatureSet,
    masks: MembershipMasks,
    hyper: Hyperparams,
    config: TrainConfig,
    *,
    chunk_size: int | None = None,
    memory: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    on_chunk: Callable[[int], None] = lambda _: None,
) -> ShadowEnsemble:
    """Train one head, or one network, per row of masks, many at once.

    The key of the model with id i is fold_in(key, i), whatever its chunk, so chunking changes results only by rounding.
    Private training divides by q x inclusion_rate x examples, the expected batch, which is the same for all models.

    Args:
        key: random key, or seed, of the ensemble.
        pool: the candidates.
        masks: membership [models, examples].
        hyper: traced settings: scalars are shared by all models, arrays [models] hold one value for each.
        config: static settings.
        chunk_size: at most this many models at once; by default as many as fit in memory.
        memory: largest number of bytes to hold on each device; for the default see jaxmia.training.memory.capacity. If
            the logits of a few models do not fit, examples are processed in blocks.
        devices: devices that share the models of a chunk; by default all local ones.
        on_chunk: called after each chunk with its number of models.

    Raises:
        InputError: in these cases:

            - masks and pool disagree, or the batch is larger than the pool;
            - hyper does not fit config or the number of models;
            - not even one model fits into memory;
            - the key is not threefry, for a network or adapter, independent or Poisson batches, or private training;
            - the pool has no activations for an adapter, or has them for a head or network;
            - with privacy_unit "person": the pool has no person, a person has more records than
              privacy.accounting.MOST_RECORDS, or a model trains on only some records of a person.
    """
    key = random_key(key)
    _check(key, pool, masks, hyper, config)
    if chunk_size is not None:
        check_at_least("chunk_size", chunk_size, 1)
    if hyper.weight_decay is not None and not np.any(hyper.weight_decay):
        hyper = dataclasses.replace(hyper, weight_decay=None)
    devices = jax.local_devices() if devices is None else devices
    kind, order = trainable(config.network), None
    if config.privacy_unit == "person":
        kind = LinearHeads(by_person=True, intercept=config.intercept)
        order, pool, sorted_masks, most_records = _by_person(pool, masks)
    else:
        sorted_masks, most_records = masks, 1
    size = _size(pool, masks, hyper, num_devices=len(devices), records_per_person=most_records)
    trained = train_in_chunks(
        kind,
        key,
        pool,
        sorted_masks,
        hyper,
        config,
        kind.plan(config, memory, size),
        chunk_size=chunk_size,
        devices=devices,
        on_chunk=on_chunk,
    )
    squares = trained.clipped_squares
    if order is not None and squares is not None:
        squares = squares[:, np.argsort(order)]
    return ShadowEnsemble(trained.params, masks, squares, config.network, config.link)


def _size(
    pool: FeatureSet, masks: MembershipMasks, hyper: Hyperparams, *, num_devices: int, records_per_person: int
) -> EnsembleSize:
    num_models, num_examples = masks.member.shape
    counts = np.asarray(masks.member).sum(axis=1)
    return EnsembleSize(
        num_models=num_models,
        num_examples=num_examples,
        num_classes=pool.num_classes,
        dim=pool.features.shape[1],
        inclusion_rate=masks.inclusion_rate,
        input_shape=pool.input_shape,
        sampling_rate=float(np.max(hyper.sampling_rate)),
        members=(int(counts.min()), int(counts.max())),
        num_devices=num_devices,
        records_per_person=records_per_person,
        backbone=pool.backbone,
    )


def _by_person(
    pool: FeatureSet, masks: MembershipMasks
) -> tuple[np.ndarray, FeatureSet, MembershipMasks, int]:
    """The order of examples by person, pool and masks in it, and the most records of a person."""
    if pool.person is None:
        raise InputError("privacy_unit='person' needs the pool's person: whose record each example is.")
    order, whose = sorted_persons(pool.person, np.asarray(masks.member))
    moved = dataclasses.replace(
        pool, features=pool.features[order], labels=pool.labels[order], person=pool.person[order]
    )
    member = jnp.asarray(np.asarray(masks.member)[:, order])
    return order, moved, dataclasses.replace(masks, member=member), int(np.bincount(whose).max())


def _check(
    key: jax.Array, pool: FeatureSet, masks: MembershipMasks, hyper: Hyperparams, config: TrainConfig
) -> None:
    """Refuse bad arguments before anything compiles."""
    check_hyperparams(hyper, config)
    num_models, num_examples = masks.member.shape
    for value in jax.tree.leaves(hyper):
        rule = f"be one number or one for each of {num_models} models"
        check(np.shape(value) in ((), (num_models,)), "hyper", value, rule)
    if config.private or config.sampling != "shared" or config.network is not None:
        # With other generators a model's draws depend on the models that it is batched with.
        check(str(jax.random.key_impl(key)) == "threefry2x32", "key", key, "be a threefry2x32 key")
    rule = f"equal the pool's {len(pool.labels)}"
    check(num_examples == len(pool.labels), "masks.member.shape[1]", num_examples, rule)
    check_class_weights(config.class_weight, pool.num_classes)
    check_inputs(pool, config.network)


def join_ensembles(parts: Sequence[ShadowEnsemble]) -> ShadowEnsemble:
    """Return one ensemble of the models of all parts, in order; the parts must have the same membership design."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def empty_heads(pool: FeatureSet, *, num_models: int, network: Network | Adapter | None = None) -> Params:
    """Return heads or networks of zeros with the shapes of train_ensemble, as a template for loading checkpoints."""
    kind = trainable(network)
    init = functools.partial(kind.init, num_classes=pool.num_classes)
    one = dataclasses.replace(pool, features=pool.features[:1], labels=pool.labels[:1])
    shapes = jax.eval_shape(lambda key: init(key, kind.inputs(one)), jax.random.key(0))
    return jax.tree.map(lambda leaf: np.zeros((num_models, *leaf.shape), leaf.dtype), shapes)
