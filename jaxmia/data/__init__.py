"""Feature sets, candidates, normalisation, and who is in which training set."""
