"""Folders of runs and sweeps. Only this package reads and writes their files."""
