"""Differential privacy: trade-off curves, accounting, lower bounds and tests."""
