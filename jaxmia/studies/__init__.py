"""Experiments and sweeps: their settings, recipes, cells, folders and laws."""
