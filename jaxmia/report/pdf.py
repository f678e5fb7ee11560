"""The page as a PDF: tagged (PDF/UA), with bookmarks and page numbers."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Iterator
from types import ModuleType

from jaxmia._validate import InputError


def check_printer() -> ModuleType:
    """Import WeasyPrint, which needs Pango of the system.

    Raises:
        InputError: if it is not installed, or finds no Pango.
    """
    try:
        return importlib.import_module("weasyprint")
    except ImportError:
        raise InputError("pdf=True needs WeasyPrint: pip install 'jaxmia[pdf]'") from None
    except OSError as error:  # a library of the system is missing
        line = str(error).partition("\n")[0]
        raise InputError(
            f"pdf=True needs the Pango library, which WeasyPrint does not find: {line}"
        ) from None


def to_pdf(html: str) -> bytes:
    """Print a page of to_html.

    Raises:
        InputError: as check_printer.
    """
    weasyprint = check_printer()
    with _quiet("weasyprint"), _quiet("fontTools"):
        printed: bytes = weasyprint.HTML(string=html).write_pdf(pdf_variant="pdf/ua-1")
    return printed


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a library's notes on rules for screens from the terminal."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
