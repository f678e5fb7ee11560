"""Heads per second of ensemble training, against the matrix products in it and against other trainers.

Everything is trained from zero on the same member sets with the same recipe, in one run. Methods alternate. The first
round compiles and is not counted; every time is the median of the other rounds.

jaxmia trains all heads in parallel, with a shared batch order, on the full batch, on independent shuffles or by Poisson
sampling. A step sees --batch-size members of a head on average, or all members in the full batch. The limit is the time
of a step's two float32 matrix products over all classes, times the steps. Products are called one by one or in a scan,
whichever is faster. They run over the candidates of a shared or full batch, members or not, and over the members of
independent and Poisson batches. "share of peak" is limit / measured. It can exceed 1, since jaxmia needs one class
less, and if products in bfloat16 are faster.

Other methods train few heads, and their seconds are divided by that number:

- "published": torch, one model after another with a DataLoader, as in published code;
- "tight": the same on batches sliced from tensors;
- "stacked": torch, --stack models in batched products, each with its own batch order;
- "gathered": the same by jax.vmap;
- "scikit-learn": one unpenalised LogisticRegression after another, with the fewest iterations of L-BFGS that reach the
  loss of jaxmia's full-batch heads;
- "jaxmia to that loss": full batch, with the fewest steps that reach it at the best of some learning rates.

torch runs with each number of --threads. Two threads are faster on two idle cores. On busy cores their spinning can
make them fifty times slower, unless OMP_WAIT_POLICY=PASSIVE is set.

"shared order / this" and "in bfloat16" are the heads per second of jaxmia's shared order over those of the row. Loss
(of members) and accuracy (on candidates) are those of the same first --peer-heads heads in every row.
"""

from __future__ import annotations

import argparse
import bisect
import dataclasses
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
import jax.numpy as jnp
import numpy as np
import optax
import scipy.special

from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.membership import MembershipMasks, draw_membership
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.settings import Hyperparams, TrainConfig

MODES = ("shared order", "full batch", "independent", "Poisson")
RATES = (1.0, 3.0, 10.0, 30.0)  # factors on --learning-rate that are tried for the fewest steps
Heads = tuple[np.ndarray, np.ndarray]  # kernels [models, classes, dim] and biases [models, classes]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Adam at one learning rate, the same for all but scikit-learn; `batch` is ignored for the full batch."""

    rate: float
    batch: int
    epochs: int
    steps: int


def main(argv: list[str] | None = None) -> None:
    options = _common.parser(__doc__)
    options.add_argument("--models", type=int, default=257, help="M; trained in parallel")
    options.add_argument("--peer-heads", type=int, default=3, help="heads trained one after another")
    options.add_argument("--stack", type=int, default=32, help="heads that 'stacked' and 'gathered' train")
    options.add_argument(
        "--examples", type=int, default=2000, help="candidates; a model trains on half of them"
    )
    options.add_argument("--classes", type=int, default=10)
    options.add_argument("--dims", type=int, nargs="+", default=[384, 768], help="feature dimensions")
    options.add_argument("--epochs", type=int, default=40)
    options.add_argument(
        "--batch-size", type=int, default=200, help="members per step; must divide all members"
    )
    options.add_argument("--learning-rate", type=float, default=0.01, help="learning rate of Adam")
    options.add_argument("--repeats", type=int, default=5, help="timed rounds; the median is reported")
    options.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="threads of torch, one after another"
    )
    options.add_argument(
        "--products", nargs="+", default=["float32", "bfloat16"], help="number formats of jaxmia's products"
    )
    options.add_argument("--alone", action="store_true", help="run without the other trainers")
    arguments = options.parse_args(argv)
    members = arguments.examples // 2
    if members % arguments.batch_size:
        options.error(f"--batch-size {arguments.batch_size} does not divide the {members} members")
    if max(arguments.peer_heads, arguments.stack) > arguments.models:
        options.error(f"--peer-heads and --stack are at most --models {arguments.models}")
    steps = arguments.epochs * members // arguments.batch_size
    recipe = Recipe(arguments.learning_rate, arguments.batch_size, arguments.epochs, steps)
    facts = {name: peer_version(name) for name in ("torch", "scikit-learn")}
    _common.report(
        f"{arguments.models} heads of {arguments.classes} classes on halves of {arguments.examples} candidates,"
        f" {recipe.steps} steps of Adam, the median of {arguments.repeats}",
        [row for dim in arguments.dims for row in measure(arguments, recipe, dim)],
        dtype="float32, products where said in bfloat16",
        facts=facts,
        arguments=arguments,
    )


