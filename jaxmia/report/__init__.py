"""Reports: what an audit, a run, a sweep or attacks found, for a reader who trains no models: page, JSON, CSV, PDF."""

from __future__ import annotations

import dataclasses
import os
import pathlib

import pydantic

from jaxmia._atomic import check_writable, write_bytes, write_json, write_text
from jaxmia._text import read_toml
from jaxmia._validate import InputError
from jaxmia.audit.settings import ContextSettings
from jaxmia.report.advice import load_advice
from jaxmia.report.attack import load_attack_folder
from jaxmia.report.audit import load_audit_folder
from jaxmia.report.beside import beside, feature_hashes
from jaxmia.report.blocks.records import ranked_csv
from jaxmia.report.content import Report
from jaxmia.report.page import to_html
from jaxmia.report.pdf import check_printer, to_pdf
from jaxmia.report.sections import sections_of
from jaxmia.report.sections.summary import finding_of
from jaxmia.report.study import load_study, persons_of_largest, records_of
from jaxmia.report.subjects import OfAttack, OfAudit, OfStudy, Subject, name_of, whom
from jaxmia.studies.folder.tables import load_json
from jaxmia.studies.settings.errors import describe_error
from jaxmia.tables.finding import sentences


def write_report(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    study: str | os.PathLike[str] | None = None,
    context: str | os.PathLike[str] | None = None,
    show_ids: bool = True,
    pdf: bool = False,
    advice: str | os.PathLike[str] | None = None,
) -> tuple[pathlib.Path, pathlib.Path]:
    """Write the report on an audit, a run, a sweep or attacks: one HTML file, and the same content as JSON beside it.

    A CSV beside them has the ids and figures of the 50 most vulnerable records.

    Args:
        folder: folder of `jaxmia audit`, `jaxmia run`, `jaxmia sweep` or `jaxmia attack`.
        out: the HTML file; by default report.html in the folder.
        study: for an audit, the folder of a run or a sweep over the same records, for its law and the cost of privacy.
        context: a TOML file with a table [context], as `jaxmia audit --init` writes it; by default an audit's own.
        show_ids: whether page, JSON and PDF may show ids of records; the CSV always does.
        pdf: also write the page as a PDF; needs the extra "pdf".
        advice: folder of a finished `jaxmia advise`, for a section "What would lower it".

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
    for suffix in (".html", ".json", ".csv", *((".pdf",) if pdf else ())):
        check_writable(page.with_suffix(suffix) if suffix != ".html" else page)
    if pdf:
        check_printer()
    about = subject_of(path, study=study, context=context, show_ids=show_ids, advice=advice)
    report, data = _report(about), page.with_suffix(".json")
    text = to_html(report)
    write_text(page, text)
    write_json(data, report.to_json())
    write_text(page.with_suffix(".csv"), ranked_csv(whom(about)))
    if pdf:
        write_bytes(page.with_suffix(".pdf"), to_pdf(text))
    return page, data


def make_report(
    folder: pathlib.Path,
    *,
    study: str | os.PathLike[str] | None = None,
    context: str | os.PathLike[str] | None = None,
    show_ids: bool = True,
    advice: str | os.PathLike[str] | None = None,
) -> Report:
    """The content of write_report."""
    return _report(subject_of(folder, study=study, context=context, show_ids=show_ids, advice=advice))


def found_sentences(folder: pathlib.Path) -> list[str]:
    """What a report on a folder says was found, in sentences: a terminal says the same.

    Args:
        folder: folder of `jaxmia audit`, `jaxmia run`, `jaxmia sweep` or `jaxmia attack`.
    """
    return sentences(finding_of(subject_of(folder)))


def _report(about: Subject) -> Report:
    return Report(f"Membership inference report: {name_of(about)}", sections_of(about))


def subject_of(
    folder: pathlib.Path,
    *,
    study: str | os.PathLike[str] | None = None,
    context: str | os.PathLike[str] | None = None,
    show_ids: bool = True,
    advice: str | os.PathLike[str] | None = None,
) -> Subject:
    """What a report on a folder is about; arguments as of write_report."""
    about = dataclasses.replace(_subject(folder, study, context), show_ids=show_ids)
    return about if advice is None else dataclasses.replace(about, advice=load_advice(advice, _hashes(about)))


def _hashes(about: Subject) -> set[str]:
    """Return the content hashes of the features that a report is about, where they are known."""
    if isinstance(about, OfAudit):
        features = about.audit.content["features"]
        return {features["sha256"], features["given"]}
    return feature_hashes(about.study) if isinstance(about, OfStudy) else set()


def _subject(
    folder: pathlib.Path, study: str | os.PathLike[str] | None, context: str | os.PathLike[str] | None
) -> Subject:
    stated = None if context is None else _context(pathlib.Path(context))
    if (folder / "audit.json").is_file():
        return _of_audit(folder, stated, study)
    if study is not None:
        raise InputError(f"study={str(study)!r} must be given with the folder of an audit, not of a study.")
    if not (folder / "manifest.json").is_file():
        raise InputError(
            f"folder={str(folder)!r} must be that of a run, a sweep, an audit or attacks: it has neither"
            " manifest.json nor audit.json."
        )
    if {"attacks", "fprs"} <= set(load_json(folder, "manifest.json")):
        return OfAttack(load_attack_folder(folder), stated or ContextSettings())
    found = load_study(folder)
    counted = _counted(stated or ContextSettings(), persons_of_largest(found))
    return OfStudy(found, counted, list(records_of(found)))


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
