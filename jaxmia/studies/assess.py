"""Rows of results for attacks on one set of scores, from a cell of an experiment or from elsewhere."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxmia import attacks
from jaxmia._validate import InputError, check
from jaxmia.attacks.by_person import attack_persons, calibrated_persons
from jaxmia.attacks.weights import METHODS
from jaxmia.data.persons import UNITS
from jaxmia.scores import Scores
from jaxmia.stats.bootstrap import row_intervals
from jaxmia.stats.operating_points import OperatingPoint, operating_points
from jaxmia.stats.resolution import required_nonmembers, resolvable
from jaxmia.stats.result import AttackResult
from jaxmia.stats.roc import Roc, roc
from jaxmia.studies.settings.attacks import AttackSettings
from jaxmia.vulnerability.controls import Control, chance_check, permuted
from jaxmia.vulnerability.stability import flagged_by

MIN_MODELS = 3  # a target and two shadows
EPSILON_SIGNIFICANCE = 0.05  # joint error probability of all lower bounds on epsilon of one cell
_POINT_COLUMNS = tuple(field.name for field in dataclasses.fields(OperatingPoint))
_INTERVALS = ("interval", "tpr_counted_low", "tpr_counted_high", "tpr_models_low", "tpr_models_high")
_COLUMNS = (
    *("attack", *_POINT_COLUMNS[:-2], *_INTERVALS),
    *("auc", "balanced_accuracy", "num_undefined", "status", "reason"),
)
_CONTROL_COLUMNS = ("attack", *(field.name for field in dataclasses.fields(Control)), "seed")
_COUNTS = ("num_members", "num_nonmembers", "true_positives", "false_positives", "num_undefined")


class Assessed(NamedTuple):
    """The results of attacks on one set of scores.

    Attributes:
        rows: one per attack, evaluation and FPR; rows without numbers have the reason.
        flagged_by: float[examples] for each FPR, the number of attacks that flag the example: see
            jaxmia.vulnerability.stability.flagged_by. Empty with too few models.
        persons_flagged_by: the same of persons [persons], ascending by name; empty where there are none.
    """

    rows: pd.DataFrame
    flagged_by: Sequence[np.ndarray]
    persons_flagged_by: Sequence[np.ndarray] = ()


def assess(
    attack_settings: Sequence[AttackSettings],
    scores: Scores,
    *,
    fprs: Sequence[float],
    evaluations: Sequence[str],
    features: np.ndarray | None = None,
    audit: Callable[..., float] | None = None,
    person: np.ndarray | None = None,
) -> Assessed:
    """Run attacks on scores, and return their results and the examples that they flag.

    With persons, rows are of attacks on records and of attacks on persons: the column unit says of which.

    Args:
        attack_settings: the attacks.
        scores: log_odds and member [models, examples].
        fprs: fractions.
        evaluations: as in jaxmia.stats.operating_points; for "calibrated" see evaluated_results.
        features: float[examples, dim], for attacks that read them.
        audit: lower bound on epsilon from an attack's statistics on all models, called as
            audit(result, confidence=...), for the column epsilon_lower_bound: the bounds of all rows hold together with
            95%, so that the best of them may be chosen. Attacks that read the target's membership have none, nor have
            those on records where persons are members: such records are no independent trials.
        person: [examples], whose record each example is, if membership is of persons.

    Raises:
        InputError: as the attacks.
    """
    if len(scores.log_odds) < MIN_MODELS:
        reason = f"only {len(scores.log_odds)} models have finite scores; an attack needs {MIN_MODELS}"
        rows = [
            {"attack": attack.label, "evaluation": evaluation, "fpr": fpr, **unit}
            for attack in attack_settings
            for unit in ([{}] if person is None else [{"unit": unit} for unit in UNITS])
            for evaluation in evaluations
            for fpr in fprs
        ]
        diverged = pd.DataFrame(rows).assign(status="diverged", reason=reason, interval="")
        table = _table(diverged).assign(epsilon_lower_bound=math.nan)
        return Assessed(table if person is None else table.assign(unit=diverged["unit"]), ())
    tables = []
    options: dict[str, Any] = {"features": features, "person": person}
    of_attacks = [evaluated_results(attack, scores, evaluations, **options) for attack in attack_settings]
    of_persons: list[dict[str, AttackResult]] = []
    if person is not None:
        of_persons = [
            evaluated_by_person(attack, scores, person, evaluations, known, features)
            for attack, known in zip(attack_settings, of_attacks, strict=True)
        ]
    proved = _epsilon_bounds(attack_settings, of_persons or of_attacks, audit)
    for place, attack in enumerate(attack_settings):
        for unit, of_unit in zip(UNITS, (of_attacks, of_persons), strict=True):
            for results in of_unit[place : place + 1]:
                bounds = {name: proved.get(id(result), math.nan) for name, result in results.items()}
                points = result_rows(attack.label, results, rocs(results), fprs=fprs)
                points = points if person is None else points.assign(unit=unit)
                tables.append(points.assign(epsilon_lower_bound=points["evaluation"].map(bounds)))
    flags = [
        flagged_by([next(iter(results.values())) for results in of_unit], fprs) if of_unit else ()
        for of_unit in (of_attacks, of_persons)
    ]
    return Assessed(pd.concat(tables, ignore_index=True), *flags)


def _epsilon_bounds(
    attack_settings: Sequence[AttackSettings],
    of_attacks: Sequence[Mapping[str, AttackResult]],
    audit: Callable[..., float] | None,
) -> dict[int, float]:
    """Return the lower bound on epsilon of each audited result, by id; all bounds hold jointly."""
    if audit is None:
        return {}
    audited = {
        id(result): result
        for attack, results in zip(attack_settings, of_attacks, strict=True)
        for result in results.values()
        if attack.name not in attacks.READS_TARGET_MEMBERSHIP
    }
    confidence = 1 - EPSILON_SIGNIFICANCE / max(len(audited), 1)
    return {key: audit(result, confidence=confidence) for key, result in audited.items()}


def control_rows(
    attack_settings: Sequence[AttackSettings],
    scores: Scores,
    *,
    fprs: Sequence[float],
    seed: int,
    features: np.ndarray | None = None,
    person: np.ndarray | None = None,
    of_persons: Scores | None = None,
) -> pd.DataFrame:
    """Return one row per attack: its negative control at the largest FPR that the scores resolve.

    With persons, one for its attack on records and one for that on persons: the column unit says which. Labels are
    permuted by record for the first, and by person for the second.

    Args:
        attack_settings: the attacks.
        scores: log_odds and member [models, examples].
        fprs: fractions.
        seed: seed of the permutation of labels.
        features: float[examples, dim], for attacks that read them.
        person: [examples], the person of each example, if membership is by person.
        of_persons: the scores that person belongs to, if some examples are left out of attacks on persons.

    Raises:
        InputError: as the attacks.
    """
    if person is not None:
        given: dict[str, Any] = {"fprs": fprs, "seed": seed, "features": features}
        of_records = control_rows(attack_settings, scores, **given)
        of_persons = scores if of_persons is None else of_persons
        by_person = _control_rows(attack_settings, of_persons, person=person, **given)
        units = [of_records.assign(unit="record"), by_person.assign(unit="person")]
        return pd.concat(units, ignore_index=True)
    return _control_rows(attack_settings, scores, fprs=fprs, seed=seed, features=features, person=None)


def _control_rows(
    attack_settings: Sequence[AttackSettings],
    scores: Scores,
    *,
    fprs: Sequence[float],
    seed: int,
    features: np.ndarray | None,
    person: np.ndarray | None,
) -> pd.DataFrame:
    """Return the controls of records, or of persons."""
    member = np.asarray(scores.member)
    if person is not None:
        member = member[:, np.unique(person, return_index=True)[1]]
    num_nonmembers = int(np.count_nonzero(~member))
    resolved = [fpr for fpr in fprs if resolvable(fpr, num_nonmembers)]
    rows: list[dict[str, Any]] = []
    possible = bool(resolved) and len(scores.log_odds) >= MIN_MODELS
    shuffled = permuted(scores, seed=seed, person=person) if possible else scores
    for attack in attack_settings:
        row = {"attack": attack.label, "seed": seed}
        if possible and (attack.name not in attacks.READS_WEIGHTS or shuffled.white_box is not None):
            if person is None:
                result = run_attack(attack, shuffled, features=features)
            else:
                result = run_attack_on_persons(attack, shuffled, person, features=features)
            rows.append(row | dataclasses.asdict(chance_check(result, max(resolved))))
        else:
            rows.append(row | {"status": "unresolved"})
    return pd.DataFrame(rows).reindex(columns=_CONTROL_COLUMNS)


def check_resolvable(fprs: Sequence[float], num_nonmembers: int, where: str) -> None:
    """Raise InputError, with the number of scores that each FPR needs, unless at least one FPR is resolved."""
    if not any(resolvable(fpr, num_nonmembers) for fpr in fprs):
        needs = ", ".join(f"{fpr} needs {required_nonmembers(fpr)}" for fpr in fprs)
        raise InputError(
            f"fpr={list(fprs)} cannot be resolved: {needs} non-member scores, {where} has {num_nonmembers}."
        )


def needs_features(attack: str) -> bool:
    """Return whether an attack of the registry uses the examples' features in addition to their scores."""
    return "features" in inspect.signature(attacks.REGISTRY[attack]).parameters