def measure(arguments: argparse.Namespace, recipe: Recipe, dim: int) -> list[dict[str, Any]]:
    """Time every way to train at one dimension."""
    pool = _common.synthetic_pool(
        arguments.seed, examples=arguments.examples, classes=arguments.classes, dim=dim
    )
    masks = draw_membership(
        jax.random.key(arguments.seed), pool.labels, num_models=arguments.models, design="fixed_size"
    )
    few, stack = np.asarray(masks.member)[: arguments.peer_heads], np.asarray(masks.member)[: arguments.stack]
    trainings: dict[str, Callable[[], Any]] = {}
    heads_of: dict[str, int] = {}
    rows_of_mode = dict(
        zip(MODES, (2 * recipe.batch, arguments.examples, recipe.batch, recipe.batch), strict=True)
    )
    for mode, products in itertools.product(MODES, arguments.products):
        name = f"jaxmia, {mode}, {products}"
        trainings[name] = functools.partial(train_jaxmia, pool, masks, recipe, mode=mode, products=products)
        heads_of[name] = arguments.models
    limit_steps = max(1, recipe.steps // 4)
    for count in sorted(set(rows_of_mode.values())):
        for name, run in matrix_products(arguments, dim, count, limit_steps).items():
            trainings[f"limit, {count}, {name}"] = run
    if importlib.util.find_spec("torch") and not arguments.alone:
        ways = (
            ("published", train_published, few),
            ("tight", train_tight, few),
            ("stacked", train_stacked, stack),
        )
        for (way, train, member), threads in itertools.product(ways, arguments.threads):
            name = f"{way}, threads={threads}"
            trainings[name] = functools.partial(
                train, pool, member, recipe, seed=arguments.seed, threads=threads
            )
            heads_of[name] = len(member)
    trainings["gathered"] = functools.partial(train_gathered, pool, stack, recipe, seed=arguments.seed)
    heads_of["gathered"] = len(stack)
    if importlib.util.find_spec("sklearn") and not arguments.alone:
        loss = member_loss(pool, few, trainings["jaxmia, full batch, float32"]())
        quick = fewest_steps(loss, pool, masks, recipe, few)
        name = f"jaxmia to that loss, rate={quick.rate:g}, steps={quick.steps}"
        trainings[name] = functools.partial(
            train_jaxmia, pool, masks, quick, mode="full batch", products="float32"
        )
        heads_of[name] = arguments.models
        iterations = iterations_to(loss, pool, few)
        name = f"scikit-learn, max_iter={iterations}"
        trainings[name] = functools.partial(train_scikit, pool, few, iterations)
        heads_of[name] = len(few)

    seconds, heads = medians(trainings, arguments.repeats)
    per_head = {name: seconds[name] / count for name, count in heads_of.items()}
    rows = []
    for name, each in per_head.items():
        share = None
        if name.startswith("jaxmia, "):
            count = rows_of_mode[name.split(", ")[1]]
            limit = min(seconds[f"limit, {count}, {way}"] for way in ("called", "scanned")) / limit_steps
            share = limit * recipe.steps / seconds[name]
        rows.append(
            {
                "d": dim,
                "what": name,
                "s / head": each,
                "heads / s": 1 / each,
                "share of peak": share,
                "shared order / this": each / per_head["jaxmia, shared order, float32"],
                "in bfloat16": each / per_head.get("jaxmia, shared order, bfloat16", np.nan),
                "loss": member_loss(pool, few, heads[name]),
                "accuracy": mean_accuracy(pool, heads[name], len(few)),
            }
        )
    return rows


def medians(trainings: dict[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Return median seconds and the last result of each; runs alternate, and the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in trainings}
    results = {}
    for _ in range(repeats + 1):
        for name, train in trainings.items():
            start = time.perf_counter()
            results[name] = train()
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(values[1:])) for name, values in seconds.items()}, results


