"""Settings of experiments and sweeps: one module per TOML table, and modules for experiments, sweeps and TOML."""
