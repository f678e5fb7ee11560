"""The data that models train on, and their membership in training sets.

This wing reads and checks feature sets, draws candidates from them, and draws memberships over the candidates.
"""
