"""Is the advisor's estimate of accuracy, mean TPR and the most vulnerable record right? Compares it with shadow heads.

The options are ridge strengths, and shares of the most vulnerable records that are left out (--leave-out). For each,
the advisor's estimate is compared with shadow heads on the same records. Predicted before measuring: accuracy within
0.01, mean TPR within 5%, overlapping intervals of the most vulnerable record, and options ranked as measured (Kendall's
tau 0.9).
"""

from __future__ import annotations

import time
from typing import Any

import _common
import jax
import numpy as np
from scipy.stats import kendalltau

from jaxmia.advice.confirm import measured_ridge
from jaxmia.advice.estimates import ridge_estimate
from jaxmia.advice.levers import without_the_most_vulnerable
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.pool import candidate_pool

_PROMISED = "worst of those left, before"


def main(argv: list[str] | None = None) -> None:
    """Estimate and measure every option."""
    options = _common.parser(__doc__)
    _common.add_features(options)
    options.add_argument("--shots", type=int, default=16, help="S; 2 S candidates per class")
    options.add_argument("--ridges", type=float, nargs="+", default=[0.3, 1.0, 3.0, 10.0, 30.0])
    options.add_argument(
        "--leave-out", type=float, nargs="*", default=[0.05, 0.1, 0.2], help="shares left out, at ridge 1"
    )
    options.add_argument("--shadows", type=int, default=257)
    options.add_argument("--fpr", type=float, default=0.01)
    arguments = options.parse_args(argv)
    pool = candidate_pool(
        _common.chosen_features(arguments),
        classes=arguments.classes,
        shots=arguments.shots,
        multiplier=2,
        test_per_class=0,
        key=arguments.seed,
    ).data
    none = {_PROMISED: float("nan")}
    rows = [compared(f"ridge {ridge:g}", pool, ridge, arguments) | none for ridge in arguments.ridges]
    if arguments.leave_out:
        whole = ridge_estimate(pool, ridge=1.0, fpr=arguments.fpr, key=jax.random.key(1))
        for change in without_the_most_vulnerable(pool, whole.found.separation, arguments.leave_out):
            promised = float(whole.tpr[change.rows].max())
            row = compared(f"without {change.option}", change.pool, 1.0, arguments)
            rows.append(row | {_PROMISED: promised})
    ranks = {
        f"Kendall's tau, {name}": float(
            kendalltau(*([row[f"{name}, {kind}"] for row in rows] for kind in ("estimated", "measured")))[0]
        )
        for name in ("accuracy", "mean TPR", "worst TPR")
    }
    _common.report(
        f"Options at FPR {arguments.fpr:g}: {len(pool.labels)} records, {arguments.shadows} shadow heads",
        rows,
        dtype="float32 training and scores, float64 statistics",
        facts=ranks,
        arguments=arguments,
    )


def compared(option: str, pool: FeatureSet, ridge: float, arguments: Any) -> dict[str, Any]:
    """Return the row of one option, estimated and measured."""
    keys = [jax.random.fold_in(jax.random.key(arguments.seed), number) for number in (0, 1)]
    start = time.perf_counter()
    found = ridge_estimate(pool, ridge=ridge, fpr=arguments.fpr, key=keys[0])
    middle = time.perf_counter()
    exact = measured_ridge(pool, ridge=ridge, fpr=arguments.fpr, shadows=arguments.shadows, key=keys[1])
    low, high = float(found.tpr_low.max()), float(found.tpr_high.max())
    return {
        "option": option,
        "accuracy, estimated": found.accuracy,
        "accuracy, measured": exact.accuracy,
        "mean TPR, estimated": float(found.tpr.mean()),
        "mean TPR, measured": exact.tpr,
        "mean TPR, ratio": float(np.mean(found.tpr)) / exact.tpr,
        "worst TPR, estimated": float(found.tpr.max()),
        "worst low": low,
        "worst high": high,
        "worst TPR, measured": exact.worst_tpr,
        "measured low": exact.worst_low,
        "measured high": exact.worst_high,
        "intervals meet": bool(low <= exact.worst_high and high >= exact.worst_low),
        "seconds, estimated": middle - start,
        "seconds, measured": time.perf_counter() - middle,
    }


if __name__ == "__main__":
    main()
