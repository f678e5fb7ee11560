"""Audit of one released head: shadows trained like it on other parts of the records, attacks on it, and its records."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import rich.console
import scipy.optimize
from jaxtyping import Bool, Float

from jaxmia._npz import read_npz
from jaxmia._validate import InputError, check
from jaxmia.analytic import analytic_vulnerability
from jaxmia.assess import (
    check_resolvable,
    needs_features,
    needs_prior,
    per_example_rows,
    run_attack,
    white_box_methods,
)
from jaxmia.attack_run import AttackRun, write_attacks
from jaxmia.audit_config import AuditConfig, load_audit
from jaxmia.config import AttackSettings, ExperimentConfig, TrainSettings
from jaxmia.contrasts import objective_ridge
from jaxmia.decisions import call_members, conformal_p_values
from jaxmia.ensemble import ShadowEnsemble, train_ensemble
from jaxmia.evaluation import calibrated_p_values
from jaxmia.external import ExternalScores
from jaxmia.features import FeatureSet, load_features
from jaxmia.membership import MembershipMasks, draw_membership
from jaxmia.progress import grid_progress
from jaxmia.recipe import Recipe, recipe_for
from jaxmia.released import ReleasedHead, load_released
from jaxmia.scores import Scores, score
from jaxmia.store import (
    content_key,
    file_hash,
    json_number,
    load_json,
    machine,
    new_folder,
    now,
    versions,
    write_arrays,
    write_json,
    write_parquet,
)
from jaxmia.whitebox import check_methods, white_box

BLOCK = 32  # shadows between two writes
FDR = 0.1  # at which records are called members
MATCH_MODELS = 8  # shadows that stand for a recipe while one is fitted
MATCH_QUANTILES = np.linspace(0.05, 0.95, 19)
MISMATCH = 0.25  # of the head's interquartile range: beyond, the shadows are not heads like it
_MATCH = "match.json"
_SCORES, _WEIGHTS = ("log_odds", "member"), ("kernel", "bias")  # of a block of shadows
_DECAY_EXPONENTS = (-7.0, -0.5)  # of the weight decay, base 10, between which one is fitted
_TRIALS = 12  # of weight decays, at each number of steps
_STEPS = (25, 100, 400)  # from stopped early to converged


@dataclasses.dataclass(frozen=True)
class Match:
    """How near shadows of a recipe come to the head.

    Attributes:
        train: the recipe.
        mismatch: mean distance of quantiles of log-odds, members' and non-members' (if there are any), over the
            head's interquartile range.
        head: accuracy and mean log-odds of the head on its members and on others.
        shadows: the same of the shadows.
    """

    train: TrainSettings
    mismatch: float
    head: dict[str, float]
    shadows: dict[str, float]


@dataclasses.dataclass(frozen=True)
class AuditResult:
    """What an audit leaves.

    Attributes:
        path: its folder.
        attack: results of the attacks: of the head ("row 0") and of its shadows ("others").
        records: one row per record: what the head says of it and what attacks make of that, and its own vulnerability
            over re-trainings.
        match: how near the shadows come to the head.
        warnings: what a reader of the results must know.
    """

    path: pathlib.Path
    attack: AttackRun
    records: pd.DataFrame
    match: Match
    warnings: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _Records:
    """The records, and which of them the head was trained on."""

    data: FeatureSet
    member: Bool[np.ndarray, "records"]
    ids: np.ndarray

    @property
    def inclusion_rate(self) -> float:
        """Of the shadows: so that they train on as many records as the head; half of them if it had all."""
        rate = float(self.member.mean())
        return rate if rate < 1 else 0.5


def run_audit(
    config: AuditConfig | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    console: rich.console.Console | None = None,
) -> AuditResult:
    """Audit one released head: how well attacks tell its training members, and which records are most at risk.

    Two questions are answered apart. *This head*: attacks, with shadows trained like it on other random parts of the
    same records, are run against the given head; its members and non-members are what the audit says they are.
    *Heads like it*: the TPR that an attacker has on each record on average over re-trainings, from the shadows alone.

    The folder gets audit.json, records.parquet, attack/ (as attack_scores writes it) and shadows/. A killed audit
    continues from the shadows that are there.

    Args:
        config: settings, or an audit file.
        out: the folder.
        console: where progress is shown, if anywhere.

    Raises:
        InputError: for whatever is wrong with settings, records, head or folder; before any training.
    """
    if isinstance(config, (str, os.PathLike)):
        config = load_audit(config)
    records = _load_records(config)
    head = load_released(config.head.file, records.data, weight=config.head.weight, bias=config.head.bias)
    external = head.scores(records.data.labels, records.member)
    own = np.asarray(external.scores.log_odds)[0].astype(np.float64)
    others = int(np.count_nonzero(~records.member))
    of_shadows = (1 - records.inclusion_rate) * len(own) * config.shadows.models
    check_resolvable(config.fpr, max(others, int(of_shadows)), "the audit")
    for attack in config.attack:
        check(not needs_features(attack.name), "attack", attack.label, "be one that works from scores alone")
        rule = "leave out paired=true: an audit keeps its shadows' scores, not what flips them"
        check(not attack.options.get("paired"), "attack", attack.label, rule)
    ridge_head = config.train.optimizer == "newton"
    rule = "be 'newton' for analytic attacks and 'shrunk': they need heads at their minimum"
    check(ridge_head or not needs_prior(config.attack), "train.optimizer", config.train.optimizer, rule)
    _check_weights(config, records, head)
    path = pathlib.Path(out)
    key = content_key(
        [
            records.data.content_hash(),
            records.member.tolist(),
            config.model_dump(mode="json", include={"train", "seed"}),
            file_hash(config.head.file) if config.train.match else "",
            versions(),
        ]
    )
    _open(path, key)
    match = _matched_once(config, records, own, path, console)
    shadows = _shadows(config, records, match.train, path, console)
    warnings = (*external.notes, *head.notes, *_warnings(records, head, own, match))
    log_odds = np.concatenate([own[None], shadows["log_odds"]])
    member = np.concatenate([records.member[None], shadows["member"]])
    prior: dict[str, np.ndarray] = {}
    if needs_prior(config.attack):
        ridge, rate = match.train.ridge, records.inclusion_rate
        prior = analytic_vulnerability(records.data, ridge=ridge, inclusion_rate=rate).prior()
    weights_say = _weights_say(config, records, head, match.train, shadows)
    stacked = Scores(log_odds, member, white_box=weights_say, **prior)
    arrays = {"log_odds": log_odds, "member": member, "labels": records.data.labels}
    write_arrays(path / "scores.npz", arrays)
    shutil.rmtree(path / "attack", ignore_errors=True)
    read = ExternalScores(stacked, records.data.labels, 0 if others else None, ())
    with new_folder(path / "attack") as folder:
        results, controls = write_attacks(folder, path / "scores.npz", read, config.attack, config.fpr)
    attacked = AttackRun(path / "attack", read, results, controls)
    table = _record_rows(config, records, own, stacked)
    write_parquet(path / "records.parquet", table)
    result = AuditResult(path, attacked, table, match, warnings)
    write_json(path / "audit.json", _content(config, records, head, result, key))
    return result


def _load_records(config: AuditConfig) -> _Records:
    data = load_features(config.data.features)
    extra = read_npz(
        pathlib.Path(config.data.features), name="features", required=(), optional=("member", "ids")
    )
    if config.data.members:
        source = config.data.members
        member = read_npz(pathlib.Path(source), name="members", required=("member",))["member"]
    else:
        source = config.data.features
        if "member" not in extra:
            raise InputError(
                f"{source} must hold the key 'member', or data.members must name an .npz that does."
            )
        member = extra["member"]
    check(
        member.shape == data.labels.shape,
        f"{source}: member.shape",
        member.shape,
        f"be {data.labels.shape}, one for each record",
    )
    truth = member.dtype == bool or (
        np.issubdtype(member.dtype, np.integer) and set(np.unique(member)) <= {0, 1}
    )
    check(bool(truth), f"{source}: member", f"{member.dtype} {np.unique(member)[:4]}", "be bool, or 0 and 1")
    member = member.astype(bool)
    check(
        bool(member.any()), f"{source}: members", 0, "be at least 1: no record is marked as a training member"
    )
    missing = [data.class_names[c] for c in range(data.num_classes) if not member[data.labels == c].any()]
    check(
        not missing, f"{source}: classes without a member", missing, "be none: the head has never seen them"
    )
    ids = extra.get("ids", np.arange(len(data.labels)))
    check(ids.shape == data.labels.shape, "ids.shape", ids.shape, f"be {data.labels.shape}")
    check(
        len(np.unique(ids)) == len(ids), "different ids", len(np.unique(ids)), f"be {len(ids)}: one a record"
    )
    return _Records(data, member, ids.astype(str))


def _open(path: pathlib.Path, key: str) -> None:
    if path.exists() and not path.is_dir():
        raise InputError(f"out={str(path)!r} must be a folder, but it is a file.")
    known = path / "shadows" / "key.json"
    if not known.is_file():
        if path.is_dir() and any(path.iterdir()):
            raise InputError(f"out={str(path)!r} must be empty or hold an audit; it has other files.")
        known.parent.mkdir(parents=True)
        write_json(known, {"key": key})
    elif load_json(known.parent, "key.json").get("key") != key:
        raise InputError(f"out={str(path)!r} holds the audit of another head, recipe or set of records.")


def _recipe(train: TrainSettings, records: _Records) -> Recipe:
    """What the shadows are trained with: batches count against as many members as the head has."""
    classes = records.data.num_classes
    members = records.inclusion_rate * len(records.member)
    settings = {name: getattr(train, name) for name in TrainSettings.model_fields}
    shots = max(1, math.ceil(members / classes))
    config = ExperimentConfig.model_validate(
        {"train": TrainSettings.model_validate(settings), "grid": {"classes": [classes], "shots": [shots]}}
    )
    return recipe_for(config, classes=classes, shots=shots)


def _heads(train: TrainSettings, records: _Records, seed: int, models: tuple[int, int]) -> ShadowEnsemble:
    """The shadows first ... end - 1."""
    recipe, key = _recipe(train, records), jax.random.key(seed)
    masks = draw_membership(
        jax.random.fold_in(key, 0),
        records.data.labels,
        num_models=models[1] - models[0],
        first_model=models[0],
        inclusion_rate=records.inclusion_rate,
    )
    return train_ensemble(jax.random.fold_in(key, 1), records.data, masks, recipe.hyper, recipe.config)


def _trained(
    train: TrainSettings, records: _Records, seed: int, models: tuple[int, int]
) -> tuple[Float[np.ndarray, "models records"], Bool[np.ndarray, "models records"]]:
    """Log-odds and membership of the shadows first ... end - 1."""
    scores = score(_heads(train, records, seed, models), records.data)
    return np.asarray(scores.log_odds), np.asarray(scores.member)


def _matched_once(
    config: AuditConfig,
    records: _Records,
    own: Float[np.ndarray, "records"],
    path: pathlib.Path,
    console: rich.console.Console | None,
) -> Match:
    """What _matched says, read where an audit of the same key has written it."""
    folder = path / "shadows"
    if (folder / _MATCH).is_file():
        content = load_json(folder, _MATCH)
        train = TrainSettings.model_validate(content["train"], strict=False)
        return Match(train, float(content["mismatch"]), content["head"], content["shadows"])
    match = _matched(config, records, own, console)
    content = {"train": _recipe_settings(match), "mismatch": json_number(match.mismatch)}
    write_json(folder / _MATCH, content | {"head": match.head, "shadows": match.shadows})
    return match


def _recipe_settings(match: Match) -> dict[str, Any]:
    """The settings of its recipe, without what only audits have."""
    return match.train.model_dump(mode="json", include=set(TrainSettings.model_fields))


def _matched(
    config: AuditConfig,
    records: _Records,
    own: Float[np.ndarray, "records"],
    console: rich.console.Console | None,
) -> Match:
    """The recipe that was given, or the one whose shadows come nearest to the head; and how near that is."""
    models = (
        config.shadows.models,
        config.shadows.models + MATCH_MODELS,
    )  # apart from the shadows of the audit
    if not config.train.match:
        return _judged(config.train, records, own, config.seed, models)
    tried: list[Match] = []

    def mismatch(exponent: float, steps: int) -> float:
        bar.cell(f"fitting the recipe: {steps} steps, weight decay {10**exponent:.2g}")
        train = TrainSettings(steps=steps, weight_decay=10**exponent, schedule="cosine")
        tried.append(_judged(train, records, own, config.seed, models))
        bar.heads(MATCH_MODELS, float(steps))
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


def _judged(
    train: TrainSettings,
    records: _Records,
    own: Float[np.ndarray, "records"],
    seed: int,
    models: tuple[int, int],
) -> Match:
    log_odds, member = _trained(train, records, seed, models)
    low, high = np.quantile(own, [0.25, 0.75])
    scale = max(float(high - low), 1e-6)
    distances: list[float] = []
    head: dict[str, float] = {}
    shadows: dict[str, float] = {}
    for side, mine, theirs in (
        ("members", own[records.member], log_odds[member]),
        ("others", own[~records.member], log_odds[~member]),
    ):
        if len(mine) == 0:
            continue
        gaps = np.quantile(mine, MATCH_QUANTILES) - np.quantile(theirs, MATCH_QUANTILES)
        distances.append(float(np.mean(np.abs(gaps))) / scale)
        for facts, values in ((head, mine), (shadows, theirs)):
            facts[f"mean log-odds of {side}"] = float(np.mean(values))
            facts[f"share of {side} with log-odds above 0"] = float(np.mean(values > 0))
    return Match(
        train, float(np.mean(distances)) if np.isfinite(distances).all() else math.inf, head, shadows
    )


def _shadows(
    config: AuditConfig,
    records: _Records,
    train: TrainSettings,
    path: pathlib.Path,
    console: rich.console.Console | None,
) -> dict[str, np.ndarray]:
    """Log-odds and membership of all shadows, and their weights if an attack reads them.

    Those on disk, and the others trained, block by block. Blocks from before an attack read weights have none: they
    are trained again, to the same heads.
    """
    blocks = list(_blocks(config.shadows.models))
    files = {block: path / "shadows" / f"models-{block[0]}-{block[1]}.npz" for block in blocks}
    names = (*_SCORES, *_WEIGHTS) if white_box_methods(config.attack) else _SCORES
    todo = [block for block in blocks if not _holds(files[block], names)]
    with grid_progress(console, float(sum(end - first for first, end in todo))) as bar:
        for block in todo:
            bar.cell(f"shadows {block[0]} ... {block[1] - 1}")
            heads = _heads(train, records, config.seed, block)
            scores = score(heads, records.data)
            arrays = {"log_odds": scores.log_odds, "member": scores.member, **heads.params["params"]}
            write_arrays(files[block], {name: np.asarray(arrays[name]) for name in names})
            bar.heads(block[1] - block[0], float(block[1] - block[0]))
    parts = [read_npz(files[block], name="shadows", required=names) for block in blocks]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in names}
    diverged = int(np.count_nonzero(~np.isfinite(joined["log_odds"]).all(axis=1)))
    check(diverged == 0, "shadows that diverged", diverged, "be 0: the recipe does not train")
    return joined


def _holds(file: pathlib.Path, names: tuple[str, ...]) -> bool:
    """Whether a block of shadows is on disk, with these arrays."""
    return file.is_file() and set(names) <= read_npz(file, name="shadows", required=(), optional=names).keys()


def _check_weights(config: AuditConfig, records: _Records, head: ReleasedHead) -> None:
    """Raise InputError if an attack reads weights and those of the head are not known, or too many."""
    methods = white_box_methods(config.attack)
    if methods:
        rule = "hold weights for attack 'whitebox', which reads them; only its outputs are known"
        check(head.weight is not None, "head", pathlib.Path(config.head.file).name, rule)
        check_methods(methods, classes=records.data.num_classes, dim=records.data.features.shape[1])


def _weights_say(
    config: AuditConfig,
    records: _Records,
    head: ReleasedHead,
    train: TrainSettings,
    shadows: dict[str, np.ndarray],
) -> dict[str, np.ndarray] | None:
    """The statistics of the head's weights (row 0) and its shadows' that white-box attacks read; None without such.

    The penalty of the head is taken to be the recipe's, which the adversary is granted. Fitted to the head's weights
    and members it would be nearer, but known from what the attacks are to find out.
    """
    methods = white_box_methods(config.attack)
    if not methods or head.weight is None or head.bias is None:
        return None
    weights = {
        name: np.concatenate([own[None], shadows[name]])
        for name, own in zip(_WEIGHTS, (head.weight, head.bias), strict=True)
    }
    member = np.concatenate([records.member[None], shadows["member"]])
    masks = MembershipMasks(jnp.asarray(member), jnp.arange(len(member)), "bernoulli", records.inclusion_rate)
    together = ShadowEnsemble({"params": weights}, masks)
    ridge = objective_ridge(train.ridge, records.data.num_classes)
    decay = train.weight_decay + ridge / (records.inclusion_rate * len(records.member))
    return white_box(together, records.data, weight_decay=decay, methods=methods)


def _blocks(models: int) -> Iterator[tuple[int, int]]:
    for first in range(0, models, BLOCK):
        yield first, min(first + BLOCK, models)


def _record_rows(
    config: AuditConfig, records: _Records, own: Float[np.ndarray, "records"], stacked: Scores
) -> pd.DataFrame:
    """One row per record, the most vulnerable over re-trainings first.

    z and p_value are of the given head, against the record's own scores as a non-member; called: among members and
    others alike, at a false discovery rate of FDR, by ranks among the known non-members.
    """
    names = np.array(records.data.class_names)
    z_form = run_attack(AttackSettings.model_validate({"name": "lira", "calibrated": True}), stacked)
    ratio = run_attack(AttackSettings(name="lira"), stacked).statistic[0]
    table = pd.DataFrame(
        {
            "id": records.ids,
            "class_name": names[records.data.labels],
            "member": records.member,
            "log_odds": own,
            "z": z_form.statistic[0],
            "p_value": calibrated_p_values(z_form)[0],
        }
    )
    if not records.member.all():
        table["called"] = call_members(conformal_p_values(ratio, ratio[~records.member]), FDR)
    shadows = Scores(np.asarray(stacked.log_odds)[1:], np.asarray(stacked.member)[1:])
    over = per_example_rows(shadows, config.fpr, table, inclusion_rate=records.inclusion_rate)
    for fpr in config.fpr:
        of_fpr = over[over["fpr"] == fpr].reset_index(drop=True)
        table[f"tpr_{fpr:g}"], table[f"tpr_{fpr:g}_error"] = of_fpr["tpr"], of_fpr["tpr_error"]
    table["separation"], table["separation_error"] = of_fpr["separation"], of_fpr["separation_error"]
    return table.sort_values("separation", ascending=False, kind="stable", ignore_index=True)


def _warnings(
    records: _Records, head: ReleasedHead, own: Float[np.ndarray, "records"], match: Match
) -> Iterator[str]:
    """What makes the results mean something else than they seem to."""
    inside, outside = own[records.member], own[~records.member]
    labels, classes = records.data.labels, records.data.num_classes
    accuracy = float(np.mean(head.predictions()[records.member] == labels[records.member]))
    if accuracy < max(1.5 / classes, 0.5 * match.shadows["share of members with log-odds above 0"]):
        yield (
            f"The head classifies {accuracy:.1%} of its members correctly, heads trained like it"
            f" {match.shadows['share of members with log-odds above 0']:.1%}: are the labels in the order of its rows?"
        )
    if len(outside) > 1 and len(inside) > 1:
        error = math.sqrt(inside.var(ddof=1) / len(inside) + outside.var(ddof=1) / len(outside))
        if inside.mean() < outside.mean() - 3 * error:
            yield (
                f"The head is less sure of its members (mean log-odds {inside.mean():.2f}) than of others"
                f" ({outside.mean():.2f}): is member true for those it was trained on?"
            )
    if not len(outside):
        yield (
            "All records are members: the head's own false positive rate cannot be measured, and shadows train on half"
            " as many records as the head, which makes heads like it look more vulnerable than it is."
        )
    twins = _twins(records)
    if twins:
        yield (
            f"{twins} non-members have the very features of a member: what the head learnt of it, it knows of them,"
            " which hides members."
        )
    if match.mismatch > MISMATCH:
        yield (
            f"The shadows' log-odds lie {match.mismatch:.2f} of the head's interquartile range from its own: they are"
            " not heads like it, and attacks that rely on them find less, or seem to find more, than they could."
        )


def _twins(records: _Records) -> int:
    """Non-members whose features are a member's."""
    rows = np.ascontiguousarray(records.data.features)
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    return int(np.isin(keys[~records.member], keys[records.member]).sum())


