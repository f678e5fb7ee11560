"""Training of hundreds of models at once, each on its own subset of the candidates, and scoring of these models.

Training one model is a pure function (linear, newton, from_scratch), and one vmap trains many (chunks). The plan
follows from sizes alone (plan). Nothing in this wing depends on attacks.
"""
