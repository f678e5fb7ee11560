"""Tables for the terminal."""

from __future__ import annotations

from jaxmia.cli.tables.advice import advice_tables
from jaxmia.cli.tables.attacks import audit_tables, persons_tables, triage_tables
from jaxmia.cli.tables.brief import brief_note, brief_tables
from jaxmia.cli.tables.certificate import certificate_table, findings_table
from jaxmia.cli.tables.laws import held_out_tables, laws_tables, prediction_tables, published_tables
from jaxmia.cli.tables.privacy import person_table, privacy_tables
from jaxmia.cli.tables.recommendation import recommendation_tables, recommended_settings
from jaxmia.cli.tables.required import required_tables
from jaxmia.cli.tables.results import (
    control_lines,
    diverged,
    failures_table,
    results_tables,
    sweep_tables,
    tuning_table,
)
from jaxmia.cli.tables.times import times_tables

__all__ = [
    "advice_tables",
    "audit_tables",
    "brief_note",
    "brief_tables",
    "certificate_table",
    "control_lines",
    "diverged",
    "failures_table",
    "findings_table",
    "held_out_tables",
    "laws_tables",
    "person_table",
    "persons_tables",
    "prediction_tables",
    "privacy_tables",
    "published_tables",
    "recommendation_tables",
    "recommended_settings",
    "required_tables",
    "results_tables",
    "sweep_tables",
    "times_tables",
    "triage_tables",
    "tuning_table",
]