def needs_scores_alone(attack: str) -> bool:
    """Return whether an attack of the registry needs only log-odds and membership."""
    return not needs_features(attack) and attack not in attacks.READS_WEIGHTS | attacks.READS_PRIOR


def white_box_methods(attack_settings: Sequence[AttackSettings]) -> tuple[str, ...]:
    """Return the distinct methods of jaxmia.vulnerability.white_box that the attacks use."""
    return tuple(
        dict.fromkeys(
            str(
                attack.options.get("method", inspect.signature(attacks.whitebox).parameters["method"].default)
            )
            for attack in attack_settings
            if attack.name in attacks.READS_WEIGHTS
        )
    )


def needs_pairs(attack_settings: Sequence[AttackSettings]) -> bool:
    """Return whether any attack uses paired scores."""
    return any(attack.options.get("paired") for attack in attack_settings)


def needs_prior(attack_settings: Sequence[AttackSettings]) -> bool:
    """Return whether any attack uses the analytic means or variances, known without shadows."""
    return any(
        attack.name in attacks.READS_PRIOR
        or "shrunk" in (attack.options.get("variance"), attack.options.get("location"))
        for attack in attack_settings
    )


def run_attack(
    attack: AttackSettings,
    scores: Scores,
    features: np.ndarray | None = None,
    person: np.ndarray | None = None,
) -> AttackResult:
    """Run a configured attack.

    Args:
        attack: its name and options.
        scores: log_odds and member [models, examples].
        features: float[examples, dim], for an attack that reads them.
        person: [examples], for an attack that keeps a person's records apart, if membership is of persons.

        Raises: InputError: if an attack needs features and gets none, or as the attack.
    """
    function = attacks.REGISTRY[attack.name]
    if not needs_features(attack.name):
        return function(scores, **attack.options)
    check(
        features is not None,
        "attack",
        attack.label,
        "be an attack that needs scores only: this one needs features",
    )
    keeps_apart = "person" in inspect.signature(function).parameters
    return function(
        scores, features=features, **({"person": person} if keeps_apart else {}), **attack.options
    )


