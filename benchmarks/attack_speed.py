"""Time and memory of every attack with all models as targets, against the loops of published LiRA code.

The published code attacks one target at a time. It gathers the IN and OUT scores of every example in Python, and fits
medians and deviations with NumPy. "loop" does all of this for each example by itself. "half loop" gathers in a loop,
cuts every example to the smallest number of IN and OUT shadows, and fits all examples at once. Both run here on a few
targets and examples, and their times are scaled to all of them.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import _common
import numpy as np
import scipy.stats

from jaxmia import attacks
from jaxmia.scores import Scores

REPEATS = 3
SLOW = 3.0  # seconds; a slower run is not repeated
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "lira": ("lira", {}),
    "lira, global variance": ("lira", {"variance": "global"}),
    "lira, median": ("lira", {"location": "median"}),
    "lira, offline": ("lira", {"offline": True}),
    "lira, calibrated": ("lira", {"calibrated": True}),
    "rmia": ("rmia", {}),
    "rmia, offline, a tuned": ("rmia", {"offline": True}),
    "base": ("base", {}),
    "base, offline, a tuned": ("base", {"offline": True}),
    "bavaria_t": ("bavaria_t", {}),
    "bavaria_n": ("bavaria_n", {}),
    "threshold": ("threshold", {}),
    "difficulty": ("difficulty", {}),
    "quantile": ("quantile", {}),
}


def main(argv: list[str] | None = None) -> None:
    options = _common.parser(__doc__)
    options.add_argument("--models", type=int, default=257, help="M; every model is a target")
    options.add_argument("--examples", type=int, default=20_000)
    options.add_argument("--loop-targets", type=int, default=2, help="targets that the loops attack")
    options.add_argument("--loop-examples", type=int, default=2000, help="examples that the loops attack")
    options.add_argument("--dim", type=int, default=16, help="feature dimension of the quantile attack")
    options.add_argument("--attacks", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    arguments = options.parse_args(argv)
    scores, features = synthetic(arguments)
    loops = {
        name: scaled_seconds(loop, scores, arguments)
        for name, loop in (("loop", published_loop), ("half loop", published_half_loop))
    }
    rows = []
    for label in arguments.attacks:
        run = variant(label, features)
        seconds = fastest(run, scores)
        is_lira = label.startswith("lira")
        rows.append(
            {
                "attack": label,
                "seconds": seconds,
                "ns / score": 1e9 * seconds / scores.log_odds.size,
                "loop / attack": loops["loop"] / seconds if is_lira else None,
                "half loop / attack": loops["half loop"] / seconds if is_lira else None,
                "peak / score array": peak_bytes(run, scores) / scores.log_odds.nbytes,
                "exponent": scaling_exponent(run, scores),
            }
        )
    _common.report(
        f"All {arguments.models} models as targets x {arguments.examples} examples,"
        f" the best of up to {REPEATS} runs each",
        rows,
        dtype="float32 scores, float64 statistics",
        facts={
            f"{name}, seconds for all targets (scaled from {arguments.loop_targets} targets x"
            f" {arguments.loop_examples} examples)": seconds
            for name, seconds in loops.items()
        },
        arguments=arguments,
    )


def synthetic(arguments: argparse.Namespace) -> tuple[Scores, np.ndarray]:
    """Return Gaussian scores of examples that differ in mean and deviation, and random features."""
    rng = np.random.default_rng(arguments.seed)
    shape = (arguments.models, arguments.examples)
    member = rng.random(shape) < 0.5
    hardness, deviation = rng.normal(size=shape[1]), rng.uniform(0.5, 2, size=shape[1])
    log_odds = hardness + deviation * (rng.normal(size=shape) + member)
    return Scores(log_odds.astype(np.float32), member), rng.normal(size=(shape[1], arguments.dim))


def variant(label: str, features: np.ndarray) -> Callable[[Scores], object]:
    """Return the attack of a label as a function of scores alone."""
    name, settings = VARIANTS[label]

    def run(scores: Scores) -> object:
        extra = {"features": features[: scores.log_odds.shape[1]]} if name == "quantile" else {}
        return attacks.REGISTRY[name](scores, **settings, **extra)

    return run


def fastest(run: Callable[[Scores], object], scores: Scores) -> float:
    """Return the seconds of the fastest run (other work only adds time); a slow one runs once."""
    seconds: list[float] = []
    while len(seconds) < REPEATS and sum(seconds) < SLOW:
        start = time.perf_counter()
        run(scores)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def peak_bytes(run: Callable[[Scores], object], scores: Scores) -> int:
    """Return the peak memory that NumPy held beside the scores, including the result."""
    tracemalloc.start()
    try:
        run(scores)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def scaling_exponent(run: Callable[[Scores], object], scores: Scores) -> float:
    """Return the slope of log time over log(models x examples), from 1/16 of the examples and 1/8 of the models."""
    models, examples = scores.log_odds.shape
    shapes = [(models, examples // 2**k) for k in range(5)] + [
        (1 + models // 2**k, examples) for k in (1, 2, 3)
    ]
    seconds = []
    for rows, columns in shapes:
        part = Scores(
            np.ascontiguousarray(scores.log_odds[:rows, :columns]),
            np.ascontiguousarray(scores.member[:rows, :columns]),
        )
        seconds.append(fastest(run, part))
    slope, _ = np.polyfit(np.log([rows * columns for rows, columns in shapes]), np.log(seconds), 1)
    return float(slope)


def scaled_seconds(
    loop: Callable[[np.ndarray, np.ndarray, int], np.ndarray], scores: Scores, arguments: argparse.Namespace
) -> float:
    """Return the seconds of a loop over all targets and examples, extrapolated from a part of them."""
    num_targets = min(arguments.loop_targets, arguments.models)
    columns = slice(min(arguments.loop_examples, arguments.examples))
    log_odds, member = np.asarray(scores.log_odds)[:, columns], np.asarray(scores.member)[:, columns]

    def run(part: Scores) -> None:
        for target in range(num_targets):
            loop(part.log_odds, part.member, target)

    seconds = fastest(run, Scores(log_odds, member))
    return seconds * scores.log_odds.size / (num_targets * log_odds.shape[1])


def published_loop(log_odds: np.ndarray, member: np.ndarray, target: int) -> np.ndarray:
    """Return LiRA's statistic of one target [examples], one example at a time."""
    others = np.delete(np.arange(len(log_odds)), target)
    statistic = np.empty(log_odds.shape[1])
    for example in range(log_odds.shape[1]):
        inside = log_odds[others[member[others, example]], example]
        outside = log_odds[others[~member[others, example]], example]
        score = log_odds[target, example]
        log_in = scipy.stats.norm.logpdf(score, np.median(inside), np.std(inside) + 1e-30)
        log_out = scipy.stats.norm.logpdf(score, np.median(outside), np.std(outside) + 1e-30)
        statistic[example] = log_in - log_out
    return statistic


def published_half_loop(log_odds: np.ndarray, member: np.ndarray, target: int) -> np.ndarray:
    """Return LiRA's statistic of one target [examples]: gathered in a loop, fitted for all examples at once."""
    others = np.delete(np.arange(len(log_odds)), target)
    values, inside = log_odds[others], member[others]
    log_densities = []
    for side in (inside, ~inside):
        gathered = [values[side[:, example], example] for example in range(values.shape[1])]
        size = min(map(len, gathered))
        kept = np.array([scores[:size] for scores in gathered])
        centre, deviation = np.median(kept, axis=1), np.std(kept, axis=1)
        log_densities.append(scipy.stats.norm.logpdf(log_odds[target], centre, deviation + 1e-30))
    return log_densities[0] - log_densities[1]


if __name__ == "__main__":
    main()
