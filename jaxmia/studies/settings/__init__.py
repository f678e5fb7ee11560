"""Settings of experiments and sweeps."""
