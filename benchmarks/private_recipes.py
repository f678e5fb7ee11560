"""Which private recipe is worth releasing: accuracy against epsilon, for every recipe side by side.

Heads of the C largest classes (add or remove one record, delta 1e-5). Public are the file's other classes, or --public.
Features are divided by their norm, after projection on public components but for "as before".

- as before: 30 full-batch steps at rate 4 with a bias, on all dimensions (version 0.1's way), and on 32 components;
- class means, 32 components; auto: recipe and components chosen from public features alone;
- best by hindsight: the best on the test split over components x (class means, steps x rates), which no one may choose;
- output perturbation, objective perturbation, sufficient statistics: 32 components, the best of their settings by
  hindsight, so that where they lose they lose for good.

Output perturbation: the minimum of sum loss + lambda/2 ||W||², without a bias, is lambda-strongly convex; a record's
gradient is at most sqrt(2) ||x||, so adding one moves the minimum by at most sqrt(2) / lambda for ||x|| <= 1.

Objective perturbation: that objective plus <b, W>, b Gaussian of deviation s (Kifer et al. 2012). W and b are one to
one, so the log-ratio of W's densities with and without a record is (||b'||² - ||b||²) / (2 s²) plus that of
determinants. Its gradient is e xᵀ with ||e|| <= sqrt(2) and the direction x fixed, so <b, e xᵀ> <= sqrt(2) s chi, chi
of C - 1 degrees of freedom, and its Hessian has rank C - 1 and eigenvalues of at most 1/2: the loss is at most

    (C - 1) log(1 + 1 / (2 lambda)) + 1 / s² + sqrt(2) chi / s,    delta(eps) = E (1 - e^(eps - loss))_+.

Sufficient statistics: XᵀX and w YᵀX, one Gaussian release of sensitivity sqrt(1 + w²); the head is ridge regression.

Predicted before measuring: class means beat DP-SGD of many steps wherever S x epsilon is below about 50, more steps
above; output perturbation, objective perturbation and sufficient statistics win nowhere; auto within .02 of hindsight.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Iterator

import _common
import jax
import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats

from jaxmia.data.feature_set import FeatureSet, feature_set
from jaxmia.data.membership import MembershipMasks, draw_membership
from jaxmia.data.normalization import unit_norm
from jaxmia.data.pool import CandidatePool, candidate_pool, choose_classes
from jaxmia.data.public import PublicProjection, projected, public_projection
from jaxmia.privacy.accounting import noise_multiplier_for
from jaxmia.private.recipes import first_gradient_norm
from jaxmia.private.recommend import Recommendation, Target, recommend
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.scoring import accuracy
from jaxmia.training.settings import Hyperparams, TrainConfig

DELTA, ADJACENCY, COMPONENTS = 1e-5, "add_or_remove_one", 32
GRID = (8, 16, 24, 32, 48, 64, 128, None)  # components that hindsight may choose; None: all dimensions
STEPS, RATES = (3, 10, 30), (1.0, 4.0, 16.0)
OUTPUT_RIDGES, OBJECTIVE_RIDGES = (3.0, 10.0, 30.0, 100.0), (5.0, 50.0)
MOMENT_WEIGHTS, MOMENT_RIDGES = (1.0, 3.0), (0.03, 0.3, 3.0)


def main(argv: list[str] | None = None) -> None:
    """Train heads by every recipe."""
    options = _common.parser(__doc__)
    _common.add_features(options)
    options.add_argument(
        "--public", metavar="PATH", help="public features; by default the file's other classes"
    )
    options.add_argument("--shots", type=int, nargs="+", default=[16, 32, 64, 256])
    options.add_argument("--epsilons", type=float, nargs="+", default=[0.25, 0.5, 1, 2, 4, 8])
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--heads", type=int, default=2, help="of each seed")
    arguments = options.parse_args(argv)
    data = _common.chosen_features(arguments)
    public = public_features(data, arguments)
    projection = public_projection(public, min(public.features.shape))
    rows = []
    for shots in arguments.shots:
        auto = {
            epsilon: recommend(
                Target(arguments.classes, shots, epsilon, DELTA, ADJACENCY),
                public=public,
                dim=data.features.shape[1],
            )
            for epsilon in arguments.epsilons
        }
        found = [of_seed(data, projection, auto, shots, seed, arguments) for seed in range(arguments.seeds)]
        for place, epsilon in enumerate(arguments.epsilons):
            of_epsilon = {name: np.array([each[name][place] for each in found]) for name in found[0]}
            rows.append(row_of(shots, epsilon, of_epsilon, auto[epsilon]))
            print(rows[-1], flush=True)
    _common.report(
        f"Accuracy of private heads by recipe: C = {arguments.classes}, delta {DELTA:g}, add or remove one",
        rows,
        dtype="float32",
        facts={},
        arguments=arguments,
    )


def public_features(data: FeatureSet, arguments: argparse.Namespace) -> FeatureSet:
    """The public features: of a file, or of the classes that are not taken."""
    if arguments.public is not None:
        named = argparse.Namespace(**vars(arguments) | {"features": arguments.public})
        return _common.chosen_features(named)
    private = np.isin(data.labels, choose_classes(data, arguments.classes))
    return feature_set(data.features[~private], data.labels[~private])


def row_of(shots: int, epsilon: float, of_epsilon: dict[str, np.ndarray], auto: Recommendation) -> dict:
    """One row: means over seeds; the settings of a recipe that hindsight chooses, it chooses for all seeds."""
    means = {name: values.mean(axis=0) for name, values in of_epsilon.items()}
    # The test split chooses and judges: what hindsight reaches is a little too good.
    row = {"S": shots, "epsilon": epsilon}
    row |= {name: float(np.max(value)) for name, value in means.items()}
    error = (
        np.std(of_epsilon["auto"], ddof=1) / np.sqrt(len(of_epsilon["auto"]))
        if len(of_epsilon["auto"]) > 1
        else np.nan
    )
    chosen = f"{auto.components} components, {auto.recipe.steps} steps"
    return row | {"standard error of auto": float(error), "auto's choice": chosen}


def of_seed(
    data: FeatureSet,
    projection: PublicProjection,
    auto: dict[float, Recommendation],
    shots: int,
    seed: int,
    arguments: argparse.Namespace,
) -> dict[str, np.ndarray]:
    """Accuracies [epsilons, settings] of every recipe on one pool."""
    pool = candidate_pool(data, classes=arguments.classes, shots=shots, key=seed)
    key = jax.random.key(seed)
    masks = draw_membership(jax.random.fold_in(key, 0), pool.data.labels, num_models=arguments.heads)
    epsilons = arguments.epsilons

    @functools.cache
    def changed(components: int | None) -> CandidatePool:
        how = (
            functools.partial(projected, projection=projection.leading(components))
            if components
            else unit_norm
        )
        return CandidatePool(how(pool.data), how(pool.test), pool.rows)

    def stepped(components: int | None, steps: tuple, rates: tuple, *, bias: bool = False) -> np.ndarray:
        settings = list(itertools.product(steps, rates))
        clip = 1.0 if bias else first_gradient_norm(arguments.classes)
        return dp_sgd(changed(components), masks, epsilons, settings, clip=clip, bias=bias, key=key)

    found = {
        "as before": stepped(None, (30,), (4.0,), bias=True),
        "as before, 32 public": stepped(COMPONENTS, (30,), (4.0,), bias=True),
        "class means, 32 public": stepped(COMPONENTS, (1,), (1.0,)),
    }
    chosen = [
        dp_sgd(changed(each.components), masks, [epsilon], [(each.recipe.steps, each.recipe.learning_rate)],
               clip=each.recipe.clipping_norm, bias=False, key=jax.random.fold_in(key, 2))
        for epsilon, each in auto.items()
    ]  # fmt: skip
    found["auto"] = np.concatenate(chosen)
    means = [stepped(each, (1,), (1.0,)) for each in GRID]
    more = [stepped(each, STEPS, RATES) for each in GRID]
    found["class means by hindsight"] = np.concatenate(means, axis=1)
    found["best by hindsight"] = np.concatenate([*means, *more], axis=1)
    small = changed(COMPONENTS)
    rng = np.random.default_rng(seed)
    found["output perturbation"] = output_perturbation(small, masks, epsilons, rng)
    found["objective perturbation"] = objective_perturbation(small, masks, epsilons, rng)
    found["sufficient statistics"] = sufficient_statistics(small, masks, epsilons, rng, shots)
    return found


def dp_sgd(
    pool: CandidatePool,
    masks: MembershipMasks,
    epsilons: list[float],
    settings: list[tuple[int, float]],
    *,
    clip: float,
    bias: bool,
    key: jax.Array,
) -> np.ndarray:
    """Mean accuracies [epsilons, settings] of full-batch DP-SGD by (steps, rate); all heads are trained at once."""
    grid = [(epsilon, *setting) for epsilon in epsilons for setting in settings]
    heads = masks.member.shape[0]
    repeated = np.tile(np.arange(heads), len(grid))
    many = MembershipMasks(masks.member[repeated], np.arange(len(repeated), dtype=np.int32), "bernoulli", 0.5)
    steps, rates, noises = (
        np.repeat(np.array(values), heads)
        for values in zip(*((each[1], each[2], noise_for(each[0], each[1])) for each in grid), strict=True)
    )
    most = int(steps.max())
    config = TrainConfig("sgd", steps=most, private=True, intercept=bias)
    hyper = Hyperparams(
        rates.astype(np.float32),
        clipping_norm=clip,
        noise_multiplier=noises.astype(np.float32),
        steps=None if most == steps.min() else steps.astype(np.int32),
    )
    ensemble = train_ensemble(jax.random.fold_in(key, 1), pool.data, many, hyper, config)
    values = np.asarray(accuracy(ensemble, pool.test)).reshape(len(grid), heads)
    return values.mean(axis=1).reshape(len(epsilons), len(settings))


@functools.cache
def noise_for(epsilon: float, steps: int = 1) -> float:
    """The noise multiplier of so many full-batch steps."""
    return noise_multiplier_for(
        epsilon=epsilon, delta=DELTA, sampling_rate=1.0, steps=steps, adjacency=ADJACENCY
    )


def members_of(pool: CandidatePool, masks: MembershipMasks) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Features and one-hot labels of each model's members."""
    one_hot = np.eye(pool.data.num_classes)[pool.data.labels]
    for member in np.asarray(masks.member):
        yield pool.data.features[member].astype(np.float64), one_hot[member]


