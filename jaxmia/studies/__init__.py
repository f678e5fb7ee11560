"""Experiments and sweeps: settings, recipes, cells, folders, laws."""
