"""Audit of one released head: shadows with its recipe on other subsets of the records, attacks, and record rows."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import rich.console

from jaxmia._atomic import new_folder, write_arrays, write_json, write_parquet
from jaxmia._hashes import content_key, file_hash, json_number
from jaxmia._terminal import progress_console
from jaxmia._validate import check
from jaxmia.attacks.weights import check_memory, check_methods
from jaxmia.audit.attack_scores import AttackRun, write_attacks
from jaxmia.audit.certified import certified
from jaxmia.audit.checks import check_goes_together, void_findings, warnings_after, warnings_before
from jaxmia.audit.decisions import audit_decisions
from jaxmia.audit.earlier import CONTENT, forget_earlier
from jaxmia.audit.head_recipe import shadows_recipe
from jaxmia.audit.persons import check_persons, person_rows, persons_under_head, warnings_of_persons
from jaxmia.audit.recipe_fit import MISMATCH, HeadScores, fit_recipe_once
from jaxmia.audit.records import AuditRecords, load_records
from jaxmia.audit.released import ReleasedHead, load_released
from jaxmia.audit.released.adapters import load_released_adapter
from jaxmia.audit.result import AuditResult
from jaxmia.audit.rows import FDR, by_vulnerability, ceilings_of, lira_ratio, record_rows, warnings_of_rows
from jaxmia.audit.settings import AuditConfig, load_audit
from jaxmia.audit.shadows import WEIGHTS, Trainer, open_folder, shadow_scores, shadows_key
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.membership import MembershipMasks
from jaxmia.data.normalization import normalized
from jaxmia.privacy.certificate import Certificate
from jaxmia.ridge.influence import check_size
from jaxmia.ridge.units import group_shapes
from jaxmia.scores import Scores, WeightsUnder
from jaxmia.scores.external import external_scores
from jaxmia.studies.actors import Asked
from jaxmia.studies.assess import (
    check_attacks,
    check_resolvable,
    needs_features,
    needs_prior,
    white_box_methods,
)
from jaxmia.studies.attack_inputs import analytic_prior, weights_under
from jaxmia.studies.checks import check_objective_known
from jaxmia.studies.folder.manifest import machine, now, versions
from jaxmia.studies.normalizer import given_normalizer, normalised_by
from jaxmia.studies.recipe import Recipe, network_of
from jaxmia.studies.settings.train import TrainSettings
from jaxmia.training.adapters.adapter import Adapter
from jaxmia.training.ensemble import ShadowEnsemble
from jaxmia.training.newton import unbounded_note
from jaxmia.vulnerability.stability import flags_of_attacks


@dataclasses.dataclass(frozen=True, eq=False)
class _Audited:
    """The inputs of an audit, checked before anything is trained.

    Attributes:
        config: settings, with the shadows' recipe.
        given: content hash of the features in their file; the head may transform them.
        head_hash: SHA-256 of the head's file, or of its outputs if it was in memory.
        recipe_from: "given", "file" (the head's) or "fitted".
        records: the records, with features as inputs of the head.
        head: the head.
        own: scores of the head on the records.
        notes: notes on reading the head.
        trainer: trainer of the shadows.
        void: reasons why the audit would be meaningless.
        certificate: of the head, if it has one.
    """

    config: AuditConfig
    given: str
    head_hash: str
    recipe_from: str
    records: AuditRecords
    head: ReleasedHead
    own: HeadScores
    notes: tuple[str, ...]
    trainer: Trainer
    void: tuple[str, ...]
    certificate: Certificate | None = None


def run_audit(
    config: AuditConfig | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    force: bool = False,
    memory: int | None = None,
    console: rich.console.Console | None = None,
    progress: bool = True,
) -> AuditResult:
    """Audit one released head: how well attacks find its training members, and which records are most at risk.

    The audit answers two separate questions. *This head*: attacks run against the given head and its stated members,
    with shadows trained by the same recipe on other random subsets of the records. *Heads like it*: an attacker's mean
    TPR on each record over re-trainings, from the shadows alone.

    The folder gets audit.json, records.parquet, attack/ (as attack_scores writes it) and shadows/. A killed audit
    continues from its saved shadows. Another head with the same recipe can use the same shadows: everything else is
    computed again, and a report on the earlier head is renamed.

    Args:
        config: settings, or an audit file.
        out: the folder.
        force: continue even if the head does not fit the records (jaxmia.audit.checks).
        memory: largest number of bytes for training, and for the Hessian of analytic attacks; see
            jaxmia.training.memory.
        console: where progress is shown; by default in a notebook, or on standard error where that is a terminal.
        progress: False to show none.

    Raises:
        InputError: for bad settings, records, head or folder, before any training; its subclass VoidAuditError if the
            head does not fit the records.
    """
    if isinstance(config, (str, os.PathLike)):
        config = load_audit(config)
    check_audit_attacks(config)
    config, certificate = certified(config)
    records = load_records(config)
    names = {"weight": config.head.weight, "bias": config.head.bias}
    adapter = network_of(config.train)
    if isinstance(adapter, Adapter):
        head = load_released_adapter(pathlib.Path(config.head.file), records.data, adapter, **names)
    else:
        inputs = head_inputs(config.train, records.data)
        head = load_released(config.head.file, inputs, **names).given(inputs)
    return audit_given(
        config,
        records,
        head,
        pathlib.Path(out),
        head_hash=file_hash(config.head.file),
        certificate=certificate,
        force=force,
        memory=memory,
        console=progress_console(console, progress),
    )


def audit_given(
    config: AuditConfig,
    records: AuditRecords,
    head: ReleasedHead,
    path: pathlib.Path,
    *,
    head_hash: str = "",
    certificate: Certificate | None = None,
    force: bool = False,
    memory: int | None = None,
    console: rich.console.Console | None = None,
) -> AuditResult:
    """Audit records and a head that are in memory, as run_audit does.

    Args:
        config: settings; the names of files in them are for the record.
        records: the records, with features as given.
        head: the head, read with these records.
        path: the folder.
        head_hash: hash of the head's file; by default of its outputs on the records.
        certificate: of a private head, from which its settings are.
        force: as in run_audit.
        memory: as in run_audit.
        console: where progress is shown, if anywhere.

    Raises:
        InputError: as run_audit.
    """
    audited = _audited(config, records, head, head_hash or content_key(head.outputs.tolist()), memory)
    audited = dataclasses.replace(audited, certificate=certificate)
    check_goes_together(audited.void, force=force)
    key = shadows_key(audited.config, audited.records, audited.own.log_odds)
    with open_folder(path, key):
        return _attacked_and_written(audited, path, key, console)


def _attacked_and_written(
    audited: _Audited, path: pathlib.Path, key: str, console: rich.console.Console | None
) -> AuditResult:
    """Run the attacks and write all results into the folder, after all checks have passed."""
    config, records = audited.config, audited.records
    match = fit_recipe_once(audited.trainer, config, audited.own, path, key, console)
    shadows = shadow_scores(audited.trainer, config, match.train, path, console)
    stacked = _stacked(audited, match.train, shadows)
    recipe = audited.trainer.recipe(match.train)
    ceilings = ceilings_of(config, recipe.guarantee)
    table = record_rows(config, records, audited.own.log_odds, stacked, ceilings)
    persons = person_rows(records, stacked, table, config.fpr, fdr=FDR) if config.by_person else None
    table = by_vulnerability(table, config.fpr)
    ratio = lira_ratio(stacked)
    free = recipe.config.optimizer == "newton" and recipe.config.intercept
    aside = forget_earlier(path, content_key([key, audited.own.log_odds.tolist()]))
    warnings = (
        # what puts all of the results in question stands first
        *warnings_after(records, ratio, mismatch=match.mismatch, limit=MISMATCH),
        *warnings_before(config, records, audited.own.log_odds),
        *warnings_of_persons(config, records),
        *audited.notes,
        *(unbounded_note(shadows["member"], records.data.labels) if free else ()),
        *warnings_of_rows(table, ceilings, private_shadows=recipe.guarantee is not None),
        *aside,
    )
    attacked = _attacked(audited, stacked, path)
    flags = flags_of_attacks(attacked.path, [attack.label for attack in config.attack], max(config.fpr))
    if flags:
        numbers = dict(zip(records.ids, np.sum(list(flags.values()), axis=0), strict=True))
        table["flagged_by"] = table["id"].map(numbers)
    write_parquet(path / "records.parquet", table)
    if persons is not None:
        write_parquet(path / "persons.parquet", persons)
    result = AuditResult(path, attacked, table, match, warnings, audited.void, audited.head.notes, persons)
    write_json(path / CONTENT, _content(audited, result, recipe, ceilings, key))
    return result


def head_inputs(train: TrainSettings, data: FeatureSet) -> FeatureSet:
    """Return what the head is applied to: the records' features, normalised as [train] says.

    Raises:
        InputError: as given_normalizer: also where a record of the audit is among features that are said to be public.
    """
    return normalized(data, train.normalize, given_normalizer(train, data))


def check_audit_attacks(config: AuditConfig) -> None:
    """Raise InputError for attacks that an audit cannot run."""
    check_attacks(config.attack)
    for attack in config.attack:
        check(not needs_features(attack.name), "attack", attack.label, "be an attack that needs only scores")
        rule = "leave out paired=true: an audit does not keep its shadows' flipped scores"
        check(not attack.options.get("paired"), "attack", attack.label, rule)


def _audited(
    config: AuditConfig, records: AuditRecords, head: ReleasedHead, head_hash: str, memory: int | None
) -> _Audited:
    """Return the checked inputs of an audit; refuses anything that would fail later."""
    check_persons(config, records)
    given = records.data.content_hash()
    if head.features is not None:
        seen = dataclasses.replace(records.data, features=head.features)
        records = dataclasses.replace(records, data=seen)
    train, recipe_from, of_recipe = shadows_recipe(config.train, head)
    config = config.model_copy(update={"train": train})
    external = head.scores(records.data.labels, records.member)
    margin = None if external.margin is None else np.asarray(external.margin)[0]
    own = HeadScores(np.asarray(external.log_odds)[0].astype(np.float64), external.rounding, margin)
    of_shadows = (1 - records.inclusion_rate) * len(records.member) * config.shadows.models
    check_resolvable(config.fpr, max(records.num_others, int(of_shadows)), "the audit")
    if needs_prior(config.attack):
        rule = "be 'newton' for analytic attacks and 'shrunk': they need heads at their minimum"
        check(config.train.optimizer == "newton", "train.optimizer", config.train.optimizer, rule)
        rule = "be given unrounded, or as logits or weights, for analytic attacks and 'shrunk'"
        check(own.rounding is None, "probabilities", str(own.rounding), rule)
    minimum, knowing = needs_prior(config.attack), bool(white_box_methods(config.attack))
    check_objective_known(train, minimum=minimum, objective=minimum or knowing)
    _check_weights(config, records, head, memory)
    trainer = Trainer(records, config.seed, config.privacy, memory, config.by_person)
    if not config.train.match:
        # Refuses a batch larger than the members, and privacy that is impossible.
        trainer.recipe(config.train)
    private = bool(config.privacy or config.context.epsilon)
    void = void_findings(records, head.predictions(), own.log_odds, private=private)
    notes = (*external.notes, *head.warnings, *of_recipe)
    return _Audited(config, given, head_hash, recipe_from, records, head, own, notes, trainer, void)


def _check_weights(
    config: AuditConfig, records: AuditRecords, head: ReleasedHead, memory: int | None
) -> None:
    """Raise InputError if an attack needs weights that are not known, or more memory than allowed."""
    methods = white_box_methods(config.attack)
    examples, dim = records.data.features.shape
    if needs_prior(config.attack):
        shapes = group_shapes(examples, records.data.person if config.by_person else None)
        check_size(records.data.num_classes, min(dim, examples) + 1, shapes, memory)
    if methods:
        rule = "be 'linear' for attack 'whitebox', which uses heads' weights"
        check(not config.train.adapts, "train.network", config.train.network, rule)
        rule = "hold weights for attack 'whitebox', which needs them; only its outputs are known"
        check(head.weight is not None, "head", pathlib.Path(config.head.file).name, rule)
        sizes = {"classes": records.data.num_classes, "dim": dim}
        check_methods(methods, **sizes)
        models = config.shadows.models + 1
        check_memory(methods, **sizes, examples=examples, models=models, memory=memory)


def _stacked(audited: _Audited, train: TrainSettings, shadows: Mapping[str, np.ndarray]) -> Scores:
    """Return the scores of the head (row 0) and its shadows, rounded in the same way, with further attack inputs."""
    records, own, rate = audited.records, audited.own, audited.records.inclusion_rate
    attacks, memory = audited.config.attack, audited.trainer.memory
    person = records.data.person if audited.config.by_person else None
    prior: dict[str, Any] = analytic_prior(
        attacks, records.data, train, inclusion_rate=rate, memory=memory, person=person
    )
    member = np.concatenate([records.member[None], shadows["member"]])
    of_weights = _weights(audited, train, shadows, member)
    return Scores(
        np.concatenate([own.log_odds[None], own.alike(shadows["log_odds"])]),
        member,
        white_box=None if of_weights is None else of_weights(member),
        weights_under=of_weights,
        classes=records.data.num_classes,
        **audit_decisions(audited.config, records, audited.head, own.margin, shadows),
        **prior,
    )


def _weights(
    audited: _Audited, train: TrainSettings, shadows: Mapping[str, np.ndarray], member: np.ndarray
) -> WeightsUnder | None:
    """Return white-box statistics of the head (row 0) and its shadows by membership, or None without such attacks.

    The head's penalty is assumed to be the recipe's, which the adversary knows. A penalty fitted to the head's weights
    and members would be more accurate, but would use the membership that the attacks try to infer.
    """
    head, records, attacks = audited.head, audited.records, audited.config.attack
    if not white_box_methods(attacks) or head.weight is None or head.bias is None:
        return None
    weights = {
        name: np.concatenate([own[None], shadows[name]])
        for name, own in zip(WEIGHTS, (head.weight, head.bias), strict=True)
    }
    masks = MembershipMasks(jnp.asarray(member), jnp.arange(len(member)), "bernoulli", records.inclusion_rate)
    heads, memory = ShadowEnsemble({"params": weights}, masks), audited.trainer.memory
    members = records.inclusion_rate * len(records.member)
    return weights_under(attacks, records.data, train, heads, members=members, memory=memory)


def _attacked(audited: _Audited, stacked: Scores, path: pathlib.Path) -> AttackRun:
    """Run the attacks and write scores and results."""
    labels = audited.records.data.labels
    arrays = {"log_odds": stacked.log_odds, "member": stacked.member, "labels": labels}
    write_arrays(path / "scores.npz", {name: np.asarray(array) for name, array in arrays.items()})
    shutil.rmtree(path / "attack", ignore_errors=True)
    target = 0 if audited.records.num_others else None
    person = audited.records.data.person if audited.config.by_person else None
    rounding = audited.own.rounding
    read = external_scores(stacked, labels=labels, target=target, person=person, rounding=rounding)
    with new_folder(path / "attack") as folder:
        config = audited.config
        actors = Asked(config.release, config.knowledge)
        tables = write_attacks(folder, path / "scores.npz", read, config.attack, config.fpr, actors)
    return AttackRun(path / "attack", read, *tables)


def _content(
    audited: _Audited, result: AuditResult, recipe: Recipe, ceilings: Mapping[float, float], key: str
) -> dict[str, Any]:
    """Return the content of audit.json."""
    config, head, records = audited.config, audited.head, audited.records
    labels, sides = records.data.labels, {"members": records.member, "others": ~records.member}
    per_class = np.bincount(labels[records.member], minlength=records.data.num_classes)
    correct, backbone = head.predictions() == labels, records.data.backbone
    return {
        "settings": config.model_dump(mode="json"),
        "key": key,
        "of_head": content_key([key, audited.own.log_odds.tolist()]),
        "written": {name: file_hash(result.path / name) for name in _written(result)},
        "features": {
            "sha256": records.data.content_hash(),
            "given": audited.given,
            "file": pathlib.Path(config.data.features).name,
        },
        "head": {
            "sha256": audited.head_hash,
            "file": pathlib.Path(config.head.file).name,
            "parameters": head.num_parameters,
            "released_as": head.kind if head.weight is None else "weights",
            "read": list(head.notes),
            "rounding": "none" if audited.own.rounding is None else str(audited.own.rounding),
        },
        "records": {
            "members": records.num_members,
            "others": records.num_others,
            "classes": records.data.num_classes,
            "smallest_class_members": int(per_class.min()),
            "dim": records.data.features.shape[1] if backbone is None else backbone.width,
        },
        **({} if records.data.person is None else {"persons": persons_under_head(records)}),
        "members_per_class": dict(zip(records.data.class_names, per_class.tolist(), strict=True)),
        "correct": {name: int(correct[side].sum()) for name, side in sides.items()},
        "shadows": {
            "recipe": result.match.recipe(),
            "fitted": config.train.match,
            "source": audited.recipe_from,
            "mismatch": json_number(result.match.mismatch),
            "inclusion_rate": records.inclusion_rate,
            "overstated": records.overstated,
            "of_shadows": result.match.shadows,
            "of_head": result.match.head,
            "privacy": _privacy(recipe),
            "normalised_by": normalised_by(config.train),
        },
        **_certificate(audited),
        "ceilings": [{"fpr": fpr, "tpr": ceiling} for fpr, ceiling in ceilings.items()],
        "void": list(result.void),
        "warnings": list(result.warnings),
        "versions": versions(),
        "finished": now(),
        **machine(),
    }


def _written(result: AuditResult) -> tuple[str, ...]:
    """The files that audit.json holds the hashes of."""
    return ("scores.npz", "records.parquet", *(() if result.persons is None else ("persons.parquet",)))


def _certificate(audited: _Audited) -> dict[str, Any]:
    told = audited.certificate
    return {} if told is None else {"certificate": told.model_dump(mode="json")}


def _privacy(recipe: Recipe) -> dict[str, Any] | None:
    """Return the privacy guarantee of the shadows' training; None for training without differential privacy."""
    if recipe.guarantee is None:
        return None
    return recipe.guarantee.record() | {"clipping_norm": float(recipe.hyper.clipping_norm or 0.0)}