def _content(
    config: AuditConfig, records: _Records, head: ReleasedHead, result: AuditResult, key: str
) -> dict[str, Any]:
    """The content of audit.json."""
    labels, sides = records.data.labels, {"members": records.member, "others": ~records.member}
    per_class = np.bincount(labels[records.member], minlength=records.data.num_classes)
    correct = head.predictions() == labels
    return {
        "settings": config.model_dump(mode="json"),
        "key": key,
        "features": {"sha256": records.data.content_hash(), "file": pathlib.Path(config.data.features).name},
        "head": {
            "sha256": file_hash(config.head.file),
            "file": pathlib.Path(config.head.file).name,
            "parameters": head.num_parameters,
            "released_as": head.kind if head.weight is None else "weights",
        },
        "records": {
            "members": int(records.member.sum()),
            "others": int(np.count_nonzero(~records.member)),
            "classes": records.data.num_classes,
            "smallest_class_members": int(per_class.min()),
            "dim": records.data.features.shape[1],
        },
        "members_per_class": dict(zip(records.data.class_names, per_class.tolist(), strict=True)),
        "correct": {name: int(correct[side].sum()) for name, side in sides.items()},
        "shadows": {
            "recipe": _recipe_settings(result.match),
            "fitted": config.train.match,
            "mismatch": json_number(result.match.mismatch),
            "inclusion_rate": records.inclusion_rate,
            "of_shadows": result.match.shadows,
            "of_head": result.match.head,
        },
        "warnings": list(result.warnings),
        "versions": versions(),
        "finished": now(),
        **machine(),
    }
