"""Differential privacy: what a recipe guarantees, what that leaves to any attack, and what attacks prove about it.

Accounting gives upper bounds on epsilon, attacks give lower bounds; a stated guarantee is tested against an attack.
"""
