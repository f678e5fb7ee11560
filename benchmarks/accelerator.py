"""One command on a machine with a GPU or TPU ("card"): correctness, speed, and share of the card's peak.

    python benchmarks/accelerator.py --json docs/evidence/accelerator/h100.json && make tables

Writes the rows of docs/accelerators.md. Everything also runs on a CPU, and "card" is then the CPU itself.

- *parity*: the same heads with the same keys on the CPU and on the card, in each number format: the largest difference
  of log-odds over the CPU's deviation between heads, and mean TPR of the records at FPR 0.01.
- *speed*: heads per second of full-batch training, shared batch order, and DP-SGD on the full batch and by Poisson
  sampling. The share of the card's peak is the time of the two matrix products of all steps, measured in the same
  format on the same card, over the time of training. Median of --repeats after one run that compiles.
- *PyTorch*: the same full-batch heads by one batched product (stacked) and by torch.func.vmap, both through
  torch.compile, on the same card; left out if torch, or its support for the card, is absent.
- *scores and attacks*: seconds for log-odds of all heads (card), and for LiRA of all targets (host).
- *audit*: seconds of `jaxmia.audit_head` of one head with all shadows, from arrays to the result.
- *memory*: bytes in use at the peak of training over heads, and the heads that a GiB holds at that.
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

from jaxmia import attacks
from jaxmia.audit.in_memory import audit_head
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.membership import MembershipMasks, draw_membership
from jaxmia.scores import Scores
from jaxmia.training.ensemble import ShadowEnsemble, train_ensemble
from jaxmia.training.scoring import score
from jaxmia.training.settings import Hyperparams, TrainConfig
from jaxmia.vulnerability.curves import vulnerability_curves

FORMATS = ("float32", "tensorfloat32", "bfloat16")
PRECISION = {"float32": "highest", "tensorfloat32": "high", "bfloat16": "default"}
Row = dict[str, Any]


def main(argv: list[str] | None = None) -> None:
    options = _common.parser(__doc__)
    options.add_argument("--models", type=int, default=257, help="heads, trained in parallel")
    options.add_argument("--examples", type=int, default=20_000, help="candidates")
    options.add_argument("--classes", type=int, default=10, help="C")
    options.add_argument("--dim", type=int, default=768, help="dimension of the features")
    options.add_argument("--steps", type=int, default=100, help="steps of Adam")
    options.add_argument("--repeats", type=int, default=5, help="timed runs")
    options.add_argument("--quick", action="store_true", help="tiny sizes, to check that it runs")
    arguments = options.parse_args(argv)
    if arguments.quick:
        arguments.models, arguments.examples, arguments.classes = 17, 120, 3
        arguments.dim, arguments.steps, arguments.repeats = 8, 5, 1
    card = jax.devices()[0]
    pool = _common.synthetic_pool(
        arguments.seed, examples=arguments.examples, classes=arguments.classes, dim=arguments.dim
    )
    masks = draw_membership(jax.random.key(arguments.seed), pool.labels, num_models=arguments.models)
    rows = [
        *parity(pool, masks, arguments, card),
        *speed(pool, masks, arguments),
        *torch_rows(pool, np.asarray(masks.member), arguments),
        *rest(pool, masks, arguments, card),
    ]
    _common.report(
        f"{card.device_kind} ({card.platform}): {arguments.models} heads, n = {arguments.examples},"
        f" d = {arguments.dim}, C = {arguments.classes}, {arguments.steps} steps",
        rows,
        dtype="float32 training and scores but where the row says so, float64 statistics",
        facts={"card": card.device_kind, "platform": card.platform},
        arguments=arguments,
    )


def row(part: str, what: str, form: str, value: float | None, unit: str, share: float | None = None) -> Row:
    """Return a row of the table."""
    return {"part": part, "what": what, "format": form, "value": value, "unit": unit, "share of peak": share}


def recipe(steps: int, form: str = "float32", **more: Any) -> TrainConfig:
    """Return full-batch Adam, with the changes in `more`."""
    return TrainConfig("adam", steps=steps, matmul_dtype=form, **more)


def parity(
    pool: FeatureSet, masks: MembershipMasks, arguments: argparse.Namespace, card: jax.Device
) -> list[Row]:
    """Compare the first heads on the CPU and on the card."""
    few = min(arguments.models, 64)
    member, ids = masks.member[:few], masks.model_ids[:few]
    some = masks.replace(member=member, model_ids=ids)

    def log_odds(device: jax.Device, form: str) -> np.ndarray:
        with jax.default_device(device):
            heads = train_ensemble(
                0, pool, some, Hyperparams(0.1), recipe(arguments.steps, form), devices=[device]
            )
            return np.asarray(score(heads, pool).log_odds)

    reference = log_odds(jax.devices("cpu")[0], "float32")
    spread, rows = reference.std(axis=0), []
    for form in FORMATS:
        found = log_odds(card, form)
        rows.append(
            row("parity", "largest difference", form, float(np.max(np.abs(found - reference) / spread)), "sd")
        )
        rows.append(row("parity", "mean TPR at FPR 0.01", form, mean_tpr(found, np.asarray(member)), ""))
    return [
        *rows,
        row("parity", "mean TPR at FPR 0.01", "on the CPU", mean_tpr(reference, np.asarray(member)), ""),
    ]


def mean_tpr(log_odds: np.ndarray, member: np.ndarray) -> float:
    """Return the mean over records of the estimated TPR at FPR 0.01."""
    return float(np.mean(vulnerability_curves(Scores(log_odds, member), [0.01])[0].tpr))


def speed(pool: FeatureSet, masks: MembershipMasks, arguments: argparse.Namespace) -> list[Row]:
    """Return heads per second and the share of the matrix-product peak, by recipe and format."""
    steps, members = arguments.steps, arguments.examples // 2
    batch = max(members // 10, 1)
    private = {"clipping_norm": 1.0, "noise_multiplier": 1.0}
    kinds = {
        "full batch": ({}, {}, arguments.examples),
        "shared order": ({"batch_size": batch}, {}, 2 * batch),
        "DP, full batch": ({"private": True}, private, arguments.examples),
        "DP, Poisson": (
            {"private": True, "sampling": "poisson"},
            {**private, "sampling_rate": 0.1},
            arguments.examples // 10,
        ),
    }
    rows = []
    for form in FORMATS:
        for what, (static, traced, count) in kinds.items():
            config, hyper = recipe(steps, form, **static), Hyperparams(0.1, **traced)
            run = functools.partial(train_ensemble, 0, pool, masks, hyper, config)
            seconds = median(lambda run=run: jax.block_until_ready(run().params), arguments.repeats)
            limit = steps * median(products(arguments, count, form), arguments.repeats)
            rows.append(row("training", what, form, arguments.models / seconds, "heads/s", limit / seconds))
    return rows


def products(arguments: argparse.Namespace, count: int, form: str) -> Callable[[], Any]:
    """Return the two matrix products of one step over count candidates of all heads."""
    rng = np.random.default_rng(arguments.seed)
    size = arguments.models * arguments.classes
    kind = jnp.bfloat16 if form == "bfloat16" else jnp.float32
    shapes = ((size, arguments.dim), (size, count), (count, arguments.dim))
    kernel, error, features = (jnp.asarray(rng.normal(size=shape), kind) for shape in shapes)

    @jax.jit
    def call(kernel: jax.Array, error: jax.Array, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        with jax.default_matmul_precision(PRECISION[form]):
            return kernel @ features.T, error @ features

    return lambda: jax.block_until_ready(call(kernel, error, features))


def median(run: Callable[[], Any], repeats: int) -> float:
    """Return the median seconds of repeats, after one that compiles."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:]))


