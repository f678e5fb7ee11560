"""Reports on runs, sweeps and audits for readers who train no models, as one HTML page and as JSON."""

from __future__ import annotations

import os
import pathlib

import pydantic

from jaxmia._atomic import check_writable, write_json, write_text
from jaxmia._text import read_toml
from jaxmia._validate import InputError
from jaxmia.audit.settings import ContextSettings
from jaxmia.report.audit import load_audit_folder
from jaxmia.report.beside import beside
from jaxmia.report.content import Report
from jaxmia.report.page import to_html
from jaxmia.report.sections import sections_of
from jaxmia.report.study import load_study, persons_of_largest, records_of
from jaxmia.report.subjects import OfAudit, OfStudy, Subject
from jaxmia.studies.settings.errors import describe_error


def write_report(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    study: str | os.PathLike[str] | None = None,
    context: str | os.PathLike[str] | None = None,
) -> tuple[pathlib.Path, pathlib.Path]:
    """Write the report on a run, a sweep or an audit: one HTML file, and a JSON file with the same content.

    Args:
        folder: folder of `jaxmia run`, `jaxmia sweep` or `jaxmia audit`.
        out: the HTML file; by default report.html in the folder.
        study: for an audit, the folder of a run or a sweep over the same records, for its law and the cost of privacy.
        context: a TOML file with a table [context], as `jaxmia audit --init` writes it; by default an audit's own.

    Returns:
        The paths of the HTML and the JSON file.

    Raises:
        InputError: for a bad folder or file.
    """
    path = pathlib.Path(folder)
    page = path / "report.html" if out is None else pathlib.Path(out)
    if page.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"out={str(page)!r} must be a .html file in a folder that exists.")
    if not path.is_dir():
        raise InputError(f"folder={str(folder)!r} must be that of a run, a sweep or an audit; there is none.")
    check_writable(page)
    check_writable(page.with_suffix(".json"))
    report = make_report(path, study=study, context=context)
    data = page.with_suffix(".json")
    write_text(page, to_html(report))
    write_json(data, report.to_json())
    return page, data


def make_report(
    folder: pathlib.Path,
    *,
    study: str | os.PathLike[str] | None = None,
    context: str | os.PathLike[str] | None = None,
) -> Report:
    """Return the report that write_report writes."""
    stated = None if context is None else _context(pathlib.Path(context))
    about: Subject
    if (folder / "audit.json").is_file():
        about = _of_audit(folder, stated, study)
        name = about.audit.content["settings"]["name"]
    elif study is not None:
        raise InputError(f"study={str(study)!r} must be given with the folder of an audit, not of a study.")
    else:
        about = _of_study(folder, stated)
        name = about.study.manifest["settings"]["name"]
    return Report(f"Membership inference report: {name}", sections_of(about))


def _of_audit(
    folder: pathlib.Path, stated: ContextSettings | None, study: str | os.PathLike[str] | None
) -> OfAudit:
    audit = load_audit_folder(folder)
    if stated is None:
        stated = ContextSettings.model_validate(audit.content["settings"]["context"])
    stated = _counted(stated, audit.content.get("persons", {}).get("trained_on", 0))
    if study is None:
        return OfAudit(audit, stated)
    of_study = load_study(study)
    return OfAudit(audit, stated, of_study, beside(audit.content, of_study))


def _of_study(folder: pathlib.Path, stated: ContextSettings | None) -> OfStudy:
    if not (folder / "manifest.json").is_file():
        raise InputError(
            f"folder={str(folder)!r} must be that of a run, a sweep or an audit: it has neither"
            " manifest.json nor audit.json."
        )
    study = load_study(folder)
    return OfStudy(
        study, _counted(stated or ContextSettings(), persons_of_largest(study)), list(records_of(study))
    )


def _counted(stated: ContextSettings, persons: int) -> ContextSettings:
    """Return the context with the number of individuals counted in the data, if it is not stated."""
    return stated if stated.individuals else stated.model_copy(update={"individuals": persons})


def _context(path: pathlib.Path) -> ContextSettings:
    content = read_toml(path, "context")
    if "context" not in content:
        raise InputError(
            f"context={str(path)!r} must have a table [context]; `jaxmia audit --init` writes one."
        )
    try:
        return ContextSettings.model_validate(content["context"])
    except pydantic.ValidationError as error:
        raise InputError(f"{path}: {describe_error(error, ContextSettings)}") from None
