"""How well an attack does: ROC curves, TPR at a fixed FPR with intervals, p-values, calls at a false discovery rate.

Every function takes an AttackResult: statistics with memberships. The package needs only NumPy and SciPy, so it also
serves statistics from other attacks and frameworks.
"""