def right(pool: CandidatePool, kernel: np.ndarray) -> float:
    """Share of the test split that a head without a bias classifies correctly."""
    return float(np.mean((pool.test.features @ kernel.T).argmax(axis=1) == pool.test.labels))


def output_perturbation(
    pool: CandidatePool, masks: MembershipMasks, epsilons: list[float], rng: np.random.Generator
) -> np.ndarray:
    """Mean accuracies [epsilons, ridges] of ridge heads with noise on their weights."""
    config = TrainConfig("newton", steps=50, intercept=False)
    found = np.zeros((len(epsilons), len(OUTPUT_RIDGES)))
    for place, ridge in enumerate(OUTPUT_RIDGES):
        hyper = Hyperparams(0.1, weight_decay=None, ridge=ridge)
        kernels = np.asarray(train_ensemble(0, pool.data, masks, hyper, config).params["params"]["kernel"])
        for row, epsilon in enumerate(epsilons):
            deviation = noise_for(epsilon) * np.sqrt(2) / ridge
            noisy = kernels + deviation * rng.normal(size=kernels.shape)
            found[row, place] = np.mean([right(pool, kernel) for kernel in noisy])
    return found


def objective_loss_noise(epsilon: float, classes: int, ridge: float) -> float:
    """The deviation s of objective perturbation, by that bound; inf where the determinants alone exceed epsilon."""
    free = classes - 1
    determinants = free * np.log1p(1 / (2 * ridge))
    if determinants >= epsilon:
        return np.inf
    chi = scipy.stats.chi(free)
    # Upper ends of shares that grow finer towards the tail: the sum errs upwards.
    beyond = np.geomspace(1, 1e-12, 4000)
    values, shares = chi.isf(beyond[1:]), -np.diff(beyond)

    def excess(log_s: float) -> float:
        s = np.exp(log_s)
        losses = determinants + 1 / s**2 + np.sqrt(2) * values / s
        delta = np.sum(shares * np.maximum(0, -np.expm1(epsilon - losses))) + beyond[-1]
        return np.log(max(delta, 1e-300)) - np.log(DELTA)

    return float(np.exp(scipy.optimize.brentq(excess, np.log(0.05), np.log(1e4))))


