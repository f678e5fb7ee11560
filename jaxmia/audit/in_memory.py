"""Audits and attacks from arrays and fitted models in one call, without input files."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pydantic
import rich.console

from jaxmia._terminal import progress_console
from jaxmia._validate import InputError, check
from jaxmia.audit.attack_scores import FPRS, AttackRun, attack_scores
from jaxmia.audit.records import audit_records
from jaxmia.audit.released.base import ReleasedHead
from jaxmia.audit.released.estimators import classifier_within, head_of_model
from jaxmia.audit.released.tensors import head_of_tensors
from jaxmia.audit.result import AuditResult
from jaxmia.audit.run import audit_given, check_audit_attacks, head_inputs
from jaxmia.audit.settings import AuditConfig
from jaxmia.data.feature_set import IN_MEMORY, FeatureSet, feature_set
from jaxmia.scores import Scores
from jaxmia.studies.settings.errors import describe_error

_INERT = (
    "Identity",
    "Dropout",
    "Flatten",
    "Softmax",
    "LogSoftmax",
)  # modules that do not change the order of logits
_KINDS = (
    "a fitted classifier or Pipeline of scikit-learn, a torch Linear, weights (weight, bias), or a mapping of"
    " 'weight' and 'bias', 'logits' or 'probabilities'"
)


def audit_head(
    head: Any,
    features: Any,
    labels: Any,
    member: Any,
    *,
    ids: Any = None,
    person: Any = None,
    class_names: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    memory: int | None = None,
    console: rich.console.Console | None = None,
    progress: bool = True,
    **settings: Any,
) -> AuditResult:
    """Audit a head in memory, in the same way as run_audit audits files.

    Args:
        head: a fitted classifier, Pipeline or search of scikit-learn; a torch Linear, or a Sequential of one Linear
            with dropout and softmax; a tuple (weight [classes, dim], bias [classes]); or a mapping of tensors by name,
            or of 'logits' or 'probabilities' [records, classes] if only outputs are known.
        features: [records, dim], the inputs of the head: an array, or a DataFrame of numbers. If the first steps of a
            Pipeline compute numbers, any input of it: a DataFrame with columns of text, a list of texts.
        labels: [records], integers or strings, or indices into class_names.
        member: bool [records], true where the head was trained on the record.
        ids: [records], names for reports; by default row numbers.
        person: [records], integers or strings, the person of each record: the audit is then by person, unless
            membership={"unit": "record"} is given.
        class_names: names of the classes, if labels are indices.
        out: a new folder, or the folder of the same audit; by default a temporary one, result.path.
        force: continue even if the head does not fit the records.
        memory: largest number of bytes for training, as in run_audit.
        console: where progress is shown; by default in a notebook, or on standard error where that is a terminal.
        progress: False to show none.
        settings: tables and keys of an audit file: fpr=(0.1,), attack=("lira",), seed=0, train={...},
            shadows={"models": 128}, privacy={...}, context={...}.

    Raises:
        InputError: for a bad head, bad records or bad settings, before any training.
    """
    check(
        "data" not in settings, "data", settings.get("data"), "be left out: the records are given as arrays"
    )
    notes: tuple[str, ...] = ()
    if (
        hasattr(features, "columns") or np.asarray(features).dtype.kind not in "biuf"
    ):  # a Pipeline makes numbers
        head, features, _, notes = classifier_within(head, features)
    whose = None if person is None else np.asarray(person)
    data = feature_set(np.asarray(features), np.asarray(labels), class_names, person=whose)
    unit = "record" if person is None else "person"
    records = audit_records(
        data, np.asarray(member), None if ids is None else np.asarray(ids), source="member"
    )
    try:
        config = AuditConfig.model_validate(
            {"data": {"features": IN_MEMORY}, "head": {"file": IN_MEMORY}, "membership": {"unit": unit}}
            | settings
        )
    except pydantic.ValidationError as error:
        raise InputError(describe_error(error, AuditConfig)) from None
    check_audit_attacks(config)
    inputs = head_inputs(config.train, data)
    released = head_in_memory(head, inputs).given(inputs)
    released = dataclasses.replace(released, notes=(*notes, *released.notes))
    path = pathlib.Path(tempfile.mkdtemp(prefix="jaxmia-audit-") if out is None else out)
    shown = progress_console(console, progress)
    return audit_given(config, records, released, path, force=force, memory=memory, console=shown)


def audit_scores(
    scores: Mapping[str, Any] | Scores,
    *,
    out: str | os.PathLike[str] | None = None,
    attack: Sequence[str] = (),
    fpr: Sequence[float] = FPRS,
    target: int | None = None,
) -> AttackRun:
    """Run attacks on scores in memory, as attack_scores does for a file.

    Args:
        scores: the result of load_scores or jaxmia.score, or the arrays of scores_from_arrays: log_odds, logits or
            probabilities, member, and labels.
        out: a new folder; by default a temporary one, result.path.
        attack: names of attacks, as in attack_scores.
        fpr: FPRs, as fractions.
        target: row of the model under audit, if there is one.

    Raises:
        InputError: as attack_scores.
    """
    if isinstance(scores, Mapping):
        scores = {name: np.asarray(values) for name, values in scores.items()}
    path = pathlib.Path(tempfile.mkdtemp(prefix="jaxmia-attack-") if out is None else out)
    return attack_scores(scores, path, attack=attack, fpr=fpr, target=target)


def head_in_memory(head: Any, data: FeatureSet) -> ReleasedHead:
    """Return the head of an object, recognised by its type, never by its shape.

    Raises:
        InputError: for an object of another type; the message names the types that are read.
    """
    if isinstance(head, Mapping):
        return head_of_tensors(
            {name: np.asarray(values) for name, values in head.items()}, data, weight="", bias=""
        )
    if isinstance(head, tuple) and len(head) == 2:
        tensors = dict(zip(("weight", "bias"), map(np.asarray, head), strict=True))
        return head_of_tensors(tensors, data, weight="", bias="")
    if hasattr(head, "state_dict"):
        return head_of_tensors(_torch_tensors(head), data, weight="", bias="")
    if hasattr(head, "get_params") and hasattr(head, "fit"):
        return head_of_model(head, data)
    raise InputError(f"head={type(head).__name__} must be {_KINDS}.")


def _torch_tensors(module: Any) -> dict[str, np.ndarray]:
    """Return the state of a torch Linear, or of a Sequential of one Linear and modules that keep logits' order."""
    layers = [each for each in module.modules() if not list(each.children())]
    others = [type(each).__name__ for each in layers if type(each).__name__ not in (*_INERT, "Linear")]
    linear = [each for each in layers if type(each).__name__ == "Linear"]
    check(
        len(linear) == 1 and not others,
        "head",
        ", ".join(type(each).__name__ for each in layers),
        "be one torch Linear: give the last layer, and its inputs as features",
    )
    return {name: values.detach().cpu().numpy() for name, values in linear[0].state_dict().items()}