def run_attack_on_persons(
    attack: AttackSettings,
    scores: Scores,
    person: np.ndarray,
    features: np.ndarray | None = None,
    of_records: AttackResult | None = None,
) -> AttackResult:
    """Run a configured attack on persons, as attack_persons; of_records is what it says of the records, if known."""
    if of_records is None and attack.name != "rmia":
        of_records = run_attack(attack, scores, features, person)
    return attack_persons(attack.name, scores, person, of_records=of_records, **attack.options)


def check_attacks(attack_settings: Sequence[AttackSettings]) -> None:
    """Run every attack on a few random scores; raises InputError if an attack refuses its options."""
    tiny = np.random.default_rng(0)
    log_odds, member = tiny.normal(size=(8, 4)), np.arange(32).reshape(8, 4) % 8 < 4
    known = np.ones((2, log_odds.shape[1]))
    scores = Scores(
        log_odds,
        member,
        flipped_log_odds=-log_odds,
        prior_mean=known,
        prior_variance=known,
        white_box=dict.fromkeys(METHODS, log_odds),
    )
    for attack in attack_settings:
        run_attack(attack, scores, tiny.normal(size=(4, 2)))


def evaluated_results(
    attack: AttackSettings,
    scores: Scores,
    evaluations: Sequence[str],
    features: np.ndarray | None = None,
    person: np.ndarray | None = None,
) -> dict[str, AttackResult]:
    """Return the result to use for each evaluation.

    "calibrated" assumes that non-members' statistics, standardised by the example's shadows, have the same distribution
    for every example. This nearly holds for standardised log-odds, but not for likelihood ratios or probabilities. So
    LiRA is evaluated by its calibrated z, and attacks without a calibrated form by "calibrated_empirical", which
    assumes no distribution but needs 10/fpr non-members for each example.

    Args:
        attack: its name and options.
        scores: log_odds and member [models, examples].
        evaluations: as in jaxmia.stats.operating_points.
        features: float[examples, dim], for an attack that reads them.
        person: as in run_attack.
    """
    result = run_attack(attack, scores, features, person)
    results = {}
    for evaluation in evaluations:
        if evaluation != "calibrated":
            results[evaluation] = result
        elif attack.name in ("lira", "analytic") and not attack.options.get("offline"):
            z_form = AttackSettings.model_validate(
                {"name": attack.name, **attack.options, "calibrated": True}
            )
            results["calibrated"] = run_attack(z_form, scores)
        else:
            results["calibrated_empirical"] = result
    return results


