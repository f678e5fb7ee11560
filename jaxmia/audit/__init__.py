"""Audits of a released head: shadows with its recipe, attacks, per-record results and warnings."""
