"""Private linear heads of jaxmia, Opacus and diffprivlib at equal epsilon, in one run: accuracy and seconds.

Heads of the C largest classes on S records of each; public are the file's other classes, or --public. Test accuracy and
seconds are means over seeds of one head each; jaxmia trains one head at a time too, its compilation not counted.

- jaxmia, auto: recipe and components from public features; jaxmia, class means: on 32 public components;
- Opacus: full-batch DP-SGD of torch.nn.Linear, the better of two recipes by hindsight, on the same 32 components and on
  all dimensions;
- diffprivlib: LogisticRegression (objective perturbation, one against the rest), pure epsilon-DP, the better of two
  strengths by hindsight, on the same components. Its delta is 0, which is more than the others promise.

Adjacency: add or remove one; diffprivlib's own. The peers need scikit-learn below 1.6, which jaxmia's other benchmarks
do not, so they run in an interpreter of their own:

    python -m venv peers && peers/bin/pip install diffprivlib "scikit-learn<1.6" opacus
    python benchmarks/private_peers.py --features nouns.npz --peers peers/bin/python

A peer that is not installed there is left out.

Predicted before measuring: at S = 32 and epsilon 1 jaxmia .44, Opacus on 32 components .40, on all dimensions .25,
diffprivlib .12; jaxmia's class means in less than a hundredth of Opacus's time.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import tempfile
import time

import _common
import jax.numpy as jnp
import numpy as np
from private_recipes import ADJACENCY, COMPONENTS, DELTA, public_features

from jaxmia.data.membership import MembershipMasks
from jaxmia.data.normalization import unit_norm
from jaxmia.data.pool import CandidatePool, candidate_pool
from jaxmia.data.public import projected, public_projection
from jaxmia.private.recipes import PrivateRecipe, class_means
from jaxmia.private.recommend import Target, recommend
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.scoring import accuracy
from jaxmia.training.settings import Hyperparams, TrainConfig

PEERS = """
import importlib.util, json, sys, time, warnings
import numpy as np
warnings.simplefilter("ignore")
epsilon, delta, seed = float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
held = np.load(sys.argv[1])
found = {}

def judged(name, predict, seconds):
    right = float(np.mean(predict == held["test_labels"]))
    if name not in found or right > found[name][0]:  # by hindsight
        found[name] = (right, seconds)

if importlib.util.find_spec("diffprivlib"):
    from diffprivlib.models import LogisticRegression
    for strength in (1.0, 0.01):
        clock = time.perf_counter()
        model = LogisticRegression(epsilon=epsilon, data_norm=1.0, C=strength, fit_intercept=False, max_iter=500,
                                   random_state=seed)
        model.fit(held["few"], held["labels"])
        judged("diffprivlib", model.predict(held["few_test"]), time.perf_counter() - clock)
if importlib.util.find_spec("opacus"):
    import torch
    from opacus import PrivacyEngine
    torch.set_num_threads(1)
    labels = torch.tensor(held["labels"], dtype=torch.long)
    for kind in ("few", "all"):
        x, test = (torch.tensor(held[name]) for name in (kind, kind + "_test"))
        for steps, rate in ((30, 4.0), (5, 2.0)):
            torch.manual_seed(seed)
            clock = time.perf_counter()
            model = torch.nn.Linear(x.shape[1], int(labels.max()) + 1)
            torch.nn.init.zeros_(model.weight), torch.nn.init.zeros_(model.bias)
            loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, labels), batch_size=len(x))
            engine = PrivacyEngine(accountant="prv")
            model, optimizer, loader = engine.make_private_with_epsilon(
                module=model, optimizer=torch.optim.SGD(model.parameters(), rate), data_loader=loader,
                target_epsilon=epsilon, target_delta=delta, epochs=steps, max_grad_norm=1.0, poisson_sampling=False)
            for _ in range(steps):
                for batch, target in loader:
                    optimizer.zero_grad()
                    torch.nn.functional.cross_entropy(model(batch), target).backward()
                    optimizer.step()
            predict = model(test).argmax(1).numpy()
            judged("Opacus, " + {"few": "public components", "all": "all dimensions"}[kind], predict,
                   time.perf_counter() - clock)
