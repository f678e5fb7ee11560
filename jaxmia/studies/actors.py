"""The table of actors: what each finds, by what is released to it and what it knows, from one set of scores."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxmia import attacks
from jaxmia._validate import check_different
from jaxmia.data.persons import UNITS
from jaxmia.scores import Scores
from jaxmia.scores.release import Release, not_to_be_had, parse_release, released
from jaxmia.scores.rounding import Rounding
from jaxmia.stats.bootstrap import row_intervals
from jaxmia.stats.operating_points import decision_rule, operating_points
from jaxmia.stats.resolution import UnresolvedError, clopper_pearson
from jaxmia.stats.result import AttackResult, of_targets
from jaxmia.studies.assess import MIN_MODELS, needs_features, needs_prior, run_attack, run_attack_on_persons
from jaxmia.studies.settings.actors import Knowledge, asked_for, parse_knowledge
from jaxmia.studies.settings.attacks import AttackSettings

EVALUATION = "pooled"  # one threshold for all that an actor asks about
_ON_LABELS = (
    "threshold",
    "label_ratio",
)  # run where decisions alone are seen, whatever attacks are asked for
_TWO_VALUES = frozenset({"threshold", "difficulty", "base", "rmia", "label_ratio"})
_OFFLINE = frozenset({"lira", "rmia", "base", "label_ratio"})  # attacks with a form for OUT shadows alone
_WITHOUT_CANDIDATES = _OFFLINE | {"threshold", "difficulty", "quantile"}
_WITHOUT_SHADOWS = frozenset({"threshold", "quantile", "analytic", "whitebox"})


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
    """

    scores: Scores
    attacks: Sequence[AttackSettings]
    fprs: Sequence[float]
    features: np.ndarray | None = None
    person: np.ndarray | None = None
    target: int | None = None
    rounding: Rounding | None = None

    @property
    def groups(self) -> dict[str, np.ndarray]:
        """Rows of the targets that are counted together, by name as in results."""
        everyone = np.arange(len(np.asarray(self.scores.member)))
        if self.target is None:
            return {"all": everyone}
        return {f"row {self.target}": everyone[[self.target]], "others": np.delete(everyone, self.target)}


