"""Settings of experiments and sweeps: one file for each table, then experiments, sweeps and TOML."""