def torch_rows(pool: FeatureSet, member: np.ndarray, arguments: argparse.Namespace) -> list[Row]:
    """Return heads per second of PyTorch on the same card, or a row that says that torch is absent."""
    if importlib.util.find_spec("torch") is None:
        return [row("PyTorch", "absent", "float32", None, "heads/s")]
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and jax.default_backend() != "cpu":
        return [row("PyTorch", "has no support for this card", "float32", None, "heads/s")]
    torch.set_float32_matmul_precision("highest")
    features = torch.tensor(pool.features, device=device)
    labels = torch.tensor(pool.labels, device=device, dtype=torch.long)
    weights = torch.tensor(member, device=device, dtype=torch.float32)
    weights /= weights.sum(axis=1, keepdim=True)

    def stacked(kernel: Any, bias: Any) -> Any:
        logits = torch.einsum("mcd,nd->mcn", kernel, features) + bias[:, :, None]
        losses = torch.nn.functional.cross_entropy(logits, labels.expand(len(kernel), -1), reduction="none")
        return (losses * weights).sum()

    def one(kernel: Any, bias: Any, weight: Any) -> Any:
        losses = torch.nn.functional.cross_entropy(features @ kernel.T + bias, labels, reduction="none")
        return (losses * weight).sum()

    def mapped(kernel: Any, bias: Any) -> Any:
        return torch.func.vmap(one)(kernel, bias, weights).sum()

    def trained(loss: Any) -> None:
        shape = (arguments.models, arguments.classes)
        kernel = torch.zeros((*shape, arguments.dim), device=device, requires_grad=True)
        bias = torch.zeros(shape, device=device, requires_grad=True)
        optimizer = torch.optim.Adam([kernel, bias], lr=0.1)
        for _ in range(arguments.steps):
            optimizer.zero_grad()
            loss(kernel, bias).backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    rows = []
    for what, loss in (("stacked products", stacked), ("torch.func.vmap", mapped)):
        compiled = torch.compile(loss) if device == "cuda" else loss
        seconds = median(functools.partial(trained, compiled), arguments.repeats)
        rows.append(row("PyTorch", what, "float32", arguments.models / seconds, "heads/s"))
    return rows


