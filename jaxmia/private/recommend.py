"""A private recipe from public quantities alone: S, C, epsilon, delta, and public features of other classes.

With public features the recipes are *rehearsed* on them: some of their classes stand for the private ones, and the
others fit the projection, as all of them will. Heads are trained with the noise that the private ones would have, on S
members of each class; where the public classes are smaller, on fewer with noise smaller in proportion, so that noise
and signal keep their ratio. First class means at all numbers of components, then more steps near the best of these. No
privacy is spent, since no private record is read.

Without public features, noise and an assumed signal decide (jaxmia.private.recipes.SIGNAL).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxmia._validate import InputError, check
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.membership import MembershipMasks, draw_membership
from jaxmia.data.pool import CandidatePool, candidate_pool
from jaxmia.data.public import PublicProjection, projected, public_projection
from jaxmia.privacy.accounting import noise_multiplier_for
from jaxmia.private.recipes import SIGNAL, PrivateRecipe, class_means, first_gradient_norm
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.scoring import accuracy
from jaxmia.training.settings import Hyperparams, TrainConfig

COMPONENTS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)
STEPS = (3, 10, 30)
RATES = (1.0, 4.0, 16.0)
_TASKS = 3  # rehearsals, each on other classes
_MEANS_HEADS = 8  # of a rehearsal, for class means
_STEPS_HEADS = 3  # of a rehearsal, for each number of steps and rate
_NEAR = 2  # more components than the best for class means that more steps are tried at; and one fewer
_PART = (
    3  # one in so many public classes stands for private ones: fewer fit worse projections, as found on nouns
)
_FEWEST = 24  # records of a public class that takes part
_SHARE = 0.4  # of a class's records that stand for S
_MANY_STEPS, _RATE = 30, 8.0  # without public features


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rehearsed:
    """One recipe on the public classes.

    Attributes:
        components: number of public components.
        steps: number of steps; 1 is class means.
        learning_rate: step size; of no effect on the accuracy of class means.
        accuracy: mean over rehearsals, on held-out public records.
    """

    components: int
    steps: int
    learning_rate: float
    accuracy: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recommendation:
    """A recipe, and why.

    Attributes:
        recipe: steps, rate and clip.
        components: number of public components; None for all dimensions, divided by the norm.
        noise_multiplier: of the recipe's steps at the target epsilon.
        how: how it was chosen, in words.
        rehearsed: what was tried, best first; empty without public features.
    """

    recipe: PrivateRecipe
    components: int | None
    noise_multiplier: float
    how: str
    rehearsed: tuple[Rehearsed, ...] = ()


@dataclasses.dataclass(frozen=True)
class Target:
    """What a private head shall be, in public quantities.

    Attributes:
        classes: C.
        shots: S, expected members per class.
        epsilon: of the guarantee.
        delta: of the guarantee.
        adjacency: "add_or_remove_one" or "replace_one".
    """

    classes: int
    shots: int
    epsilon: float
    delta: float
    adjacency: str

    def noise_multiplier(self, steps: int) -> float:
        """Return the noise multiplier of so many full-batch steps."""
        return noise_multiplier_for(
            epsilon=self.epsilon,
            delta=self.delta,
            sampling_rate=1.0,
            steps=steps,
            adjacency=self.adjacency,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Task:
    """Public classes that stand for the private ones.

    Attributes:
        pool: candidates and test split.
        masks: members of every head.
        projection: fitted to the other classes.
        noise_share: S of the rehearsal over S.
    """

    pool: CandidatePool
    masks: MembershipMasks
    projection: PublicProjection
    noise_share: float


def recommend(
    target: Target,
    *,
    public: FeatureSet | None,
    dim: int,
    seed: int = 0,
    on_work: Callable[[int], None] = lambda _: None,
) -> Recommendation:
    """Return the recipe for a target; reads no private record.

    Args:
        target: C, S, epsilon, delta, adjacency.
        public: features of other classes by the same extractor, with labels; None where there are none.
        dim: dimension of the private features.
        seed: of rehearsals.
        on_work: called with the number of rehearsals done, of rehearsals(dim).

    Raises:
        InputError: for public features of another dimension, or with fewer than two classes of 24 records.
    """
    check(target.classes >= 2, "classes", target.classes, "be at least 2")
    check(target.shots >= 1, "shots", target.shots, "be at least 1")
    if public is None:
        return _by_signal(target, dim)
    check(
        public.features.shape[1] == dim,
        "public: dim",
        public.features.shape[1],
        f"be {dim}, as the features'",
    )
    tasks = list(_tasks(public, target, seed))
    counts = [each for each in components_tried(dim) if each <= len(tasks[0].projection.directions.T)]
    means = [_of_means(tasks, each, max(counts), target, on_work) for each in counts]
    best = int(np.argmax([each.accuracy for each in means]))
    near = counts[max(0, best - 1) : best + _NEAR + 1]
    found = [*means, *(row for each in near for row in _of_steps(tasks, each, max(near), target, on_work))]
    found.sort(key=lambda each: -each.accuracy)
    chosen = found[0]
    noise = target.noise_multiplier(chosen.steps)
    recipe = PrivateRecipe(
        steps=chosen.steps,
        learning_rate=chosen.learning_rate,
        clipping_norm=first_gradient_norm(target.classes),
    )
    if chosen.steps == 1:
        recipe = class_means(
            classes=target.classes, shots=target.shots, dim=chosen.components, noise_multiplier=noise
        )
    classes, shots = tasks[0].pool.data.num_classes, round(tasks[0].noise_share * target.shots)
    how = f"rehearsed on {len(tasks)} x {classes} public classes, S = {shots}"
    return Recommendation(
        recipe=recipe,
        components=chosen.components,
        noise_multiplier=noise,
        how=how,
        rehearsed=tuple(found),
    )


def components_tried(dim: int) -> list[int]:
    """Return the numbers of components that are tried at a dimension."""
    return [*(each for each in COMPONENTS if each < dim), dim]


def rehearsals(dim: int) -> int:
    """Return an upper bound on the number of rehearsals of a recommendation, for progress."""
    return _TASKS * (len(components_tried(dim)) + _NEAR + 2)


def _by_signal(target: Target, dim: int) -> Recommendation:
    """Class means where the noise's energy exceeds the classes', else steps of gradient descent."""
    noise, clip = target.noise_multiplier(1), first_gradient_norm(target.classes)
    energy = dim * (noise * clip / target.shots) ** 2
    if energy > SIGNAL:
        recipe = class_means(classes=target.classes, shots=target.shots, dim=dim, noise_multiplier=noise)
    else:
        recipe = PrivateRecipe(steps=_MANY_STEPS, learning_rate=_RATE, clipping_norm=clip)
    how = f"noise of energy {energy:.3g} beside an assumed signal of {SIGNAL:g}; no public features"
    noise = target.noise_multiplier(recipe.steps)
    return Recommendation(recipe=recipe, components=None, noise_multiplier=noise, how=how)


def _tasks(public: FeatureSet, target: Target, seed: int) -> Iterator[_Task]:
    """Yield rehearsals: classes drawn at random among the larger ones, and the projection of all others."""
    counts = np.bincount(public.labels, minlength=public.num_classes)
    usable = np.flatnonzero(counts >= _FEWEST)
    if usable.size < 2:
        raise InputError(
            f"public features must have at least 2 classes of {_FEWEST} records or more to rehearse on, got"
            f" {usable.size}."
        )
    number = min(target.classes, max(2, usable.size // _PART))
    larger = usable[np.argsort(-counts[usable], kind="stable")][: max(number, -(-3 * usable.size // 4))]
    shots = min(target.shots, int(_SHARE * counts[larger].min()))
    for task in range(_TASKS):
        rng = np.random.default_rng([seed, task])
        chosen = np.sort(rng.choice(larger, number, replace=False))
        others = ~np.isin(public.labels, chosen)
        fitted = _some(public, others) if others.any() else public  # two classes in all: of themselves
        most = min(fitted.features.shape)
        pool = candidate_pool(
            _some(public, ~others), classes=number, shots=shots, key=int(rng.integers(2**31))
        )
        masks = draw_membership(
            jax.random.key(int(rng.integers(2**31))),
            pool.data.labels,
            num_models=max(_MEANS_HEADS, _STEPS_HEADS * len(STEPS) * len(RATES)),
        )
        yield _Task(pool, masks, public_projection(fitted, most), shots / target.shots)


def _some(data: FeatureSet, rows: np.ndarray) -> FeatureSet:
    """Return some records, with the classes that they have."""
    present, labels = np.unique(data.labels[rows], return_inverse=True)
    names = tuple(data.class_names[label] for label in present)
    return FeatureSet(data.features[rows], labels.astype(np.int32), names)


def _of_means(
    tasks: Sequence[_Task], components: int, padded: int, target: Target, on_work: Callable[[int], None]
) -> Rehearsed:
    """Rehearse class means."""
    found = []
    for task in tasks:
        heads = _first(task.masks, _MEANS_HEADS)
        noise = task.noise_share * target.noise_multiplier(1)
        rates = np.ones(_MEANS_HEADS, np.float32)
        found.append(_accuracies(task, heads, components, padded, rates, noise * rates, 1).mean())
        on_work(1)
    return Rehearsed(components=components, steps=1, learning_rate=1.0, accuracy=float(np.mean(found)))


def _of_steps(
    tasks: Sequence[_Task], components: int, padded: int, target: Target, on_work: Callable[[int], None]
) -> Iterator[Rehearsed]:
    """Rehearse gradient descent, all numbers of steps and rates side by side."""
    grid = [(steps, rate) for steps in STEPS for rate in RATES]
    steps, rates = (np.repeat(np.array(values), _STEPS_HEADS) for values in zip(*grid, strict=True))
    exact = {each: target.noise_multiplier(each) for each in STEPS}
    found = []
    for task in tasks:
        noise = task.noise_share * np.array([exact[each] for each in steps.tolist()])
        heads = _first(task.masks, len(steps))
        accuracies = _accuracies(task, heads, components, padded, rates, noise, steps)
        found.append(accuracies.reshape(len(grid), _STEPS_HEADS).mean(axis=1))
        on_work(1)
    for (each, rate), value in zip(grid, np.mean(found, axis=0), strict=True):
        yield Rehearsed(components=components, steps=each, learning_rate=rate, accuracy=float(value))


def _first(masks: MembershipMasks, models: int) -> MembershipMasks:
    return dataclasses.replace(masks, member=masks.member[:models], model_ids=masks.model_ids[:models])


def _accuracies(
    task: _Task,
    masks: MembershipMasks,
    components: int,
    padded: int,
    rates: np.ndarray,
    noise: np.ndarray,
    steps: np.ndarray | int,
) -> np.ndarray:
    """Return the accuracy of each head on held-out public records.

    Dimensions of zeros up to `padded` change no logit, and let all numbers of components share a program.
    """
    data, test = (
        _padded(projected(part, task.projection.leading(components)), padded)
        for part in (task.pool.data, task.pool.test)
    )
    most = int(np.max(steps))
    config = TrainConfig("sgd", steps=most, private=True, intercept=False)
    hyper = Hyperparams(
        jnp.asarray(rates, jnp.float32),
        clipping_norm=first_gradient_norm(data.num_classes),
        noise_multiplier=jnp.asarray(noise, jnp.float32),
        steps=None if most == 1 else jnp.asarray(steps, jnp.int32),
    )
    ensemble = train_ensemble(0, data, masks, hyper, config)
    found: np.ndarray = np.asarray(accuracy(ensemble, test))
    return found


def _padded(data: FeatureSet, dim: int) -> FeatureSet:
    padding = ((0, 0), (0, dim - data.features.shape[1]))
    return dataclasses.replace(data, features=np.pad(data.features, padding))
