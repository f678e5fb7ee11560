"""Release maps: what an actor sees of a model, from decisions to weights, applied to the same scores.

An attack under a release sees the target's scores through the map, and its shadows' scores through the same map. So one
ensemble serves every release.
"""

from __future__ import annotations

import dataclasses
import functools
import re

import numpy as np
import scipy.special

from jaxmia._validate import InputError
from jaxmia.scores import Scores
from jaxmia.scores.rounding import MOST_DECIMALS, Rounding

LABEL_LOG_ODDS = float(np.log(99))  # a decision counts as a probability of 0.99 of the label
LARGEST_OF_FLOAT32 = float(-np.log(np.finfo(np.float32).tiny))  # nats: smaller probabilities are 0 in float32
MOST_QUERIES = 100_000
RELEASES = ("labels", "labels:QUERIES", "top1", "rounded:DECIMALS", "probabilities", "logits", "weights")
_NUMBERED = re.compile(r"(?P<kind>labels|rounded):(?P<number>[1-9]\d{0,5})")


@dataclasses.dataclass(frozen=True)
class Release:
    """What is released of a model.

    Attributes:
        kind: "labels", "top1", "rounded", "probabilities", "logits" or "weights".
        number: decimals of "rounded"; of "labels" the copies of a record, with noise, that the actor asks about, 0 for
            the record alone.
    """

    kind: str
    number: int = 0

    def __str__(self) -> str:
        """The name in settings."""
        return f"{self.kind}:{self.number}" if self.number else self.kind

    @property
    def words(self) -> str:
        """What the actor sees, in words."""
        if self.kind == "labels" and self.number:
            return f"decisions on the record and {self.number:,} noisy copies of it"
        if self.kind == "rounded":
            return f"probabilities rounded to {self.number} decimal{'s' if self.number > 1 else ''}"
        words = {"labels": "decisions alone", "top1": "the decision and its probability"}
        return words.get(self.kind, self.kind)

    @property
    def exact(self) -> bool:
        """Whether the log-odds come through unchanged, within float32."""
        return self.kind in ("probabilities", "logits", "weights")

    @property
    def two_valued(self) -> bool:
        """Whether a record's score has two values: right or wrong."""
        return self.kind == "labels" and not self.number

    @property
    def needs_margin(self) -> bool:
        """Whether the map needs Scores.margin: with more than two classes log-odds do not show the decision."""
        return self.two_valued or self.kind == "top1"


def parse_release(text: str) -> Release:
    """Return the release of a name in RELEASES, such as "labels", "labels:64" or "rounded:2".

    Raises:
        InputError: for another name, or a number that is out of range.
    """
    rule = f"be one of {', '.join(RELEASES)}"
    match = _NUMBERED.fullmatch(text)
    if match is None:
        if text in ("labels", "top1", "probabilities", "logits", "weights"):
            return Release(text)
        kind = text.partition(":")[0]
        if kind in ("top1", "probabilities", "logits", "weights"):
            rule = (
                f"be {kind!r} without a number; only 'rounded:DECIMALS' rounds, and it rounds probabilities"
            )
        raise InputError(f"release={text!r} must {rule}.")
    found = Release(match["kind"], int(match["number"]))
    most = {"rounded": MOST_DECIMALS, "labels": MOST_QUERIES}[found.kind]
    if found.number > most:
        raise InputError(f"release={text!r} must have a number of at most {most:,}.")
    return found


def not_to_be_had(scores: Scores, release: Release, known: Rounding | None = None) -> str:
    """Return why these scores cannot be seen through a release; empty if they can.

    Args:
        scores: the scores.
        release: what is released.
        known: how the probabilities that the scores were read from are rounded; a finer release is not known then.
    """
    if release.needs_margin and scores.margin is None:
        return (
            "the decisions are not known: with more than two classes they need logits or probabilities of all"
        )
    if release.kind == "top1" and scores.classes is None:
        return "the number of classes is not known"
    if release.kind == "labels" and release.number and release.number not in (scores.queried or {}):
        return "the model cannot be asked about noisy copies here: that needs the head and its features"
    if release.kind == "weights" and not scores.white_box:
        return "the weights are not known, or no attack reads them (attack 'whitebox')"
    if known is None or release.kind == "labels":
        return ""
    if release.kind in ("logits", "weights", "top1"):
        return f"only probabilities {known} are known"
    finer = release.kind == "rounded" and (known.decimals is None or release.number > known.decimals)
    return f"only probabilities {known} are known" if finer else ""


