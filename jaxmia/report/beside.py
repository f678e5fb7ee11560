"""Check that a study may accompany an audit: its records must be the same, or at least similar."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from jaxmia._validate import InputError
from jaxmia.report.study import Study
from jaxmia.studies.folder.tables import read_tables


def beside(content: Mapping[str, Any], study: Study) -> str:
    """Return a sentence on how a study's data relate to the audit's.

    Args:
        content: content of audit.json.
        study: the study's folder.

    Raises:
        InputError: if the data differ: features of another dimension, or none of the audit's classes.
    """
    if feature_hashes(study) & {content["features"]["sha256"], content["features"]["given"]}:
        return "The study uses the records of the audit (the same features, by their SHA-256)."
    columns = read_tables(study.path, "per_example", ["class_name"])
    names = {str(name) for table in columns for name in table["class_name"].unique()}
    return other_data(content, names, set(_dims(study)), study.path.name)


def feature_hashes(study: Study) -> set[str]:
    """Return the content hashes of a study's features."""
    return {part["identity"]["features"]["sha256"] for part in _parts(study)}


def other_data(content: Mapping[str, Any], names: Collection[str], dims: Collection[int], study: str) -> str:
    """Return this sentence for a study whose features are not the audit's.

    Args:
        content: content of audit.json.
        names: classes of the study.
        dims: dimensions of its features, as far as known.
        study: name of its folder.
    """
    dim, classes = int(content["records"]["dim"]), content["members_per_class"]
    if dims and dim not in dims:
        shown = " and ".join(str(each) for each in sorted(dims))
        raise InputError(
            f"study={study!r} must be over the audit's records, whose features have dimension {dim}; its own have"
            f" {shown}."
        )
    common = [name for name in classes if name in names]
    if not common:
        raise InputError(
            f"study={study!r} must be over the audit's records; none of its classes ({', '.join(sorted(names)[:5])})"
            f" is one of theirs ({', '.join(list(classes)[:5])})."
        )
    return (
        f"The study uses other records than the audit, with {len(common)} of the audit's {len(classes)}"
        " classes. Its results apply here only as far as its records resemble these."
    )


def _parts(study: Study) -> list[Mapping[str, Any]]:
    """Return the manifests of its runs: its own, or those of a sweep's studies."""
    parts = (study.manifest, *study.manifest.get("studies", {}).values())
    return [part for part in parts if "identity" in part]


def _dims(study: Study) -> Iterator[int]:
    """Yield the dimensions of the features that linear heads were trained on."""
    for part in _parts(study):
        if "network" in part["identity"]["settings"]["train"]:  # present only for networks
            continue
        for cell in part.get("cells", {}).values():
            parameters, classes = cell.get("parameters"), cell.get("classes")
            if parameters and classes and parameters % classes == 0:
                yield parameters // classes - 1
