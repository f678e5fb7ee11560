"""The information needed to reproduce the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jaxmia._hashes import content_key
from jaxmia.report.content import Block
from jaxmia.report.sections.part import Part
from jaxmia.report.subjects import OfAttack, OfAudit, OfStudy
from jaxmia.tables import Table, Value, facts


def _of_audit(about: OfAudit) -> Iterator[Block]:
    audit, content = about.audit, about.audit.content
    answers: dict[str, Value] = {
        "command": f"jaxmia audit AUDIT.toml --out {audit.path.name} (settings: audit.json)",
        "finished": content["finished"],
        "device": content["device"],
        "platform": content["platform"],
        "sha256 of features": content["features"]["sha256"],
        "sha256 of the model": content["head"]["sha256"],
        "seed": content["settings"]["seed"],
    }
    yield _table(answers, content["versions"], content["settings"])


def _of_study(about: OfStudy) -> Iterator[Block]:
    study, manifest = about.study, about.study.manifest
    identities = (
        [manifest["identity"]]
        if "identity" in manifest
        else [part["identity"] for part in manifest["studies"].values()]
    )
    hashes = {identity["features"]["sha256"] for identity in identities}
    finished = [
        cell["finished"]
        for part in ([manifest] if "cells" in manifest else manifest["studies"].values())
        for cell in part["cells"].values()
        if "finished" in cell
    ]
    command = "sweep" if "studies" in manifest else "run"
    answers: dict[str, Value] = {
        "command": f"jaxmia {command} SETTINGS.toml --out {study.path.name} (settings: manifest.json)",
        "finished": max(finished, default="not stated"),
        "device": manifest["device"],
        "platform": manifest["platform"],
        "sha256 of features": "; ".join(sorted(hashes)),
        "seeds": ", ".join(map(str, sorted(study.results["seed"].unique()))),
    }
    yield _table(answers, identities[0]["versions"], manifest["settings"])


def _table(answers: Mapping[str, Value], versions: Mapping[str, str], settings: Mapping[str, Any]) -> Table:
    """Return the information needed to reproduce the numbers."""
    more: dict[str, Value] = {"sha256 of settings": content_key(dict(settings))}
    more |= {f"version of {name}": version for name, version in versions.items()}
    return facts(
        "To reproduce", dict(answers) | more, about="What an engineer needs to get the same numbers."
    )


def _of_attack(about: OfAttack) -> Iterator[Block]:
    folder, manifest = about.attack, about.attack.manifest
    words = ["jaxmia", "attack", manifest["source"], "--out", folder.path.name]
    words += [f"--attack {name}" for name in manifest["attacks"]]
    words += [f"--fpr {fpr:g}" for fpr in manifest["fprs"]]
    if manifest["target"] is not None:
        words.append(f"--target {manifest['target']}")
    answers: dict[str, Value] = {
        "command": " ".join(words),
        "sha256 of the scores": manifest["sha256"] or "scores in memory",
    }
    yield _table(
        answers, manifest["versions"], {name: manifest[name] for name in ("attacks", "fprs", "target")}
    )


PART = Part("reproduction", "Reproduction", _of_audit, _of_study, _of_attack, depth="evidence")
