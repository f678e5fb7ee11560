"""The rows of attacks on one set of scores: of a cell of an experiment, or of anyone's scores."""

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
from jaxmia.attacks.weights import METHODS
from jaxmia.scores import Scores
from jaxmia.stats.bootstrap import row_intervals
from jaxmia.stats.operating_points import OperatingPoint, operating_points
from jaxmia.stats.resolution import required_nonmembers, resolvable
from jaxmia.stats.result import AttackResult
from jaxmia.stats.roc import Roc, roc
from jaxmia.studies.settings.attacks import AttackSettings
from jaxmia.vulnerability.controls import Control, chance_check, permuted
from jaxmia.vulnerability.curves import vulnerability_curves
from jaxmia.vulnerability.stability import flagged_by

MIN_MODELS = 3  # a target and two shadows
EPSILON_SIGNIFICANCE = 0.05  # of the lower bounds on epsilon of all attacks of a cell together
_POINT_COLUMNS = tuple(field.name for field in dataclasses.fields(OperatingPoint))
_INTERVALS = ("interval", "tpr_counted_low", "tpr_counted_high", "tpr_models_low", "tpr_models_high")
_COLUMNS = (
    *("attack", *_POINT_COLUMNS[:-2], *_INTERVALS),
    *("auc", "balanced_accuracy", "num_undefined", "status", "reason"),
)
_PER_EXAMPLE_COLUMNS = (
    *("num_in", "num_out", "mean_in", "mean_out", "std_in", "std_out", "separation", "separation_error"),
    *("tpr", "tpr_error", "tpr_low", "tpr_high", "tpr_low_all", "tpr_high_all", "tpr_drawn", "threshold"),
    *("tpr_attained", "fpr_attained", "status", "method", "correction", "inclusion_rate"),
)
RATES = (
    *("tpr", "tpr_error", "tpr_low", "tpr_high", "tpr_low_all", "tpr_high_all", "tpr_drawn"),
    *("tpr_attained", "fpr_attained"),
)
_CONTROL_COLUMNS = ("attack", *(field.name for field in dataclasses.fields(Control)), "seed")
_COUNTS = ("num_members", "num_nonmembers", "true_positives", "false_positives", "num_undefined")


class Assessed(NamedTuple):
    """What attacks achieve on one set of scores.

    Attributes:
        rows: one per attack, evaluation and FPR; rows without a number carry the reason.
        flagged_by: float[examples] for each FPR, the number of attacks that flag the example: see
            jaxmia.vulnerability.stability.flagged_by. Empty if the models are too few to say.
    """

    rows: pd.DataFrame
    flagged_by: Sequence[np.ndarray]


def assess(
    attack_settings: Sequence[AttackSettings],
    scores: Scores,
    *,
    fprs: Sequence[float],
    evaluations: Sequence[str],
    features: np.ndarray | None = None,
    audit: Callable[..., float] | None = None,
) -> Assessed:
    """Run attacks on scores, and return what they achieve and which examples they flag.

    Args:
        attack_settings: the attacks.
        scores: log_odds and member [models, examples].
        fprs: fractions.
        evaluations: as in jaxmia.stats.operating_points; "calibrated" takes the form of evaluated_results.
        features: float[examples, dim], for attacks that read them.
        audit: lower bound on epsilon from an attack's statistics on all models, called as
            audit(result, confidence=...), for the column epsilon_lower_bound: the bounds of all rows hold together with
            95%, so that the best of them may be chosen. Attacks that read the target's membership have none.

    Raises:
        InputError: as the attacks.
    """
    if len(scores.log_odds) < MIN_MODELS:
        reason = f"only {len(scores.log_odds)} models have finite scores; an attack needs {MIN_MODELS}"
        rows = [
            {"attack": attack.label, "evaluation": evaluation, "fpr": fpr}
            for attack in attack_settings
            for evaluation in evaluations
            for fpr in fprs
        ]
        diverged = pd.DataFrame(rows).assign(status="diverged", reason=reason, interval="")
        return Assessed(_table(diverged).assign(epsilon_lower_bound=math.nan), ())
    tables = []
    of_attacks = [evaluated_results(attack, scores, evaluations, features) for attack in attack_settings]
    proved = _epsilon_bounds(attack_settings, of_attacks, audit)
    for attack, results in zip(attack_settings, of_attacks, strict=True):
        bounds = {name: proved.get(id(result), math.nan) for name, result in results.items()}
        points = result_rows(attack.label, results, rocs(results), fprs=fprs)
        tables.append(points.assign(epsilon_lower_bound=points["evaluation"].map(bounds)))
    statistics = [next(iter(results.values())) for results in of_attacks]
    return Assessed(pd.concat(tables, ignore_index=True), flagged_by(statistics, fprs))


