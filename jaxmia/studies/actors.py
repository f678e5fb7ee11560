"""The table of actors: what each finds, by what is released to it and what it knows, from one set of scores."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxmia._validate import check_different
from jaxmia.attacks.recipes import against, joined, nearest_recipes, tuned_alone
from jaxmia.data.persons import UNITS
from jaxmia.scores import Scores
from jaxmia.scores.release import Release, not_to_be_had, parse_release, released
from jaxmia.scores.rounding import Rounding
from jaxmia.stats.bootstrap import row_intervals
from jaxmia.stats.operating_points import decision_rule, operating_points
from jaxmia.stats.resolution import UnresolvedError, clopper_pearson
from jaxmia.stats.result import AttackResult, of_targets
from jaxmia.studies.actor_attacks import WITHOUT_SHADOWS, as_known, attacks_tried, falls_out
from jaxmia.studies.assess import MIN_MODELS, run_attack, run_attack_on_persons
from jaxmia.studies.settings.actors import Knowledge, asked_for, parse_knowledge
from jaxmia.studies.settings.attacks import AttackSettings
from jaxmia.studies.variants import NO_VARIANTS, Variants

EVALUATION = "pooled"  # one threshold for all that an actor asks about


class Asked(NamedTuple):
    """The rows of a table of actors.

    Attributes:
        release: names for parse_release.
        knowledge: names for parse_knowledge.
    """

    release: tuple[str, ...] = ()
    knowledge: tuple[str, ...] = ()

    @property
    def any(self) -> bool:
        """Whether there is such a table."""
        return bool(self.release or self.knowledge)

    def check(self) -> None:
        """Raise InputError for a name that is unknown, or given twice."""
        for name, values, parse in (
            ("release", self.release, parse_release),
            ("knowledge", self.knowledge, parse_knowledge),
        ):
            check_different(name, values)
            for value in values:
                parse(value)


NOBODY = Asked()


class Block(NamedTuple):
    """Models that an actor has together: targets among them, each attacked with the others.

    Attributes:
        models: rows of the scores.
        targets: places among them of the models that are attacked.
    """

    models: np.ndarray
    targets: np.ndarray


@dataclasses.dataclass(frozen=True)
class Setting:
    """What attacks by actors are run on.

    Attributes:
        scores: of all models, as they are.
        attacks: the attacks asked for.
        fprs: fractions.
        features: float[examples, dim], for attacks that read them; or None.
        person: [examples], whose record each example is, where persons are members; or None.
        target: row of the model under audit; None where every model is a target.
        rounding: of the probabilities that the scores were read from, or None.
        variants: scores of further ensembles of the same membership, for actors without the recipe and re-releases.
    """

    scores: Scores
    attacks: Sequence[AttackSettings]
    fprs: Sequence[float]
    features: np.ndarray | None = None
    person: np.ndarray | None = None
    target: int | None = None
    rounding: Rounding | None = None
    variants: Variants = NO_VARIANTS

    @property
    def groups(self) -> dict[str, np.ndarray]:
        """Rows of the targets that are counted together, by name as in results."""
        everyone = np.arange(len(np.asarray(self.scores.member)))
        if self.target is None:
            return {"all": everyone}
        return {f"row {self.target}": everyone[[self.target]], "others": np.delete(everyone, self.target)}


def actor_rows(setting: Setting, *, release: Sequence[str], knowledge: Sequence[str]) -> pd.DataFrame:
    """Return one row per actor, attack, group of targets and FPR: what is found of the average and the worst record.

    An actor is a release and a knowledge. Its attacks are those asked for, also in their offline forms, and on
    decisions alone "threshold" and "label_ratio" too. An attack that falls out has a row with status "not run" and the
    reason; so has an actor who cannot be had. All pairs of a group share one threshold (evaluation "pooled").

    The worst record (column worst_tpr): chosen on half of the targets as that with the largest TPR - FPR at the common
    threshold, measured on the other half, and the other way round; the mean of both, so that the choice does not raise
    it. worst_fpr is the share of false alarms on the same record. It needs several targets.

    Args:
        setting: scores and attacks.
        release: names for parse_release.
        knowledge: names for parse_knowledge.

    Returns:
        Columns actor and knows (both in words), release, knowledge, targets, unit, attack, shadows, fpr, fpr_realised,
        tpr, tpr_low, tpr_high, worst_tpr, worst_tpr_low, worst_tpr_high, worst_fpr, status, reason. Empty
        if release and knowledge are empty.

    Raises:
        InputError: as parse_release, parse_knowledge and the attacks.
    """
    rows: list[dict[str, Any]] = []
    releases, knowledges = asked_for(release, knowledge)
    table = _Table(setting)
    for each in knowledges:
        for name in releases:
            rows += table.of_actor(parse_release(name), each, parse_knowledge(each))
    return pd.DataFrame(rows)


class _Table:
    """Rows of actors; actors who see the same numbers share their results."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._seen: dict[str, Scores] = {}
        self._results: dict[tuple[int, str, bytes], dict[str, AttackResult]] = {}

    def of_actor(self, release: Release, named: str, knows: Knowledge) -> Iterator[dict[str, Any]]:
        """Yield the rows of an actor, whose knowledge has this name."""
        setting = self._setting
        actor = {
            "actor": who_sees(release),
            "knows": knows.words,
            "release": str(release),
            "knowledge": named,
        }
        reason = not_to_be_had(setting.scores, release, setting.rounding) or _not_known(setting, knows)
        if reason:
            for group in setting.groups:
                yield from self._not_run(actor | {"targets": group, "attack": ""}, reason)
            return
        for attack in attacks_tried(setting.attacks, release, knows):
            for group in setting.groups:
                facts = actor | {"targets": group, "attack": attack.label}
                why = falls_out(attack, release, knows, features=setting.features is not None)
                blocks = blocks_for(
                    len(np.asarray(setting.scores.member)), setting.groups[group], knows.shadows
                )
                if not why and not blocks:
                    why = f"there are too few models for {knows.shadows} shadows of each target"
                if why:
                    yield from self._not_run(facts, why)
                    continue
                shadows = len(blocks[0].models) - 1 if attack.name not in WITHOUT_SHADOWS else 0
                for unit, result in self._result(release, as_known(attack, knows), knows, blocks).items():
                    more = facts | {"unit": unit, "shadows": shadows}
                    yield from (more | row for row in _points(result, setting.fprs))

    def _not_run(self, facts: dict[str, Any], reason: str) -> Iterator[dict[str, Any]]:
        for unit in UNITS if self._setting.person is not None else UNITS[:1]:
            for fpr in self._setting.fprs:
                yield facts | {"unit": unit, "fpr": fpr, "status": "not run", "reason": reason}

    def _result(
        self, release: Release, attack: AttackSettings, knows: Knowledge, blocks: Sequence[Block]
    ) -> dict[str, AttackResult]:
        """Return the result of an attack on the targets of all blocks, by unit."""
        seen = self._sees(release, knows.releases)
        found: dict[str, list[AttackResult]] = {}
        for block in blocks:
            # Results are known by the identity of the arrays, which self._seen keeps.
            key = (id(seen.log_odds), attack.label + knows.recipe, block.models.tobytes())
            if key not in self._results:
                within = rows_of(seen, block.models)
                shadows = self._shadows(release, knows.recipe, within, block.models)
                self._results[key] = _attacked(self._setting, within, attack, shadows)
            for unit, result in self._results[key].items():
                found.setdefault(unit, []).append(of_targets(result, block.targets.tolist()))
        return {unit: joined(parts) for unit, parts in found.items()}

    def _sees(self, release: Release, releases: int) -> Scores:
        """Return the scores through the release, averaged over re-trainings of the same data."""
        name = f"{release} {releases}"
        if name not in self._seen:
            first = self._setting.scores
            several = [first, *self._setting.variants.retrained[: releases - 1]]
            parts = [
                released(each, _outputs(release) if place else release) for place, each in enumerate(several)
            ]
            self._seen[name] = parts[0] if releases == 1 else _mean(parts)
        return self._seen[name]

    def _shadows(
        self, release: Release, recipe: str, targets: Scores, models: np.ndarray
    ) -> Callable[[int], Scores] | None:
        """Return the shadows of each target, if they are of other recipes than the targets."""
        if recipe == "known":
            return None
        variants = self._setting.variants
        sets = [rows_of(released(each, _outputs(release)), models) for each in variants.recipes]
        if recipe == "inferred":
            chosen = nearest_recipes(targets, sets)
            return lambda target: sets[chosen[target]]
        alone = tuned_alone(sets, np.asarray(variants.accuracy)[:, models])
        return lambda target: alone


