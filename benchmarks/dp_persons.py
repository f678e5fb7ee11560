"""The time that person-level DP costs: a step of DP-SGD that clips by person, against one that clips by record.

Both train the same heads with the same data, noise and steps, alternately in one run. Each person has K records.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import _common
import jax
import numpy as np

from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.membership import MembershipMasks, draw_membership
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.settings import Hyperparams, TrainConfig


def main(argv: list[str] | None = None) -> None:
    options = _common.parser(__doc__)
    options.add_argument("--models", type=int, default=129, help="M; trained in parallel")
    options.add_argument("--examples", type=int, default=2000, help="candidates")
    options.add_argument("--classes", type=int, default=10)
    options.add_argument("--dim", type=int, default=384, help="feature dimension")
    options.add_argument("--records", type=int, nargs="+", default=[2, 5, 10], help="K, records per person")
    options.add_argument(
        "--rates", type=float, nargs="+", default=[1.0, 0.1], help="sampling rates; 1: full batch"
    )
    options.add_argument("--steps", type=int, default=100)
    options.add_argument("--repeats", type=int, default=4, help="runs of each; the fastest counts")
    arguments = options.parse_args(argv)
    sizes = {"examples": arguments.examples, "classes": arguments.classes, "dim": arguments.dim}
    pool = _common.synthetic_pool(arguments.seed, **sizes)
    _common.report(
        f"{arguments.models} heads of {arguments.classes} classes on halves of {arguments.examples} candidates,"
        f" d = {arguments.dim}, {arguments.steps} steps of private SGD, the fastest of {arguments.repeats}",
        [
            measure(arguments, pool, records, rate)
            for records in arguments.records
            for rate in arguments.rates
        ],
        dtype="float32",
        facts={},
        arguments=arguments,
    )


def measure(arguments: argparse.Namespace, pool: FeatureSet, records: int, rate: float) -> dict[str, Any]:
    """Time both units for one number of records per person and one sampling rate."""
    data = pool.replace(person=np.arange(len(pool.labels)) // records)
    key = jax.random.key(arguments.seed)
    masks = draw_membership(key, data.labels, num_models=arguments.models, person=data.person)
    seconds = {"record": np.inf, "person": np.inf}
    for _ in range(arguments.repeats):
        for unit in seconds:
            start = time.perf_counter()
            train(data, masks, rate, steps=arguments.steps, unit=unit)
            seconds[unit] = min(seconds[unit], time.perf_counter() - start)
    by_record, by_person = (1e3 * seconds[unit] / arguments.steps for unit in ("record", "person"))
    return {
        "K": records,
        "q": rate,
        "by record, ms / step": by_record,
        "by person, ms / step": by_person,
        "by person / by record": by_person / by_record,
    }


def train(data: FeatureSet, masks: MembershipMasks, rate: float, *, steps: int, unit: str) -> None:
    """Train all heads in parallel; the first run compiles."""
    hyper = Hyperparams(1.0, sampling_rate=rate, clipping_norm=1.0, noise_multiplier=2.0)
    sampling = "shared" if rate == 1 else "poisson"  # shared order without a batch size is the full batch
    config = TrainConfig("sgd", steps=steps, sampling=sampling, private=True, privacy_unit=unit)
    jax.block_until_ready(train_ensemble(jax.random.key(0), data, masks, hyper, config).params)


if __name__ == "__main__":
    main()
