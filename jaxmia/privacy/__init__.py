"""Differential privacy: guarantees of a recipe, the ceilings they set for any attack, and lower bounds from attacks.

Accounting gives upper bounds on epsilon, and attacks give lower bounds. Attacks also test a stated guarantee.
"""
