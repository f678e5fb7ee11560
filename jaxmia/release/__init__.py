"""Private heads for release: trained once, on all members, with noise that may leave the house."""