def _epsilon_bounds(
    attack_settings: Sequence[AttackSettings],
    of_attacks: Sequence[Mapping[str, AttackResult]],
    audit: Callable[..., float] | None,
) -> dict[int, float]:
    """Return the lower bound on epsilon of each audited result, by its id; all of them hold together."""
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
) -> pd.DataFrame:
    """Return one row per attack: its negative control at the largest FPR that the scores resolve.

    Args:
        attack_settings: the attacks.
        scores: log_odds and member [models, examples].
        fprs: fractions.
        seed: of the permutation of labels.
        features: float[examples, dim], for attacks that read them.

    Raises:
        InputError: as the attacks.
    """
    num_nonmembers = int(np.count_nonzero(~np.asarray(scores.member)))
    resolved = [fpr for fpr in fprs if resolvable(fpr, num_nonmembers)]
    rows: list[dict[str, Any]] = []
    possible = bool(resolved) and len(scores.log_odds) >= MIN_MODELS
    shuffled = permuted(scores, seed=seed) if possible else scores
    for attack in attack_settings:
        row = {"attack": attack.label, "seed": seed}
        if possible and (attack.name not in attacks.READS_WEIGHTS or shuffled.white_box is not None):
            result = run_attack(attack, shuffled, features=features)
            rows.append(row | dataclasses.asdict(chance_check(result, max(resolved))))
        else:
            rows.append(row | {"status": "unresolved"})
    return pd.DataFrame(rows).reindex(columns=_CONTROL_COLUMNS)


def check_resolvable(fprs: Sequence[float], num_nonmembers: int, where: str) -> None:
    """Raise InputError, with what each needs, unless the non-member scores resolve at least one FPR."""
    if not any(resolvable(fpr, num_nonmembers) for fpr in fprs):
        needs = ", ".join(f"{fpr} needs {required_nonmembers(fpr)}" for fpr in fprs)
        raise InputError(
            f"fpr={list(fprs)} cannot be resolved: {needs} non-member scores, {where} has {num_nonmembers}."
        )


def needs_features(attack: str) -> bool:
    """Whether an attack of the registry reads the examples' features beside their scores."""
    return "features" in inspect.signature(attacks.REGISTRY[attack]).parameters


def needs_scores_alone(attack: str) -> bool:
    """Whether an attack of the registry works from log-odds and membership, which anyone's scores have."""
    return not needs_features(attack) and attack not in attacks.READS_WEIGHTS | attacks.READS_PRIOR


def white_box_methods(attack_settings: Sequence[AttackSettings]) -> tuple[str, ...]:
    """The methods of jaxmia.vulnerability.white_box whose statistics the attacks read, each once."""
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
    """Whether some attack compares with paired scores."""
    return any(attack.options.get("paired") for attack in attack_settings)


def needs_prior(attack_settings: Sequence[AttackSettings]) -> bool:
    """Whether some attack takes the means or deviations that are known without shadows."""
    return any(
        attack.name in attacks.READS_PRIOR
        or "shrunk" in (attack.options.get("variance"), attack.options.get("location"))
        for attack in attack_settings
    )


def run_attack(attack: AttackSettings, scores: Scores, features: np.ndarray | None = None) -> AttackResult:
    """Run a configured attack.

    Args:
        attack: its name and options.
        scores: log_odds and member [models, examples].
        features: float[examples, dim], for an attack that reads them.

    Raises:
        InputError: without features for an attack that needs them, and as the attack.
    """
    function = attacks.REGISTRY[attack.name]
    if not needs_features(attack.name):
        return function(scores, **attack.options)
    check(features is not None, "attack", attack.label, "be one that works from scores without features")
    return function(scores, features=features, **attack.options)


