"""The documents that a report addresses, paragraph by paragraph, in our words."""

from __future__ import annotations

from jaxmia.report.content import Section
from jaxmia.tables import Table, facts

STATE_OF_THE_ART = "November 2026"
"""When the attacks of this package were last compared with what is published."""
_OPINION = "EDPB Opinion 28/2024 of 17 December 2024"
_READ_OF = "not read: from its publisher's announcement"
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
    (
        "Court of Justice, judgment of 4 September 2025, EDPS v SRB, C-413/23 P (not read: from reports of it)",
        "Whether data are personal for someone who receives them depends on the means reasonably likely to be used to"
        " identify their subjects: who receives the model matters.",
        "context",
    ),
    (
        f"CNIL, how to sheets on AI, 22 July 2025: the status of a model under the GDPR ({_READ_OF})",
        "The analysis of whether the GDPR applies to a model trained on personal data is carried out and documented.",
        "summary, results, reproduction",
    ),
    (
        "EDPB, report on the stakeholder event on anonymisation and pseudonymisation of 12 December 2025, published in"
        " February 2026 (not read: from reports of it)",
        "What stakeholders said; no guidance. They asked how identifiability is assessed for each actor.",
        "context",
    ),
    (
        f"TEHDAS2, D7.1: how to use data in a secure processing environment ({_READ_OF})",
        "Only anonymised results are exported from the secure processing environment.",
        "context, summary",
    ),
    ("TEHDAS2, D7.2 (not read)", "Not claimed.", ""),
)


def annex(titles: dict[str, str]) -> Section:
    """Return a table from each cited paragraph to the sections that address it.

    Args:
        titles: of the sections of the report, by key.
    """
    rows = []
    for source, asks, keys in _ANSWERS:
        answers = [titles[key] for key in keys.split(", ") if key in titles]
        rows.append((source, asks, "; ".join(answers) or "nowhere in this report"))
    note = "What paragraphs ask is put in our words: the documents themselves count. Nothing is claimed of what was not"
    table = Table(
        "From paragraphs to sections",
        ("source", "what it asks", "where it is answered"),
        tuple(rows),
        f"{note} read.",
        about="Where this report answers what authorities ask.",
    )
    again = facts(
        "Until when this holds",
        {
            "state of the art of these attacks": STATE_OF_THE_ART,
            "to be tested again": "before each further release; when the model is trained again, on other records or by"
            " another recipe; when more than was tested is released, or to others; when a stronger attack of this kind"
            " is published; and at the latest a year after this test",
        },
        about="When this evidence is out of date.",
    )
    return Section("annex", "Annex: which paragraph is answered where", (table, again), "evidence")
