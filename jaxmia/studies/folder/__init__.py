"""Folders of runs and sweeps: the one place that knows their files."""
