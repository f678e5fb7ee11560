"""Audits of released private heads: recipe, noise and stated guarantee from the head's certificate."""

from __future__ import annotations

from typing import Any

import pydantic

from jaxmia._hashes import file_hash
from jaxmia._validate import InputError, check
from jaxmia.audit.settings import AuditConfig
from jaxmia.privacy.certificate import Certificate, load_certificate
from jaxmia.studies.settings.errors import describe_error


def certified(config: AuditConfig) -> tuple[AuditConfig, Certificate | None]:
    """Return the settings with what the head's certificate says, and the certificate; None where there is none.

    Raises:
        InputError: if the certificate is another head's, public features are not those that it names, or settings
            contradict it.
    """
    if not config.head.certificate:
        return config, None
    told = load_certificate(config.head.certificate)
    own = file_hash(config.head.file)
    rule = f"be the head of the certificate, whose SHA-256 begins with {told.head_sha256[:12]}"
    check(own == told.head_sha256, "head.file", config.head.file, rule)
    if config.privacy is not None:
        raise InputError("[privacy] must be left out: the head's certificate says how it was trained.")
    rule = f"be {told.unit!r}, the unit of the head's certificate"
    check(told.unit == "record" or config.by_person, "membership.unit", config.membership.unit, rule)
    settings = config.model_dump()
    settings["train"] = _train(config, told)
    settings["privacy"] = {
        "noise_multiplier": told.noise_multiplier,
        "delta": told.delta,
        "clipping_norm": told.clipping_norm,
        "adjacency": told.adjacency,
        "unit": told.unit,
    }
    stated = {"epsilon": told.epsilon, "delta": told.delta, "adjacency": told.adjacency}
    given = {name: getattr(config.context, name) for name in config.context.model_fields_set & stated.keys()}
    for name, value in given.items():
        rule = f"be left out, or be {stated[name]!r}, as the head's certificate says"
        check(value in (stated[name], 0.0, "not stated"), f"context.{name}", value, rule)
    settings["context"] |= stated
    try:
        return AuditConfig.model_validate(settings), told
    except pydantic.ValidationError as error:
        raise InputError(describe_error(error, AuditConfig)) from None


def _train(config: AuditConfig, told: Certificate) -> dict[str, Any]:
    """Return the recipe of the certificate, with the place of the public features from the audit file."""
    beside = {"match", "normalize", "public", "components"}
    others = sorted(config.train.model_fields_set - beside)
    if others:
        raise InputError(f"[train] must leave {', '.join(others)} to the head's certificate.")
    if told.normalize == "standardize":
        raise InputError(
            "head.certificate is of standardised features: give them as the head's inputs, without it."
        )
    public = config.train.public
    if told.normalize == "public":
        rule = "name the public features that the head's certificate is of: [train] public = 'public.npz'"
        check(public != "none", "train.public", public, rule)
        own = file_hash(public)
        rule = f"be the file of the certificate, whose SHA-256 begins with {(told.public_sha256 or '')[:12]}"
        check(own == told.public_sha256, "train.public", public, rule)
    return {
        "optimizer": told.optimizer,
        "schedule": told.schedule,
        "steps": told.steps,
        "learning_rate": told.learning_rate,
        "momentum": told.momentum,
        "weight_decay": told.weight_decay,
        "intercept": told.intercept,
        "normalize": told.normalize,
        "public": public,
        **({} if told.components is None else {"components": told.components}),
    }
