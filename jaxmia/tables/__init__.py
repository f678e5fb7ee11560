"""Tables as plain values: rows of numbers with intervals and statuses, rendered by `jaxmia.cli` and `jaxmia.report`."""

from jaxmia.tables.table import NONE, Measured, Table, Value, facts, measured, number

__all__ = ["NONE", "Measured", "Table", "Value", "facts", "measured", "number"]
