"""What models are trained on, and who is in which training set.

Feature sets are read and checked here, candidates drawn from them, and memberships drawn over the candidates.
"""
