"""How many members do the weights of a linear head reveal, beyond its outputs?

Compares white-box attacks (jaxmia.vulnerability.white_box) with LiRA on the same heads. Heads are trained in five ways,
on pools from much smaller to much larger than the head: n candidates, half of them members, over d C weights. The
number of shots varies n / (d C), as does projecting the features on their first principal directions.

Expected before measuring:

- Ridge heads at their minimum: stationarity finds all members while n is below (C - 1)(d + 1), where its equation has
  one solution. Far above, weights reveal little more than outputs, since attacks on either see the same few directions
  of each record.
- Heads stopped early are not at a minimum, and stationarity fails. But weights from gradient descent, started at zero,
  are a sum of members' gradients, which mahalanobis detects for n up to d C.
- Adam scales each coordinate by gradients that differ between heads, so mahalanobis detects less.
- The inverse-Hessian attack weighs directions by H⁻² instead of the weights that separate memberships best. So it is
  below the other two.
- Under DP-SGD, no attack is above the ceiling of its noise.

Columns: TPR at FPR 0.01 and 0.001, pooled; "ceiling", that of any attack at 0.01; "above", the number of TPRs in the
row whose 95% interval lies above their ceiling; seconds of each white-box method for all heads.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import Any

import _common
import jax
import numpy as np

from jaxmia import attacks
from jaxmia.attacks.weights import MAX_HESSIAN, METHODS
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.membership import draw_membership
from jaxmia.data.pool import candidate_pool
from jaxmia.stats.operating_points import operating_points
from jaxmia.stats.result import AttackResult
from jaxmia.studies.recipe import Recipe, recipe_for
from jaxmia.studies.settings.experiment import ExperimentConfig
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.scoring import score
from jaxmia.vulnerability.white_box import white_box

FPRS = (0.01, 0.001)
STRENGTH = 1.0  # λ of the ridge; scikit-learn's default
RECIPES: dict[str, dict[str, Any]] = {
    "sgd": {"train": {"optimizer": "sgd", "learning_rate": 1.0}},
    "adam": {},  # the default: 100 full-batch steps at rate 0.1
    "ridge": {"train": {"optimizer": "sgd", "learning_rate": 1.0, "momentum": 0.95, "steps": 1000}},
    "sgd, ε = 8": {"train": {"optimizer": "sgd", "learning_rate": 0.5}, "privacy": {"epsilon": [8.0]}},
    "sgd, ε = 1": {"train": {"optimizer": "sgd", "learning_rate": 0.5}, "privacy": {"epsilon": [1.0]}},
}


def main(argv: list[str] | None = None) -> None:
    options = _common.parser(__doc__)
    _common.add_features(options)
    options.add_argument("--models", type=int, default=64, help="M")
    options.add_argument("--shots", type=int, nargs="*", default=[16, 64], help="shots with all dimensions")
    options.add_argument(
        "--projected", type=int, nargs="*", default=[16, 100, 160], help="shots with projected features"
    )
    options.add_argument("--dim", type=int, default=32, help="dimension of projected features")
    options.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="RECIPE")
    arguments = options.parse_args(argv)
    data = _common.chosen_features(arguments)
    start = time.perf_counter()
    rows = []
    for name in arguments.recipes:
        rows += [measured(arguments, data, name, shots, None) for shots in arguments.shots]
        rows += [measured(arguments, data, name, shots, arguments.dim) for shots in arguments.projected]
    _common.report(
        f"TPR of {arguments.models} heads of {arguments.classes} classes, each the target once",
        rows,
        dtype="float32 heads, float64 statistics",
        facts={"seconds": time.perf_counter() - start},
        arguments=arguments,
    )


def measured(
    arguments: argparse.Namespace, data: FeatureSet, name: str, shots: int, dim: int | None
) -> dict[str, Any]:
    """Return the row of one recipe on one pool."""
    key = jax.random.key(arguments.seed)
    pool = candidate_pool(data, classes=arguments.classes, shots=shots, key=key).data
    if dim is not None:
        pool = projected(pool, dim)
    recipe, decay = chosen_recipe(name, classes=arguments.classes, shots=shots)
    masks = draw_membership(jax.random.fold_in(key, 1), pool.labels, num_models=arguments.models)
    heads = train_ensemble(jax.random.fold_in(key, 2), pool, masks, recipe.hyper, recipe.config)
    scores = score(heads, pool)
    size = pool.features.shape[1]
    row: dict[str, Any] = {"recipe": name, "S": shots, "d": size, "n": len(pool.labels)}
    row["n / (d C)"] = len(pool.labels) / (size * arguments.classes)
    results = {"lira": attacks.lira(scores)}
    seconds = {}
    for method in METHODS:
        seconds[f"s {method}"] = None
        if method != "inverse_hessian" or (arguments.classes - 1) * (size + 1) <= MAX_HESSIAN:
            clock = time.perf_counter()
            statistic = white_box(heads, pool, weight_decay=decay, methods=[method])[method]
            seconds[f"s {method}"] = time.perf_counter() - clock
            results[method] = AttackResult(statistic, scores.member, np.ones(scores.member.shape, bool))
    ceilings = recipe.tpr_ceiling(np.array(FPRS))
    points = {
        attack: operating_points(result, FPRS, evaluation="pooled") for attack, result in results.items()
    }
    for place, fpr in enumerate(FPRS):
        for attack in ("lira", *METHODS):
            point = points[attack][place] if attack in points else None
            row[f"{attack} {fpr:g}"] = point.tpr if point is not None and point.status == "ok" else None
    row["ceiling"] = float(ceilings[0])
    row["above"] = sum(
        point.status == "ok" and point.tpr_low > ceiling
        for of_attack in points.values()
        for point, ceiling in zip(of_attack, ceilings, strict=True)
    )
    return row | seconds


def chosen_recipe(name: str, *, classes: int, shots: int) -> tuple[Recipe, float]:
    """Return a recipe of RECIPES and its weight decay; for the ridge, λ over the expected number of members."""
    settings = ExperimentConfig.model_validate(
        RECIPES[name] | {"grid": {"classes": [classes], "shots": [shots]}}
    )
    recipe = recipe_for(settings, classes=classes, shots=shots, epsilon=settings.privacy.epsilon[0])
    decay = STRENGTH / (classes * shots) if name == "ridge" else 0.0
    return dataclasses.replace(recipe, hyper=dataclasses.replace(recipe.hyper, weight_decay=decay)), decay


def projected(pool: FeatureSet, dim: int) -> FeatureSet:
    """Return the first principal components of the candidates, scaled to a mean square norm of 1."""
    centred = pool.features - pool.features.mean(axis=0)
    components = centred @ np.linalg.svd(centred, full_matrices=False)[2][:dim].T
    scaled = components / np.sqrt(np.mean(np.sum(components**2, axis=1)))
    return dataclasses.replace(pool, features=scaled.astype(np.float32))


if __name__ == "__main__":
    main()
