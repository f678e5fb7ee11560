"""How much does public data help a private head? Accuracy against epsilon, by the features that it trains on.

Heads of the C largest classes are trained by full-batch DP-SGD (adjacency: add or remove one). The public features are
the other classes of the file, or --public. Private features are used unprojected, projected on random directions, or
projected on the leading principal components of the public features; all are scaled to norm 1. Learning rates and steps
are the same everywhere: no recipe is chosen by accuracy. Predicted before measuring: .36 at S = 32, epsilon 1, and .54
at S = 256, epsilon .25, on nouns with 32 components.
"""

from __future__ import annotations

import argparse

import _common
import jax
import numpy as np

from jaxmia.data.feature_set import FeatureSet, feature_set
from jaxmia.data.membership import draw_membership
from jaxmia.data.normalization import unit_norm
from jaxmia.data.pool import CandidatePool, candidate_pool, choose_classes
from jaxmia.data.public import PublicProjection, projected, public_projection
from jaxmia.privacy.guarantee import PrivacySpec
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.scoring import accuracy
from jaxmia.training.settings import Hyperparams, TrainConfig

STEPS, RATE, CLIP = 30, 4.0, 1.0
RECIPE = TrainConfig("sgd", schedule="constant", steps=STEPS, private=True)


def main(argv: list[str] | None = None) -> None:
    """Train private heads on each kind of features."""
    options = _common.parser(__doc__)
    _common.add_features(options)
    options.add_argument(
        "--public", metavar="PATH", help="public features; by default the file's other classes"
    )
    options.add_argument("--shots", type=int, nargs="+", default=[16, 32, 64, 256])
    options.add_argument("--epsilons", type=float, nargs="+", default=[0.25, 0.5, 1, 2, 4, 8])
    options.add_argument("--components", type=int, nargs="+", default=[16, 32, 64])
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--heads", type=int, default=4, help="heads of each seed")
    arguments = options.parse_args(argv)
    data = _common.chosen_features(arguments)
    kinds = projections(data, arguments)
    rows = []
    for shots in arguments.shots:
        found = {
            kind: np.array(
                [accuracies(data, shots, projection, seed, arguments) for seed in range(arguments.seeds)]
            )
            for kind, projection in kinds.items()
        }
        for place, epsilon in enumerate(arguments.epsilons):
            means = {kind: values[:, place] for kind, values in found.items()}
            error = (
                max(np.std(values, ddof=1) for values in means.values()) if arguments.seeds > 1 else np.nan
            )
            rows.append(
                {"S": shots, "epsilon": epsilon}
                | {kind: float(values.mean()) for kind, values in means.items()}
                | {"largest standard error": float(error / np.sqrt(arguments.seeds))}
            )
    _common.report(
        f"Accuracy of private heads: C = {arguments.classes}, full-batch DP-SGD, {STEPS} steps, delta 1e-5",
        rows,
        dtype="float32",
        facts={},
        arguments=arguments,
    )


def projections(data: FeatureSet, arguments: argparse.Namespace) -> dict[str, PublicProjection | None]:
    """Return the directions to project features on; None for no projection."""
    if arguments.public is None:
        private = np.isin(data.labels, choose_classes(data, arguments.classes))
        public = feature_set(data.features[~private], data.labels[~private])
    else:
        arguments.features = arguments.public
        public = _common.chosen_features(arguments)
    dim = data.features.shape[1]
    random = np.linalg.qr(np.random.default_rng(arguments.seed).normal(size=(dim, dim)))[0]
    kinds: dict[str, PublicProjection | None] = {"as they are": None}
    middle = arguments.components[len(arguments.components) // 2]
    kinds[f"{middle} random"] = PublicProjection(np.zeros(dim), random[:, :middle], "random")
    for components in arguments.components:
        kinds[f"{components} public"] = public_projection(public, components)
    return kinds


def accuracies(
    data: FeatureSet,
    shots: int,
    projection: PublicProjection | None,
    seed: int,
    arguments: argparse.Namespace,
) -> list[float]:
    """Return the mean test accuracy of a seed's heads at each epsilon."""

    def changed(examples: FeatureSet) -> FeatureSet:
        return unit_norm(examples) if projection is None else projected(examples, projection)

    pool = candidate_pool(data, classes=arguments.classes, shots=shots, key=seed)
    pool = CandidatePool(changed(pool.data), changed(pool.test), pool.rows)
    key = jax.random.key(seed)
    masks = draw_membership(jax.random.fold_in(key, 0), pool.data.labels, num_models=arguments.heads)
    found = []
    for epsilon in arguments.epsilons:
        guarantee = PrivacySpec(epsilon=epsilon).guarantee(
            sampling_rate=1.0, steps=STEPS, adjacency="add_or_remove_one"
        )
        hyper = Hyperparams(RATE, noise_multiplier=guarantee.noise_multiplier, clipping_norm=CLIP)
        ensemble = train_ensemble(jax.random.fold_in(key, 1), pool.data, masks, hyper, RECIPE)
        found.append(float(accuracy(ensemble, pool.test).mean()))
    return found


if __name__ == "__main__":
    main()
