"""How does the time of training grow with examples, dimension, classes, models and steps?

One quantity doubles from a quarter of its base size to the base size, and the others keep theirs. The exponent is the
slope of log time over log size: 1 if all work is in the matrix products, less if there are fixed costs.
"""

from __future__ import annotations

import argparse
import statistics
import time

import _common
import jax
import numpy as np
from scipy import stats

from jaxmia.data.membership import draw_membership
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.settings import Hyperparams, TrainConfig

QUANTITIES = ("examples", "dim", "classes", "models", "steps")
SHARES = (0.25, 0.5, 1.0)


def main(argv: list[str] | None = None) -> None:
    options = _common.parser(__doc__)
    for name, base in zip(QUANTITIES, (2000, 768, 20, 256, 20), strict=True):
        options.add_argument(f"--{name}", type=int, default=base, help="base size, divisible by 4")
    options.add_argument("--batch-size", type=int, help="mean number of members; default: the full batch")
    options.add_argument("--products", default="float32", help="float32 or bfloat16")
    options.add_argument("--repeats", type=int, default=3, help="runs of each; the median counts")
    arguments = options.parse_args(argv)
    base = {name: getattr(arguments, name) for name in QUANTITIES}
    rows = []
    for name in QUANTITIES:
        sizes = [round(share * base[name]) for share in SHARES]
        times = [seconds(arguments, **{**base, name: size}) for size in sizes]
        rows.append(
            {
                "quantity": name,
                **{f"{share:g} of base, s": spent for share, spent in zip(SHARES, times, strict=True)},
                "exponent": exponent(sizes, times),
            }
        )
    _common.report(
        "Seconds of training, " + ", ".join(f"{name} {size}" for name, size in base.items()),
        rows,
        dtype=arguments.products,
        facts={"batch": arguments.batch_size or "full"},
        arguments=arguments,
    )


def seconds(
    arguments: argparse.Namespace, *, examples: int, dim: int, classes: int, models: int, steps: int
) -> float:
    """Return the median time of training, after a first run that compiles."""
    pool = _common.synthetic_pool(arguments.seed, examples=examples, classes=classes, dim=dim)
    masks = draw_membership(jax.random.key(arguments.seed), pool.labels, num_models=models)
    config = TrainConfig(steps=steps, batch_size=arguments.batch_size, matmul_dtype=arguments.products)
    spent = []
    for _ in range(arguments.repeats + 1):
        start = time.perf_counter()
        heads = train_ensemble(jax.random.key(arguments.seed), pool, masks, Hyperparams(0.01), config)
        jax.block_until_ready(heads.params)
        spent.append(time.perf_counter() - start)
    return statistics.median(spent[1:])


def exponent(sizes: list[int], times: list[float]) -> tuple[float, float]:
    """Return the slope of log time over log size, and its standard error."""
    fit = stats.linregress(np.log(sizes), np.log(times))
    return float(fit.slope), float(fit.stderr)


if __name__ == "__main__":
    main()