def _outputs(release: Release) -> Release:
    """Return what is seen of other ensembles: their outputs, where the weights are released."""
    return Release("logits") if release.kind == "weights" else release


def _mean(parts: Sequence[Scores]) -> Scores:
    """Return the mean of scores over re-trainings; a decision is that of most of them."""
    log_odds = np.mean([np.asarray(part.log_odds, np.float64) for part in parts], axis=0)
    margins = [part.margin for part in parts if part.margin is not None]
    margin = np.mean([np.sign(each) for each in margins], axis=0) if len(margins) == len(parts) else None
    alone: dict[str, Any] = {
        "flipped_log_odds": None,
        "prior_mean": None,
        "prior_variance": None,
        "prior_weight": None,
    }
    return dataclasses.replace(parts[0], log_odds=log_odds, margin=margin, **alone)


def who_sees(release: Release) -> str:
    """Return an actor in words, by what it sees."""
    who = {"weights": "a researcher who gets the weights", "logits": "a partner who gets the logits"}
    return who.get(release.kind, f"a customer who sees {release.words}")


def _not_known(setting: Setting, knows: Knowledge) -> str:
    """Return why the scores at hand do not tell what an actor with this knowledge finds."""
    if knows.recipe != "known" and not setting.variants.recipes:
        return "shadows of other recipes are not at hand: experiments train them"
    if knows.releases - 1 > len(setting.variants.retrained):
        return "re-trainings on the same data are not at hand: experiments train them"
    models = len(np.asarray(setting.scores.member))
    if (knows.shadows or 0) > models - 1:
        return f"{knows.shadows} shadows need {(knows.shadows or 0) + 1} models, there are {models}"
    return ""