def evaluated_by_person(
    attack: AttackSettings,
    scores: Scores,
    person: np.ndarray,
    evaluations: Sequence[str],
    of_records: Mapping[str, AttackResult],
    features: np.ndarray | None = None,
) -> dict[str, AttackResult]:
    """Return what to evaluate of an attack on persons under each evaluation, as evaluated_results does of records.

    LiRA is evaluated under "calibrated" by its joint form, where that is to be had (calibrated_persons).

    Args:
        attack: its name and options.
        scores: log_odds and member [models, examples].
        person: [examples], whose record each example is.
        evaluations: as in jaxmia.stats.operating_points.
        of_records: of evaluated_results.
        features: float[examples, dim], for an attack that reads them.
    """
    known = next((result for name, result in of_records.items() if name != "calibrated"), None)
    result = run_attack_on_persons(attack, scores, person, features, known)
    results = {}
    for evaluation in evaluations:
        own = None
        if evaluation == "calibrated":
            own = calibrated_persons(attack.name, scores, person, **attack.options)
            evaluation = "calibrated_empirical" if own is None else evaluation
        results[evaluation] = result if own is None else own
    return results


def rocs(results: Mapping[str, AttackResult], *, targets: Sequence[int] | None = None) -> dict[str, Roc]:
    """Return the ROC curves of one attack by evaluation."""
    return {name: roc(result, evaluation=name, targets=targets) for name, result in results.items()}


def result_rows(
    attack: str,
    results: Mapping[str, AttackResult],
    curves: Mapping[str, Roc],
    *,
    fprs: Sequence[float],
    targets: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Return one row per evaluation and FPR of one attack: the OperatingPoint and summaries of the ROC.

    tpr_low and tpr_high are the ends of the wider of two 95% intervals. The column "interval" names it: Clopper-Pearson
    ("clopper_pearson": tpr_counted_low, tpr_counted_high), or the bootstrap over whole models ("bootstrap":
    tpr_models_low, tpr_models_high; missing for a single target).

    Args:
        attack: label of the attack.
        results: its results by evaluation.
        curves: ROC curves of the results, for the same targets.
        fprs: fractions.
        targets: the models whose pairs are counted; all by default.

    Raises:
        InputError: as jaxmia.stats.operating_points.tpr_at_fpr, but never for an unresolved FPR.
    """
    rows = []
    for evaluation, result in results.items():
        curve = curves[evaluation]
        defined = result.defined if targets is None else result.defined[list(targets)]
        facts = {
            "attack": attack,
            "auc": curve.auc,
            "balanced_accuracy": curve.balanced_accuracy,
            "num_undefined": int(np.count_nonzero(~defined)),
        }
        points = operating_points(result, fprs, evaluation=evaluation, targets=targets)
        ends = row_intervals(result, fprs, evaluation=evaluation, targets=targets)
        rows += [
            facts | dataclasses.asdict(point) | _intervals(point, *of_models)
            for point, of_models in zip(points, ends, strict=True)
        ]
    return _table(pd.DataFrame(rows))


def _intervals(point: OperatingPoint, low: float, high: float) -> dict[str, Any]:
    """Return both intervals of a point, given the bootstrap interval, and the wider one as tpr_low and tpr_high."""
    both = {"tpr_counted_low": point.tpr_low, "tpr_counted_high": point.tpr_high}
    both |= {"tpr_models_low": low, "tpr_models_high": high}
    if point.status != "ok":
        return both | {"interval": ""}
    if high - low > point.tpr_high - point.tpr_low:  # false for NaN
        return both | {"interval": "bootstrap", "tpr_low": low, "tpr_high": high}
    return both | {"interval": "clopper_pearson"}


def _table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with all columns; missing counts are missing integers."""
    return rows.reindex(columns=_COLUMNS).astype(dict.fromkeys(_COUNTS, "Int64"))
