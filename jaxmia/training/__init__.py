"""Training of many models side by side. Knows nothing of attacks."""
