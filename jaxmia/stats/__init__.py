"""Statistics of attacks: ROC curves, operating points, p-values, intervals. NumPy and SciPy only: anyone's scores."""
