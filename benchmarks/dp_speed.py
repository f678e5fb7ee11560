"""The time that privacy costs: a step of DP-SGD against an ordinary one, and heads per second against Opacus.

Everything is trained on the same data with the same settings for the same number of steps, alternately in one run.
Opacus trains one head after another, as published code does:

- "opacus": with PrivacyEngine's own Poisson data loader, and with its search for the noise multiplier, which published
  code repeats for every head;
- "indexed": without that search, with PrivacyEngine's model and optimiser on batches taken from one tensor.

If Opacus (pip install opacus) is absent, its columns are nan. "private" multiplies in float32, "bfloat16" in bfloat16
with float32 accumulation.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import importlib.util
import itertools
import time
import warnings
from collections.abc import Callable
from typing import Any

import _common
import jax
import numpy as np

from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.membership import MembershipMasks, draw_membership
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.scoring import accuracy
from jaxmia.training.settings import Hyperparams, TrainConfig

LEARNING_RATE, CLIPPING_NORM, NOISE_MULTIPLIER = 1.0, 1.0, 2.0


def main(argv: list[str] | None = None) -> None:
    options = _common.parser(__doc__)
    options.add_argument("--models", type=int, default=257, help="M; trained in parallel")
    options.add_argument("--peer-heads", type=int, default=3, help="heads that Opacus trains")
    options.add_argument(
        "--examples", type=int, default=2000, help="candidates; a model trains on half of them"
    )
    options.add_argument("--classes", type=int, default=10)
    options.add_argument("--dims", type=int, nargs="+", default=[384, 768], help="feature dimensions")
    options.add_argument(
        "--rates", type=float, nargs="+", default=[1.0, 0.2], help="sampling rates; 1: full batch"
    )
    options.add_argument("--steps", type=int, default=200)
    options.add_argument("--repeats", type=int, default=3, help="runs of each; the fastest counts")
    options.add_argument("--threads", type=int, default=1, help="threads of torch; 2 were slower")
    arguments = options.parse_args(argv)
    facts = set_up_peer(arguments)
    _common.report(
        f"{arguments.models} heads of {arguments.classes} classes on halves of {arguments.examples} candidates,"
        f" {arguments.steps} steps of SGD, the fastest of {arguments.repeats}",
        [measure(arguments, dim, rate) for dim in arguments.dims for rate in arguments.rates],
        dtype="float32",
        facts=facts,
        arguments=arguments,
    )


def measure(arguments: argparse.Namespace, dim: int, rate: float) -> dict[str, Any]:
    """Time every way to train, for one dimension and one sampling rate."""
    pool = _common.synthetic_pool(
        arguments.seed, examples=arguments.examples, classes=arguments.classes, dim=dim
    )
    masks = draw_membership(
        jax.random.key(arguments.seed), pool.labels, num_models=arguments.models, design="fixed_size"
    )
    trainings = {
        name: functools.partial(
            train_jaxmia, pool, masks, rate, steps=arguments.steps, private=private, products=products
        )
        for name, private, products in (
            ("ordinary", False, "float32"),
            ("private", True, "float32"),
            ("bfloat16", True, "bfloat16"),
        )
    }
    if importlib.util.find_spec("opacus"):
        member = np.asarray(masks.member)[: arguments.peer_heads]
        trainings |= {
            name: functools.partial(train_opacus, pool, member, rate, steps=arguments.steps, indexed=indexed)
            for name, indexed in (("opacus", False), ("indexed", True))
        }
    seconds, accuracies = fastest(trainings, arguments.repeats)
    searching = min(search_seconds(rate, arguments.steps) for _ in range(arguments.repeats))
    per_head = {
        "private": seconds["private"] / arguments.models,
        "bfloat16": seconds["bfloat16"] / arguments.models,
        "opacus": seconds.get("opacus", np.nan) / arguments.peer_heads + searching,
        "indexed": seconds.get("indexed", np.nan) / arguments.peer_heads,
    }
    return {
        "d": dim,
        "q": rate,
        "ordinary, ms / step": 1e3 * seconds["ordinary"] / arguments.steps,
        "private, ms / step": 1e3 * seconds["private"] / arguments.steps,
        "private / ordinary": seconds["private"] / seconds["ordinary"],
        "private, heads / s": 1 / per_head["private"],
        "in bfloat16": 1 / per_head["bfloat16"],
        "opacus, s / head": per_head["opacus"],
        "of it search, s": searching,
        "opacus / private": per_head["opacus"] / per_head["private"],
        "opacus / bfloat16": per_head["opacus"] / per_head["bfloat16"],
        "indexed / private": per_head["indexed"] / per_head["private"],
        "accuracies": " ".join(f"{value:.3f}" for value in accuracies.values()),
    }


def fastest(
    trainings: dict[str, Callable[[], float]], repeats: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the seconds of the fastest run of each, and its accuracy; runs alternate.

    The first run of a JAX program also compiles it. The time includes computing the accuracy, about half a step.
    """
    seconds, accuracies = dict.fromkeys(trainings, np.inf), {}
    for _ in range(repeats):
        for name, train in trainings.items():
            start = time.perf_counter()
            accuracies[name] = train()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds, accuracies


