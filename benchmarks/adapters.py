"""Adapters side by side: operations, seconds and memory of a step, and the same one model after another in torch.

The network has MiniLM's sizes (6 blocks, 384 wide, 12 heads) and random weights, which cost what trained ones do. A
step is the gradient of --examples texts of --tokens tokens for each model, with FiLM adapters: of all blocks (full
depth), or of the last block over activations that are computed once (last block).

- "GFLOP" (its loop over blocks times their number) and "temporary MiB" are XLA's counts for all models at once;
- "s" is the time of the step as training plans it: some models at once, with examples in blocks;
- "x one" is relative to the row of one model;
- "share of peak": seconds that the program's operations take in large float32 matrix products, over the seconds of the
  step.

Below the table: models per second over those of transformers' own network in torch, of which norms alone are trained,
one model after another, where both packages are installed; and what XLA holds for --memory-models LoRA adapters at full
depth, planned within --memory.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import _common
import jax
import jax.numpy as jnp
import numpy as np

from jaxmia._text import parse_bytes
from jaxmia.data.backbone import Backbone, BertShape, block_name
from jaxmia.data.feature_set import FeatureSet
from jaxmia.training.adapters.adapter import Adapter
from jaxmia.training.adapters.inputs import AdapterInputs, adapter_inputs
from jaxmia.training.adapters.plan import plan_adapters
from jaxmia.training.adapters.train import _Loss, adapter_logits, initial_adapter
from jaxmia.training.chunks import _train_chunk
from jaxmia.training.settings import Hyperparams, TrainConfig
from jaxmia.training.size import EnsembleSize
from jaxmia.training.trainables import trainable

WORDS = 1000
Row = dict[str, Any]


def main(argv: list[str] | None = None) -> None:
    options = _common.parser(__doc__)
    options.add_argument("--models", type=int, default=16, help="models side by side")
    options.add_argument("--examples", type=int, default=32, help="texts of a step, for each model")
    options.add_argument("--tokens", type=int, default=16, help="tokens of a text")
    options.add_argument("--classes", type=int, default=10, help="C")
    options.add_argument("--repeats", type=int, default=5, help="timed steps; medians are shown")
    options.add_argument("--memory", default="8GiB", help="for the planned ensemble")
    options.add_argument("--memory-models", type=int, default=65, help="models of the planned ensemble")
    options.add_argument("--memory-examples", type=int, default=640, help="its candidates")
    options.add_argument("--memory-tokens", type=int, default=48, help="tokens of its texts")
    options.add_argument("--quick", action="store_true", help="tiny, to see that it runs")
    arguments = options.parse_args(argv)
    sizes = {"layers": 6, "dim": 384, "wide": 1536, "heads": 12}
    if arguments.quick:
        sizes = {"layers": 2, "dim": 8, "wide": 16, "heads": 2}
        arguments.models, arguments.examples, arguments.tokens, arguments.repeats = 3, 4, 5, 1
        arguments.memory_models, arguments.memory_examples, arguments.memory_tokens = 4, 12, 5
    network = random_bert(arguments.seed, **sizes)
    rows = [row for depth in ("full depth", "last block") for row in of_depth(network, depth, arguments)]
    speed = {(row["depth"], row["models"]): row["models"] / row["s"] for row in rows}
    many = arguments.models
    facts: dict[str, Any] = {
        "last block / full depth, models per second": speed["last block", many] / speed["full depth", many]
    }
    facts |= torch_facts(network, arguments, speed["full depth", many])
    facts |= memory_facts(network, arguments)
    _common.report(
        f"FiLM in a network of MiniLM's sizes: {arguments.examples} texts of {arguments.tokens} tokens for each model",
        rows,
        dtype="float32",
        facts=facts,
        arguments=arguments,
    )


def random_bert(seed: int, *, layers: int, dim: int, wide: int, heads: int) -> Backbone:
    """A BERT of random weights."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape, scale=0.02).astype(np.float32)

    weights = {
        "embeddings.word_embeddings.weight": normal(WORDS, dim),
        "embeddings.position_embeddings.weight": normal(512, dim),
        "embeddings.token_type_embeddings.weight": normal(2, dim),
    }
    shape = BertShape(layers=layers, heads=heads, eps=1e-12, unit=True)
    norms = ["embeddings.LayerNorm"]
    for block in range(layers):
        own = block_name(shape, block)
        dense = {f"attention.self.{part}": (dim, dim) for part in ("query", "key", "value")}
        dense |= {
            "attention.output.dense": (dim, dim),
            "intermediate.dense": (wide, dim),
            "output.dense": (dim, wide),
        }
        for name, size in dense.items():
            weights[f"{own}{name}.weight"] = normal(*size)
            weights[f"{own}{name}.bias"] = normal(size[0])
        norms += [f"{own}attention.output.LayerNorm", f"{own}output.LayerNorm"]
    for name in norms:
        weights |= {f"{name}.weight": 1 + normal(dim), f"{name}.bias": normal(dim)}
    return Backbone(shape, weights, 0, "random")


