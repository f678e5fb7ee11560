"""Heads at the minimum of a ridge objective: what one record does to them, worked out instead of trained.

So vulnerability is known without shadow models, and each shadow scores every record both as a member and as none.
"""