def train_jaxmia(
    pool: FeatureSet, masks: MembershipMasks, rate: float, *, steps: int, private: bool, products: str
) -> float:
    """Train all heads in parallel; return their mean accuracy on the candidates."""
    hyper = Hyperparams(LEARNING_RATE, sampling_rate=rate)
    if private:
        hyper = hyper.replace(clipping_norm=CLIPPING_NORM, noise_multiplier=NOISE_MULTIPLIER)
    sampling = "shared" if rate == 1 else "poisson"  # shared order without a batch size is the full batch
    config = TrainConfig("sgd", steps=steps, sampling=sampling, private=private, matmul_dtype=products)
    heads = train_ensemble(jax.random.key(0), pool, masks, hyper, config)
    return float(accuracy(heads, pool).mean())


def train_opacus(pool: FeatureSet, member: np.ndarray, rate: float, *, steps: int, indexed: bool) -> float:
    """Train one head per row of member, one after another; return their mean accuracy on the candidates."""
    import torch

    features, labels = torch.tensor(pool.features), torch.tensor(pool.labels, dtype=torch.long)
    accuracies = []
    for row in torch.tensor(member):
        x, y = features[row], labels[row]
        model, optimizer, batches = opacus_head(x, y, rate)
        if indexed:
            sampled = torch.rand(steps, len(x)) < rate
            batches = [(x[rows], y[rows]) for rows in sampled]
        endless = itertools.chain.from_iterable(itertools.repeat(batches))
        for batch_x, batch_y in itertools.islice(endless, steps):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(batch_x), batch_y).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            accuracies.append((model(features).argmax(dim=1) == labels).float().mean().item())
    return float(np.mean(accuracies))


def opacus_head(x: Any, y: Any, rate: float) -> tuple[Any, Any, Any]:
    """Return a linear head at zero, with PrivacyEngine's model, optimiser and Poisson data loader."""
    import torch
    from opacus import PrivacyEngine
    from torch.utils.data import DataLoader, TensorDataset

    head = torch.nn.Linear(x.shape[1], int(y.max()) + 1)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    return PrivacyEngine(accountant="rdp").make_private(
        module=head,
        optimizer=torch.optim.SGD(head.parameters(), lr=LEARNING_RATE),
        data_loader=DataLoader(TensorDataset(x, y), batch_size=round(rate * len(x))),
        noise_multiplier=NOISE_MULTIPLIER,
        max_grad_norm=CLIPPING_NORM,
    )


def search_seconds(rate: float, steps: int) -> float:
    """Return the seconds of Opacus's search (RDP accountant) for a noise multiplier at epsilon 1; NaN without it."""
    if not importlib.util.find_spec("opacus"):
        return np.nan
    from opacus.accountants.utils import get_noise_multiplier

    start = time.perf_counter()
    get_noise_multiplier(target_epsilon=1, target_delta=1e-5, sample_rate=rate, steps=steps, accountant="rdp")
    return time.perf_counter() - start


def set_up_peer(arguments: argparse.Namespace) -> dict[str, str]:
    """Set the threads of torch, and return the version of Opacus."""
    if not importlib.util.find_spec("opacus"):
        return {"opacus": "absent"}
    import torch

    warnings.filterwarnings(
        "ignore", category=UserWarning
    )  # of torch and opacus: hooks, generators, RDP orders
    torch.set_num_threads(arguments.threads)
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("opacus", "torch"))
    return {"peer": f"{', '.join(versions)}, {arguments.threads} of torch's threads"}


if __name__ == "__main__":
    main()
