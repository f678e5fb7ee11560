"""Private recipes: what they release, and how they are chosen from public quantities only."""
