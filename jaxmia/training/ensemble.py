"""Many heads at once: the one vmap over models, their keys, and chunks that fit in memory."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxmia._buckets import in_float32
from jaxmia._validate import check, check_at_least
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.membership import MembershipMasks
from jaxmia.data.normalization import in_span
from jaxmia.training.from_scratch import train_networks
from jaxmia.training.heads import LinearHead, Params
from jaxmia.training.linear import batch_order, train_head
from jaxmia.training.network import Network
from jaxmia.training.plan import Formulation, formulate
from jaxmia.training.settings import Hyperparams, TrainConfig, check_class_weights, check_hyperparams

_MODELS = "models"  # the axis of the mesh of devices


@flax.struct.dataclass
class ShadowEnsemble:
    """Trained heads and the membership each was trained under.

    Attributes:
        params: parameter tree; every leaf has the models on its first axis.
        masks: row k belongs to model k of params.
        clipped_squares: float32[models, examples], sums over the steps of squared clipped gradient norms, if
            TrainConfig.odometer asked for them.
        network: what the parameters are of; None for linear heads.
        link: from the logits to probabilities, as of TrainConfig.
    """

    params: Params
    masks: MembershipMasks
    clipped_squares: Array | None = None
    network: Network | None = flax.struct.field(pytree_node=False, default=None)
    link: str = flax.struct.field(pytree_node=False, default="softmax")


@in_float32
def train_ensemble(
    key: jax.Array,
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
    """Train one head, or one network, per row of masks, side by side.

    Model i's key is fold_in(key, i) with its id, never its chunk, so that chunking changes nothing beyond rounding.
    Private training divides by q x inclusion_rate x examples, the expected batch, which is the same for all models.

    Args:
        key: random key of the ensemble.
        pool: the candidates.
        masks: membership [models, examples].
        hyper: traced settings: scalars are shared by all models, arrays [models] hold one value for each.
        config: static settings.
        chunk_size: at most this many models at once; by default as many as fit in memory.
        memory: bytes that training may hold on each device, as in jaxmia.training.memory.plan, which has the default.
            Where the logits of a few models do not fit, examples are taken in blocks.
        devices: the models of a chunk are spread over these; by default all local ones. Networks train on the first.
        on_chunk: called with the number of models each time a chunk is done.

    Raises:
        InputError: if masks and pool disagree, the batch is larger than the pool, hyper does not fit config or the
            number of models, memory holds no model, or networks, independent or Poisson batches or private training are
            given a key other than threefry.
    """
    check_hyperparams(hyper, config)
    if hyper.weight_decay is not None and not np.any(hyper.weight_decay):
        hyper = dataclasses.replace(hyper, weight_decay=None)
    settings, layout = jax.tree.flatten(hyper)
    for value in settings:
        rule = f"be one number or one for each of {masks.member.shape[0]} models"
        check(np.shape(value) in ((), masks.member.shape[:1]), "hyper", value, rule)
    if config.private or config.sampling != "shared":
        # Other generators give a model other draws when it is batched with other models.
        check(str(jax.random.key_impl(key)) == "threefry2x32", "key", key, "be a threefry2x32 key")
    num_models, num_examples = masks.member.shape
    check(
        num_examples == len(pool.labels),
        "masks.member.shape[1]",
        num_examples,
        f"equal the pool's {len(pool.labels)}",
    )
    check_class_weights(config.class_weight, pool.num_classes)
    devices = jax.local_devices() if devices is None else devices
    if chunk_size is not None:
        check_at_least("chunk_size", chunk_size, 1)
    if config.network is not None:
        limits = {"chunk_size": chunk_size, "memory": memory}
        with jax.default_device(devices[0]):
            networks = train_networks(key, pool, masks, hyper, config, **limits, on_chunk=on_chunk)
        return ShadowEnsemble(networks, masks, network=config.network)
    member = np.asarray(masks.member)
    counts = member.sum(axis=1)
    chosen = formulate(
        config,
        memory,
        num_models=num_models,
        num_examples=num_examples,
        num_classes=pool.num_classes,
        dim=pool.features.shape[1],
        inclusion_rate=masks.inclusion_rate,
        sampling_rate=float(np.max(hyper.sampling_rate)),
        members=(int(counts.min()), int(counts.max())),
        num_devices=len(devices),
    )
    if chunk_size is None:
        chunk_size = chosen.models * len(devices)
    num_chunks = -(-num_models // chunk_size)
    size = -(-num_models // num_chunks)  # even chunks: one compiled shape, little padding
    size = -(-size // len(devices)) * len(devices)
    mesh = jax.sharding.Mesh(np.array(devices), (_MODELS,))
    by_model, for_all = jax.NamedSharding(mesh, jax.P(_MODELS)), jax.NamedSharding(mesh, jax.P())
    coordinates, directions = in_span(pool.features) if chosen.span else (pool.features, None)
    padded = np.zeros((chosen.examples, chosen.dim), coordinates.dtype)
    padded[:num_examples, : coordinates.shape[1]] = coordinates
    padding = chosen.examples - num_examples
    features, labels = jax.device_put((padded, np.pad(pool.labels, (0, padding))), for_all)
    # 2^31 - 1 is no model's id: the shared order has a stream of its own.
    order_key = jax.random.fold_in(key, np.iinfo(np.int32).max)
    chunks = []
    for start in range(0, num_models, size):
        rows = np.minimum(
            np.arange(start, start + size), num_models - 1
        )  # the last chunk repeats its last model
        some = np.pad(member[rows], ((0, 0), (0, padding)))
        own = [
            jax.device_put(np.asarray(value)[rows], by_model) if np.ndim(value) else value
            for value in settings
        ]
        params, squares = _train_chunk(
            key,
            order_key,
            *jax.device_put((masks.model_ids[rows], some), by_model),
            features,
            labels,
            jax.tree.unflatten(layout, own),
            num_examples=num_examples,
            expected_members=masks.inclusion_rate * num_examples,
            formulation=dataclasses.replace(chosen, models=size),
            num_classes=pool.num_classes,
            config=config,
        )
        if directions is not None:
            kernel = params["params"]["kernel"][..., :num_examples]
            params["params"]["kernel"] = jnp.einsum(
                "mce,ed->mcd", kernel, directions, precision=jax.lax.Precision.HIGHEST
            )
        kept = min(size, num_models - start)
        squares = None if squares is None else squares[:, :num_examples]
        trained = jax.block_until_ready((params, squares))
        chunks.append(jax.tree.map(lambda leaf, kept=kept: leaf[:kept], trained))
        on_chunk(kept)
    params, squares = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *chunks)
    return ShadowEnsemble(params, masks, squares, link=config.link)


def join_ensembles(parts: Sequence[ShadowEnsemble]) -> ShadowEnsemble:
    """One ensemble of the models of all parts, in their order; they must share one membership design."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def empty_heads(pool: FeatureSet, *, num_models: int, network: Network | None = None) -> Params:
    """Heads or networks at zero in the shapes that train_ensemble gives: a template to load checkpoints into."""
    inputs: Any = pool.features[:1]
    init: Callable[..., Params] = LinearHead(pool.num_classes).init
    if network is not None:
        inputs = network.inputs(jnp.asarray(inputs), pool.input_shape)
        init = functools.partial(network.init, num_classes=pool.num_classes)
    shapes = jax.eval_shape(init, jax.random.key(0), inputs)
    return jax.tree.map(lambda leaf: np.zeros((num_models, *leaf.shape), leaf.dtype), shapes)