def objective_perturbation(
    pool: CandidatePool, masks: MembershipMasks, epsilons: list[float], rng: np.random.Generator
) -> np.ndarray:
    """Mean accuracies [epsilons, ridges] of minima of a randomly tilted objective."""
    found = np.zeros((len(epsilons), len(OBJECTIVE_RIDGES)))
    classes, dim = pool.data.num_classes, pool.data.features.shape[1]
    for (row, epsilon), (place, ridge) in itertools.product(enumerate(epsilons), enumerate(OBJECTIVE_RIDGES)):
        deviation = objective_loss_noise(epsilon, classes, ridge)
        if not np.isfinite(deviation):
            found[row, place] = 1 / classes
            continue
        values = []
        for features, one_hot in members_of(pool, masks):
            tilt = deviation * rng.normal(size=(classes, dim))
            tilt -= tilt.mean(axis=0)

            def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
                kernel = flat.reshape(classes, dim)
                logits = features @ kernel.T  # noqa: B023
                total = scipy.special.logsumexp(logits, axis=1)
                loss = np.sum(total - np.sum(logits * one_hot, axis=1))  # noqa: B023
                errors = np.exp(logits - total[:, None]) - one_hot  # noqa: B023
                gradient = errors.T @ features + ridge * kernel + tilt  # noqa: B023
                return loss + ridge / 2 * np.sum(kernel**2) + np.sum(tilt * kernel), gradient.ravel()  # noqa: B023

            solved = scipy.optimize.minimize(objective, np.zeros(classes * dim), jac=True, method="L-BFGS-B")
            values.append(right(pool, solved.x.reshape(classes, dim)))
        found[row, place] = np.mean(values)
    return found