def actor_rows(setting: Setting, *, release: Sequence[str], knowledge: Sequence[str]) -> pd.DataFrame:
    """Return one row per actor, attack, group of targets and FPR: what is found of the average and the worst record.

    An actor is a release and a knowledge. Its attacks are those asked for, and on decisions alone also "threshold" and
    "label_ratio". An attack that falls out has a row with status "not run" and the reason; so has an actor who cannot
    be had. All pairs of a group share one threshold (evaluation "pooled").

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
        for attack in _attacks_of(setting.attacks, release):
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
                shadows = len(blocks[0].models) - 1 if attack.name not in _WITHOUT_SHADOWS else 0
                for unit, result in self._result(release, as_known(attack, knows), blocks).items():
                    more = facts | {"unit": unit, "shadows": shadows}
                    yield from (more | row for row in _points(result, setting.fprs))

    def _not_run(self, facts: dict[str, Any], reason: str) -> Iterator[dict[str, Any]]:
        for unit in UNITS if self._setting.person is not None else UNITS[:1]:
            for fpr in self._setting.fprs:
                yield facts | {"unit": unit, "fpr": fpr, "status": "not run", "reason": reason}

    def _result(
        self, release: Release, attack: AttackSettings, blocks: Sequence[Block]
    ) -> dict[str, AttackResult]:
        """Return the result of an attack on the targets of all blocks, by unit."""
        # Kept by name, since the results are known by the identity of the arrays.
        seen = self._seen.setdefault(str(release), released(self._setting.scores, release))
        found: dict[str, list[AttackResult]] = {}
        for block in blocks:
            key = (id(seen.log_odds), attack.label, block.models.tobytes())
            if key not in self._results:
                self._results[key] = _attacked(self._setting, rows_of(seen, block.models), attack)
            for unit, result in self._results[key].items():
                found.setdefault(unit, []).append(of_targets(result, block.targets.tolist()))
        return {unit: joined(parts) for unit, parts in found.items()}


def who_sees(release: Release) -> str:
    """Return an actor in words, by what it sees."""
    who = {"weights": "a researcher who gets the weights", "logits": "a partner who gets the logits"}
    return who.get(release.kind, f"a customer who sees {release.words}")


def _not_known(setting: Setting, knows: Knowledge) -> str:
    """Return why the scores at hand do not tell what an actor with this knowledge finds."""
    if knows.recipe != "known":
        return "shadows of other recipes are not at hand"
    if knows.releases > 1:
        return "re-trainings on the same data are not at hand"
    models = len(np.asarray(setting.scores.member))
    if (knows.shadows or 0) > models - 1:
        return f"{knows.shadows} shadows need {(knows.shadows or 0) + 1} models, there are {models}"
    return ""


def _attacks_of(asked: Sequence[AttackSettings], release: Release) -> list[AttackSettings]:
    """Return the attacks to try: on decisions alone also those that need no more."""
    names = {attack.name for attack in asked}
    more = _ON_LABELS if release.two_valued else ()
    return [*asked, *(AttackSettings(name=name) for name in more if name not in names)]


def falls_out(attack: AttackSettings, release: Release, knows: Knowledge, *, features: bool) -> str:
    """Return why an attack cannot be run by an actor; empty if it can.

    Args:
        attack: name and options.
        release: what the actor sees.
        knows: what the actor knows.
        features: whether the features of the records are at hand.
    """
    name = attack.name
    if name in attacks.READS_WEIGHTS and release.kind != "weights":
        return "weights are not released"
    if needs_features(name) and not features:
        return "the records' features are not at hand"
    if needs_prior([attack]) and not release.exact:
        return "log-odds are not exact"
    if attack.options.get("paired") and not release.exact:
        return "log-odds are not exact"
    if release.two_valued and name not in _TWO_VALUES:
        return "decisions alone are seen, which have no law of numbers"
    if not knows.candidates and name in attacks.READS_WEIGHTS | attacks.READS_PRIOR:
        return "the other records are not known"
    if not knows.candidates and name not in _WITHOUT_CANDIDATES:
        return "no shadow has trained on the records"
    if not knows.candidates and (attack.options.get("paired") or attack.options.get("calibrated")):
        return "no shadow has trained on the records"
    if knows.shadows == 0 and name not in _WITHOUT_SHADOWS:
        return "there are no shadows"
    return ""


def as_known(attack: AttackSettings, knows: Knowledge) -> AttackSettings:
    """Return an attack in the form that an actor's knowledge allows: offline where only the population is known."""
    if knows.candidates or attack.name not in _OFFLINE:
        return attack
    return AttackSettings.model_validate({"name": attack.name, **attack.options, "offline": True})


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


def _attacked(setting: Setting, scores: Scores, attack: AttackSettings) -> dict[str, AttackResult]:
    """Return the result of an attack by unit: on records, and on persons if members are persons."""
    of_records = run_attack(attack, scores, setting.features, setting.person)
    if setting.person is None:
        return {"record": of_records}
    of_persons = run_attack_on_persons(attack, scores, setting.person, setting.features, of_records)
    return {"record": of_records, "person": of_persons}


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


def joined(parts: Sequence[AttackResult]) -> AttackResult:
    """Return results on several groups of targets as one."""
    arrays: Mapping[str, Any] = {
        name: np.concatenate([np.asarray(getattr(part, name)) for part in parts])
        for name in ("statistic", "member", "defined")
    }
    populations = [part.population for part in parts if part.population is not None]
    population = np.concatenate(populations) if len(populations) == len(parts) else None
    return AttackResult(**arrays, population=population)


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