def texts(network: Backbone, count: int, tokens: int, classes: int, seed: int) -> FeatureSet:
    """Random texts without padding."""
    ids = np.random.default_rng(seed).integers(1, WORDS, size=(count, tokens)).astype(np.float32)
    labels = np.arange(count, dtype=np.int32) % classes
    names = tuple(map(str, range(classes)))
    return FeatureSet(ids, labels, names, (tokens,), backbone=network)


def of_depth(network: Backbone, depth: str, arguments: argparse.Namespace) -> list[Row]:
    """The rows of one model and of many."""
    adapter = Adapter("film", blocks=0 if depth == "full depth" else 1)
    data = texts(network, arguments.examples, arguments.tokens, arguments.classes, arguments.seed)
    inputs, labels = adapter_inputs(adapter, data), jnp.asarray(data.labels)

    def loss(params: Any, inputs: AdapterInputs) -> jax.Array:
        logits = adapter_logits(params, inputs, adapter)
        return -jnp.mean(jax.nn.log_softmax(logits, axis=0)[labels, jnp.arange(len(labels))])

    rows: list[Row] = []
    for models in (1, arguments.models):
        keys = jax.random.split(jax.random.key(arguments.seed), models)
        params = jax.vmap(lambda key: initial_adapter(key, inputs, adapter, num_classes=arguments.classes))(
            keys
        )
        # A head of zeros has no gradient for what lies below it.
        params = jax.tree.map(lambda leaf: leaf + 0.01, params)
        step = jax.jit(jax.vmap(jax.grad(loss), in_axes=(0, None))).lower(params, inputs).compile()
        flops = float(step.cost_analysis()["flops"])
        flops *= network.shape.layers if depth == "full depth" else 1  # XLA counts the loop over blocks once
        at_once, planned = planned_step(data, inputs, adapter, models)

        parts = [
            jax.tree.map(lambda leaf, part=slice(first, first + at_once): leaf[part], params)
            for first in range(0, models, at_once)
        ]
        run = functools.partial(all_in_turn, planned, parts, inputs)
        seconds = median(run, arguments.repeats)
        row = {"depth": depth, "models": models, "GFLOP": flops / 1e9, "s": seconds}
        first = rows[0] if rows else row
        row |= {"GFLOP x one": flops / 1e9 / first["GFLOP"], "s x one": seconds / first["s"]}
        row["temporary MiB"] = step.memory_analysis().temp_size_in_bytes / 2**20
        row["share of peak"] = product_seconds(flops, arguments.repeats) / seconds
        rows.append(row)
    return rows


def all_in_turn(planned: Callable[..., Any], parts: list[Any], inputs: AdapterInputs) -> None:
    """One step of all models, some at once."""
    for part in parts:
        jax.block_until_ready(planned(part, inputs))