print(json.dumps(found))
"""


def main(argv: list[str] | None = None) -> None:
    """Train heads by jaxmia and its peers."""
    options = _common.parser(__doc__)
    _common.add_features(options)
    options.add_argument(
        "--public", metavar="PATH", help="public features; by default the file's other classes"
    )
    options.add_argument("--peers", metavar="PYTHON", help="an interpreter with diffprivlib and Opacus")
    options.add_argument("--shots", type=int, nargs="+", default=[32, 256])
    options.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 4.0])
    options.add_argument("--seeds", type=int, default=5)
    arguments = options.parse_args(argv)
    data = _common.chosen_features(arguments)
    public = public_features(data, arguments)
    projection = public_projection(public, min(public.features.shape))
    rows = []
    for shots in arguments.shots:
        for epsilon in arguments.epsilons:
            target = Target(arguments.classes, shots, epsilon, DELTA, ADJACENCY)
            auto = recommend(target, public=public, dim=data.features.shape[1])
            few = min(COMPONENTS, projection.directions.shape[1])
            means = class_means(
                classes=arguments.classes, shots=shots, dim=few, noise_multiplier=target.noise_multiplier(1)
            )
            found: dict[str, list[tuple[float, float]]] = {}
            for seed in range(arguments.seeds):
                pool = candidate_pool(data, classes=arguments.classes, shots=shots, key=seed)

                def changed(components: int, pool: CandidatePool = pool) -> CandidatePool:
                    leading = projection.leading(components)
                    return CandidatePool(
                        projected(pool.data, leading), projected(pool.test, leading), pool.rows
                    )

                members = np.random.default_rng(seed).random(len(pool.data.labels)) < 0.5
                of_seed = {
                    "jaxmia, auto": one_head(
                        changed(auto.components or 1), members, auto.recipe, target, seed
                    ),
                    "jaxmia, class means": one_head(changed(few), members, means, target, seed),
                }
                if arguments.peers:
                    of_seed |= by_peers(arguments.peers, pool, changed(few), members, epsilon, seed)
                for name, value in of_seed.items():
                    found.setdefault(name, []).append(value)
            for name, values in found.items():
                right, seconds = np.mean(values, axis=0)
                error = (
                    np.std([each[0] for each in values], ddof=1) / np.sqrt(len(values))
                    if len(values) > 1
                    else np.nan
                )
                rows.append({"S": shots, "epsilon": epsilon, "head": name, "accuracy": float(right),
                             "standard error": float(error), "seconds": float(seconds)})  # fmt: skip
    _common.report(
        f"Private heads at equal epsilon: C = {arguments.classes}, delta {DELTA:g}",
        rows,
        dtype="float32",
        facts={},
        arguments=arguments,
    )


def one_head(
    pool: CandidatePool, members: np.ndarray, recipe: PrivateRecipe, target: Target, seed: int
) -> tuple[float, float]:
    """Accuracy and seconds of one head, its program compiled before."""
    masks = MembershipMasks(jnp.asarray(members[None]), jnp.zeros(1, jnp.int32), "bernoulli", 0.5)
    config = TrainConfig("sgd", steps=recipe.steps, private=True, intercept=False)
    hyper = Hyperparams(
        recipe.learning_rate,
        clipping_norm=recipe.clipping_norm,
        noise_multiplier=target.noise_multiplier(recipe.steps),
    )
    train_ensemble(seed, pool.data, masks, hyper, config)
    clock = time.perf_counter()
    head = train_ensemble(seed, pool.data, masks, hyper, config)
    seconds = time.perf_counter() - clock
    return float(np.mean(np.asarray(accuracy(head, pool.test)))), seconds


def by_peers(
    python: str, pool: CandidatePool, few: CandidatePool, members: np.ndarray, epsilon: float, seed: int
) -> dict[str, tuple[float, float]]:
    """Accuracy and seconds of the peers' heads on the same members, in their own interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "data.npz"
        np.savez(
            path,
            few=few.data.features[members],
            few_test=few.test.features,
            all=unit_norm(pool.data).features[members],
            all_test=unit_norm(pool.test).features,
            labels=pool.data.labels[members],
            test_labels=pool.test.labels,
        )
        words = [python, "-c", PEERS, str(path), str(epsilon), str(DELTA), str(seed)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    return {name: (right, seconds) for name, (right, seconds) in json.loads(done.stdout).items()}


if __name__ == "__main__":
    main()
