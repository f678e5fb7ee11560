"""Tables as plain values: rows of numbers with intervals and statuses. `jaxmia.cli` and `jaxmia.report` draw them."""

from jaxmia.tables.table import NONE, Measured, Table, Value, facts, measured, number

__all__ = ["NONE", "Measured", "Table", "Value", "facts", "measured", "number"]
