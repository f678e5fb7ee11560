"""Which attacks an actor can run, in which form, and why it cannot run the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jaxmia import attacks
from jaxmia.scores.release import Release
from jaxmia.studies.assess import needs_features, needs_prior
from jaxmia.studies.settings.actors import Knowledge
from jaxmia.studies.settings.attacks import AttackSettings

_ON_LABELS = (
    "threshold",
    "label_ratio",
)  # run where decisions alone are seen, whatever attacks are asked for
_TWO_VALUES = frozenset({"threshold", "difficulty", "base", "rmia", "label_ratio"})
_OFFLINE = frozenset({"lira", "rmia", "base", "label_ratio"})  # attacks with a form for OUT shadows alone
_WITHOUT_CANDIDATES = _OFFLINE | {"threshold", "difficulty", "quantile"}
WITHOUT_SHADOWS = frozenset({"threshold", "quantile", "analytic", "whitebox"})


def attacks_tried(
    asked: Sequence[AttackSettings], release: Release, knows: Knowledge
) -> list[AttackSettings]:
    """Return the attacks to try: those asked for, and what an actor can also do who has no more.

    LiRA is run with one deviation for all records too, which is better with few shadows or coarse scores. On decisions
    alone there are the attacks that need no more. Who knows the records may still attack as one who does not: with
    clumped scores, as of rounded probabilities, the offline form may find more.
    """
    names = {attack.name for attack in asked}
    more = _ON_LABELS if release.two_valued else ()
    tried = [*asked, *(AttackSettings(name=name) for name in more if name not in names)]
    if knows.shadows == 0:
        return tried
    plain = [each for each in tried if each.name == "lira" and not {"variance", "paired"} & set(each.options)]
    shared = [
        AttackSettings.model_validate({"name": "lira", **each.options, "variance": "global"})
        for each in plain
    ]
    tried += [each for each in shared if each.label not in {one.label for one in tried}]
    if not knows.candidates:
        return tried
    population = dataclasses.replace(knows, candidates=False)
    offline = [
        as_known(attack, population)
        for attack in tried
        if attack.name in _OFFLINE
        and not {"paired", "calibrated"} & set(attack.options)
        and "shrunk" not in attack.options.values()
    ]
    return [*tried, *(attack for attack in offline if attack.label not in {each.label for each in tried})]


def falls_out(attack: AttackSettings, release: Release, knows: Knowledge, *, features: bool) -> str:
    """Return why an attack cannot be run by an actor; empty if it can.

    Args:
        attack: name and options.
        release: what the actor sees.
        knows: what the actor knows.
        features: whether the features of the records are at hand.
    """
    name, why = attack.name, _without_recipe(attack, knows)
    if why:
        return why
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
    if knows.shadows == 0 and name not in WITHOUT_SHADOWS:
        return "there are no shadows"
    return ""


def _without_recipe(attack: AttackSettings, knows: Knowledge) -> str:
    """Return why an attack cannot be run without the recipe, or on the mean of re-trainings; empty if it can."""
    needs = attack.name in attacks.READS_WEIGHTS | attacks.READS_PRIOR or needs_prior([attack])
    if knows.recipe != "known" and (needs or attack.options.get("paired")):
        return "the recipe is not known"
    if knows.releases > 1 and (needs or attack.options.get("paired")):
        return "it is of one model, not of several re-trainings"
    return ""


def as_known(attack: AttackSettings, knows: Knowledge) -> AttackSettings:
    """Return an attack in the form that an actor's knowledge allows: offline where only the population is known."""
    if knows.candidates or attack.name not in _OFFLINE:
        return attack
    return AttackSettings.model_validate({"name": attack.name, **attack.options, "offline": True})
