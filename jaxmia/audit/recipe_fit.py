"""The mismatch between the shadows of a recipe and the head, and the recipe with the smallest mismatch."""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from typing import Any

import numpy as np
import rich.console
import scipy.optimize
from jaxtyping import Float

from jaxmia._atomic import read_json, write_json
from jaxmia._hashes import content_key, json_number
from jaxmia._progress import grid_progress
from jaxmia.audit.settings import AuditConfig
from jaxmia.audit.shadows import FITTING, SHADOWS_FOLDER, Trainer
from jaxmia.scores.rounding import Rounding
from jaxmia.studies.settings.train import TrainSettings

MODELS = 8  # shadows per recipe, from their own random stream
# In units of the head's interquartile range; with a larger mismatch the shadows do not resemble the head.
MISMATCH = 0.25
_QUANTILES = np.linspace(0.05, 0.95, 19)
_FILE = "match.json"
_DECAY_EXPONENTS = (-7.0, -0.5)  # range of log10 weight decay for fitting
_TRIALS = 12  # number of weight decays tried per number of steps
_STEPS = (25, 100, 400)  # from early stopping to convergence


@dataclasses.dataclass(frozen=True)
class Match:
    """The mismatch of a recipe's shadows and the head.

    Attributes:
        train: the recipe.
        mismatch: mean distance between quantiles of log-odds, for members and for non-members (if any), divided by the
            head's interquartile range.
        head: accuracy and mean log-odds of the head on its members and on others.
        shadows: the same for the shadows.
    """

    train: TrainSettings
    mismatch: float
    head: dict[str, float]
    shadows: dict[str, float]

    def recipe(self) -> dict[str, Any]:
        """Return the settings of the recipe, without those that only audits have."""
        return self.train.model_dump(mode="json", include=set(TrainSettings.model_fields))


@dataclasses.dataclass(frozen=True, eq=False)
class HeadScores:
    """The scores of the head under audit on the records.

    Attributes:
        log_odds: float64[records], of the true class.
        rounding: rounding of the probabilities that they were read from, which is applied to shadows' scores too; or
            None.
        margin: float64[records], positive where the head's decision is right; None if not known.
    """

    log_odds: Float[np.ndarray, "records"]
    rounding: Rounding | None = None
    margin: Float[np.ndarray, "records"] | None = None

    def alike(self, log_odds: np.ndarray) -> np.ndarray:
        """Return other heads' log-odds, rounded in the same way as this head's."""
        return log_odds if self.rounding is None else self.rounding.applied(log_odds)


def fit_recipe_once(
    trainer: Trainer,
    config: AuditConfig,
    own: HeadScores,
    path: pathlib.Path,
    shadows: str,
    console: rich.console.Console | None,
) -> Match:
    """Return the result of fit_recipe, from the folder if it has one for the same shadows and scores of the head.

    A folder may be reused for another head with the same recipe: the shadows are kept, results about the head are not.

    Args:
        trainer: trainer of the shadows.
        config: settings of the audit.
        own: scores of the head.
        path: the audit's folder.
        shadows: the key of its shadows.
        console: console for progress, or None for no output.
    """
    folder = path / SHADOWS_FOLDER
    key = content_key([shadows, own.log_odds.tolist(), str(own.rounding)])
    found = read_json(folder / _FILE)
    if isinstance(found, dict) and found.get("key") == key:
        train = TrainSettings.model_validate(found["train"], strict=False)
        return Match(train, float(found["mismatch"]), found["head"], found["shadows"])
    match = fit_recipe(trainer, config, own, console)
    content = {"key": key, "train": match.recipe(), "mismatch": json_number(match.mismatch)}
    write_json(folder / _FILE, content | {"head": match.head, "shadows": match.shadows})
    return match


def fit_recipe(
    trainer: Trainer, config: AuditConfig, own: HeadScores, console: rich.console.Console | None
) -> Match:
    """Return the given recipe, or the recipe whose shadows are closest to the head, with its mismatch.

    Fitting uses the membership under audit: shadows' scores on their members are matched to the head's scores on its
    members, and likewise for non-members. The fit determines two numbers from quantiles over all records, so one
    record's membership hardly affects them. But an adversary without the membership would have to know the recipe,
    which reports mention.
    """
    if not config.train.match:
        return compare_recipe(trainer, config.train, own)
    tried: list[Match] = []
    weighting: Any = {name: getattr(config.train, name) for name in ("class_weight", "intercept")}

    def mismatch(exponent: float, steps: int) -> float:
        bar.cell(f"fitting the recipe: {steps} steps, weight decay {10**exponent:.2g}")
        train = TrainSettings(steps=steps, weight_decay=10**exponent, schedule="cosine", **weighting)
        tried.append(compare_recipe(trainer, train, own))
        bar.heads(MODELS, float(steps))
        return tried[-1].mismatch

    with grid_progress(console, float(sum(_STEPS) * _TRIALS)) as bar:
        for steps in _STEPS:
            scipy.optimize.minimize_scalar(
                functools.partial(mismatch, steps=steps),
                bounds=_DECAY_EXPONENTS,
                method="bounded",
                options={"xatol": 0.03, "maxiter": _TRIALS},
            )
    return min(tried, key=lambda match: match.mismatch)


def compare_recipe(trainer: Trainer, train: TrainSettings, own: HeadScores) -> Match:
    """Return the mismatch of a recipe's heads and the head under audit."""
    raw, member = trainer.scores(train, (0, MODELS), stream=FITTING)
    log_odds, mine = own.alike(raw), own.log_odds
    low, high = np.quantile(mine, [0.25, 0.75])
    scale = max(float(high - low), 1e-6)
    distances: list[float] = []
    head: dict[str, float] = {}
    shadows: dict[str, float] = {}
    is_member = trainer.records.member
    for side, of_head, of_shadows in (
        ("members", mine[is_member], log_odds[member]),
        ("others", mine[~is_member], log_odds[~member]),
    ):
        if len(of_head) == 0:
            continue
        gaps = np.quantile(of_head, _QUANTILES) - np.quantile(of_shadows, _QUANTILES)
        distances.append(float(np.mean(np.abs(gaps))) / scale)
        for facts, values in ((head, of_head), (shadows, of_shadows)):
            facts[f"mean log-odds of {side}"] = float(np.mean(values))
            facts[f"share of {side} with log-odds above 0"] = float(np.mean(values > 0))
    near = float(np.mean(distances)) if np.isfinite(distances).all() else math.inf
    return Match(train, near, head, shadows)