def matrix_products(
    arguments: argparse.Namespace, dim: int, count: int, steps: int
) -> dict[str, Callable[[], None]]:
    """Return the two float32 products of a step on count candidates, steps times: one by one, and in a scan."""
    rng = np.random.default_rng(arguments.seed)
    size = arguments.models * arguments.classes
    features = rng.normal(size=(count, dim))
    features /= np.linalg.norm(features, 2)  # keeps the scan finite
    features, kernel, error = (
        jnp.asarray(array, jnp.float32)
        for array in (features, rng.normal(size=(size, dim)), rng.normal(size=(size, count)))
    )

    @jax.jit
    def call(kernel: jax.Array, error: jax.Array, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        return kernel @ features.T, error @ features

    @jax.jit
    def scan(kernel: jax.Array, features: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda kernel, _: ((kernel @ features.T) @ features, None), kernel, length=steps)[
            0
        ]

    def called() -> None:
        for _ in range(steps):
            jax.block_until_ready(call(kernel, error, features))

    def scanned() -> None:
        jax.block_until_ready(scan(kernel, features))

    return {"called": called, "scanned": scanned}


def train_jaxmia(
    pool: FeatureSet, masks: MembershipMasks, recipe: Recipe, *, mode: str, products: str
) -> Heads:
    """Train all heads in parallel."""
    poisson, independent = mode == "Poisson", mode == "independent"
    config = TrainConfig(
        "adam",
        steps=recipe.steps,
        batch_size=recipe.batch if mode == "shared order" or independent else None,
        sampling="poisson" if poisson else "independent" if independent else "shared",
        matmul_dtype=products,
    )
    rate = recipe.batch / (len(pool.labels) // 2) if poisson else 1.0
    hyper = Hyperparams(recipe.rate, sampling_rate=rate)
    params = train_ensemble(jax.random.key(0), pool, masks, hyper, config).params["params"]
    return np.asarray(params["kernel"]), np.asarray(params["bias"])


def train_gathered(pool: FeatureSet, member: np.ndarray, recipe: Recipe, *, seed: int) -> Heads:
    """Train one head per row of member in parallel, each on gathered batches in its own order."""
    rows = jnp.asarray(member_rows(member))
    features, labels = jnp.asarray(pool.features), jnp.asarray(pool.labels)
    keys = jax.random.split(jax.random.key(seed), len(member))
    trained = _gathered(keys, rows, features, labels, classes=pool.num_classes, recipe=recipe)
    return np.asarray(trained[0]), np.asarray(trained[1])


@functools.partial(jax.jit, static_argnames=("classes", "recipe"))
def _gathered(
    keys: jax.Array,
    rows: jax.Array,
    features: jax.Array,
    labels: jax.Array,
    *,
    classes: int,
    recipe: Recipe,
) -> tuple[jax.Array, jax.Array]:
    optimizer = optax.adam(recipe.rate)

    def loss(params: tuple[jax.Array, jax.Array], batch: jax.Array) -> jax.Array:
        logits = features[batch] @ params[0].T + params[1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]).mean()

    def step(carry: tuple[Any, Any], batch: jax.Array) -> tuple[Any, None]:
        params, state = carry
        with jax.numpy_dtype_promotion("standard"):  # optax mixes float and int32
            updates, state = optimizer.update(jax.grad(loss)(params, batch), state)
        return (optax.apply_updates(params, updates), state), None

    def one(key: jax.Array, own: jax.Array) -> Any:
        epochs = jax.random.split(key, recipe.epochs)
        orders = jax.vmap(lambda epoch: jax.random.permutation(epoch, own))(epochs)
        params = (jnp.zeros((classes, features.shape[1])), jnp.zeros(classes))
        start = (params, optimizer.init(params))
        return jax.lax.scan(step, start, orders.reshape(recipe.steps, recipe.batch))[0][0]

    return jax.vmap(one)(keys, rows)


def train_published(
    pool: FeatureSet, member: np.ndarray, recipe: Recipe, *, seed: int, threads: int
) -> Heads:
    """Train one head per row of member, one after another, with a DataLoader."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    features, labels = torch.tensor(pool.features), torch.tensor(pool.labels, dtype=torch.long)
    heads = []
    for row in torch.tensor(member):
        loader = DataLoader(TensorDataset(features[row], labels[row]), batch_size=recipe.batch, shuffle=True)
        head, optimizer, criterion = torch_head(pool, recipe)
        for _ in range(recipe.epochs):
            for x, y in loader:
                optimizer.zero_grad()
                criterion(head(x), y).backward()
                optimizer.step()
        heads.append(head)
    return torch_arrays(heads)


def train_tight(pool: FeatureSet, member: np.ndarray, recipe: Recipe, *, seed: int, threads: int) -> Heads:
    """Train one head per row of member, one after another, on batches sliced by a permuted index."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    features, labels = torch.tensor(pool.features), torch.tensor(pool.labels, dtype=torch.long)
    heads = []
    for row in torch.tensor(member):
        own_x, own_y = features[row], labels[row]
        head, optimizer, criterion = torch_head(pool, recipe)
        for _ in range(recipe.epochs):
            for batch in torch.randperm(len(own_x)).split(recipe.batch):
                optimizer.zero_grad()
                criterion(head(own_x[batch]), own_y[batch]).backward()
                optimizer.step()
        heads.append(head)
    return torch_arrays(heads)


def torch_head(pool: FeatureSet, recipe: Recipe) -> tuple[Any, Any, Any]:
    """Return a linear head at zero, its optimiser and its loss."""
    import torch

    head = torch.nn.Linear(pool.features.shape[1], pool.num_classes)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    return head, torch.optim.Adam(head.parameters(), lr=recipe.rate), torch.nn.CrossEntropyLoss()


def torch_arrays(heads: list[Any]) -> Heads:
    """Return kernels and biases of torch's linear heads."""
    kernels, biases = zip(*((head.weight, head.bias) for head in heads), strict=True)
    return tuple(np.stack([leaf.detach().numpy() for leaf in leaves]) for leaves in (kernels, biases))


def train_stacked(pool: FeatureSet, member: np.ndarray, recipe: Recipe, *, seed: int, threads: int) -> Heads:
    """Train one head per row of member in batched products, each on gathered batches in its own order."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    features, labels = torch.tensor(pool.features), torch.tensor(pool.labels, dtype=torch.long)
    own = torch.tensor(member_rows(member))
    kernel = torch.zeros(len(own), pool.num_classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(len(own), 1, pool.num_classes, requires_grad=True)
    optimizer = torch.optim.Adam([kernel, bias], lr=recipe.rate)
    for _ in range(recipe.epochs):
        orders = own.gather(1, torch.rand(own.shape).argsort(dim=1))
        for batch in orders.split(recipe.batch, dim=1):
            optimizer.zero_grad()
            logits = torch.baddbmm(bias, features[batch], kernel.transpose(1, 2))
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), labels[batch].flatten(), reduction="sum"
            )
            (loss / recipe.batch).backward()  # sum over the heads of each head's mean loss
            optimizer.step()
    return kernel.detach().numpy(), bias.detach().squeeze(1).numpy()


def train_scikit(pool: FeatureSet, member: np.ndarray, iterations: int) -> Heads:
    """Fit one LogisticRegression per row of member, one after another, without a penalty."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    heads = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for row in member:
            head = LogisticRegression(C=np.inf, max_iter=iterations)
            heads.append(head.fit(pool.features[row], pool.labels[row]))
    if pool.num_classes == 2:  # one logit, that of the second class
        kernels = [np.concatenate([np.zeros_like(head.coef_), head.coef_]) for head in heads]
        return np.stack(kernels), np.stack([np.append(0, head.intercept_) for head in heads])
    return np.stack([head.coef_ for head in heads]), np.stack([head.intercept_ for head in heads])


def iterations_to(loss: float, pool: FeatureSet, member: np.ndarray) -> int:
    """Return the fewest iterations, up to 1000, for scikit-learn's heads to reach this loss."""
    return next(
        (
            iterations
            for iterations in range(1, 1000)
            if member_loss(pool, member, train_scikit(pool, member, iterations)) <= loss
        ),
        1000,
    )


def fewest_steps(
    loss: float, pool: FeatureSet, masks: MembershipMasks, recipe: Recipe, few: np.ndarray
) -> Recipe:
    """Return full-batch Adam with the fewest steps for the first heads to reach this loss, at the best of RATES."""
    some = masks.replace(member=masks.member[: len(few)], model_ids=masks.model_ids[: len(few)])

    def reaches(rate: float, steps: int) -> bool:
        tried = dataclasses.replace(recipe, rate=rate, steps=steps)
        heads = train_jaxmia(pool, some, tried, mode="full batch", products="float32")
        return member_loss(pool, few, heads) <= loss

    best = recipe
    for rate in (factor * recipe.rate for factor in RATES):
        steps = range(1, best.steps)
        found = bisect.bisect_left(steps, True, key=functools.partial(reaches, rate))
        if found < len(steps):
            best = dataclasses.replace(recipe, rate=rate, steps=steps[found])
    return best


def member_rows(member: np.ndarray) -> np.ndarray:
    """Return the candidates that are members of each model [models, members]."""
    return np.stack([np.flatnonzero(row) for row in member])


def member_loss(pool: FeatureSet, member: np.ndarray, heads: Heads) -> float:
    """Return the mean cross-entropy of the members of the first heads, one per row of member."""
    losses = []
    for row, kernel, bias in zip(member, *heads, strict=False):
        log_p = scipy.special.log_softmax(pool.features[row] @ kernel.T + bias, axis=1)
        losses.append(-np.take_along_axis(log_p, pool.labels[row][:, None], axis=1).mean())
    return float(np.mean(losses))


def mean_accuracy(pool: FeatureSet, heads: Heads, count: int) -> float:
    """Return the mean accuracy of the first count heads on all candidates."""
    pairs = zip(heads[0][:count], heads[1][:count], strict=True)
    guesses = (np.argmax(pool.features @ kernel.T + bias, axis=1) for kernel, bias in pairs)
    return float(np.mean([np.mean(guess == pool.labels) for guess in guesses]))


def peer_version(name: str) -> str:
    """Return the version of an installed package, or "absent"."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    main()
