"""Compare paired counterfactual scores with heads that are trained again with the record added or removed.

For each ridge, heads are trained to their minimum. For random records of each head, the membership is flipped and the
head is trained again. The relative error is the error of the paired log-odds, over how far re-training moved them.
Predicted before measuring: a median below 1% and a 99th percentile below 10% at every ridge.

    python benchmarks/flips.py --shots 16 --ridge 0.01 0.1 1 10 --flips 1000
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _common import add_features, chosen_features, parser, report

from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.membership import MembershipMasks, draw_membership
from jaxmia.data.pool import candidate_pool
from jaxmia.ridge.paired import paired_scores
from jaxmia.training.ensemble import ShadowEnsemble, train_ensemble
from jaxmia.training.scoring import score
from jaxmia.training.settings import Hyperparams, TrainConfig

# The effect of one flip must be larger than the remaining gradient.
RECIPE = TrainConfig("newton", tolerance=3e-8)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the errors for each ridge and direction of the flip."""
    arguments = options().parse_args(argv)
    data = chosen_features(arguments)
    key = jax.random.key(arguments.seed)
    pool = candidate_pool(
        data, classes=arguments.classes, shots=arguments.shots, key=key, test_per_class=0
    ).data
    rows = [row for ridge in arguments.ridge for row in errors(pool, ridge, arguments)]
    facts = {"shots": arguments.shots, "candidates": len(pool.labels)}
    report("Relative error of flipped log-odds", rows, dtype="float32", facts=facts, arguments=arguments)


def options() -> argparse.ArgumentParser:
    """Return the options of the command line."""
    result = parser(__doc__)
    result.formatter_class = argparse.RawDescriptionHelpFormatter
    add_features(result)
    result.add_argument("--shots", type=int, default=16)
    result.add_argument("--ridge", type=float, nargs="+", default=[0.01, 0.1, 1.0, 10.0])
    result.add_argument("--models", type=int, default=10, help="heads whose records are flipped")
    result.add_argument("--flips", type=int, default=1000, help="flips for each ridge")
    return result


def errors(pool: FeatureSet, ridge: float, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return quantiles of the relative errors at one ridge."""
    rng = np.random.default_rng(arguments.seed)
    masks = draw_membership(jax.random.key(arguments.seed + 1), pool.labels, num_models=arguments.models)
    heads = trained(pool, masks, ridge)
    models = np.arange(arguments.flips) * arguments.models // arguments.flips
    each = [rng.permutation(len(pool.labels))[:number] for number in np.bincount(models)]
    records = np.concatenate(each)
    member = np.asarray(masks.member)[models]
    places = np.arange(len(models))
    inside = member[places, records]
    member[places, records] = ~inside
    flipped = MembershipMasks(jnp.asarray(member), jnp.arange(len(models), dtype=jnp.int32), "bernoulli", 0.5)
    truth = np.asarray(score(trained(pool, flipped, ridge), pool).log_odds)[places, records]
    rows = []
    paired = paired_scores(heads, pool, ridge=ridge)
    before, after = (np.asarray(s)[models, records] for s in (paired.log_odds, paired.flipped_log_odds))
    relative = np.abs(after - truth) / np.abs(truth - before)
    for name, some in (("remove", inside), ("add", ~inside)):
        row = {"ridge": ridge, "flip": name, "flips": int(some.sum())}
        row |= {"moved by": float(np.mean(np.abs(truth - before)[some]))}
        row |= {f"{level:.0%}": float(np.quantile(relative[some], level)) for level in (0.5, 0.99)}
        rows.append(row)
    return rows


def trained(pool: FeatureSet, masks: MembershipMasks, ridge: float) -> ShadowEnsemble:
    """Return heads at their minimum."""
    hyper = Hyperparams(0.1, weight_decay=None, ridge=ridge)
    return train_ensemble(jax.random.key(0), pool, masks, hyper, RECIPE)


if __name__ == "__main__":
    main()