def blocks_for(models: int, targets: np.ndarray, shadows: int | None) -> list[Block]:
    """Return which models stand together so that every target has so many shadows.

    All models are one block for shadows None or 0. Otherwise targets are dealt into blocks of shadows + 1 models, each
    in turn the target; targets that do not fill a block have no part, and a single target takes the first others.

    Args:
        models: how many there are.
        targets: rows that are attacked.
        shadows: of each target; None for all other models.
    """
    everyone = np.arange(models)
    if not shadows:
        return [Block(everyone, targets)] if models >= MIN_MODELS or shadows == 0 else []
    size = shadows + 1
    if size > models:
        return []
    if len(targets) == 1:
        others = np.delete(everyone, targets)[:shadows]
        return [Block(np.concatenate([targets, others]), np.zeros(1, np.int64))]
    return [
        Block(targets[first : first + size], np.arange(size))
        for first in range(0, len(targets) - size + 1, size)
    ]


def _attacked(
    setting: Setting, scores: Scores, attack: AttackSettings, shadows: Callable[[int], Scores] | None
) -> dict[str, AttackResult]:
    """Return the result of an attack by unit: on records, and on persons if members are persons.

    Args:
        setting: features and persons.
        scores: of the targets, which are each other's shadows unless others are given.
        attack: name and options.
        shadows: the shadows of each target, or None.
    """

    def on(unit: str, seen: Scores) -> AttackResult:
        if unit == "record" or setting.person is None:
            return run_attack(attack, seen, setting.features, setting.person)
        return run_attack_on_persons(attack, seen, setting.person, setting.features)

    units = UNITS if setting.person is not None else UNITS[:1]
    if shadows is None or attack.name in WITHOUT_SHADOWS:
        return {unit: on(unit, scores) for unit in units}
    return {unit: against(functools.partial(on, unit), scores, shadows) for unit in units}