def sufficient_statistics(
    pool: CandidatePool, masks: MembershipMasks, epsilons: list[float], rng: np.random.Generator, shots: int
) -> np.ndarray:
    """Mean accuracies [epsilons, settings] of ridge regression on noisy second moments and class sums."""
    settings = list(itertools.product(MOMENT_WEIGHTS, MOMENT_RIDGES))
    found = np.zeros((len(epsilons), len(settings)))
    members = shots * pool.data.num_classes
    for row, epsilon in enumerate(epsilons):
        for place, (weight, ridge) in enumerate(settings):
            values = []
            for features, one_hot in members_of(pool, masks):
                deviation = noise_for(epsilon) * np.sqrt(1 + weight**2)
                dim = features.shape[1]
                noise = np.triu(rng.normal(size=(dim, dim)))
                moments = features.T @ features + deviation * (noise + np.triu(noise, 1).T)
                sums = one_hot.T @ features + deviation / weight * rng.normal(size=(one_hot.shape[1], dim))
                spectrum, axes = np.linalg.eigh(moments)
                spectrum = np.maximum(spectrum, 0) + ridge * members / dim
                values.append(right(pool, (sums - sums.mean(axis=0)) @ axes / spectrum @ axes.T))
            found[row, place] = np.mean(values)
    return found


if __name__ == "__main__":
    main()
