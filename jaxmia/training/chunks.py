"""The only vmap over models: keys, chunks that fit into memory, and devices that share the models of a chunk."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.membership import MembershipMasks
from jaxmia.training.linear import batch_order
from jaxmia.training.settings import Hyperparams, TrainConfig
from jaxmia.training.trainables import Inputs, Plan, Trainable, Trained

_MODELS = "models"  # name of the axis of the device mesh


def train_in_chunks(
    kind: Trainable[Any],
    key: jax.Array,
    pool: FeatureSet,
    masks: MembershipMasks,
    hyper: Hyperparams,
    config: TrainConfig,
    plan: Plan,
    *,
    chunk_size: int | None,
    devices: Sequence[jax.Device],
    on_chunk: Callable[[int], None],
) -> Trained:
    """Train one model of a kind per row of masks, as planned; for arguments see train_ensemble.

    Returns:
        All models; every leaf has the models on its first axis.
    """
    member, settings = np.asarray(masks.member), jax.tree.leaves(hyper)
    num_models, num_examples = member.shape
    size = _even_size(num_models, chunk_size or plan.models * len(devices), len(devices))
    mesh = jax.sharding.Mesh(np.array(devices), (_MODELS,))
    by_model, for_all = jax.NamedSharding(mesh, jax.P(_MODELS)), jax.NamedSharding(mesh, jax.P())
    padding = plan.examples - num_examples
    prepared, finished = kind.prepared(pool, plan)
    inputs, labels = jax.device_put((prepared, np.pad(pool.labels, (0, padding))), for_all)
    chunks = []
    for start in range(0, num_models, size):
        rows = np.minimum(
            np.arange(start, start + size), num_models - 1
        )  # the last chunk repeats its last model
        own = [
            jax.device_put(np.asarray(value)[rows], by_model) if np.ndim(value) else value
            for value in settings
        ]
        some = np.pad(member[rows], ((0, 0), (0, padding)))
        params, squares = _train_chunk(
            key,
            *jax.device_put((masks.model_ids[rows], some), by_model),
            inputs,
            labels,
            jax.tree.unflatten(jax.tree.structure(hyper), own),
            num_examples=num_examples,
            expected_members=masks.inclusion_rate * num_examples,
            kind=kind,
            plan=dataclasses.replace(cast(Any, plan), models=size),
            num_classes=pool.num_classes,
            config=config,
        )
        squares = None if squares is None else squares[:, :num_examples]
        trained = jax.block_until_ready(Trained(finished(params), squares))
        kept = min(size, num_models - start)
        chunks.append(jax.tree.map(lambda leaf, kept=kept: leaf[:kept], trained))
        on_chunk(kept)
    return cast(Trained, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *chunks))


def _even_size(num_models: int, most: int, num_devices: int) -> int:
    """Return the chunk size, a multiple of the devices: equal chunks share one program and need little padding."""
    size = -(-num_models // -(-num_models // most))
    return -(-size // num_devices) * num_devices


@functools.partial(jax.jit, static_argnames=("kind", "plan", "num_classes", "config"))
def _train_chunk(
    key: jax.Array,
    model_ids: Array,
    member: Array,
    inputs: Inputs,
    labels: Array,
    hyper: Hyperparams,
    *,
    num_examples: int | Array,
    expected_members: float | Array,
    kind: Trainable[Any],
    plan: Plan,
    num_classes: int,
    config: TrainConfig,
) -> Trained:
    """Train the models of one chunk; key is the ensemble's key."""
    order, share = None, cast(float | Array, 1.0)
    draw = functools.partial(batch_order, batch=plan.batch or 0, steps=config.steps, shuffles=plan.shuffles)
    if plan.batch is not None and config.shares_order:
        # 2^31 - 1 is no model's id, so the shared batch order has its own random stream.
        order_key = jax.random.fold_in(key, np.iinfo(np.int32).max)
        order = draw(order_key, jnp.arange(plan.examples) < num_examples)
        share = plan.batch / num_examples
    settings, layout = jax.tree.flatten(hyper)

    def one(model_id: Array, row: Array, own_settings: list[Array]) -> Trained:
        training_key, order_key = kind.keys(jax.random.fold_in(key, model_id))
        return kind.train(
            training_key,
            row,
            inputs,
            labels,
            draw(order_key, row) if config.sampling == "independent" else order,
            plan=plan,
            num_classes=num_classes,
            hyper=jax.tree.unflatten(layout, own_settings),
            config=config,
            share=share,
            expected_members=expected_members,
        )

    axes = [0 if jnp.ndim(value) else None for value in settings]
    return jax.vmap(one, in_axes=(0, 0, axes))(model_ids, member, settings)