@functools.partial(jax.jit, static_argnames=("formulation", "num_classes", "config"))
def _train_chunk(
    key: jax.Array,
    order_key: jax.Array,
    model_ids: Array,
    member: Array,
    features: Array,
    labels: Array,
    hyper: Hyperparams,
    *,
    num_examples: int | Array,
    expected_members: float | Array,
    formulation: Formulation,
    num_classes: int,
    config: TrainConfig,
) -> tuple[Params, Array | None]:
    batch, order, share = formulation.batch, None, cast(float | Array, 1.0)
    draw = functools.partial(batch_order, batch=batch or 0, steps=config.steps, shuffles=formulation.shuffles)
    if batch is not None and config.shares_order:
        order = draw(order_key, jnp.arange(formulation.examples) < num_examples)
        share = batch / num_examples

    settings, layout = jax.tree.flatten(hyper)

    def one(model_id: Array, row: Array, own_settings: list[Array]) -> tuple[Params, Array | None]:
        model_key = jax.random.fold_in(key, model_id)
        own = draw(model_key, row) if config.sampling == "independent" else order
        return train_head(
            model_key,
            row,
            features,
            labels,
            own,
            num_classes=num_classes,
            hyper=jax.tree.unflatten(layout, own_settings),
            config=config,
            expected_members=expected_members,
            share=share,
            gathered=formulation.gathered,
            block=formulation.block,
        )

    axes = [0 if jnp.ndim(value) else None for value in settings]
    return jax.vmap(one, in_axes=(0, 0, axes))(model_ids, member, settings)