def check_attacks(attack_settings: Sequence[AttackSettings]) -> None:
    """Raise InputError if an attack refuses its options, tried on a few random scores."""
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
) -> dict[str, AttackResult]:
    """Return what to evaluate under each evaluation.

    "calibrated" assumes that non-members' statistics have the same distribution for every example, once its shadows
    have standardised them. Standardised log-odds nearly do, likelihood ratios and probabilities do not. So LiRA is
    evaluated by its calibrated z, and attacks without such a form by "calibrated_empirical", which assumes no
    distribution, but needs 10/fpr non-members of each example.

    Args:
        attack: its name and options.
        scores: log_odds and member [models, examples].
        evaluations: as in jaxmia.stats.operating_points.
        features: float[examples, dim], for an attack that reads them.
    """
    result = run_attack(attack, scores, features)
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


def rocs(results: Mapping[str, AttackResult], *, targets: Sequence[int] | None = None) -> dict[str, Roc]:
    """Return the curves of one attack by evaluation."""
    return {name: roc(result, evaluation=name, targets=targets) for name, result in results.items()}


def result_rows(
    attack: str,
    results: Mapping[str, AttackResult],
    curves: Mapping[str, Roc],
    *,
    fprs: Sequence[float],
    targets: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Return one row per evaluation and FPR of one attack: its OperatingPoint, and what its ROC sums up to.

    tpr_low and tpr_high are the ends of the wider of two 95% intervals, which "interval" names: that of Clopper and
    Pearson ("clopper_pearson": tpr_counted_low, tpr_counted_high), and the bootstrap of whole models
    ("bootstrap": tpr_models_low, tpr_models_high; missing for a single target).

    Args:
        attack: its label.
        results: its statistics, by evaluation.
        curves: rocs of the results, for the same targets.
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
    """Return both intervals of a point, given that of whole models, and the wider one to be shown."""
    both = {"tpr_counted_low": point.tpr_low, "tpr_counted_high": point.tpr_high}
    both |= {"tpr_models_low": low, "tpr_models_high": high}
    if point.status != "ok":
        return both | {"interval": ""}
    if high - low > point.tpr_high - point.tpr_low:  # false for NaN
        return both | {"interval": "bootstrap", "tpr_low": low, "tpr_high": high}
    return both | {"interval": "clopper_pearson"}


def _table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with all columns, missing counts as missing integers."""
    return rows.reindex(columns=_COLUMNS).astype(dict.fromkeys(_COUNTS, "Int64"))


def rates_by_fpr(rows: pd.DataFrame, fprs: Sequence[float]) -> pd.DataFrame:
    """Return one row per example, in order: its rates at every FPR, as tpr_FPR, tpr_FPR_error and so on.

    Args:
        rows: of per_example_rows, those of each FPR in one order.
        fprs: fractions.
    """
    columns = {}
    for fpr in fprs:
        of_fpr = rows[rows["fpr"] == fpr]
        for name in RATES:
            kind, _, rest = name.partition("_")
            columns["_".join(filter(None, (f"{kind}_{fpr:g}", rest)))] = of_fpr[name].to_numpy()
    return pd.DataFrame(columns)


def per_example_rows(
    scores: Scores,
    fprs: Sequence[float],
    examples: pd.DataFrame,
    *,
    correction: str = "none",
    inclusion_rate: float | None = None,
) -> pd.DataFrame:
    """Return one row per example and FPR: what is known of the example, its shadow statistics, its own TPR.

    Args:
        scores: log_odds and member [models, examples].
        fprs: fractions.
        examples: one row per example, which names it; with fewer than MIN_MODELS models no row is returned.
        correction: as in per_example_vulnerability, recorded in every row.
        inclusion_rate: share of the pool that each model trained on, if known; recorded in every row.
    """
    if len(scores.log_odds) < MIN_MODELS:
        types: dict[str, type] = {"fpr": float, **dict.fromkeys(_PER_EXAMPLE_COLUMNS, float)}
        types |= {"num_in": np.int64, "num_out": np.int64, "status": str, "method": str, "correction": str}
        return examples.iloc[:0].assign(**{name: pd.Series(dtype=kind) for name, kind in types.items()})
    tables = []
    for curve in vulnerability_curves(scores, fprs, correction=correction, inclusion_rate=inclusion_rate):
        columns = {name: getattr(curve, name) for name in _PER_EXAMPLE_COLUMNS}
        tables.append(examples.assign(fpr=curve.fpr, **columns))
    return pd.concat(tables, ignore_index=True)
