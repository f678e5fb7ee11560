"""The documents that a report addresses, paragraph by paragraph, in our words."""

from __future__ import annotations

from jaxmia.report.content import Section
from jaxmia.tables import Table

_OPINION = "EDPB Opinion 28/2024"
_ANSWERS = (
    (f"{_OPINION}, paragraph 34", "Each model trained on personal data is assessed case by case.", "summary"),
    (
        f"{_OPINION}, paragraph 43",
        "The likelihood of extracting personal data from the model, and of obtaining them from queries, must be"
        " insignificant for any data subject: the most vulnerable record counts, not the average.",
        "summary, results, records",
    ),
    (
        f"{_OPINION}, paragraph 46",
        "All means reasonably likely to be used, by the controller or by others, are considered.",
        "context",
    ),
    (
        f"{_OPINION}, paragraph 55",
        "Tests are judged by their scope, frequency, quantity and quality, against attribute and membership"
        " inference, exfiltration, regurgitation, model inversion and reconstruction.",
        "declared, results, controls, not-covered",
    ),
    (
        f"{_OPINION}, paragraph 58",
        "Threat models, measures, the ratio of training data to parameters, and what tests say belong in the file.",
        "context, data, results, privacy, reproduction",
    ),
    (f"{_OPINION}, paragraph 134", "A mere assertion of anonymity is not enough.", "results, reproduction"),
    (
        "Regulation (EU) 2025/327 (EHDS), recital 77",
        "Only data that are not personal leave the secure processing environment.",
        "context, summary",
    ),
    (
        "Permit authorities that export models from secure environments (Findata, Finland)",
        "Type of the model and number of its parameters; quantity, content and format of its training data; how"
        " well it generalises.",
        "data",
    ),
)


def annex(titles: dict[str, str]) -> Section:
    """Return a table from each cited paragraph to the sections that address it.

    Args:
        titles: of the sections of the report, by key.
    """
    rows = tuple(
        (source, asks, "; ".join(titles[key] for key in keys.split(", "))) for source, asks, keys in _ANSWERS
    )
    note = "Requirements are paraphrased; the documents themselves are authoritative."
    table = Table(
        "From paragraphs to sections", ("source", "what it asks", "where it is answered"), rows, note
    )
    return Section("annex", "Annex: which paragraph is answered where", (table,))
