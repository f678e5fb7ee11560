"""Training of hundreds of models side by side, each on its own part of the candidates, and their scores.

One model is a pure function (linear, newton, from_scratch), one vmap makes them many (chunks), and sizes alone choose
how (plan). Nothing here knows of attacks.
"""