def rows_of(scores: Scores, models: np.ndarray) -> Scores:
    """Return the scores of some models."""
    if len(models) == len(np.asarray(scores.member)) and (models == np.arange(len(models))).all():
        return scores

    def taken(values: Any) -> Any:
        return None if values is None else np.asarray(values)[models]

    held = scores.white_box
    return dataclasses.replace(
        scores,
        log_odds=taken(scores.log_odds),
        member=taken(scores.member),
        population_log_odds=taken(scores.population_log_odds),
        flipped_log_odds=taken(scores.flipped_log_odds),
        margin=taken(scores.margin),
        white_box=held and {name: taken(values) for name, values in held.items()},
        queried=None,
        weights_under=None,
    )


def _points(result: AttackResult, fprs: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Yield the numbers of each FPR: of the average record, and of the worst."""
    points = operating_points(result, fprs, evaluation=EVALUATION)
    intervals = row_intervals(result, fprs, evaluation=EVALUATION)
    decide = decision_rule(result, EVALUATION)
    for point, (low, high) in zip(points, intervals, strict=True):
        wider = high - low > point.tpr_high - point.tpr_low  # false for NaN
        yield {
            "fpr": point.fpr,
            "fpr_realised": point.fpr_realised,
            "tpr": point.tpr,
            "tpr_low": low if wider else point.tpr_low,
            "tpr_high": high if wider else point.tpr_high,
            **(worst_of(result, point.fpr, decide) if point.status == "ok" else {}),
            "status": point.status,
            "reason": point.reason,
        }


def worst_of(result: AttackResult, fpr: float, decide: Callable[[float], Any]) -> dict[str, float]:
    """Return the TPR of the worst record or person with its interval, and its share of false alarms.

    Args:
        result: of an attack, [targets, examples].
        fpr: of the common threshold.
        decide: decision_rule of the result.

    Returns:
        worst_tpr, worst_tpr_low, worst_tpr_high (95%, Clopper-Pearson on the counts of both halves), worst_fpr; NaN
        with fewer than 8 targets, or where no record was a member and a non-member in both halves.
    """
    member = np.asarray(result.member)
    names = ("worst_tpr", "worst_tpr_low", "worst_tpr_high", "worst_fpr")
    none = dict.fromkeys(names, math.nan)
    if len(member) < 8:
        return none
    try:
        called = decide(fpr).called
    except UnresolvedError:
        return none
    halves = [_counts(called[first::2], member[first::2]) for first in (0, 1)]
    hits = np.zeros(4, np.int64)  # true positives, members, false positives, non-members
    for chosen_on, measured_on in (halves, halves[::-1]):
        gain = np.where(
            (chosen_on[1] > 0) & (chosen_on[3] > 0) & (measured_on[1] > 0) & (measured_on[3] > 0),
            chosen_on[0] / np.maximum(chosen_on[1], 1) - chosen_on[2] / np.maximum(chosen_on[3], 1),
            -np.inf,
        )
        worst = int(np.argmax(gain))
        if gain[worst] == -np.inf:
            return none
        hits += measured_on[:, worst]
    low, high = clopper_pearson(int(hits[0]), int(hits[1]))
    values = (hits[0] / hits[1], float(low), float(high), hits[2] / hits[3])
    return dict(zip(names, map(float, values), strict=True))


def _counts(called: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Return true positives, members, false positives and non-members of each example, int64[4, examples]."""
    sums = [(called & member), member, (called & ~member), ~member]
    return np.stack([each.sum(axis=0) for each in sums]).astype(np.int64)
