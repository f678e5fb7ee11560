"""The power law between vulnerability and examples per class. NumPy and SciPy only."""