def released(scores: Scores, release: Release) -> Scores:
    """Return the scores as an actor sees them.

    - labels: LABEL_LOG_ODDS where the decision is right, its negative where it is wrong; with copies, the log-odds of
      the share of right decisions among them.
    - top1: the log-odds where the decision is right. Elsewhere the true class is one of the C - 1 others, which share
      1 - p of the decision's probability p: the log-odds of (1 - p) / (C - 1).
    - rounded: the log-odds of probabilities rounded to decimals.
    - probabilities: the log-odds, cut off where float32 has no smaller probability.
    - logits, weights: the scores as they are.

    Fields that a map does not let through are dropped: statistics of the weights under all but "weights", analytic
    priors and flipped scores under maps that change the log-odds. An exact map returns the arrays themselves.

    Args:
        scores: log_odds and member [models, examples], with what not_to_be_had asks for.
        release: what is released.

    Raises:
        InputError: if the scores cannot be seen so.
    """
    reason = not_to_be_had(scores, release)
    if reason:
        raise InputError(f"release={str(release)!r} must be one that these scores have: {reason}.")
    if release.kind == "weights":
        return scores
    sealed = dataclasses.replace(scores, white_box=None, weights_under=None, queried=None)
    if release.kind == "logits":
        return sealed
    if release.kind == "probabilities":
        return _cut(sealed, LARGEST_OF_FLOAT32)
    coarse = dataclasses.replace(
        sealed,
        flipped_log_odds=None,
        prior_mean=None,
        prior_variance=None,
        prior_weight=None,
        margin=None if scores.margin is None else np.sign(np.asarray(scores.margin)),
        population_log_odds=None,
    )
    exact = np.asarray(scores.log_odds, np.float64)
    if release.kind == "rounded":
        rounding = Rounding(10.0**-release.number, decimals=release.number)
        others = scores.population_log_odds
        population = None if others is None else rounding.applied(np.asarray(others))
        return dataclasses.replace(coarse, log_odds=rounding.applied(exact), population_log_odds=population)
    if release.number:
        return dataclasses.replace(coarse, log_odds=np.asarray((scores.queried or {})[release.number]))
    right = np.asarray(scores.margin) > 0
    if release.kind == "labels":
        return dataclasses.replace(coarse, log_odds=np.where(right, LABEL_LOG_ODDS, -LABEL_LOG_ODDS))
    return dataclasses.replace(
        coarse, log_odds=_top1(exact, np.asarray(scores.margin, np.float64), scores.classes or 2)
    )


def log_odds_of_share(right: np.ndarray, queries: int) -> np.ndarray:
    """Return the log-odds of a share of right decisions, with half a decision added on either side.

    Args:
        right: number of right decisions among a record and its copies, any shape.
        queries: number of copies; the record itself is one decision more.
    """
    return np.asarray(np.log(right + 0.5) - np.log(queries + 1 - right + 0.5))


def _cut(scores: Scores, largest: float) -> Scores:
    """Return scores with log-odds cut off; the same arrays where none is beyond."""
    if float(np.max(np.abs(np.asarray(scores.log_odds)))) <= largest:
        return scores
    clip = functools.partial(np.clip, a_min=-largest, a_max=largest)
    others = scores.population_log_odds
    return dataclasses.replace(
        scores, log_odds=clip(scores.log_odds), population_log_odds=None if others is None else clip(others)
    )


def _top1(log_odds: np.ndarray, margin: np.ndarray, classes: int) -> np.ndarray:
    """Return the log-odds that the decision and its probability show of the true class, float64."""
    log_p = scipy.special.log_expit(log_odds)
    log_top = np.minimum(log_p - np.minimum(margin, 0.0), 0.0)
    rest = np.maximum(-np.expm1(log_top), np.finfo(np.float32).tiny) / (classes - 1)
    return np.where(margin > 0, log_odds, scipy.special.logit(rest))