def planned_step(
    data: FeatureSet, inputs: AdapterInputs, adapter: Adapter, models: int
) -> tuple[int, Callable[..., Any]]:
    """The models that training would hold at once, and the gradient of their examples in the plan's blocks."""
    count, config = (
        len(data.labels),
        TrainConfig(batch_size=len(data.labels), sampling="independent", network=adapter),
    )
    size = EnsembleSize(
        num_models=models,
        num_examples=2 * count,
        num_classes=data.num_classes,
        dim=1,
        inclusion_rate=0.5,
        input_shape=data.input_shape,
        backbone=data.backbone,
    )
    plan = plan_adapters(adapter, config, None, size)
    rows, counted, labels = jnp.arange(count), jnp.ones(count, bool), jnp.asarray(data.labels)

    def one(params: Any, inputs: AdapterInputs) -> Any:
        return _Loss(inputs, labels, Hyperparams(0.1), config, plan).gradient_sum(params, rows, counted)

    return plan.models, jax.jit(jax.vmap(one, in_axes=(0, None)))


def product_seconds(flops: float, repeats: int) -> float:
    """Seconds that so many operations take in a large matrix product."""
    side = 1024
    square = jnp.ones((side, side))
    product = jax.jit(lambda a, b: jax.lax.dot(a, b, precision=jax.lax.Precision.HIGHEST))
    seconds = median(lambda: jax.block_until_ready(product(square, square)), repeats)
    return seconds * flops / (2 * side**3)


def median(run: Callable[[], Any], repeats: int) -> float:
    """Median seconds after one run that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        clock = time.perf_counter()
        run()
        times.append(time.perf_counter() - clock)
    return float(np.median(times))


def torch_facts(network: Backbone, arguments: argparse.Namespace, models_per_second: float) -> dict[str, Any]:
    """Models per second of transformers' own network, of which norms alone are trained, one model after another."""
    if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        return {}
    import torch

    from jaxmia.extract.packages import load_package

    transformers, shape = load_package("transformers"), network.shape
    config = transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=network.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=network.hidden,
    )
    model = transformers.BertModel(config, add_pooling_layer=False)
    head = torch.nn.Linear(network.width, arguments.classes)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "LayerNorm" in name
    data = texts(network, arguments.examples, arguments.tokens, arguments.classes, arguments.seed)
    ids, labels = torch.tensor(data.features, dtype=torch.long), torch.tensor(data.labels, dtype=torch.long)

    def step() -> None:
        pooled = model(input_ids=ids).last_hidden_state.mean(1)
        torch.nn.functional.cross_entropy(head(pooled), labels).backward()

    seconds = median(step, arguments.repeats)
    return {"torch: s for one model": seconds, "models per second / torch's": models_per_second * seconds}


def memory_facts(network: Backbone, arguments: argparse.Namespace) -> dict[str, Any]:
    """What XLA holds for the planned ensemble at full depth, over what the plan allows."""
    count, classes, models = arguments.memory_examples, arguments.classes, arguments.memory_models
    adapter, budget = Adapter("lora", rank=8), parse_bytes(arguments.memory)
    data = texts(network, count, arguments.memory_tokens, classes, arguments.seed)
    config, hyper = TrainConfig(steps=100, network=adapter), Hyperparams(0.01, weight_decay=None)
    size = EnsembleSize(
        num_models=models,
        num_examples=count,
        num_classes=classes,
        dim=arguments.memory_tokens,
        inclusion_rate=0.5,
        input_shape=data.input_shape,
        backbone=network,
    )
    plan, kind = plan_adapters(adapter, config, budget, size), trainable(adapter)
    inputs, _ = kind.prepared(data, plan)
    ids = jnp.arange(plan.models, dtype=jnp.int32)
    member = jnp.zeros((plan.models, count), bool)
    compiled = _train_chunk.lower(
        jax.random.key(0),
        ids,
        member,
        inputs,
        jnp.asarray(data.labels),
        hyper,
        num_examples=count,
        expected_members=count / 2,
        kind=kind,
        plan=plan,
        num_classes=classes,
        config=config,
    ).compile()
    held = compiled.memory_analysis()
    total = held.temp_size_in_bytes + held.argument_size_in_bytes + held.output_size_in_bytes
    tokens = arguments.memory_tokens
    planned = f"{models} models, S = {count // classes // 2}, {tokens} tokens, within {arguments.memory}"
    return {
        planned: str(plan),
        "XLA holds, GiB": total / 2**30,
        "of the budget": total / budget,
    }


if __name__ == "__main__":
    main()
