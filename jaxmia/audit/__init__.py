"""Audits of a released head: shadows trained like it, attacks, records, warnings."""
