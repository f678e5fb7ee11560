"""How well an attack does: ROC curves, TPR at a fixed FPR with intervals, p-values, calls at a false discovery rate.

Everything follows from one AttackResult, an array of statistics with memberships. NumPy and SciPy only: the
statistics may be anyone's.
"""
