"""Heads at the minimum of a ridge objective: the effect of one record, computed without training.

This gives vulnerability without shadow models, and scores of every record both as a member and as a non-member of each
shadow.
"""