def rest(
    pool: FeatureSet, masks: MembershipMasks, arguments: argparse.Namespace, card: jax.Device
) -> list[Row]:
    """Return rows of scores, LiRA, one audit, and memory."""
    heads = train_ensemble(0, pool, masks, Hyperparams(0.1), recipe(arguments.steps))
    stats = card.memory_stats() or {}
    scores = score(heads, pool)
    rows = [
        row(
            "scores",
            "log-odds of all heads",
            "float32",
            median(lambda: score(heads, pool), arguments.repeats),
            "s",
        ),
        row(
            "attacks",
            "LiRA, on the host",
            "float64",
            median(lambda: attacks.lira(scores), arguments.repeats),
            "s",
        ),
        row("audit", "one head, all shadows", "float32", audit_seconds(heads, pool, masks, arguments), "s"),
    ]
    peak = stats.get("peak_bytes_in_use")
    each = peak and peak / arguments.models / 2**20
    return [
        *rows,
        row("memory", "peak over heads", "float32", each, "MiB per head"),
        row("memory", "heads that fit", "float32", each and 1024 / each, "per GiB"),
    ]


def audit_seconds(
    heads: ShadowEnsemble, pool: FeatureSet, masks: MembershipMasks, arguments: argparse.Namespace
) -> float:
    """Return the seconds of an audit of the first head by its weights, with shadows and attacks."""
    params = heads.params["params"]
    weights = (np.asarray(params["kernel"][0]), np.asarray(params["bias"][0]))
    train = {"optimizer": "adam", "steps": arguments.steps, "learning_rate": 0.1}
    start = time.perf_counter()
    audit_head(
        weights,
        pool.features,
        pool.labels,
        np.asarray(masks.member[0]),
        attack=["lira"],
        train=train,
        shadows={"models": arguments.models - 1},
    )
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
